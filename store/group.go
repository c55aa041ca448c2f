package store

import (
	"context"
	"sync"
)

// A group answers questions together: at once when nothing is being asked, and
// all that came meanwhile with the next query. It is safe for concurrent use.
type group[Q, A any] struct {
	ask func(ctx context.Context, questions []Q) ([]A, error) // an answer for each, in their order

	mu      sync.Mutex
	asking  bool
	waiting []*question[Q, A]
}

// maxAsked is how many questions one query takes.
const maxAsked = 256

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
		answers, err := g.ask(ctx, []Q{about})
		g.next(context.WithoutCancel(ctx))
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
		answers, err := g.ask(ctx, about)
		for i, q := range batch {
			if q.err = err; err == nil {
				q.answer = answers[i]
			}
			close(q.done)
		}
	}
}
