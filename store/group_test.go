package store

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A question that is never answered, or breaks, leaves those after it an answer.
func TestGroupGoesOn(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]func(context.Context) error{
		"silent": func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		},
		"panics": func(context.Context) error { panic("a bug") },
	} {
		t.Run(name, func(t *testing.T) {
			begun, goOn := make(chan bool), make(chan bool)
			g := &group[int, int]{bound: 50 * time.Millisecond, ask: func(ctx context.Context, questions []int) ([]int, error) {
				if questions[0] == 0 {
					begun <- true
					<-goOn
					return nil, broken(ctx)
				}
				return questions, nil
			}}
			first, second := make(chan error, 1), make(chan error, 1)
			go func() {
				defer func() {
					if recover() != nil {
						first <- errors.New("panic")
					}
				}()
				_, err := g.get(context.Background(), 0)
				first <- err
			}()
			receive(t, begun, time.Second)
			go func() {
				answer, err := g.get(context.Background(), 7)
				if answer != 7 {
					t.Errorf("the answer is %d", answer)
				}
				second <- err
			}()
			for waits := false; !waits; time.Sleep(time.Millisecond) {
				g.mu.Lock()
				waits = len(g.waiting) == 1
				g.mu.Unlock()
			}
			goOn <- true
			if err := receive(t, first, 5*time.Second); err == nil {
				t.Error("the broken question has an answer")
			}
			if err := receive(t, second, 5*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
}
