package main

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// Forty times more clients than a server works for at once: some are served as
// fast as without the others, the slowest of them in bounded time, and all others
// are told to come again (I28). The
// same clients at a server that takes them all wait for each other.
func TestOverload(t *testing.T) {
	t.Parallel()
	const clients = 80
	unloaded, _ := overload(t, newTestServer(t, "--in-flight", "2"), 1)
	bounded, refused := overload(t, newTestServer(t, "--in-flight", "2"), clients)
	open, none := overload(t, newTestServer(t, "--in-flight", "512"), clients)
	p99 := func(took []time.Duration) time.Duration { return took[len(took)*99/100] }
	t.Logf("unloaded: p99 %v; bounded: %d served, median %v, p99 %v, %d refused; open: %d served, median %v, p99 %v",
		p99(unloaded), len(bounded), bounded[len(bounded)/2], p99(bounded), refused, len(open), open[len(open)/2], p99(open))
	if refused == 0 || none != 0 {
		t.Errorf("refused at the bounded server %d, at the open one %d", refused, none)
	}
	// The clients are on the same machine, and take what processors there are.
	if limit := 10*p99(unloaded) + 500*time.Millisecond; p99(bounded) > limit {
		t.Errorf("of what is accepted one in a hundred takes %v, more than %v", p99(bounded), limit)
	}
	if bounded[len(bounded)/2] > open[len(open)/2]/2 {
		t.Errorf("what is accepted takes %v, without shedding %v", bounded[len(bounded)/2], open[len(open)/2])
	}
}

// overload enrolls devices by many clients for two seconds, and returns how
// long the accepted took, sorted, and how many were refused.
func overload(t *testing.T, s *testServer, clients int) (took []time.Duration, refused int) {
	t.Helper()
	admin := s.rest(t, "admin")
	admin.http.Transport.(*http.Transport).MaxIdleConnsPerHost = clients
	_, csr := newCSR(t, "warm")
	admin.send(t, "POST", "/enrollments", map[string]any{"deviceId": "warm", "csr": csr}).into(t, 201, new(any))
	var mu sync.Mutex
	var calls sync.WaitGroup
	end := time.Now().Add(2 * time.Second)
	for c := range clients {
		calls.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				id := fmt.Sprintf("load-%d-%d", c, n)
				_, csr := newCSR(t, id)
				begun := time.Now()
				a, err := admin.try("POST", "/enrollments", map[string]any{"deviceId": id, "csr": csr}, "Idempotency-Key", id)
				elapsed := time.Since(begun)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				switch {
				case a.status == 201 && n > 0: // the first made the connection
					took = append(took, elapsed)
				case a.status == 503 && a.header.Get("Retry-After") != "":
					refused++
				case a.status != 201:
					t.Errorf("%s: %d %v %s", id, a.status, a.header, a.body)
				}
				mu.Unlock()
				if a.status == 503 {
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	calls.Wait()
	if len(took) == 0 {
		t.Fatal("nothing was accepted")
	}
	slices.Sort(took)
	return took, refused
}
