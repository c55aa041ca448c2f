package web

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

var errCrossOrigin = ca.Errorf(enroll.KindForbidden, "", "open the dashboard itself, and send the form from there", "the form came from another site")

// statuses says what HTTP status a kind of error has; the others are 422.
var statuses = map[ca.Kind]int{
	ca.KindNotFound:            http.StatusNotFound,
	enroll.KindUnauthenticated: http.StatusUnauthorized,
	enroll.KindForbidden:       http.StatusForbidden,
	enroll.KindConflict:        http.StatusConflict,
	enroll.KindIdempotency:     http.StatusConflict,
	enroll.KindRateLimited:     http.StatusTooManyRequests,
	enroll.KindUnavailable:     http.StatusServiceUnavailable,
	ca.KindClock:               http.StatusServiceUnavailable,
	ca.KindKey:                 http.StatusInternalServerError,
	ca.KindRefusedCRL:          http.StatusInternalServerError,
}

// A refusal is an error as a person sees it: at a form's field, or on a page of
// its own.
type refusal struct {
	Status  int
	Field   string // of the form; empty when it is about the whole
	Message string
	Hint    string

	retryAfter time.Duration // zero for none
}

// At reports whether the refusal is about a field.
func (r *refusal) At(field string) bool { return r != nil && r.Field == field }

// titles are what the page of an error is called.
var titles = map[int]string{
	http.StatusNotFound: "Not found", http.StatusForbidden: "Not permitted", http.StatusUnauthorized: "Not signed in",
	http.StatusConflict: "Conflict", http.StatusTooManyRequests: "Too many attempts",
	http.StatusServiceUnavailable: "Not available for now", http.StatusInternalServerError: "Something broke",
	http.StatusUnprocessableEntity: "Refused",
}

// Title names the refusal.
func (r *refusal) Title() string { return titles[r.Status] }

// refusalOf classifies an error. The text of one without a kind, or of one
// about the inside, is for the log.
func refusalOf(err error) *refusal {
	var e *ca.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e = &ca.Error{Kind: enroll.KindUnavailable}
	default:
		return &refusal{Status: http.StatusInternalServerError, Message: "the server's log has the cause under this request's id"}
	}
	status, ok := statuses[e.Kind]
	if !ok {
		status = http.StatusUnprocessableEntity
	}
	r := &refusal{Status: status, Field: e.Field, Message: e.Message, Hint: e.Hint}
	if status >= http.StatusInternalServerError && e.Kind != ca.KindClock && !errors.Is(err, errAtLimit) {
		r = &refusal{Status: status, Message: "the server's log says why", Hint: "try again; a change may have taken effect all the same, so look first"}
	}
	var later *enroll.Later
	if errors.As(err, &later) {
		r.retryAfter = later.After
	}
	return r
}

// refused is the page of a form again, with the error in place.
func (v *visit) refused(err error, again func(*refusal) (answer, error)) (answer, error) {
	r := refusalOf(err)
	if r.Status >= http.StatusInternalServerError || r.Status == http.StatusNotFound {
		return nil, err
	}
	a, err := again(r)
	if p, ok := a.(page); ok {
		p.status = r.Status
		a = p
	}
	v.retryAfter(r)
	return a, err
}

func (v *visit) retryAfter(r *refusal) {
	if r.retryAfter > 0 {
		v.w.Header().Set("Retry-After", strconv.FormatInt(int64((r.retryAfter+time.Second-1)/time.Second), 10))
	}
}

// writeError answers with the page of an error, and logs what it does not show.
func (s *Site) writeError(v *visit, err error) {
	r := refusalOf(err)
	if r.Status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) && !errors.Is(err, errAtLimit) {
		s.log.ErrorContext(v.ctx(), "page ended in an error", "requestId", v.w.Header().Get("X-Request-Id"), "path", v.r.URL.Path, "error", err)
	}
	v.retryAfter(r)
	v.w.Header().Del("Content-Disposition")
	p := page{name: "error", title: r.Title(), data: r, status: r.Status}
	if err := p.write(v); err != nil {
		s.log.ErrorContext(v.ctx(), "the error page does not render", "error", err)
		http.Error(v.w, r.Title(), r.Status)
	}
}

func notFound(v *visit) (answer, error) {
	return nil, ca.Errorf(ca.KindNotFound, "", "the navigation leads to what is here", "there is no page at %.200s", v.r.URL.Path)
}
