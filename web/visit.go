package web

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// formLimit bounds a form's body, in bytes.
const formLimit = 256 << 10

// A visit is one request on its way to its one answer.
type visit struct {
	w    http.ResponseWriter
	r    *http.Request
	site *Site
	rt   *route
	// principal is who is signed in; its Name is empty for nobody.
	principal enroll.Principal
	// streamKey is the key of every form, while the page is watched.
	streamKey string
}

func (v *visit) ctx() context.Context { return v.r.Context() }

// call returns what the service needs to know of the visitor. Each form carries
// a key, so that one that is sent twice takes effect once.
func (v *visit) call() enroll.Call {
	return enroll.Call{Principal: v.principal, IdempotencyKey: v.r.PostForm.Get("key")}
}

// may reports whether the visitor has a permission.
func (v *visit) may(p enroll.Permission) bool { return v.principal.Role.May(p) }

// param returns a path parameter, unescaped. The service judges it.
func (v *visit) param(name string) string {
	raw := chi.URLParam(v.r, name)
	if text, err := url.PathUnescape(raw); err == nil {
		return text
	}
	return raw
}

// query returns a query parameter.
func (v *visit) query(name string) string { return v.r.URL.Query().Get(name) }

// form returns a field of a form that was posted.
func (v *visit) form(name string) string { return v.r.PostForm.Get(name) }

// secret returns a field that must not be printed.
func (v *visit) secret(name string) enroll.Secret { return enroll.Secret(v.r.PostForm.Get(name)) }

// page returns which part of a listing is asked for.
func (v *visit) page(limit int) enroll.Page {
	return enroll.Page{Limit: limit, Cursor: v.query("cursor")}
}

// serve returns the handler of a route.
func (s *Site) serve(rt *route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := &visit{w: w, r: r, site: s, rt: rt}
		a, err := s.handle(v)
		if err == nil {
			err = a.write(v)
		}
		if err != nil {
			s.writeError(v, err)
		}
	}
}

// errAtLimit is the answer to what is shed.
var errAtLimit = &enroll.Later{After: time.Second, Err: ca.Errorf(enroll.KindUnavailable, "", "nothing was done: try again in a moment", "the dashboard is at its limit")}

// handle takes the steps before the answer, unless too many are being taken:
// overload is shed, not queued (I28).
func (s *Site) handle(v *visit) (answer, error) {
	select {
	case s.inFlight <- struct{}{}:
		defer func() { <-s.inFlight }()
	default:
		return nil, errAtLimit
	}
	if toSignIn, err := s.admit(v); toSignIn != nil || err != nil {
		return toSignIn, err
	}
	if v.r.Method == http.MethodPost {
		v.r.Body = http.MaxBytesReader(v.w, v.r.Body, formLimit)
		if err := v.r.ParseForm(); err != nil {
			return nil, &ca.Error{Kind: ca.KindMalformed, Message: "the form cannot be read", Hint: "go back and send it again", Err: err}
		}
	}
	return v.rt.handle(v)
}

// recoverPanic answers a panic with the error page, and logs where it was.
func (s *Site) recoverPanic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			s.log.ErrorContext(r.Context(), "page broke off", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			s.writeError(&visit{w: w, r: r, site: s}, errors.New("panic"))
		}()
		next.ServeHTTP(w, r)
	})
}
