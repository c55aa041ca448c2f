package enroll

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestRecent(t *testing.T) {
	t.Parallel()
	var r recent[int]
	reads := 0
	read := func(context.Context) (int, error) { reads++; return reads, nil }
	start := time.Unix(1_700_000_000, 0)
	get := func(after time.Duration, want int) {
		t.Helper()
		if got, err := r.get(t.Context(), start.Add(after), read); err != nil || got != want {
			t.Errorf("after %v: %d, %v, want %d", after, got, err, want)
		}
	}
	get(0, 1)
	get(recentFor-1, 1)
	get(recentFor, 2)
	get(recentFor+1, 2)
	get(0, 3) // the clock was set back
	r.forget()
	get(1, 4)

	// What is forgotten while it is read is not kept.
	r.forget()
	if got, err := r.get(t.Context(), start, func(ctx context.Context) (int, error) {
		r.forget()
		return read(ctx)
	}); err != nil || got != 5 {
		t.Errorf("%d, %v", got, err)
	}
	get(1, 6)

	failed := errors.New("no database")
	r.forget()
	if _, err := r.get(t.Context(), start, func(context.Context) (int, error) { return 0, failed }); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	get(1, 7)
}
