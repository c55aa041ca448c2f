package enroll

import (
	"context"
	"sync"
	"time"
)

// recentFor is how long a read of what only informs is good for: as long as
// replicas take to learn of each other's CRLs.
const recentFor = 500 * time.Millisecond

// recent keeps one read for recentFor, or until it is forgotten: for what an
// answer tells and nothing is decided by. What is returned is everybody's, and
// must not be changed. The zero value is ready.
type recent[V any] struct {
	reads fresh[struct{}, V]

	mu        sync.Mutex
	value     V
	until     time.Time
	forgotten int // how often
}

// get returns what read gave no longer than recentFor before now.
func (r *recent[V]) get(ctx context.Context, now time.Time, read func(context.Context) (V, error)) (V, error) {
	r.mu.Lock()
	value, good, forgotten := r.value, now.Before(r.until) && r.until.Sub(now) <= recentFor, r.forgotten
	r.mu.Unlock()
	if good {
		return value, nil
	}
	value, err := r.reads.get(ctx, struct{}{}, read)
	if err != nil {
		return value, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.forgotten == forgotten { // while it was read
		r.value, r.until = value, now.Add(recentFor)
	}
	return value, nil
}

// forget makes the next get read.
func (r *recent[V]) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until = time.Time{}
	r.forgotten++
}
