package api

import (
	"net/http"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// shedAfter is when a shed request may come again.
const shedAfter = time.Second

// shed answers 503 to what comes while as many requests as the API takes are
// under way: overload is shed, not queued (I28). Those on one listener do not
// count on another.
func (a *API) shed(next http.Handler) http.Handler {
	slots := make(chan struct{}, a.inFlight)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		default:
			a.writeError(w, r, &retryError{after: shedAfter, error: ca.Errorf(enroll.KindUnavailable, "",
				"try again as Retry-After says; with the same Idempotency-Key nothing is done twice", "the server is at its limit")})
		}
	})
}
