package api

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func TestNobodyByDefault(t *testing.T) {
	for _, p := range []*enroll.Principal{
		{}, {Role: enroll.RoleAdmin}, {Certificate: &ca.Certificate{Holder: ca.Holder{Kind: ca.HolderDevice, ID: "x"}}},
	} {
		if (Rule{}).permits(p, "x") {
			t.Errorf("the zero rule lets in %+v", p)
		}
	}
	own := Rule{Holders: []ca.HolderKind{ca.HolderAgent}, Own: true}
	agent := &enroll.Principal{Certificate: &ca.Certificate{Holder: ca.Holder{Kind: ca.HolderAgent, ID: "other"}}}
	if own.permits(agent, "x") {
		t.Error("an agent may act on another's broker")
	}
}

func TestRoutesAreComplete(t *testing.T) {
	for _, rt := range Routes() {
		call := rt.Method + " " + rt.Pattern
		if rt.Doc == "" || !strings.HasSuffix(rt.Doc, ".") || rt.Answer == nil || rt.Status < 200 || rt.Status > 202 {
			t.Errorf("%s: doc %q, answer %v, status %d", call, rt.Doc, rt.Answer, rt.Status)
		}
		if (rt.Status == created || rt.Status == accepted) && !rt.Creates {
			t.Errorf("%s answers %d and takes no Idempotency-Key", call, rt.Status)
		}
		if rt.Method == get && (rt.Request != nil || rt.Creates || rt.NoBody) {
			t.Errorf("%s: a GET that reads or creates", call)
		}
		if want := rt.Status != http.StatusOK && rt.Name != "createEnrollmentToken" && rt.Name != "createRenewalLink"; (rt.At != "") != want {
			t.Errorf("%s answers %d, and says of what it made %q", call, rt.Status, rt.At) // a token's secret is in no place
		}
		for _, p := range rt.Parameters() {
			if p.Name == "" || p.Doc == "" {
				t.Errorf("%s: parameter %+v", call, p)
			}
		}
	}
}

func TestElsewhere(t *testing.T) {
	var log bytes.Buffer
	a := bare(&log)
	people := a.People()
	do := func(h http.Handler, method, target string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, target, nil)
		r.Header.Set("Authorization", "Bearer fca_CANARY-1")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for _, c := range []struct {
		method, path string
		status       int
		kind, allow  string
	}{
		{"GET", "/nowhere", 404, "not-found", ""},
		{"GET", "/api/v1/nowhere", 404, "not-found", ""},
		{"GET", "/api/v2/devices", 404, "not-found", ""},
		{"DELETE", "/api/v1/devices/x", 405, "method-not-allowed", "GET, HEAD"},
		{"PUT", "/api/v1/devices", 405, "method-not-allowed", "GET, HEAD, POST"},
		{"BREW", "/api/v1/devices", 405, "method-not-allowed", "GET, HEAD, POST"},
		{"GET", "/healthz", 200, "", ""},
		{"GET", "/", 200, "", ""},
		{"GET", "/api/v1", 200, "", ""},
		{"GET", "/api/v1/?token=CANARY-2", 400, "malformed", ""},
	} {
		w := do(people, c.method, c.path)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.kind) || w.Header().Get("Allow") != c.allow {
			t.Errorf("%s %s: %d, Allow %q, %s", c.method, c.path, w.Code, w.Header().Get("Allow"), w.Body)
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Request-Id") == "" {
			t.Errorf("%s %s: headers %v", c.method, c.path, w.Header())
		}
	}
	if w := do(people, "GET", "/metrics"); w.Code != 404 {
		t.Errorf("metrics on the listener for people: %d", w.Code)
	}
	if w := do(a.Status(), "GET", "/api/v1/devices"); w.Code != 404 {
		t.Errorf("REST on the status listener: %d", w.Code)
	}
	if strings.Contains(log.String(), "CANARY") {
		t.Errorf("the log holds a secret: %s", &log)
	}
}

// Both listeners answer a method that a path does not take alike, pages or none;
// what no call is for is the pages' where there are some.
func TestWrongMethods(t *testing.T) {
	pages := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	a := New(Config{Service: enroll.New(enroll.Config{}), Pages: pages})
	for _, l := range []struct {
		name      string
		h         http.Handler
		elsewhere int // status of a path outside the API
		root      int // status of POST /
	}{{"people", a.People(), http.StatusTeapot, http.StatusTeapot}, {"machines", a.Machines(), 404, 405}} {
		for _, c := range []struct {
			methods, path string
			status        int
			allow         string
		}{
			{"DELETE PUT PATCH OPTIONS BREW", "/api/v1/devices", 405, "GET, HEAD, POST"},
			{"DELETE POST OPTIONS BREW", "/api/v1/devices/x", 405, "GET, HEAD"},
			{"GET HEAD DELETE BREW", "/api/v1/devices/x/hold", 405, "POST"},
			{"POST BREW", "/api/v1", 405, "GET, HEAD"},
			{"POST BREW", "/api/v1/", 405, "GET, HEAD"},
			{"POST OPTIONS BREW", "/healthz", 405, "GET, HEAD"},
			{"GET HEAD POST DELETE OPTIONS BREW", "/api/v1/nosuch", 404, ""},
			{"GET POST BREW", "/api/v2/devices", 404, ""},
			{"GET POST DELETE BREW", "/nosuch", l.elsewhere, ""},
			{"POST BREW", "/", l.root, map[int]string{405: "GET, HEAD"}[l.root]},
			{"HEAD", "/api/v1", 200, ""},
		} {
			for method := range strings.FieldsSeq(c.methods) {
				w := httptest.NewRecorder()
				l.h.ServeHTTP(w, httptest.NewRequest(method, c.path, nil))
				if w.Code != c.status || w.Header().Get("Allow") != c.allow {
					t.Errorf("%s: %s %s: %d, Allow %q, %s", l.name, method, c.path, w.Code, w.Header().Get("Allow"), w.Body)
				}
			}
		}
	}
}

func TestPanicIsAProblem(t *testing.T) {
	var log bytes.Buffer
	a := bare(&log) // its service has no authority: the trust bundle panics
	r := httptest.NewRequest("GET", "/api/v1/trust-bundle", nil)
	r.Header.Set("X-Request-Id", "my-id.1")
	w := httptest.NewRecorder()
	a.People().ServeHTTP(w, r)
	if w.Code != 500 || !strings.Contains(w.Body.String(), `"requestId":"my-id.1"`) || strings.Contains(w.Body.String(), "nil pointer") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "nil pointer") || !strings.Contains(log.String(), "my-id.1") {
		t.Errorf("log: %s", &log)
	}
	r.Header.Set("X-Request-Id", "a\nforged line")
	w = httptest.NewRecorder()
	a.People().ServeHTTP(w, r)
	if id := w.Header().Get("X-Request-Id"); id == "" || strings.Contains(id, "forged") {
		t.Errorf("X-Request-Id %q", id)
	}
}

func TestIndexNamesListings(t *testing.T) {
	index, err := bare(new(bytes.Buffer)).getIndex(nil)
	if err != nil || index.Links["devices"] != "/api/v1/devices" || slices.Contains(values(index.Links[""]), "/api/v1/") {
		t.Errorf("%+v, %v", index, err)
	}
}
