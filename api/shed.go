package api

import (
	"net/http"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// shedAfter is when a shed request may come again.
const shedAfter = time.Second

// statusInFlight is how many requests the listener for status answers at the
// same time: many, because nearly all are answered from memory.
const statusInFlight = 4096

// batchShare is what part of the requests that a listener works on at the same
// time may be batches, each of which lasts: they count by themselves.
const batchShare = 8

// errAtLimit is the answer to what is shed.
var errAtLimit = &retryError{after: shedAfter, error: ca.Errorf(enroll.KindUnavailable, "",
	"try again as Retry-After says; with the same Idempotency-Key nothing is done twice", "the server is at its limit")}

// shed answers 503 to what comes while as many requests as there are slots are
// under way: overload is shed, not queued (I28). Handlers with the same slots
// count together.
func (a *API) shed(slots chan struct{}) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				next.ServeHTTP(w, r)
			default:
				a.writeError(w, r, errAtLimit)
			}
		})
	}
}
