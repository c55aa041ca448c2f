package store

import (
	"context"
	"sync"
	"time"
)

// A group answers questions together: at once when nothing is being asked, and
// all that came meanwhile with the next query. A query that takes longer than
// bound ends, because of those who wait for the next. It is safe for concurrent
// use.
type group[Q, A any] struct {
	ask   func(ctx context.Context, questions []Q) ([]A, error) // an answer for each, in their order
	bound time.Duration

	mu      sync.Mutex
	asking  bool
	waiting []*question[Q, A]
}

// maxAsked is how many questions one query takes.
const maxAsked = 256

// askBound is the bound of a store's groups.
const askBound = 10 * time.Second

type question[Q, A any] struct {
	about  Q
	answer A
	err    error
	done   chan struct{}
}

// get returns the answer to one question, as of after it was asked.
func (g *group[Q, A]) get(ctx context.Context, about Q) (answer A, err error) {
	g.mu.Lock()
	if !g.asking { // alone, without a goroutine between
		g.asking = true
		g.mu.Unlock()
		defer g.next(context.WithoutCancel(ctx)) // even when ask panics
		answers, err := g.askBounded(ctx, []Q{about})
		if err != nil {
			return answer, err
		}
		return answers[0], nil
	}
	q := &question[Q, A]{about: about, done: make(chan struct{})}
	g.waiting = append(g.waiting, q)
	g.mu.Unlock()
	select {
	case <-q.done:
		return q.answer, q.err
	case <-ctx.Done():
		return answer, ctx.Err()
	}
}

// askBounded asks for no longer than the bound.
func (g *group[Q, A]) askBounded(ctx context.Context, questions []Q) ([]A, error) {
	ctx, cancel := context.WithTimeout(ctx, g.bound)
	defer cancel()
	return g.ask(ctx, questions)
}

// next goes on with what came meanwhile.
func (g *group[Q, A]) next(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asking = len(g.waiting) > 0; g.asking {
		go g.run(ctx)
	}
}

// run asks until nothing waits.
func (g *group[Q, A]) run(ctx context.Context) {
	for {
		g.mu.Lock()
		n := min(len(g.waiting), maxAsked)
		batch := g.waiting[:n:n]
		g.waiting = g.waiting[n:]
		if n == 0 {
			g.asking, g.waiting = false, nil
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		about := make([]Q, n)
		for i, q := range batch {
			about[i] = q.about
		}
		answers, err := g.askBounded(ctx, about)
		for i, q := range batch {
			if q.err = err; err == nil {
				q.answer = answers[i]
			}
			close(q.done)
		}
	}
}
