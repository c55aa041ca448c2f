package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// problemPrefix stands before a kind in a problem's type.
const problemPrefix = "urn:fleetca:problem:"

// retryAfterOutage is the Retry-After of a 503.
const retryAfterOutage = 5 * time.Second

// A Problem is an error as clients see it (RFC 9457, section 3).
type Problem struct {
	Type      string       `json:"type"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail,omitempty"`
	RequestID string       `json:"requestId,omitempty"` // as in the X-Request-Id header and the server's log
	Errors    []FieldError `json:"errors,omitempty"`

	retryAfter time.Duration // zero for none
}

// A FieldError says what is wrong with one field and what to do about it.
type FieldError struct {
	Field   string `json:"field"` // as spelled in the request; empty when it is about the whole
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// A retryError is an error that passes by itself after a while.
type retryError struct {
	error
	after time.Duration
}

func (e *retryError) Unwrap() error { return e.error }

// problemOf classifies an error.
func problemOf(err error, requestID string) Problem {
	e := classify(err)
	row, ok := kinds[e.Kind]
	if !ok {
		e, row = &ca.Error{Kind: KindInternal}, kinds[KindInternal]
	}
	p := Problem{
		Type: problemPrefix + string(e.Kind), Title: row.title, Status: row.status,
		Detail: row.detail, RequestID: requestID,
	}
	if !row.secret || errors.Is(err, errAtLimit) {
		p.Detail = e.Text()
		if e.Field != "" || e.Hint != "" {
			p.Errors = []FieldError{{Field: e.Field, Message: e.Message, Hint: e.Hint}}
		}
	}
	var retry *retryError
	var later *enroll.Later
	switch {
	case errors.As(err, &retry):
		p.retryAfter = retry.after
	case errors.As(err, &later):
		p.retryAfter = later.After
	case p.Status == http.StatusServiceUnavailable:
		p.retryAfter = retryAfterOutage
	}
	return p
}

// classify finds the ca.Error in err. Time that ran out is an outage; anything
// else without a kind is internal.
func classify(err error) *ca.Error {
	var e *ca.Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &tooLarge):
		return ca.Errorf(ca.KindTooLarge, "", "send less in one request", "the body is longer than %d bytes", tooLarge.Limit)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &ca.Error{Kind: enroll.KindUnavailable, Err: err}
	}
	return &ca.Error{Kind: KindInternal, Err: err}
}

// writeError answers with the problem that err is. What the client must not
// see is logged.
func (a *API) writeError(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err, requestID(r.Context()))
	a.logError(r.Context(), p, err)
	writeProblem(w, p)
}

// logError logs the text of errors whose problem does not hold it.
func (a *API) logError(ctx context.Context, p Problem, err error) {
	if p.Status < http.StatusInternalServerError {
		return
	}
	level := slog.LevelError
	if errors.Is(err, context.Canceled) || errors.Is(err, errAtLimit) {
		level = slog.LevelDebug // the client is gone, or one of very many; its request is counted
	}
	a.log.Log(ctx, level, "request ended in an error", "requestId", p.RequestID, "problem", p.Type, "error", err)
}

func writeProblem(w http.ResponseWriter, p Problem) {
	h := w.Header()
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="fleetca"`) // RFC 6750, section 3
	}
	if p.retryAfter > 0 {
		seconds := int64((p.retryAfter + time.Second - 1) / time.Second)
		h.Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	for _, stale := range []string{"Location", "ETag", "Last-Modified", "Content-Disposition"} {
		h.Del(stale)
	}
	h.Set("Cache-Control", "no-store")
	write(w, p.Status, "application/problem+json", encodeJSON(p))
}

// write sends a whole answer.
func write(w http.ResponseWriter, status int, mediaType string, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client is gone: nobody is left to tell
}

// encodeJSON returns v as one line of JSON, as json.Marshal writes it: kept
// answers are made so too, and a replay is the same bytes. Our own answer types
// always encode. It is no pooled buffer: HTTP/2 may still read it after a write
// that was given up.
func encodeJSON(v any) []byte {
	line, err := jsonv2.Marshal(v, jsonv1.DefaultOptionsV1())
	if err != nil {
		panic(err)
	}
	return append(line, '\n')
}
