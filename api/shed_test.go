package api

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A gate is a handler that stays until it is let go.
type gate struct{ entered, leave chan struct{} }

func newGate() gate { return gate{make(chan struct{}), make(chan struct{})} }

func (g gate) wait() {
	g.entered <- struct{}{}
	<-g.leave
}

// gated returns an API of one call at a time: those under /slow stay in the gate,
// those under /fast do not. Its pages answer what they are sent.
func gated(g gate) *API {
	a := bare(&bytes.Buffer{})
	a.inFlight = 1
	slow := func(*API, *exchange, nothing) (nothing, error) { g.wait(); return nothing{}, nil }
	a.routes = []Route{
		{Method: get, Pattern: "/", Rule: public, endpoint: gives((*API).getIndex)},
		{Method: post, Pattern: "/slow", Rule: public, Status: 200, NoBody: true, endpoint: takes(slow)},
		{Method: get, Pattern: "/slow/get", Rule: public, Status: 200,
			endpoint: gives(func(*API, *exchange) (nothing, error) { g.wait(); return nothing{}, nil })},
		{Method: post, Pattern: "/slow/batch", Rule: public, endpoint: streams[nothing, nothing](func(*API, *exchange) error { g.wait(); return nil })},
		{Method: post, Pattern: "/fast", Rule: public, Status: 200, NoBody: true,
			endpoint: takes(func(*API, *exchange, nothing) (nothing, error) { return nothing{}, nil })},
		{Method: get, Pattern: "/fast/get", Rule: public, Status: 200,
			endpoint: gives(func(*API, *exchange) (nothing, error) { return nothing{}, nil })},
	}
	a.pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	return a
}

func ask(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

// What comes while a listener is at its limit is shed with Retry-After, whatever
// call it is, and what comes after is taken again (I28).
func TestShed(t *testing.T) {
	g := newGate()
	a := gated(g)
	for name, h := range map[string]http.Handler{"people": a.People(), "machines": a.Machines()} {
		for _, under := range [][2]string{{"POST", "/slow"}, {"GET", "/slow/get"}, {"HEAD", "/slow/get"}} {
			first := make(chan *httptest.ResponseRecorder)
			go func() { first <- ask(h, under[0], basePath+under[1]) }()
			<-g.entered
			for _, c := range [][2]string{{"POST", "/fast"}, {"GET", "/fast/get"}, {"HEAD", "/fast/get"}, {"GET", ""}} {
				w := ask(h, c[0], basePath+c[1])
				if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "the server is at its limit") {
					t.Errorf("%s: %v over the limit, during %v: %d %v %s", name, c, under, w.Code, w.Header(), w.Body)
				}
			}
			if w := ask(h, "GET", "/healthz"); w.Code != http.StatusOK {
				t.Errorf("%s: health over the limit: %d", name, w.Code)
			}
			g.leave <- struct{}{}
			if w := <-first; w.Code != http.StatusOK {
				t.Errorf("%s: %v within the limit: %d", name, under, w.Code)
			}
			if w := ask(h, "POST", basePath+"/fast"); w.Code != http.StatusOK {
				t.Errorf("%s: after %v: %d", name, under, w.Code)
			}
		}
	}
}

// A batch lasts: it takes no slot of the other calls, and has its own limit.
func TestBatchesAreShedByThemselves(t *testing.T) {
	g := newGate()
	h := gated(g).People()
	first := make(chan *httptest.ResponseRecorder)
	go func() { first <- ask(h, "POST", basePath+"/slow/batch") }()
	<-g.entered
	if w := ask(h, "POST", basePath+"/slow/batch"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("a second batch: %d", w.Code)
	}
	if w := ask(h, "POST", basePath+"/fast"); w.Code != http.StatusOK {
		t.Errorf("a call beside a batch: %d", w.Code)
	}
	g.leave <- struct{}{}
	if w := <-first; w.Code != http.StatusOK {
		t.Errorf("the first batch: %d", w.Code)
	}
}

// The listener for status has a limit, and health none.
func TestStatusIsShed(t *testing.T) {
	a := bare(&bytes.Buffer{})
	slots := make(chan struct{}, 1)
	slots <- struct{}{}
	h := a.status(slots)
	for _, c := range [][2]string{
		{"GET", "/ocsp/AAAA"}, {"HEAD", "/ocsp/AAAA"}, {"POST", "/ocsp"}, {"GET", "/crl/device.crl"}, {"HEAD", "/crl/device.crl"}, {"GET", "/trust-bundle.pem"},
	} {
		if w := ask(h, c[0], c[1]); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" {
			t.Errorf("%v: %d %v", c, w.Code, w.Header())
		}
	}
	if w := ask(h, "GET", "/healthz"); w.Code != http.StatusOK {
		t.Errorf("health: %d", w.Code)
	}
}
