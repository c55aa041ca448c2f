package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riversqlite"
)

// sqlitePoll is how often River looks for jobs that nothing in this process
// announced: those that other processes inserted or that fell due.
const sqlitePoll = 250 * time.Millisecond

// sqliteRiverTime is how River writes times on SQLite, in UTC.
const sqliteRiverTime = "2006-01-02 15:04:05.000"

// sqliteDriver is River's SQLite driver with news of our own commits instead
// of a table that is polled for notifications.
type sqliteDriver struct {
	*riversqlite.Driver
	wakeUp chan struct{}
}

var _ jobDriver[*sql.Tx] = (*sqliteDriver)(nil)

func sqliteRiver(writer *sql.DB) *riversqlite.Driver { return riversqlite.New(writer) }

// SupportsListenNotify says that River need not store notifications.
func (d *sqliteDriver) SupportsListenNotify() bool { return false }

// GetListener returns the listener of this process.
func (d *sqliteDriver) GetListener(p *riverdriver.GetListenenerParams) riverdriver.Listener {
	return &localListener{wakeUp: d.wakeUp, schema: p.Schema}
}

// queueOf is the same for all: the one server that works on the file drives what
// is driven.
func (d *sqliteDriver) queueOf(string) string { return river.QueueDefault }

const sqliteWaiting = `SELECT id, CAST(scheduled_at AS TEXT) FROM river_job
	WHERE state IN ('available', 'retryable', 'scheduled') AND queue = $3 AND kind = 'fleetca'
		AND args ->> 'job' = $1 AND args ->> 'subject' = $2
	ORDER BY scheduled_at LIMIT 1`

// waiting needs no lock: the transaction holds the only write lock there is.
func (*sqliteDriver) waiting(ctx context.Context, q querier, queue string, args jobArgs) (int64, time.Time, error) {
	var id int64
	at, err := one(ctx, q, func(row scanner) (at string, err error) {
		err = row.Scan(&id, &at)
		return at, err
	}, sqliteWaiting, args.Job, args.Subject, queue)
	if errors.Is(err, errNoRows) {
		return 0, time.Time{}, nil
	}
	if err != nil {
		return 0, time.Time{}, err
	}
	due, err := time.ParseInLocation(sqliteRiverTime, at, time.UTC)
	return id, due, err
}

// startJobs makes available again what the last server left running, and
// starts the workers. One server at most works on the file: a lock file says
// so, and the operating system drops the lock when the process ends.
func (e *sqliteEngine) startJobs(ctx context.Context, w JobWorkers) (func(context.Context) error, error) {
	unlock, err := lockFile(e.path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("another server works on %s; stop it first: %w", e.path, err)
	}
	err = e.update(ctx, func(q tx) error {
		if _, err := q.exec(ctx, `UPDATE river_job SET state = 'available' WHERE state = 'running'`); err != nil {
			return err
		}
		_, err := q.exec(ctx, `DELETE FROM river_leader`)
		return err
	})
	if err != nil {
		unlock()
		return nil, fmt.Errorf("recover jobs: %w", err)
	}
	stop, err := e.queue.start(ctx, newWorker(w, e.wake), "", sqlitePoll)
	if err != nil {
		unlock()
		return nil, err
	}
	return func(ctx context.Context) error {
		defer unlock()
		return stop(ctx)
	}, nil
}

// A localListener tells River of commits in this process.
type localListener struct {
	wakeUp chan struct{}
	schema string
}

var _ riverdriver.Listener = (*localListener)(nil)

// The methods below implement riverdriver.Listener; there is nothing to connect to.

func (l *localListener) Close(context.Context) error            { return nil }
func (l *localListener) Connect(context.Context) error          { return nil }
func (l *localListener) Listen(context.Context, string) error   { return nil }
func (l *localListener) Ping(context.Context) error             { return nil }
func (l *localListener) Schema() string                         { return l.schema }
func (l *localListener) SetAfterConnectExec(string)             {}
func (l *localListener) Unlisten(context.Context, string) error { return nil }

// WaitForNotification returns when jobs may be due.
func (l *localListener) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.wakeUp:
		return &riverdriver.Notification{Topic: "river_insert", Payload: `{"queue": "default"}`}, nil
	}
}
