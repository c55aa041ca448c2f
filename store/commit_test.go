package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A fakeEngine counts transactions and fails where it is told to.
type fakeEngine struct {
	engine
	mu      sync.Mutex
	count   int
	failing func(n int) error // error of the n-th COMMIT
	most    int               // transactions at a time; 0 for one
	gate    chan bool         // each transaction sends one before it begins, and one when it goes on
}

type fakeTx struct{ tx }

func (fakeTx) exec(ctx context.Context, _ string, _ ...any) (int64, error) { return 1, ctx.Err() }

func (e *fakeEngine) fault(err error) fault {
	if strings.Contains(err.Error(), "deadlock") {
		return faultRetry
	}
	return faultOther
}

func (e *fakeEngine) update(_ context.Context, fn func(tx) error) error {
	if e.gate != nil {
		e.gate <- true
		e.gate <- true
	}
	e.mu.Lock()
	e.count++
	n := e.count
	e.mu.Unlock()
	if err := fn(fakeTx{}); err != nil {
		return err
	}
	if e.failing != nil {
		return e.failing(n)
	}
	return nil
}

func (e *fakeEngine) close() error { return nil }

func (e *fakeEngine) writers() int { return max(1, e.most) }

func newFake(e *fakeEngine) *Store {
	s := &Store{db: e, log: slog.New(slog.DiscardHandler), clock: time.Now}
	s.writes = newCommitter(s)
	return s
}

func nothing(context.Context, tx) error { return nil }

// queued waits until n changes wait.
func queued(t *testing.T, s *Store, n int) {
	t.Helper()
	for range 1000 {
		s.writes.mu.Lock()
		waiting := len(s.writes.waiting)
		s.writes.mu.Unlock()
		if waiting == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%d changes never waited", n)
}

func TestCommitterCoalesces(t *testing.T) {
	t.Parallel()
	e := &fakeEngine{gate: make(chan bool)}
	s := newFake(e)
	var done sync.WaitGroup
	submit := func() { done.Go(func() { s.write(t.Context(), nothing) }) }
	submit()
	receive(t, e.gate, time.Second) // the first alone, because nothing else waited
	for range 50 {
		submit()
	}
	queued(t, s, 50)
	for range 3 { // the first goes on, then all that came meanwhile
		receive(t, e.gate, time.Second)
	}
	done.Wait()
	if e.count != 2 {
		t.Errorf("%d transactions", e.count)
	}
}

// A transaction that takes long does not hold up the next, where the database
// runs two; a third waits.
func TestCommitterPassesWhatIsSlow(t *testing.T) {
	t.Parallel()
	begun, release := make(chan bool, 3), make(chan bool)
	e := &fakeEngine{most: 2, failing: func(int) error {
		begun <- true
		<-release
		return nil
	}}
	s := newFake(e)
	var done sync.WaitGroup
	submit := func() { done.Go(func() { s.write(t.Context(), nothing) }) }
	for range 2 {
		submit()
		receive(t, begun, 10*time.Second)
	}
	submit()
	queued(t, s, 1)
	select {
	case <-begun:
		t.Error("three transactions ran at once")
	case <-time.After(3 * patience):
	}
	close(release)
	done.Wait()
	if e.count != 3 {
		t.Errorf("%d transactions", e.count)
	}
}

// I21: when COMMIT fails every waiter hears that the outcome is unknown, and
// one whose change was refused hears that.
func TestCommitterUnknownOutcome(t *testing.T) {
	t.Parallel()
	s := newFake(&fakeEngine{failing: func(int) error { return &commitError{errors.New("disk I/O error")} }})
	refuse := func(context.Context, tx) error { return notFound("id", "row", "x") }
	errs := s.writes.submit(t.Context(), &pending{do: nothing}, &pending{do: refuse}, &pending{do: nothing})
	for i, err := range errs {
		err = s.explain("test", err)
		kind := enroll.KindUnavailable
		if i == 1 {
			kind = ca.KindNotFound
		}
		if !errors.Is(err, ca.IsKind(kind)) {
			t.Errorf("change %d: %v, want kind %s", i, err, kind)
		}
		if own, ok := errors.AsType[*ca.Error](err); !ok || i != 1 && (!strings.Contains(own.Message, "unknown") || strings.Contains(own.Message, "I/O")) {
			t.Errorf("change %d: %q", i, own.Message)
		}
	}
}

func TestCommitterDropsCancelled(t *testing.T) {
	t.Parallel()
	e := &fakeEngine{gate: make(chan bool)}
	s := newFake(e)
	ctx, cancel := context.WithCancel(t.Context())
	taken, waiting := make(chan error, 1), make(chan error, 1)
	go func() { taken <- s.write(ctx, nothing) }()
	receive(t, e.gate, time.Second) // the first is taken
	go func() {
		waiting <- s.write(ctx, func(context.Context, tx) error { t.Error("a dropped change was run"); return nil })
	}()
	queued(t, s, 1)
	cancel()
	if err := receive(t, waiting, time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting change: %v", err)
	}
	receive(t, e.gate, time.Second)
	if err := receive(t, taken, time.Second); err != nil {
		t.Errorf("taken change: %v", err)
	}
}

func TestCommitterRetriesLostRaces(t *testing.T) {
	t.Parallel()
	e := &fakeEngine{failing: func(n int) error {
		if n < 3 {
			return errors.New("deadlock")
		}
		return nil
	}}
	for i, err := range newFake(e).writes.submit(t.Context(), &pending{do: nothing}, &pending{do: nothing}) {
		if err != nil {
			t.Errorf("change %d: %v", i, err)
		}
	}
	if e.count != 3 {
		t.Errorf("%d transactions", e.count)
	}
}

func TestCommitterBrokenTransaction(t *testing.T) {
	t.Parallel()
	e := &fakeEngine{failing: func(n int) error {
		if n == 1 {
			return errors.New("connection lost")
		}
		return nil
	}}
	for i, err := range newFake(e).writes.submit(t.Context(), &pending{do: nothing}, &pending{do: nothing}, &pending{do: nothing}) {
		if err != nil {
			t.Errorf("change %d: %v", i, err)
		}
	}
	if e.count != 4 {
		t.Errorf("%d transactions, want one for all and then one each", e.count)
	}
}

// I21: a batch whose time is up changed nothing, is not tried again change by
// change, and every waiter hears that.
func TestCommitterBound(t *testing.T) {
	t.Parallel()
	e := &fakeEngine{}
	s := newFake(e)
	s.writes.bound = 20 * time.Millisecond
	slow := func(ctx context.Context, _ tx) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for i, err := range s.writes.submit(t.Context(), &pending{do: nothing}, &pending{do: slow}, &pending{do: nothing}) {
		if own, ok := errors.AsType[*ca.Error](s.explain("test", err)); !ok || own.Kind != enroll.KindUnavailable || !strings.Contains(own.Message, "nothing was changed") {
			t.Errorf("change %d: %v", i, err)
		}
	}
	if e.count != 2 {
		t.Errorf("%d transactions, want one together and one under savepoints", e.count)
	}
	if err := s.write(t.Context(), nothing); err != nil {
		t.Error(err)
	}
}

// touch changes a row that every call of it changes.
func touch(ctx context.Context, q tx) error {
	_, err := q.exec(ctx, `INSERT INTO authority (id, created_at) VALUES (1, 0) ON CONFLICT (id) DO UPDATE SET created_at = authority.created_at + 1`)
	return err
}

// A change that panics, which net/http recovers from, leaves the turn, and the
// connection, to the others.
func TestCommitterPanic(t *testing.T) {
	t.Parallel()
	testCommitterPanic(t, openTemp(t))
}

func testCommitterPanic(t *testing.T, s *Store) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 2 * postgresConns {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic is gone")
				}
			}()
			_ = s.write(ctx, func(ctx context.Context, q tx) error {
				if err := touch(ctx, q); err != nil {
					return err
				}
				panic("a bug")
			})
		}()
	}
	if err := s.write(ctx, touch); err != nil {
		t.Error(err)
	}
	if at, err := value[int64](ctx, s.db, `SELECT created_at FROM authority`); err != nil || at != 0 {
		t.Errorf("the row says %d, %v", at, err)
	}
}

