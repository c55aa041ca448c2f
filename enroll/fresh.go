package enroll

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// freshBound is how long a shared read may take: one that is never answered must
// not keep those who come later from an answer.
const freshBound = 10 * time.Second

// fresh shares reads of the same row among calls at the same time. Every call
// gets what was read after it began: one that comes while a read is under way
// waits for the next, with all that came since. Nothing is kept. What is
// returned is everybody's, and must not be changed. The zero value is ready.
type fresh[K comparable, V any] struct {
	bound time.Duration // of a read; freshBound when zero

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

// get returns what read gives. Where others may wait for it too, it is called
// without the caller's cancellation.
func (f *fresh[K, V]) get(ctx context.Context, key K, read func(context.Context) (V, error)) (V, error) {
	mine, first := f.join(key)
	if !first {
		return mine.wait(ctx)
	}
	defer func() { // even when read panics
		if next := f.finish(key, mine); next != nil {
			go f.run(context.WithoutCancel(ctx), key, next, read)
		}
	}()
	return f.read(ctx, read) // nobody else gets this one: whoever comes waits for the next
}

// read reads for no longer than the bound.
func (f *fresh[K, V]) read(ctx context.Context, read func(context.Context) (V, error)) (V, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.bound, freshBound))
	defer cancel()
	return read(ctx)
}

// begin is get for a caller that has something to do before it waits.
func (f *fresh[K, V]) begin(ctx context.Context, key K, read func(context.Context) (V, error)) *freshRead[V] {
	mine, first := f.join(key)
	if first {
		go f.run(context.WithoutCancel(ctx), key, mine, read)
	}
	return mine
}

// join returns the next read of a key, and whether it is the caller's to make.
func (f *fresh[K, V]) join(key K) (mine *freshRead[V], first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	running := f.now[key]
	switch {
	case running == nil:
		mine = &freshRead[V]{done: make(chan struct{})}
		if f.now == nil {
			f.now = map[K]*freshRead[V]{}
		}
		f.now[key] = mine
		return mine, true
	case running.next == nil:
		running.next = &freshRead[V]{done: make(chan struct{})}
	}
	return running.next, false
}

// wait returns what the read gave.
func (r *freshRead[V]) wait(ctx context.Context) (V, error) {
	select {
	case <-r.done:
		return r.value, r.err
	case <-ctx.Done():
		var zero V
		return zero, ctx.Err()
	}
}

// run reads, again for as long as somebody waits for the next read.
func (f *fresh[K, V]) run(ctx context.Context, key K, r *freshRead[V], read func(context.Context) (V, error)) {
	for r != nil {
		r.value, r.err = f.read(ctx, read)
		r = f.finish(key, r)
	}
}

// finish tells those who wait for a read, and returns the next one.
func (f *fresh[K, V]) finish(key K, r *freshRead[V]) *freshRead[V] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.next == nil {
		delete(f.now, key)
	} else {
		f.now[key] = r.next
	}
	close(r.done)
	return r.next
}
