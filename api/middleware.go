package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
)

type requestIDKey struct{}

// requestID returns the id of the request that ctx belongs to.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

var requestIDPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// identify gives every request an id: the client's X-Request-Id where that is
// a plain word, else a new one.
func (a *API) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !requestIDPattern.MatchString(id) {
			id = rand.Text()
		}
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id)))
	})
}

// A recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int // zero until the header is written
	bytes  int64
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// observe logs and counts every request. What is logged is the path alone:
// never the query, a header or a body (I23).
func (a *API) observe(listener string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			begin := time.Now()
			rec := &recorder{ResponseWriter: w}
			defer func() {
				if rec.status == 0 {
					rec.status = http.StatusOK // what net/http sends for an empty answer
				}
				took := time.Since(begin)
				route, method := routePattern(r), methodLabel(r.Method)
				a.metrics.requests.WithLabelValues(listener, route, method, strconv.Itoa(rec.status)).Inc()
				a.metrics.durations.WithLabelValues(listener, route, method).Observe(took.Seconds())
				a.log.InfoContext(r.Context(), "request", "requestId", requestID(r.Context()), "listener", listener,
					"method", r.Method, "path", r.URL.Path, "status", rec.status, "bytes", rec.bytes,
					"durationMs", float64(took.Microseconds())/1000, "client", r.RemoteAddr)
			}()
			next.ServeHTTP(rec, r)
		})
	}
}

// routePattern returns the pattern that a served request matched.
func routePattern(r *http.Request) string {
	if c := chi.RouteContext(r.Context()); c != nil && c.RoutePattern() != "" {
		return c.RoutePattern()
	}
	return "unmatched"
}

// methodLabel bounds the values that clients can put into a label.
func methodLabel(method string) string {
	if slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost}, method) {
		return method
	}
	return "other"
}

// recoverPanic answers a panic with 500 and logs where it was. An answer that
// has begun is broken off.
func (a *API) recoverPanic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			err := &panicError{v, debug.Stack()}
			if rec, ok := w.(*recorder); ok && rec.status != 0 {
				a.log.ErrorContext(r.Context(), "answer broken off", "requestId", requestID(r.Context()), "error", err)
				panic(http.ErrAbortHandler)
			}
			a.writeError(w, r, err)
		}()
		next.ServeHTTP(w, r)
	})
}

// A panicError is a panic as an error, for the log.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// secureHeaders keeps answers out of caches and browsers' guesses. Handlers of
// what may be cached say so themselves.
func secureHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		next.ServeHTTP(w, r)
	})
}
