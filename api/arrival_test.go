package api

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A lateServer is a server over HTTP/2 that tells when it waits for a body.
type lateServer struct {
	*testing.T
	*httptest.Server
	waits chan struct{}
}

func startLate(t *testing.T, h http.Handler) *lateServer {
	s := &lateServer{T: t, waits: make(chan struct{}, 100)}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &waitedFor{ReadCloser: r.Body, waits: s.waits}
		h.ServeHTTP(w, r)
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

type waitedFor struct {
	io.ReadCloser
	waits chan struct{}
}

func (b *waitedFor) Read(p []byte) (int, error) {
	if b.waits != nil {
		b.waits <- struct{}{}
		b.waits = nil
	}
	return b.ReadCloser.Read(p)
}

func (s *lateServer) post(path string, body io.Reader) (status int, text string) {
	resp, err := s.Client().Post(s.URL+path, "application/json", body)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(all)
}

// A late request has a body that is on its way until it is finished.
type late struct {
	io.WriteCloser
	status chan int
}

// open returns when the server waits for the body.
func (s *lateServer) open(path string) *late {
	r, w := io.Pipe()
	l := &late{WriteCloser: w, status: make(chan int, 1)}
	s.Cleanup(func() { w.Close() })
	go func() {
		status, _ := s.post(path, r)
		l.status <- status
	}()
	<-s.waits
	return l
}

// Requests whose body is on its way keep nobody out.
func TestBodiesArriveBeforeASlotIsTaken(t *testing.T) {
	a := gated(newGate())
	for name, c := range map[string]struct {
		h    http.Handler
		path string
	}{"people": {a.People(), basePath + "/fast"}, "machines": {a.Machines(), basePath + "/fast"}} {
		t.Run(name, func(t *testing.T) {
			s := startLate(t, c.h)
			first, second := s.open(c.path), s.open(c.path)
			if status, body := s.post(c.path, strings.NewReader("{}")); status != http.StatusOK {
				t.Errorf("beside late bodies: %d %s", status, body)
			}
			for _, l := range []*late{first, second} {
				if _, err := io.WriteString(l, "{}"); err != nil {
					t.Error(err)
				}
				l.Close()
				if status := <-l.status; status != http.StatusOK {
					t.Errorf("a late body: %d", status)
				}
			}
		})
	}
}

// Pages get bodies that have arrived.
func TestFormsArriveBeforePages(t *testing.T) {
	a := gated(newGate())
	begun := make(chan struct{}, 1)
	a.pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		_, _ = io.Copy(w, r.Body)
	})
	s := startLate(t, a.People())
	l := s.open("/login")
	select {
	case <-begun:
		t.Error("the page began before the form had arrived")
	case <-time.After(20 * time.Millisecond):
	}
	l.Close()
	<-begun
	if status, text := s.post("/login", strings.NewReader("name=ann")); status != http.StatusOK || text != "name=ann" {
		t.Errorf("%d %q", status, text)
	}
}

// Where too many bodies are on their way the oldest gives way: one of the same
// address where that has too many, else any.
func TestOldestBodyGivesWay(t *testing.T) {
	for name, most := range map[string][2]int{"all": {2, 9}, "address": {9, 2}} {
		t.Run(name, func(t *testing.T) {
			arriving := newArrivals()
			arriving.most, arriving.mostOfAddress = most[0], most[1]
			s := startLate(t, arriving.first(bare(&bytes.Buffer{}), bodyLimit)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
			oldest, kept := s.open("/"), s.open("/")
			if status, _ := s.post("/", strings.NewReader("{}")); status != http.StatusOK {
				t.Errorf("the newest body: %d", status)
			}
			if status := <-oldest.status; status != http.StatusServiceUnavailable {
				t.Errorf("the oldest body: %d", status)
			}
			kept.Close()
			if status := <-kept.status; status != http.StatusOK {
				t.Errorf("a body that was not the oldest: %d", status)
			}
			if len(arriving.all) != 0 || len(arriving.of) != 0 {
				t.Errorf("%d bodies are noted, of %v", len(arriving.all), arriving.of)
			}
		})
	}
}

// A body that does not arrive in time is an early end, and one that is too long
// is too long.
func TestBodiesThatDoNotArrive(t *testing.T) {
	arriving := newArrivals()
	arriving.time = 50 * time.Millisecond
	a := bare(&bytes.Buffer{})
	s := startLate(t, arriving.first(a, 4)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := readBody(w, r, 4); err != nil {
			a.writeError(w, r, err)
		}
	})))
	if status := <-s.open("/").status; status != http.StatusBadRequest {
		t.Errorf("a body that does not arrive: %d", status)
	}
	for body, want := range map[string]int{"1234": 200, "12345": 413} {
		if status, text := s.post("/", strings.NewReader(body)); status != want {
			t.Errorf("%s: %d %s", body, status, text)
		}
	}
}
