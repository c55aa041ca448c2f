package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// An exchange is one request on its way to its one answer.
type exchange struct {
	w        http.ResponseWriter
	r        *http.Request
	route    *Route
	machines bool // on the machine listener

	principal enroll.Principal // zero when the body's enrollment token is the credential
	key       string           // Idempotency-Key
	query     url.Values       // checked against the route's parameters
	page      enroll.Page      // of a listing

	location string // path of what was created, below basePath
	replayed bool   // the answer was given before
}

func (x *exchange) ctx() context.Context { return x.r.Context() }

// call returns what the service needs to know of the caller.
func (x *exchange) call() enroll.Call {
	return enroll.Call{Principal: x.principal, IdempotencyKey: x.key}
}

// param returns a path parameter, unescaped. The service judges it.
func (x *exchange) param(name string) string {
	raw := chi.URLParam(x.r, name)
	if text, err := url.PathUnescape(raw); err == nil {
		return text
	}
	return raw
}

// keyHeader names the header that makes a call repeatable.
const keyHeader = "Idempotency-Key"

// maxKey is the longest Idempotency-Key.
const maxKey = 255

// nameKey says of an idempotency conflict where the key stood, which the store
// does not know.
func nameKey(err error, field string) error {
	if e, ok := errors.AsType[*ca.Error](err); ok && e.Kind == enroll.KindIdempotency && e.Field == "" {
		named := *e
		named.Field = field
		return &named
	}
	return err
}

// idempotencyKey reads the header; empty when there is none.
func idempotencyKey(h http.Header) (string, error) {
	values := h.Values(keyHeader)
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 {
		return "", ca.Errorf(ca.KindMalformed, keyHeader, "send it once", "is given %d times", len(values))
	}
	return values[0], checkKey(keyHeader, values[0])
}

// checkKey refuses what is not 1 to 255 printable ASCII characters.
func checkKey(field, key string) error {
	ok := len(key) >= 1 && len(key) <= maxKey
	for i := 0; ok && i < len(key); i++ {
		ok = key[i] >= ' ' && key[i] <= '~'
	}
	if !ok {
		return ca.Errorf(ca.KindMalformed, field, "use a UUID, or anything of 1 to 255 printable ASCII characters", "is not a usable key")
	}
	return nil
}

// serve returns the handler of a route on one of the HTTPS listeners.
func (a *API) serve(rt *Route, machines bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{w: w, r: r, route: rt, machines: machines}
		answer, err := a.handle(x)
		if err != nil {
			err = a.replay(x, nameKey(err, keyHeader))
		} else if !rt.Stream && !rt.File {
			err = a.answer(x, answer)
		}
		if err != nil {
			a.writeError(w, r, err)
		}
	}
}

// handle takes the steps before the answer.
func (a *API) handle(x *exchange) (any, error) {
	if err := a.admit(x); err != nil {
		return nil, err
	}
	if err := x.readQuery(); err != nil {
		return nil, err
	}
	if x.r.Method == http.MethodPost {
		var err error
		if x.key, err = idempotencyKey(x.r.Header); err != nil {
			return nil, err
		}
	}
	return x.route.handle(a, x)
}
