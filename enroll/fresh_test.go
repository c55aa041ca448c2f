package enroll

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

// What a call gets was read after it began, however many share the read.
func TestFresh(t *testing.T) {
	var f fresh[string, int64]
	var written, reads atomic.Int64
	var calls sync.WaitGroup
	for range 32 {
		calls.Go(func() {
			for range 200 {
				least := written.Add(1)
				got, err := f.get(t.Context(), "row", func(context.Context) (int64, error) {
					reads.Add(1)
					return written.Load(), nil
				})
				if err != nil || got < least {
					t.Errorf("read %d after %d was written, %v", got, least, err)
					return
				}
			}
		})
	}
	calls.Wait()
	if len(f.now) != 0 {
		t.Errorf("%d reads are left", len(f.now))
	}
	t.Logf("%d calls, %d reads", written.Load(), reads.Load())
}

// A call that is given up does not take the read from the others.
func TestFreshIsCancelledAlone(t *testing.T) {
	var f fresh[string, int]
	begun, end := make(chan struct{}), make(chan struct{})
	first, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := f.get(first, "row", func(ctx context.Context) (int, error) {
			close(begun)
			<-end
			return 1, ctx.Err()
		})
		gone <- err
	}()
	<-begun
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that was given up: %v", err)
	}
	second := make(chan error)
	go func() {
		_, err := f.get(t.Context(), "row", func(ctx context.Context) (int, error) { return 2, ctx.Err() })
		second <- err
	}()
	close(end)
	if err := <-second; err != nil {
		t.Error(err)
	}
}
