package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// bare returns an API whose service has neither authority nor store: good for
// what never reaches them.
func bare(log *bytes.Buffer) *API {
	return New(Config{Service: enroll.New(enroll.Config{}), Log: slog.New(slog.NewTextHandler(log, nil))})
}

func TestProblems(t *testing.T) {
	const canary = "SELECT secret FROM pg_hba"
	for _, c := range []struct {
		name   string
		err    error
		want   string // type's name
		status int
		field  string
		header string // name of a header that must be there
	}{
		{"kind", ca.Errorf(ca.KindMalformed, "csr", "send PEM", "is not PEM"), "malformed", 400, "csr", ""},
		{"wrapped", fmt.Errorf("enroll: %w", ca.Errorf(enroll.KindQuotaReached, "workOrder", "", "is full")), "quota-reached", 422, "workOrder", ""},
		{"cause", ca.Errorf(ca.KindMalformed, "csr", "", "cannot be parsed: %w", errors.New(canary)), "malformed", 400, "csr", ""},
		{"unclassified", errors.New(canary), "internal", 500, "", ""},
		{"unknown kind", ca.Errorf("invented", "", "", canary), "internal", 500, "", ""},
		{"unavailable", ca.Errorf(enroll.KindUnavailable, "", "", canary), "unavailable", 503, "", "Retry-After"},
		{"key", ca.Errorf(ca.KindKey, "", "", canary), "issuer-key-failure", 500, "", ""},
		{"deadline", fmt.Errorf("%s: %w", canary, context.DeadlineExceeded), "unavailable", 503, "", "Retry-After"},
		{"unauthenticated", ca.Errorf(enroll.KindUnauthenticated, "Authorization", "", "no"), "unauthenticated", 401, "Authorization", "Www-Authenticate"},
		{"limited", &retryError{after: 1500 * time.Millisecond, error: ca.Errorf(KindRateLimited, "", "", "slow down")}, "rate-limited", 429, "", "Retry-After"},
		{"body", fmt.Errorf("read: %w", &http.MaxBytesError{Limit: 7}), "too-large", 413, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			w := httptest.NewRecorder()
			bare(&log).writeError(w, httptest.NewRequest("POST", "/", nil), c.err)
			var p Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatal(err)
			}
			if p.Type != "urn:fleetca:problem:"+c.want || p.Status != c.status || w.Code != c.status || p.Title == "" || p.Detail == "" {
				t.Errorf("got %d %+v", w.Code, p)
			}
			if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("Content-Type %q", got)
			}
			if field := ""; len(p.Errors) > 0 || c.field != "" {
				if len(p.Errors) > 0 {
					field = p.Errors[0].Field
				}
				if field != c.field {
					t.Errorf("field %q, want %q", field, c.field)
				}
			}
			if c.want == "too-large" && (len(p.Errors) != 1 || p.Errors[0].Message != p.Detail || p.Errors[0].Hint == "") {
				t.Errorf("errors %+v", p.Errors)
			}
			if c.header != "" && w.Header().Get(c.header) == "" {
				t.Errorf("no header %s", c.header)
			}
			if strings.Contains(w.Body.String(), canary) {
				t.Errorf("the client sees %s", w.Body)
			}
			if logged := strings.Contains(log.String(), canary); c.status >= 500 && strings.Contains(c.err.Error(), canary) && !logged {
				t.Errorf("the log lacks the cause: %s", &log)
			}
		})
	}
	w := httptest.NewRecorder()
	writeProblem(w, problemOf(&retryError{after: 1500 * time.Millisecond, error: ca.Errorf(KindRateLimited, "", "", "x")}, ""))
	if got := w.Header().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After %q, want it rounded up", got)
	}
}
