package store

import (
	"context"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/migrations"
)

// JobWorkers says how jobs are done.
type JobWorkers struct {
	// Handlers do one job each, by kind. subject is the job's, or empty for a
	// periodic one. A handler may run more than once for one job (after a
	// crash, say), and never twice at the same time for one kind and subject in
	// this process. It ends with nil, with a *enroll.Again to be run later, or
	// with an error to be retried with growing pauses. Its context ends after
	// JobTimeout.
	Handlers map[enroll.JobKind]func(ctx context.Context, subject string) error
	// Every starts kinds with an empty subject: once at the start and then at
	// this interval, in one process of all that share the database.
	Every map[enroll.JobKind]time.Duration
	// Brokers are those that this process drives: it takes the jobs that are for
	// their driver alone (enroll.Job.Broker).
	Brokers []string
	// MaxWorkers is how many jobs run at the same time, and as many more for each
	// broker; 0 means 8.
	MaxWorkers int
	// Log takes failed jobs as warnings; nil means the store's.
	Log *slog.Logger
}

// Shared reports whether several servers may work on this store: not on SQLite.
func (s *Store) Shared() bool { return s.db.name() == migrations.Postgres }

// JobTimeout is how long a handler may take before its context ends.
const JobTimeout = 5 * time.Minute

// Jobs are the workers of one process. What they promise:
//
//   - A job starts only after the transaction that inserted it committed.
//   - A job is not stacked: while one of its kind and subject waits, another is
//     the same one, brought forward where it was due later. One that is running
//     already does not count, because it may have looked before the change:
//     what is inserted then runs after it.
//   - A job whose process died is run again: on SQLite at the next StartJobs,
//     because one server at most works on the file.
type Jobs struct {
	stop     func(context.Context) error
	stopped  atomic.Bool
	stopping chan struct{} // closed when Stop begins; handlers have it in their contexts
}

// stoppingKey is the key of Jobs.stopping in a context.
type stoppingKey struct{}

// StartJobs starts the workers.
func (s *Store) StartJobs(ctx context.Context, w JobWorkers) (*Jobs, error) {
	if w.MaxWorkers <= 0 {
		w.MaxWorkers = 8
	}
	if w.Log == nil {
		w.Log = s.log
	}
	stopping := make(chan struct{})
	w.Handlers = maps.Clone(w.Handlers)
	for kind, handle := range w.Handlers {
		w.Handlers[kind] = func(ctx context.Context, subject string) error {
			return handle(context.WithValue(ctx, stoppingKey{}, stopping), subject)
		}
	}
	stop, err := s.db.startJobs(ctx, w)
	if err != nil {
		return nil, s.explain("start jobs", err)
	}
	return &Jobs{stop: stop, stopping: stopping}, nil
}

// Stop fetches no more jobs and waits for those that run, but for no rest of
// theirs. When ctx ends first, their contexts are cancelled, and they are run
// again after the next start.
func (j *Jobs) Stop(ctx context.Context) error {
	if j.stopped.Swap(true) {
		return nil
	}
	close(j.stopping)
	return j.stop(ctx)
}
