package client

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
)

// What a caller gives goes into a query whole.
func TestReadinessEscapesItsStep(t *testing.T) {
	t.Parallel()
	const step = "drop&step=switch #"
	got := make(chan []string, 1)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.URL.Query()["step"]
		w.Write([]byte("{}"))
	}))
	t.Cleanup(s.Close)
	c, err := New(Config{Server: s.URL, CA: []*x509.Certificate{s.Certificate()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Readiness(t.Context(), "root/2", step); err != nil {
		t.Fatal(err)
	}
	if steps := <-got; len(steps) != 1 || steps[0] != step {
		t.Errorf("the server was asked for %q", steps)
	}
}
