package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"

	"github.com/fleetca/fleetca/enroll"
)

// Settings of River.
const (
	completedJobsKept = time.Hour           // rows of jobs that are done
	discardedJobsKept = 30 * 24 * time.Hour // rows of jobs that were given up
	maxAttempts       = 1000                // failures before a job is given up: with maxRetryPause, three days
	maxRetryPause     = 5 * time.Minute
	shortDelay        = 5 * time.Second // River's scheduler runs this often
	fetchCooldown     = 10 * time.Millisecond
	brokerPoll        = time.Second // of a broker's queue, for jobs that no notification told of
)

// jobArgs is a job as River keeps it. River knows one kind; ours is inside.
type jobArgs struct {
	Job     enroll.JobKind `json:"job"`
	Subject string         `json:"subject"`
}

// Kind implements river.JobArgs.
func (jobArgs) Kind() string { return "fleetca" }

// A jobDriver is River's driver with what River leaves to the engine.
type jobDriver[TTx any] interface {
	riverdriver.Driver[TTx]
	// queueOf returns the queue of jobs that are left to a broker's driver, or to
	// any server when broker is empty.
	queueOf(broker string) string
	// waiting returns the River id of a job that waits, and when it is due. The
	// row is locked against being fetched until the transaction ends. The id is
	// 0 for none.
	waiting(ctx context.Context, q querier, queue string, args jobArgs) (id int64, due time.Time, err error)
}

// A queue is River on one engine.
type queue[TTx any] struct {
	driver jobDriver[TTx]
	client *river.Client[TTx] // inserts alone
	log    *slog.Logger
}

func newQueue[TTx any](driver jobDriver[TTx], log *slog.Logger) (*queue[TTx], error) {
	q := &queue[TTx]{driver: driver, log: quiet(log)}
	var err error
	q.client, err = river.NewClient(driver, &river.Config{
		Logger: q.log, MaxAttempts: maxAttempts, Hooks: jobHooks(),
		FetchCooldown: time.Millisecond, // also between two notifications of new jobs
	})
	if err != nil {
		return nil, fmt.Errorf("prepare jobs: %w", err)
	}
	return q, nil
}

// jobHooks makes jobs with a short delay available at once with their time in
// the future, because River looks at scheduled ones only every few seconds.
func jobHooks() []rivertype.Hook {
	return []rivertype.Hook{river.HookInsertBeginFunc(func(_ context.Context, p *rivertype.JobInsertParams) error {
		if p.State == rivertype.JobStateScheduled && p.ScheduledAt != nil && time.Until(*p.ScheduledAt) <= shortDelay {
			p.State = rivertype.JobStateAvailable
		}
		return nil
	})}
}

// brokerQueue names the queue of a broker's driver, in the letters that River
// allows.
func brokerQueue(broker string) string {
	sum := sha256.Sum256([]byte(broker))
	return "broker_" + hex.EncodeToString(sum[:16])
}

// waitingIndex is ours on River's table: every new job is looked for among those
// that wait, which may be one for each device of a fleet.
const waitingIndex = `CREATE INDEX IF NOT EXISTS fleetca_jobs_waiting ON river_job ((args ->> 'job'), (args ->> 'subject'))
	WHERE state IN ('available', 'retryable', 'scheduled')`

// migrate makes River's tables, by run.
func (q *queue[TTx]) migrate(run func(m *rivermigrate.Migrator[TTx]) error) error {
	m, err := rivermigrate.New(q.driver, &rivermigrate.Config{Logger: q.log})
	if err != nil {
		return fmt.Errorf("prepare the tables for jobs: %w", err)
	}
	if err := run(m); err != nil {
		return fmt.Errorf("make the tables for jobs: %w", err)
	}
	return nil
}

// insert adds jobs in a transaction, unless the same waits already.
func (q *queue[TTx]) insert(ctx context.Context, look querier, t TTx, jobs []enroll.Job) error {
	for _, j := range jobs {
		args, queue := jobArgs{j.Kind, j.Subject}, q.driver.queueOf(j.Broker)
		due := time.Now().Add(j.After)
		id, waiting, err := q.driver.waiting(ctx, look, queue, args)
		switch {
		case err != nil:
			return fmt.Errorf("look for job %s %s: %w", j.Kind, j.Subject, err)
		case id != 0 && !waiting.After(due):
			continue
		case id != 0 && j.After <= 0:
			_, err = q.client.JobRetryTx(ctx, t, id) // makes it due now
		default:
			opts := river.InsertOpts{Queue: queue}
			if j.After > 0 {
				opts.ScheduledAt = due
			}
			_, err = q.client.InsertTx(ctx, t, args, &opts)
		}
		if err != nil {
			return fmt.Errorf("insert job %s %s: %w", j.Kind, j.Subject, err)
		}
	}
	return nil
}

