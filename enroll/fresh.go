package enroll

import (
	"context"
	"sync"
)

// fresh shares reads of the same row among calls at the same time. Every call
// gets what was read after it began: one that comes while a read is under way
// waits for the next, with all that came since. Nothing is kept. What is
// returned is everybody's, and must not be changed. The zero value is ready.
type fresh[K comparable, V any] struct {
	mu  sync.Mutex
	now map[K]*freshRead[V] // under way
}

// A freshRead is one read, and the next of the same.
type freshRead[V any] struct {
	done  chan struct{}
	value V
	err   error
	next  *freshRead[V] // nil while nobody waits for it
}

// get returns what read gives. It is called without the caller's cancellation,
// because others may wait for it.
func (f *fresh[K, V]) get(ctx context.Context, key K, read func(context.Context) (V, error)) (V, error) {
	f.mu.Lock()
	running := f.now[key]
	var mine *freshRead[V]
	switch {
	case running == nil:
		mine = &freshRead[V]{done: make(chan struct{})}
		if f.now == nil {
			f.now = map[K]*freshRead[V]{}
		}
		f.now[key] = mine
		go f.run(context.WithoutCancel(ctx), key, mine, read)
	case running.next == nil:
		running.next = &freshRead[V]{done: make(chan struct{})}
		mine = running.next
	default:
		mine = running.next
	}
	f.mu.Unlock()
	select {
	case <-mine.done:
		return mine.value, mine.err
	case <-ctx.Done():
		var zero V
		return zero, ctx.Err()
	}
}

// run reads, again for as long as somebody waits for the next read.
func (f *fresh[K, V]) run(ctx context.Context, key K, r *freshRead[V], read func(context.Context) (V, error)) {
	for r != nil {
		r.value, r.err = read(ctx)
		f.mu.Lock()
		next := r.next
		if next == nil {
			delete(f.now, key)
		} else {
			f.now[key] = next
		}
		f.mu.Unlock()
		close(r.done)
		r = next
	}
}
