package api

import (
	"context"
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

// A readiness asks the service whether it is ready, at most once a readyAge.
// It is safe for concurrent use.
type readiness struct {
	ask func(context.Context) error

	mu    sync.Mutex
	asked time.Time
	err   error
}

// check returns why the service is not ready; nil when it is.
func (y *readiness) check(ctx context.Context) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	if time.Since(y.asked) < readyAge {
		return y.err
	}
	// Others wait for the answer too: it must not fail because this client left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	y.err = y.ask(ctx)
	y.asked = time.Now()
	return y.err
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
