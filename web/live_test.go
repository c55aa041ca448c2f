package web_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// A countingStore counts how often a page of a revocation, and the page Now, are
// made: each asks for one of these, once.
type countingStore struct {
	enroll.Store
	revocations, now *atomic.Int64
}

func (s countingStore) Revocation(ctx context.Context, id string) (*enroll.Revocation, error) {
	s.revocations.Add(1)
	return s.Store.Revocation(ctx, id)
}

func (s countingStore) FullWorkOrders(ctx context.Context, limit int) ([]*enroll.WorkOrder, error) {
	s.now.Add(1)
	return s.Store.FullWorkOrders(ctx, limit)
}

// A stream is a live page that is being watched.
type stream struct {
	events chan string // of each event the whole text; closed at the end
}

// watch watches a page until the test ends.
func (v *visitor) watch(page string) *stream {
	v.Helper()
	ctx, cancel := context.WithCancel(v.ctx)
	v.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, v.server.URL+"/live?page="+url.QueryEscape(page), nil)
	v.must(err)
	client := *v.client
	client.Timeout = 0
	resp, err := client.Do(r)
	v.must(err)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		text, _ := io.ReadAll(resp.Body) // as much as there is
		resp.Body.Close()
		v.Fatalf("watch %s: %d %s", page, resp.StatusCode, text)
	}
	s := &stream{make(chan string, 100)}
	go func() {
		defer resp.Body.Close()
		defer close(s.events)
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for event := ""; lines.Scan(); {
			if line := lines.Text(); line != "" {
				event += line + "\n"
			} else {
				if !strings.HasPrefix(event, "retry:") {
					s.events <- event
				}
				event = ""
			}
		}
	}()
	return s
}

// until returns the first event that holds a text.
func (s *stream) until(t *testing.T, text string) string {
	t.Helper()
	for limit := time.After(30 * time.Second); ; {
		select {
		case event, more := <-s.events:
			if strings.Contains(event, text) {
				return event
			}
			if !more {
				t.Fatalf("the stream ended without %q", text)
			}
		case <-limit:
			t.Fatalf("no %q within 30 s", text)
		}
	}
}

// A page is made anew when something on it changed, and hardly ever else.
func TestLiveIsMadeOnChange(t *testing.T) {
	t.Parallel()
	var made, now atomic.Int64
	s := newSite(t, func(c *enroll.Config) { c.Store = countingStore{c.Store, &made, &now} })
	s.enroll("pump-1")
	r, err := s.service.RevokeDevice(s.ctx, admin(), "pump-1", enroll.RevokeRequest{Reason: "superseded"})
	s.must(err)
	s.eventually("the revocation is done", func() (bool, error) {
		got, err := s.store.Revocation(s.ctx, r.ID)
		return err == nil && got.State != enroll.RevocationRunning, err
	})
	v := s.as(enroll.RoleSecurity)
	revocation, front := v.watch("/revocations/"+r.ID), v.watch("/")
	revocation.until(t, "data:")
	front.until(t, "data:")
	time.Sleep(2 * time.Second) // what the revocation set going ends
	made.Store(0)
	now.Store(0)
	began := time.Now()
	time.Sleep(4 * time.Second)
	// Every 5 s anyway; the background counts and publishes now and then.
	if n := made.Load(); n > 2+int64(time.Since(began)/(5*time.Second)) {
		t.Errorf("the page of a revocation was made %d times in %v, and nothing changed", n, time.Since(began))
	}
	made.Store(0)
	for range 3 { // of another device: that is not on the page of the revocation
		s.must(s.store.RecordEvent(s.ctx, hostileChange("device:other")))
		time.Sleep(500 * time.Millisecond)
	}
	if n := made.Load(); n > 1 {
		t.Errorf("made %d times, and what changed is elsewhere", n)
	}
	s.eventually("the page Now is made", func() (bool, error) { return now.Load() > 0, nil })
	made.Store(0)
	s.must(s.store.RecordEvent(s.ctx, hostileChange("revocation:"+r.ID)))
	s.eventually("the page of the revocation is made", func() (bool, error) { return made.Load() > 0, nil })
	_, err = s.service.DisableUser(s.ctx, admin(), "eve-security")
	s.must(err)
	revocation.until(t, "event: ended")
	front.until(t, "event: ended")
}

// What others do is sent soon, whole, and once.
func TestLiveTellsOfChanges(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("pump-1")
	v := s.as(enroll.RoleOperator)
	page := v.watch("/devices/pump-1")
	if first := page.until(t, "data:"); !strings.Contains(first, "pump-1") || strings.Contains(first, "device.hold") {
		t.Errorf("first %.200s", first)
	}
	_, err := s.service.HoldDevice(s.ctx, admin(), "pump-1")
	s.must(err)
	page.until(t, "device.hold")
	for _, path := range []string{"/devices/pump-1%00", "/revocations/%00", "/revocations/a%20b"} { // no topics; the pages are not there
		if p := v.get("/live?page=" + url.QueryEscape(path)); p.status >= http.StatusInternalServerError {
			t.Errorf("%s: %d", path, p.status)
		}
	}
	_, err = s.service.ReleaseDevice(s.ctx, admin(), "pump-1")
	s.must(err)
	page.until(t, "device.release") // nobody was blinded by those
}
