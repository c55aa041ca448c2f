package main

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/store/storetest"
)

// The primary PostgreSQL is killed with SIGKILL while devices enroll, and its
// standby promoted: every certificate that a client got is there, no retry made
// a second one, and enrollments go on within five seconds of the promotion,
// without anybody touching the server (I1, I2, I5).
func TestFailover(t *testing.T) {
	t.Parallel()
	const devices, clients = 500, 8
	primary := storetest.StartPostgres(t)
	database := primary.NewDatabase(t)
	standby := primary.StartStandby(t)
	s := newTestServerOn(t, primary.Either(database, standby))
	b := newBalancer(t, []*testServer{s})
	jobs := journals(t, b.restClient, devices)
	queue := make(chan *enrollmentJob)
	var enrolled atomic.Int64
	var workers sync.WaitGroup
	for range clients {
		workers.Go(func() {
			for j := range queue {
				if err := b.enroll(j); err != nil {
					t.Errorf("%s: %v", j.id, err)
				}
				enrolled.Add(1)
			}
		})
	}
	killed, back := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		defer close(back)
		<-killed
		time.Sleep(300 * time.Millisecond)
		before := enrolled.Load()
		standby.Promote(t)
		promoted := time.Now()
		for enrolled.Load() < before+clients+1 { // more than were on their way
			if time.Since(promoted) > 25*time.Second {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		back <- time.Since(promoted)
	}()
	for n, j := range jobs {
		queue <- j
		if n == devices/3 {
			primary.Kill()
			close(killed)
		}
	}
	close(queue)
	workers.Wait()
	took, ok := <-back
	t.Logf("enrollments go on %v after the promotion; %d requests were repeated", took.Round(time.Millisecond), b.refused.Load())
	if !ok || took > 5*time.Second {
		t.Errorf("enrollments go on after %v\n%s", took, s.log)
	}
	if b.refused.Load() == 0 {
		t.Error("no request met the failover: the test shows nothing")
	}
	checkJournals(t, s, b.restClient, jobs)
}
