package web_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/web"
)

// What comes while the dashboard is at its limit gets a page that says so, and
// what comes after is taken again (I28).
func TestOverloadIsShed(t *testing.T) {
	t.Parallel()
	h := web.New(web.Config{Service: enroll.New(enroll.Config{}), InFlight: 1}).Handler()
	ask := func(method string, body io.Reader) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, "/sign-in", body)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		h.ServeHTTP(w, r)
		return w
	}
	form, send := io.Pipe()
	first := make(chan *httptest.ResponseRecorder)
	go func() { first <- ask(http.MethodPost, form) }()
	if _, err := io.WriteString(send, "name=%"); err != nil { // is read: the form is being worked on
		t.Fatal(err)
	}
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		w := ask(method, strings.NewReader(""))
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Header().Get("Content-Type"), "text/html") ||
			method != http.MethodHead && !strings.Contains(w.Body.String(), "the dashboard is at its limit") {
			t.Errorf("%s over the limit: %d %v %s", method, w.Code, w.Header(), w.Body)
		}
	}
	send.Close()
	if w := <-first; w.Code == http.StatusServiceUnavailable {
		t.Errorf("within the limit: %d", w.Code)
	}
	if w := ask(http.MethodGet, nil); w.Code != http.StatusOK {
		t.Errorf("after: %d %s", w.Code, w.Body)
	}
}
