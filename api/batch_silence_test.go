package api

import (
	"bytes"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A client that falls silent is told so in a last result, and the batch ends in
// order; empty lines are none of it.
func TestBatchOfASilentClient(t *testing.T) {
	for name, http2 := range map[string]bool{"http1": false, "http2": true} {
		t.Run(name, func(t *testing.T) {
			a := bare(&bytes.Buffer{})
			a.pause = 300 * time.Millisecond
			a.routes = []Route{{Method: get, Pattern: "/", Rule: public, endpoint: gives((*API).getIndex)},
				{Method: post, Pattern: "/batch", Rule: public, endpoint: streams[BatchItem, BatchResult]((*API).postEnrollmentBatch)}}
			s := httptest.NewUnstartedServer(a.People())
			s.EnableHTTP2 = http2
			s.Config.WriteTimeout = a.pause
			s.StartTLS()
			t.Cleanup(s.Close)
			r, w := io.Pipe()
			t.Cleanup(func() { w.Close() })
			go func() {
				for range 4 { // empty lines have no result
					_, _ = io.WriteString(w, "\n")
					time.Sleep(a.pause / 3)
				}
				_, _ = io.WriteString(w, "{}\n")
			}()
			resp, err := s.Client().Post(s.URL+basePath+"/batch", "application/x-ndjson", r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if lines := strings.Split(string(text), "\n"); err != nil || len(lines) != 3 || !strings.Contains(lines[1], "the batch ended early") {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
}
