package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

type handlers = map[enroll.JobKind]func(context.Context, string) error

// someChange returns a change with an event and jobs.
func someChange(jobs ...enroll.Job) enroll.Change {
	return enroll.Change{Jobs: jobs, Event: enroll.Event{
		ID: uuid.Must(uuid.NewV7()).String(), At: time.Now(), Actor: "test", Action: "test", Subject: "test", Detail: json.RawMessage("{}"),
	}}
}

// startJobs starts workers and stops them at the end of the test.
func startJobs(t *testing.T, s *Store, w JobWorkers) *Jobs {
	t.Helper()
	j, err := s.StartJobs(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopJobs(t, j) })
	return j
}

func stopJobs(t *testing.T, j *Jobs) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
	defer cancel()
	if err := j.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// kick inserts a job with an event.
func kick(t *testing.T, s *Store, jobs ...enroll.Job) {
	t.Helper()
	if err := s.RecordEvent(t.Context(), someChange(jobs...)); err != nil {
		t.Fatal(err)
	}
}

// receive waits for a value.
func receive[T any](t *testing.T, c <-chan T, within time.Duration) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(within):
		t.Fatalf("nothing happened within %v", within)
		panic("unreachable")
	}
}

// jobTests are what Jobs promise on every engine. open opens the same migrated
// database each time it is called.
var jobTests = []struct {
	name string
	run  func(t *testing.T, open func(t *testing.T) *Store)
}{
	{"starts promptly after the commit", func(t *testing.T, open func(t *testing.T) *Store) {
		s := open(t)
		ran := make(chan time.Time, 16)
		startJobs(t, s, JobWorkers{Handlers: handlers{"k": func(_ context.Context, subject string) error {
			ran <- time.Now()
			return nil
		}}})
		kick(t, s, enroll.Job{Kind: "k", Subject: "warm"})
		receive(t, ran, 30*time.Second)
		best := time.Hour
		for range 5 {
			kick(t, s, enroll.Job{Kind: "k", Subject: uuid.NewString()})
			committed := time.Now()
			best = min(best, receive(t, ran, 30*time.Second).Sub(committed))
		}
		if best > 150*time.Millisecond {
			t.Errorf("the fastest of five started %v after its commit", best)
		}
	}},
	{"is not waited for while it rests", func(t *testing.T, open func(t *testing.T) *Store) {
		s := open(t)
		began, rested := make(chan bool, 1), make(chan error, 1)
		j := startJobs(t, s, JobWorkers{Handlers: handlers{"k": func(ctx context.Context, _ string) error {
			began <- true
			goOn, err := restAfter(ctx, time.Now().Add(-time.Hour))
			if goOn {
				err = errors.New("has rested")
			}
			rested <- err
			return err
		}}})
		kick(t, s, enroll.Job{Kind: "k"})
		receive(t, began, 30*time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := errors.Join(j.Stop(ctx), receive(t, rested, time.Second)); err != nil {
			t.Error(err)
		}
	}},
	{"is found among many that wait", func(t *testing.T, open func(t *testing.T) *Store) {
		s := open(t)
		many := make([]enroll.Job, 1_000)
		for i := range many {
			many[i] = enroll.Job{Kind: "k", Subject: fmt.Sprintf("device:d%d", i), After: time.Hour}
		}
		kick(t, s, many...)
		text, columns := "EXPLAIN "+postgresWaiting, 1
		if _, ok := s.db.(*sqliteEngine); ok {
			text, columns = "EXPLAIN QUERY PLAN "+sqliteWaiting, 4
		} else if _, err := s.db.exec(t.Context(), `ANALYZE river_job`); err != nil {
			t.Fatal(err)
		}
		plan, err := collect(t.Context(), s.db, func(row scanner) (line string, err error) {
			targets := []any{new(int64), new(int64), new(int64), &line}
			return line, row.Scan(targets[4-columns:]...)
		}, strings.NewReplacer("$1", "'k'", "$2", "'device:d500'", "$3", "'default'").Replace(text))
		if err != nil || !strings.Contains(strings.Join(plan, "\n"), "fleetca_jobs_waiting") {
			t.Errorf("it is found by %q, %v", plan, err)
		}
	}},
	{"is inserted only if the transaction commits", func(t *testing.T, open func(t *testing.T) *Store) {
		s := open(t)
		ran := make(chan string, 16)
		startJobs(t, s, JobWorkers{Handlers: handlers{"k": func(_ context.Context, subject string) error {
			ran <- subject
			return nil
		}}})
		err := s.HoldDevice(t.Context(), "none", time.Now(), someChange(enroll.Job{Kind: "k", Subject: "refused"}))
		if !errors.Is(err, ca.IsKind(ca.KindNotFound)) {
			t.Fatal(err)
		}
		kick(t, s, enroll.Job{Kind: "k", Subject: "committed"})
		if subject := receive(t, ran, 30*time.Second); subject != "committed" {
			t.Fatalf("job %q ran", subject)
		}
	}},
	{"runs again after Again, and after an error", func(t *testing.T, open func(t *testing.T) *Store) {
		s := open(t)
		ran := make(chan time.Time, 16)
		var runs atomic.Int32
		startJobs(t, s, JobWorkers{Handlers: handlers{"k": func(context.Context, string) error {
			ran <- time.Now()
			switch runs.Add(1) {
			case 1:
				return &enroll.Again{After: 300 * time.Millisecond}
			case 2:
				return errors.New("a failure")
			}
			return nil
		}}})
		kick(t, s, enroll.Job{Kind: "k", Subject: "s"})
		first := receive(t, ran, 30*time.Second)
		second := receive(t, ran, 30*time.Second)
		if pause := second.Sub(first); pause < 300*time.Millisecond {
			t.Errorf("ran again after %v", pause)
		}
		receive(t, ran, 30*time.Second)
	}},
	{"waits as long as it is told", func(t *testing.T, open func(t *testing.T) *Store) {
		s := open(t)
		ran := make(chan time.Time, 1)
		startJobs(t, s, JobWorkers{Handlers: handlers{"k": func(context.Context, string) error {
			ran <- time.Now()
			return nil
		}}})
		begun := time.Now()
		kick(t, s, enroll.Job{Kind: "k", Subject: "s", After: time.Second})
		if pause := receive(t, ran, 30*time.Second).Sub(begun); pause < time.Second || pause > 20*time.Second {
			t.Errorf("ran after %v", pause)
		}
	}},
	{"is not stacked, and brought forward", func(t *testing.T, open func(t *testing.T) *Store) {
		s := open(t)
		for range 5 {
			kick(t, s, enroll.Job{Kind: "k", Subject: "s", After: time.Hour})
		}
		kick(t, s, enroll.Job{Kind: "k", Subject: "s"}, enroll.Job{Kind: "k", Subject: "other"}, enroll.Job{Kind: "k", Subject: "s"})
		ran := make(chan string, 16)
		startJobs(t, s, JobWorkers{Handlers: handlers{"k": func(_ context.Context, subject string) error {
			ran <- subject
			return nil
		}}})
		got := map[string]int{}
		for range 2 {
			got[receive(t, ran, 30*time.Second)]++
		}
		select {
		case subject := <-ran:
			t.Errorf("%q ran a second time", subject)
		case <-time.After(500 * time.Millisecond):
		}
		if got["s"] != 1 || got["other"] != 1 {
			t.Errorf("ran %v", got)
		}
	}},
	{"runs after the one that is running, not beside it", func(t *testing.T, open func(t *testing.T) *Store) {
		s := open(t)
		begun, finish := make(chan bool, 16), make(chan bool)
		var inside, most atomic.Int32
		startJobs(t, s, JobWorkers{Handlers: handlers{"k": func(context.Context, string) error {
			most.Store(max(most.Load(), inside.Add(1)))
			defer inside.Add(-1)
			begun <- true
			<-finish
			return nil
		}}})
		kick(t, s, enroll.Job{Kind: "k", Subject: "s"})
		receive(t, begun, 5*time.Second)
		for range 3 {
			kick(t, s, enroll.Job{Kind: "k", Subject: "s"})
			for waiting := int64(1); waiting > 0; time.Sleep(20 * time.Millisecond) {
				var err error
				if waiting, err = value[int64](t.Context(), s.db, `SELECT COUNT(*) FROM river_job WHERE state = 'available'`); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(50 * time.Millisecond) // from fetched to begun
		finish <- true
		receive(t, begun, 5*time.Second)
		finish <- true
		select {
		case <-begun:
			finish <- true
			t.Error("three kicks made more than one run")
		case <-time.After(700 * time.Millisecond):
		}
		if most.Load() != 1 {
			t.Errorf("%d ran at the same time", most.Load())
		}
	}},
	{"periodic ones run at the start and again", func(t *testing.T, open func(t *testing.T) *Store) {
		s := open(t)
		ran := make(chan string, 16)
		startJobs(t, s, JobWorkers{
			Handlers: handlers{"clock": func(_ context.Context, subject string) error {
				ran <- subject
				return nil
			}},
			Every: map[enroll.JobKind]time.Duration{"clock": time.Second},
		})
		for range 2 {
			if subject := receive(t, ran, 8*time.Second); subject != "" {
				t.Errorf("subject is %q", subject)
			}
		}
	}},
	{"survives a restart, also while it runs", func(t *testing.T, open func(t *testing.T) *Store) {
		s := open(t)
		kick(t, s, enroll.Job{Kind: "k", Subject: "waiting", After: 100 * time.Millisecond}, enroll.Job{Kind: "k", Subject: "running"})
		begun := make(chan bool, 16)
		j := startJobs(t, s, JobWorkers{Handlers: handlers{"k": func(ctx context.Context, _ string) error {
			begun <- true
			<-ctx.Done() // until Stop loses its patience
			return ctx.Err()
		}}, MaxWorkers: 1})
		receive(t, begun, 5*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := j.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}

		var mu sync.Mutex
		ran := map[string]int{}
		done := make(chan bool, 16)
		startJobs(t, open(t), JobWorkers{Handlers: handlers{"k": func(_ context.Context, subject string) error {
			mu.Lock()
			defer mu.Unlock()
			ran[subject]++
			done <- true
			return nil
		}}})
		receive(t, done, 5*time.Second)
		receive(t, done, 5*time.Second)
		mu.Lock()
		defer mu.Unlock()
		if ran["waiting"] != 1 || ran["running"] != 1 {
			t.Errorf("ran %v", ran)
		}
	}},
}

// testJobs runs jobTests, each on a database that fresh makes.
func testJobs(t *testing.T, fresh func(t *testing.T) (open func(t *testing.T) *Store)) {
	for _, c := range jobTests {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, fresh(t))
		})
	}
}

