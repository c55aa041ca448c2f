package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/store/storetest"
)

// An enrollmentJob is one device of TestCrash, and its client's journal.
type enrollmentJob struct {
	id, csr string
	mu      sync.Mutex
	got     []string // chains received, in their order
}

// enroll asks once, and journals what came.
func (j *enrollmentJob) enroll(c *restClient) (status int, err error) {
	a, err := c.try("POST", "/enrollments", map[string]any{"deviceId": j.id, "csr": j.csr, "workOrder": "WO-crash"}, "Idempotency-Key", "key-"+j.id)
	if err != nil || a.status != http.StatusCreated && a.status != http.StatusOK {
		return a.status, err
	}
	var e struct{ Chain string }
	if err := json.Unmarshal(a.body, &e); err != nil {
		return a.status, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.got = append(j.got, e.Chain)
	return a.status, nil
}

// TestCrash kills the server with SIGKILL at random moments while 16 clients
// enroll 1,000 devices, and holds their journals against the store (I1, I2, I5):
// every certificate received is recorded, a retry gets the same bytes, and no
// device and no serial number is there twice.
func TestCrash(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) { crash(t, newTestServer(t)) })
	t.Run("PostgreSQL", func(t *testing.T) { crash(t, newTestServerOn(t, storetest.StartPostgres(t).NewDatabase(t))) })
}

func crash(t *testing.T, s *testServer) {
	const devices, clients, leastKills = 1000, 16, 5
	admin := s.rest(t, "admin")
	if a := admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO-crash", "product": "p", "quantity": devices}); a.status != http.StatusCreated {
		t.Fatalf("%d %s", a.status, a.body)
	}
	jobs := make([]*enrollmentJob, devices)
	queue := make(chan *enrollmentJob, devices)
	for n := range jobs {
		id := fmt.Sprintf("unit-%04d", n)
		_, csr := newCSR(t, id)
		jobs[n] = &enrollmentJob{id: id, csr: csr}
		queue <- jobs[n]
	}
	close(queue)

	var kills atomic.Int64
	var errs sync.Map
	var workers sync.WaitGroup
	for range clients {
		workers.Go(func() {
			for j := range queue {
				// A client goes slower until the kills have been had.
				if kills.Load() < leastKills {
					time.Sleep(20 * time.Millisecond)
				}
				for attempt := 0; ; attempt++ {
					status, err := j.enroll(admin)
					if err == nil && (status == http.StatusCreated || status == http.StatusOK) {
						break
					}
					if err == nil && status < 500 {
						errs.Store(j.id, fmt.Sprintf("status %d", status))
						break
					}
					if attempt > 1500 {
						errs.Store(j.id, fmt.Sprintf("status %d, %v", status, err))
						break
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { workers.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(50*time.Millisecond + rand.N(250*time.Millisecond)):
			s.kill()
			kills.Add(1)
			s.start(t)
		}
	}
	t.Logf("%d kills", kills.Load())
	if kills.Load() < leastKills {
		t.Errorf("only %d kills: the test shows nothing", kills.Load())
	}
	errs.Range(func(id, why any) bool { t.Errorf("%v: %v", id, why); return true })
	checkJournals(t, s, admin, jobs)
}

// checkJournals holds what the clients received against the store.
func checkJournals(t *testing.T, s *testServer, admin *restClient, jobs []*enrollmentJob) {
	t.Helper()
	serials := map[string]string{}
	for _, j := range jobs {
		status, err := j.enroll(admin)
		if err != nil || status != http.StatusOK {
			t.Fatalf("%s: retry after all: status %d, %v", j.id, status, err)
		}
		for _, chain := range j.got {
			if chain != j.got[0] {
				t.Fatalf("%s got two certificates", j.id)
			}
		}
		var device struct {
			Certificates []struct{ SerialNumber, PEM string }
		}
		admin.send(t, "GET", "/devices/"+j.id, nil).into(t, http.StatusOK, &device)
		if len(device.Certificates) != 1 {
			t.Fatalf("%s has %d certificates", j.id, len(device.Certificates))
		}
		cert := device.Certificates[0]
		if len(j.got[0]) < len(cert.PEM) || j.got[0][:len(cert.PEM)] != cert.PEM {
			t.Fatalf("%s holds another certificate than the store", j.id)
		}
		if other, twice := serials[cert.SerialNumber]; twice {
			t.Fatalf("%s and %s have the same serial number", j.id, other)
		}
		serials[cert.SerialNumber] = j.id
	}
	var order struct{ Issued int }
	admin.send(t, "GET", "/work-orders/WO-crash", nil).into(t, http.StatusOK, &order)
	found := 0
	for cursor := ""; found == 0 || cursor != ""; {
		var page struct {
			Items      []struct{ ID string }
			NextCursor string
		}
		admin.send(t, "GET", "/devices?limit=500&cursor="+cursor, nil).into(t, http.StatusOK, &page)
		found, cursor = found+len(page.Items), page.NextCursor
	}
	if found != len(jobs) || order.Issued != len(jobs) {
		t.Errorf("%d devices, %d issued, want %d", found, order.Issued, len(jobs))
	}
}