// A store whose database does not answer is given up.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	e := &fakeEngine{gate: make(chan bool)}
	s := newFake(e)
	s.closing = 20 * time.Millisecond
	written := make(chan error, 1)
	go func() { written <- s.write(t.Context(), nothing) }()
	receive(t, e.gate, time.Second)
	if err := s.Close(); !errors.Is(err, ca.IsKind(enroll.KindUnavailable)) {
		t.Errorf("error is %v", err)
	}
	receive(t, e.gate, time.Second)
	if err := receive(t, written, time.Second); err != nil {
		t.Errorf("what was taken: %v", err)
	}
}

func TestCommitterLimits(t *testing.T) {
	t.Parallel()
	s := newFake(&fakeEngine{})
	changes := make([]*pending, maxQueued+1)
	for i := range changes {
		changes[i] = &pending{do: nothing}
	}
	for _, err := range s.writes.submit(t.Context(), changes...) {
		if !errors.Is(err, ca.IsKind(enroll.KindUnavailable)) {
			t.Fatal(err)
		}
	}
	s.writes.close()
	if err := s.write(t.Context(), nothing); !errors.Is(err, ca.IsKind(enroll.KindUnavailable)) {
		t.Fatal(err)
	}
	s.writes.close() // again is fine
}

func BenchmarkCommitter(b *testing.B) {
	s := newFake(&fakeEngine{})
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.write(b.Context(), nothing); err != nil {
				b.Error(fmt.Errorf("write: %w", err))
			}
		}
	})
}
