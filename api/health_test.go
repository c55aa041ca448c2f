package api

import (
	"bytes"
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
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

// I22: a service that does not answer is asked once, and is said in time not to
// be ready, to everybody; later ones need not even wait. When it answers, it is.
func TestReadyAnswersInTime(t *testing.T) {
	asked := 0
	answers := make(chan error)
	const patience = 100 * time.Millisecond
	a := &API{log: bare(new(bytes.Buffer)).log, unusable: func() []string { return nil }, ready: readiness{patience: patience, ask: func(context.Context) error {
		asked++
		return <-answers // whatever the context says
	}}}
	ready := func() (status int, took time.Duration) {
		w, began := httptest.NewRecorder(), time.Now()
		a.getReady(w, httptest.NewRequest("GET", "/readyz", nil))
		return w.Code, time.Since(began)
	}
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			if status, took := ready(); status != 503 || took > 10*patience {
				t.Errorf("%d after %v", status, took)
			}
		})
	}
	clients.Wait()
	if status, took := ready(); status != 503 || took > patience/2 {
		t.Errorf("%d after %v", status, took)
	}
	answers <- nil
	for status := 503; status != 200; status, _ = ready() {
		time.Sleep(time.Millisecond)
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	// A client that leaves does not wait, and does not spoil the answer.
	a.ready.asked = time.Time{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.ready.check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	answers <- nil
	if status, _ := ready(); status != 200 {
		t.Errorf("%d", status)
	}
}
