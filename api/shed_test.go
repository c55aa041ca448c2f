package api

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
)

// What comes while the API is at its limit is shed with Retry-After, and what
// comes after is taken again (I28).
func TestShed(t *testing.T) {
	a := bare(&bytes.Buffer{})
	a.inFlight = 1
	entered, leave := make(chan struct{}), make(chan struct{})
	h := a.shed(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-leave
		w.WriteHeader(http.StatusNoContent)
	}))
	serve := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
		return w
	}
	first := make(chan *httptest.ResponseRecorder)
	go func() { first <- serve() }()
	<-entered
	if w := serve(); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" {
		t.Errorf("over the limit: %d %v", w.Code, w.Header())
	}
	leave <- struct{}{}
	if w := <-first; w.Code != http.StatusNoContent {
		t.Errorf("within the limit: %d", w.Code)
	}
	go func() { <-entered; leave <- struct{}{} }()
	if w := serve(); w.Code != http.StatusNoContent {
		t.Errorf("after: %d", w.Code)
	}
}