// start works off jobs as a client of a name, or of one that River makes.
func (q *queue[TTx]) start(ctx context.Context, w *worker, name string, poll time.Duration) (func(context.Context) error, error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, w)
	queues := map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: w.MaxWorkers}}
	for _, broker := range w.Brokers {
		if name := q.driver.queueOf(broker); name != river.QueueDefault {
			queues[name] = river.QueueConfig{MaxWorkers: w.MaxWorkers, FetchPollInterval: brokerPoll}
		}
	}
	client, err := river.NewClient(q.driver, &river.Config{
		ID:                          name,
		Logger:                      quiet(w.Log),
		Workers:                     workers,
		Queues:                      queues,
		PeriodicJobs:                periodicJobs(w.Every),
		Hooks:                       jobHooks(),
		RetryPolicy:                 retryPolicy{},
		MaxAttempts:                 maxAttempts,
		FetchCooldown:               fetchCooldown,
		FetchPollInterval:           poll,
		JobTimeout:                  JobTimeout,
		RescueStuckJobsAfter:        JobTimeout + time.Minute,
		CompletedJobRetentionPeriod: completedJobsKept,
		DiscardedJobRetentionPeriod: discardedJobsKept,
	})
	if err != nil {
		return nil, fmt.Errorf("prepare workers: %w", err)
	}
	// The workers live until they are stopped, however long ctx does.
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return nil, fmt.Errorf("start workers: %w", err)
	}
	return func(ctx context.Context) error { return stopClient(ctx, client) }, nil
}

// stopClient waits for running jobs; when ctx ends it cancels them, and waits
// a little more.
func stopClient[TTx any](ctx context.Context, client *river.Client[TTx]) error {
	err := client.Stop(ctx)
	if err == nil {
		return nil
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := client.StopAndCancel(last); err != nil {
		return fmt.Errorf("stop workers: %w", err)
	}
	return nil
}

// periodicJobs are inserted by the elected leader. Unlike other jobs one is
// left out while the last is still running.
func periodicJobs(every map[enroll.JobKind]time.Duration) []*river.PeriodicJob {
	unique := river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{
		rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRunning,
		rivertype.JobStateRetryable, rivertype.JobStateScheduled,
	}}
	var all []*river.PeriodicJob
	for kind, interval := range every {
		all = append(all, river.NewPeriodicJob(river.PeriodicInterval(interval), func() (river.JobArgs, *river.InsertOpts) {
			return jobArgs{Job: kind}, &river.InsertOpts{UniqueOpts: unique}
		}, &river.PeriodicJobOpts{RunOnStart: true}))
	}
	return all
}

// retryPolicy doubles the pause from one second up to maxRetryPause.
type retryPolicy struct{}

// NextRetry implements river.ClientRetryPolicy.
func (retryPolicy) NextRetry(job *rivertype.JobRow) time.Time {
	pause := maxRetryPause
	if n := len(job.Errors); n < 9 {
		pause = min(pause, time.Second<<n)
	}
	return time.Now().Add(pause)
}

// A worker runs the handlers.
type worker struct {
	river.WorkerDefaults[jobArgs]
	JobWorkers
	wake func() // called when a job may be due before River would look

	mu sync.Mutex
	// rows are the River ids of what this process is at.
	rows map[int64]bool
	// running holds what runs in this process, and whether the same was asked
	// for again meanwhile.
	running map[jobArgs]bool
}

func newWorker(w JobWorkers, wake func()) *worker {
	return &worker{JobWorkers: w, wake: wake, rows: map[int64]bool{}, running: map[jobArgs]bool{}}
}

// isAt reports whether this process is at a row.
func (w *worker) isAt(id int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rows[id]
}

func (w *worker) note(id int64, busy bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if busy {
		w.rows[id] = true
	} else {
		delete(w.rows, id)
	}
}

// Work implements river.Worker. A job that is running here already is done by
// the one that runs, once more when it ends: its row stays until then, so a
// crash in between loses nothing.
func (w *worker) Work(ctx context.Context, job *river.Job[jobArgs]) error {
	w.note(job.ID, true)
	defer w.note(job.ID, false)
	if !w.begin(job.Args) {
		return nil
	}
	for {
		err := w.once(ctx, job)
		more := w.end(job.Args, ctx.Err() == nil)
		switch {
		case !more:
			return err
		case ctx.Err() != nil:
			return ctx.Err() // not done, so River runs it again
		}
	}
}

// once runs the handler.
func (w *worker) once(ctx context.Context, job *river.Job[jobArgs]) error {
	handler := w.Handlers[job.Args.Job]
	if handler == nil {
		return fmt.Errorf("this program has no handler for jobs of kind %q", job.Args.Job)
	}
	err := handler(ctx, job.Args.Subject)
	if again, ok := errors.AsType[*enroll.Again](err); ok {
		pause := max(again.After, 0)
		if pause <= shortDelay {
			time.AfterFunc(pause+fetchCooldown, w.wake)
		}
		return river.JobSnooze(pause)
	}
	if err != nil && ctx.Err() == nil {
		w.Log.WarnContext(ctx, "job failed and will be tried again", "job", job.Args.Job, "subject", job.Args.Subject,
			"attempt", job.Attempt, "error", err)
	}
	return err
}

// begin reports whether the job may run. When the same is running it asks for
// another run after it.
func (w *worker) begin(args jobArgs) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, busy := w.running[args]
	w.running[args] = busy
	return !busy
}

// end reports whether the same was asked for again. If so, and goOn is set,
// the job still counts as running.
func (w *worker) end(args jobArgs, goOn bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	again := w.running[args]
	if again && goOn {
		w.running[args] = false
	} else {
		delete(w.running, args)
	}
	return again
}

// quiet returns a logger that passes on warnings and errors alone.
func quiet(log *slog.Logger) *slog.Logger { return slog.New(quietHandler{log.Handler()}) }

type quietHandler struct{ slog.Handler }

// Enabled implements slog.Handler.
func (h quietHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (h quietHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quietHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{h.Handler.WithGroup(name)}
}
