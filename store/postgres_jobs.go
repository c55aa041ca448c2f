package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// postgresPoll is how often River looks for jobs that no notification told of.
const postgresPoll = 500 * time.Millisecond

// Jobs of a dead process: every client keeps an advisory lock on its name for
// as long as its session lives, so whoever can take the lock knows that the
// owner is dead.
const (
	clientLock   = 0x666c // first key of the locks; the second is the hash of the client's name
	rescuePeriod = 5 * time.Second
)

// postgresDriver is River's driver for pgx.
type postgresDriver struct{ *riverpgxv5.Driver }

var _ jobDriver[pgx.Tx] = (*postgresDriver)(nil)

// queueOf gives every broker a queue, which its driver's server alone works.
func (d *postgresDriver) queueOf(broker string) string {
	if broker == "" {
		return river.QueueDefault
	}
	return brokerQueue(broker)
}

const postgresWaiting = `SELECT id, scheduled_at FROM river_job
	WHERE state IN ('available', 'retryable', 'scheduled') AND queue = $3 AND kind = 'fleetca'
		AND args ->> 'job' = $1 AND args ->> 'subject' = $2
	ORDER BY scheduled_at LIMIT 1 FOR UPDATE SKIP LOCKED`

// waiting locks the job's row. River fetches around locked rows, so the job
// cannot begin before this transaction commits, and sees its change. A row
// that is being fetched is passed over here: it does not wait any more.
func (*postgresDriver) waiting(ctx context.Context, q querier, queue string, args jobArgs) (int64, time.Time, error) {
	var id int64
	due, err := one(ctx, q, func(row scanner) (due time.Time, err error) {
		err = row.Scan(&id, &due)
		return due, err
	}, postgresWaiting, args.Job, args.Subject, queue)
	if errors.Is(err, errNoRows) {
		return 0, time.Time{}, nil
	}
	return id, due, err
}

// startJobs starts the workers, and a watch that gives the jobs of dead
// processes to the living.
func (e *postgresEngine) startJobs(ctx context.Context, w JobWorkers) (func(context.Context) error, error) {
	watch := &jobWatch{pool: e.pool, client: "fleetca-" + uuid.NewString(), log: w.Log, worker: newWorker(w, func() {})}
	if err := watch.look(ctx); err != nil {
		watch.release()
		return nil, fmt.Errorf("recover jobs: %w", err)
	}
	stop, err := e.queue.start(ctx, watch.worker, watch.client, postgresPoll)
	if err != nil {
		watch.release()
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var done sync.WaitGroup
	done.Go(func() { watch.run(running) })
	return func(ctx context.Context) error {
		err := stop(ctx)
		cancel()
		done.Wait()
		return err
	}, nil
}

// A jobWatch keeps this client's lock and looks for jobs of dead ones.
type jobWatch struct {
	pool   *pgxpool.Pool
	client string
	log    *slog.Logger
	worker *worker
	conn   *pgxpool.Conn   // holds the lock; nil when it was lost
	ended  map[int64]int64 // rows that said "running" at the last look, and were not; their attempt
}

func (w *jobWatch) run(ctx context.Context) {
	defer w.release()
	tick := time.NewTicker(rescuePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "look for jobs of dead servers", "error", err)
		}
	}
}

// look takes the lock where it is not held, and makes available again the jobs
// whose client's lock is free.
func (w *jobWatch) look(ctx context.Context) error {
	if w.conn != nil && w.conn.Ping(ctx) != nil {
		w.release()
	}
	if w.conn == nil {
		conn, err := w.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		w.conn = conn
		if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1, hashtext($2))`, int32(clientLock), w.client); err != nil {
			w.release()
			return err
		}
	}
	// Another session than the lock's own, which could take it once more.
	if _, err := w.pool.Exec(ctx, `UPDATE river_job SET state = 'available' WHERE state = 'running'
		AND pg_try_advisory_xact_lock($1, hashtext(attempted_by[array_upper(attempted_by, 1)]))`, int32(clientLock)); err != nil {
		return err
	}
	if _, err := w.pool.Exec(ctx, `DELETE FROM river_leader WHERE pg_try_advisory_xact_lock($1, hashtext(leader_id))`, int32(clientLock)); err != nil {
		return err
	}
	return w.reclaim(ctx)
}

// reclaim makes available again the jobs that this process ended without being
// able to say so: River gives that up when the database is away for some seconds,
// and would leave them for minutes. What is seen twice is so: a row that was just
// fetched, or whose end is just being written, is not.
func (w *jobWatch) reclaim(ctx context.Context) error {
	type row struct{ id, attempt int64 }
	rows, err := collect(ctx, pgxQuerier{w.pool}, func(s scanner) (r row, err error) {
		err = s.Scan(&r.id, &r.attempt)
		return r, err
	}, `SELECT id, attempt FROM river_job WHERE state = 'running' AND attempted_by[array_upper(attempted_by, 1)] = $1`, w.client)
	if err != nil {
		return err
	}
	before := w.ended
	w.ended = map[int64]int64{}
	for _, r := range rows {
		if w.worker.isAt(r.id) {
			continue
		}
		if before[r.id] != r.attempt {
			w.ended[r.id] = r.attempt
			continue
		}
		if _, err := w.pool.Exec(ctx, `UPDATE river_job SET state = 'available' WHERE id = $1 AND attempt = $2 AND state = 'running'`, r.id, r.attempt); err != nil {
			return err
		}
	}
	return nil
}

// release closes the lock's session, and with it the lock.
func (w *jobWatch) release() {
	if w.conn == nil {
		return
	}
	conn := w.conn.Hijack()
	w.conn = nil
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // a broken one is closed all the same
}
