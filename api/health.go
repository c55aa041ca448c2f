package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// readyAge is how long an answer about readiness holds. Finding out costs a
// write to the store, and anybody may ask.
const readyAge = time.Second

// readyTimeout bounds finding out.
const readyTimeout = 5 * time.Second

// A readiness asks the service whether it is ready, one time at once and at most
// once a readyAge. It is safe for concurrent use.
type readiness struct {
	ask      func(context.Context) error
	patience time.Duration // readyTimeout when zero

	mu    sync.Mutex
	asks  chan struct{} // closed when the service has answered; nil when it is not being asked
	since time.Time     // it is being asked
	asked time.Time     // it has answered
	err   error
}

// check returns why the service is not ready; nil when it is. It returns in
// time, whether the service answers or not.
func (y *readiness) check(ctx context.Context) error {
	asks, left, err := y.begin(ctx)
	if asks == nil {
		return err
	}
	late := time.NewTimer(left)
	defer late.Stop()
	select {
	case <-asks:
		y.mu.Lock()
		defer y.mu.Unlock()
		return y.err
	case <-late.C:
		return fmt.Errorf("the service does not answer: %w", context.DeadlineExceeded)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin returns the last answer, or what to wait for and for how long.
func (y *readiness) begin(ctx context.Context) (asks chan struct{}, left time.Duration, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	patience := cmp.Or(y.patience, readyTimeout)
	if y.asks == nil {
		if time.Since(y.asked) < readyAge {
			return nil, 0, y.err
		}
		y.asks, y.since = make(chan struct{}), time.Now()
		// Others wait for the answer too: it must not fail because this client left.
		go y.run(context.WithoutCancel(ctx), patience, y.asks)
	}
	return y.asks, patience - time.Since(y.since), nil
}

// run asks the service.
func (y *readiness) run(ctx context.Context, patience time.Duration, asks chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := y.ask(ctx)
	y.mu.Lock()
	defer y.mu.Unlock()
	y.err, y.asked, y.asks = err, time.Now(), nil
	close(asks)
}

// getHealth says that the process answers.
func (a *API) getHealth(w http.ResponseWriter, _ *http.Request) {
	write(w, http.StatusOK, "application/json", encodeJSON(map[string]string{"status": "ok"}))
}

// A ready is the answer of a service that takes requests.
type ready struct {
	Status          string   `json:"status"`
	UnusableIssuers []string `json:"unusableIssuers,omitempty"` // whose key cannot be used: they sign nothing, others do
}

// getReady says whether the service can take requests, or 503.
func (a *API) getReady(w http.ResponseWriter, r *http.Request) {
	if err := a.ready.check(r.Context()); err != nil {
		a.writeError(w, r, &ca.Error{Kind: enroll.KindUnavailable, Message: "not ready: " + err.Error(), Err: err})
		return
	}
	write(w, http.StatusOK, "application/json", encodeJSON(ready{"ready", a.unusable()}))
}
