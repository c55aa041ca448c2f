package enroll

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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

// A call that is given up ends its own read, and not that of those who wait for
// the next.
func TestFreshIsCancelledAlone(t *testing.T) {
	var f fresh[string, int]
	begun := make(chan struct{})
	reads := 0
	read := func(ctx context.Context) (int, error) {
		if reads++; reads == 1 {
			close(begun)
			<-ctx.Done()
		}
		return reads, ctx.Err()
	}
	first, cancel := context.WithCancel(t.Context())
	gone, second := make(chan error), make(chan error)
	go func() {
		_, err := f.get(first, "row", read)
		gone <- err
	}()
	<-begun
	go func() {
		value, err := f.get(t.Context(), "row", read)
		if value != 2 {
			t.Errorf("the second read gave %d", value)
		}
		second <- err
	}()
	for waits := false; !waits; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		waits = f.now["row"].next != nil
		f.mu.Unlock()
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that was given up: %v", err)
	}
	if err := <-second; err != nil {
		t.Error(err)
	}
}

// What is begun and waited for later was read after it began, too, beside those
// who wait at once.
func TestFreshBegins(t *testing.T) {
	var f fresh[string, int64]
	var written atomic.Int64
	read := func(context.Context) (int64, error) { return written.Load(), nil }
	var calls sync.WaitGroup
	for n := range 32 {
		calls.Go(func() {
			for range 200 {
				least := written.Add(1)
				wait := f.begin(t.Context(), "row", read).wait
				if n%2 == 0 {
					wait = func(ctx context.Context) (int64, error) { return f.get(ctx, "row", read) }
				}
				if got, err := wait(t.Context()); err != nil || got < least {
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
	// Whoever gives up leaves the read to the others.
	release := make(chan struct{})
	begun := f.begin(t.Context(), "row", func(context.Context) (int64, error) { <-release; return 7, nil })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := begun.wait(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
	close(release)
	if got, err := begun.wait(t.Context()); got != 7 || err != nil {
		t.Errorf("read %d, %v", got, err)
	}
}

// A read that is never answered, or breaks, leaves those that come later an
// answer.
func TestFreshGoesOn(t *testing.T) {
	for name, broken := range map[string]func(context.Context) error{
		"silent": func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		},
		"panics": func(context.Context) error { panic("a bug") },
	} {
		t.Run(name, func(t *testing.T) {
			f := fresh[string, int]{bound: 50 * time.Millisecond}
			begun, goOn, first, second := make(chan bool), make(chan bool), make(chan error, 1), make(chan error, 1)
			go func() {
				defer func() {
					if recover() != nil {
						first <- errors.New("panic")
					}
				}()
				reads := 0
				_, err := f.get(context.Background(), "row", func(ctx context.Context) (int, error) {
					if reads++; reads > 1 {
						return 7, nil
					}
					begun <- true
					<-goOn
					return 0, broken(ctx)
				})
				first <- err
			}()
			<-begun
			next := f.begin(context.Background(), "row", nil) // the one who read first reads it
			go func() {
				value, err := next.wait(context.Background())
				if value != 7 {
					t.Errorf("read %d", value)
				}
				second <- err
			}()
			goOn <- true
			if err := <-first; err == nil {
				t.Error("the broken read gave a value")
			}
			if err := <-second; err != nil {
				t.Error(err)
			}
		})
	}
}
