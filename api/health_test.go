package api

import (
	"bytes"
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestReadyAsksOnceAWhile(t *testing.T) {
	asked := 0
	a := &API{log: bare(new(bytes.Buffer)).log, ready: readiness{ask: func(context.Context) error {
		asked++
		return errors.New("dial CANARY")
	}}}
	for range 3 {
		w := httptest.NewRecorder()
		a.getReady(w, httptest.NewRequest("GET", "/readyz", nil))
		if w.Code != 503 || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "CANARY") {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}