func TestSQLiteJobs(t *testing.T) {
	t.Parallel()
	testJobs(t, func(t *testing.T) func(t *testing.T) *Store {
		path := filepath.Join(t.TempDir(), "fleetca.db")
		return func(t *testing.T) *Store { return openAt(t, path) }
	})
}

// I2: a job whose process was killed runs again as soon as the next server starts.
func TestSQLiteJobsAfterSIGKILL(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	kick(t, s, enroll.Job{Kind: "k", Subject: "s"})
	err := s.write(t.Context(), func(ctx context.Context, q tx) error { // as a killed process leaves it
		if _, err := q.exec(ctx, `INSERT INTO river_leader (leader_id, elected_at, expires_at) VALUES ('dead', datetime('now'), datetime('now', '1 hour'))`); err != nil {
			return err
		}
		_, err := q.exec(ctx, `UPDATE river_job SET state = 'running', attempt = 1, attempted_by = '["dead"]'`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan string, 16)
	run := func(_ context.Context, subject string) error {
		ran <- subject
		return nil
	}
	startJobs(t, s, JobWorkers{Handlers: handlers{"k": run, "clock": run}, Every: map[enroll.JobKind]time.Duration{"clock": time.Hour}})
	if subject := receive(t, ran, 2*time.Second); subject != "s" {
		t.Errorf("%q ran", subject)
	}
	receive(t, ran, 8*time.Second) // the dead leader is no obstacle
}

func TestSQLiteOneServer(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fleetca.db")
	w := JobWorkers{Handlers: handlers{"k": func(context.Context, string) error { return nil }}}
	first := startJobs(t, openAt(t, path), w)
	second := openAt(t, path)
	if _, err := second.StartJobs(t.Context(), w); err == nil {
		t.Fatal("two servers work on one file")
	}
	stopJobs(t, first)
	startJobs(t, second, w)
}
