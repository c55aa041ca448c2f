package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/riverqueue/river/rivermigrate"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/migrations"
)

// busyTimeoutMs is how long a connection waits for another process's lock.
const busyTimeoutMs = 5000

// sqliteEngine is a SQLite file in WAL mode. All that this process writes goes
// through one connection; readers see the last commit and block nobody.
type sqliteEngine struct {
	path    string
	log     *slog.Logger
	writer  *sql.DB // one connection, BEGIN IMMEDIATE; shared with River
	readers *sql.DB // query_only
	writes  *statements
	reads   *statements
	queue   *queue[*sql.Tx]
	wakeUp  chan struct{} // holds one token when jobs may be due
}

var _ engine = (*sqliteEngine)(nil)

func openSQLite(ctx context.Context, path string, log *slog.Logger) (engine, error) {
	if path == "" {
		return nil, errors.New("no path is given: give sqlite:PATH")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("database path: %w", err)
	}
	if err := createPrivate(path); err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	e := &sqliteEngine{path: path, log: log, wakeUp: make(chan struct{}, 1)}
	if e.writer, err = sql.Open("sqlite", sqliteDSN(path, "immediate", "journal_mode(WAL)", "synchronous(FULL)")); err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	e.writer.SetMaxOpenConns(1)
	if e.readers, err = sql.Open("sqlite", sqliteDSN(path, "deferred", "query_only(1)")); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), e.writer.Close())
	}
	e.readers.SetMaxOpenConns(max(4, runtime.GOMAXPROCS(0)*2))
	e.readers.SetMaxIdleConns(max(4, runtime.GOMAXPROCS(0)*2))
	e.writes, e.reads = newStatements(e.writer), newStatements(e.readers)
	if e.queue, err = newQueue(&sqliteDriver{Driver: sqliteRiver(e.writer), wakeUp: e.wakeUp}, log); err != nil {
		return nil, errors.Join(err, e.close())
	}
	// The first connection turns WAL on, before any reader needs it.
	if err := e.writer.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), e.close())
	}
	return e, nil
}

// createPrivate makes the file with mode 0600 unless it exists. SQLite gives
// its companions (-wal, -shm) the same mode.
func createPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

func sqliteDSN(path, lock string, pragma ...string) string {
	q := url.Values{"_txlock": {lock}}
	q["_pragma"] = append([]string{fmt.Sprintf("busy_timeout(%d)", busyTimeoutMs), "foreign_keys(1)", "temp_store(MEMORY)"}, pragma...)
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

func (e *sqliteEngine) exec(ctx context.Context, text string, args ...any) (int64, error) {
	return sqlQuerier{e.readers, nil, e.reads}.exec(ctx, text, args...)
}

func (e *sqliteEngine) query(ctx context.Context, text string, args ...any) (rows, error) {
	e.reads.prepare(ctx)
	return sqlQuerier{e.readers, nil, e.reads}.query(ctx, text, args...)
}

func (e *sqliteEngine) snapshot(ctx context.Context, fn func(querier) error) error {
	e.reads.prepare(ctx)
	t, err := e.readers.BeginTx(ctx, nil)
	if err != nil {
		return &beginError{err}
	}
	defer t.Rollback() // it only read
	return fn(sqlQuerier{t, t, e.reads})
}

func (e *sqliteEngine) update(ctx context.Context, fn func(tx) error) error {
	e.writes.prepare(ctx)
	t, err := e.writer.BeginTx(ctx, nil)
	if err != nil {
		return &beginError{err}
	}
	defer t.Rollback() // when fn panics; else it is over by then
	w := &sqliteTx{sqlQuerier: sqlQuerier{t, t, e.writes}, tx: t, queue: e.queue}
	if err := fn(w); err != nil {
		if undone := ignoreDone(t.Rollback()); undone != nil {
			return errors.Join(err, undone)
		}
		return err
	}
	if err := t.Commit(); err != nil {
		if f := e.fault(err); f == faultFull || f == faultReadOnly || f == faultBusy {
			return fmt.Errorf("commit: %w", err) // nothing reached the file
		}
		return &commitError{err}
	}
	if w.inserted {
		e.wake()
	}
	return nil
}

// ignoreDone drops what a rollback says when SQLite ended the transaction
// itself, as it does when the disk is full.
func ignoreDone(err error) error {
	if code, ok := errors.AsType[*sqlite.Error](err); errors.Is(err, sql.ErrTxDone) || ok && code.Code() == sqlite3.SQLITE_ERROR {
		return nil
	}
	return err
}

// wake makes the workers look for jobs.
func (e *sqliteEngine) wake() {
	select {
	case e.wakeUp <- struct{}{}:
	default:
	}
}

// A sqliteTx is a transaction that holds the write lock.
type sqliteTx struct {
	sqlQuerier
	tx       *sql.Tx
	queue    *queue[*sql.Tx]
	inserted bool
}

func (t *sqliteTx) insertJobs(ctx context.Context, jobs []enroll.Job) error {
	t.inserted = true
	return t.queue.insert(ctx, t, t.tx, jobs)
}

func (e *sqliteEngine) migrate(ctx context.Context, fn func(tx) error) error {
	return e.update(ctx, func(q tx) error {
		if err := fn(q); err != nil {
			return err
		}
		if err := e.queue.migrate(func(m *rivermigrate.Migrator[*sql.Tx]) error {
			_, err := m.MigrateTx(ctx, q.(*sqliteTx).tx, rivermigrate.DirectionUp, nil) //nolint:staticcheck // deprecated for PostgreSQL's sake
			return err
		}); err != nil {
			return err
		}
		_, err := q.exec(ctx, waitingIndex)
		return err
	})
}

func (e *sqliteEngine) name() string { return migrations.SQLite }

func (e *sqliteEngine) migrations() ([]migrations.Migration, error) {
	return migrations.List(e.name())
}

func (e *sqliteEngine) tableExists(ctx context.Context, q querier, name string) (bool, error) {
	n, err := value[int64](ctx, q, `SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1)`, name)
	return n == 1, err
}

func (e *sqliteEngine) writers() int { return 1 }

// changes are numbered by a trigger, one transaction after the other.
func (e *sqliteEngine) changes(ctx context.Context, q querier) (settled, newest int64, err error) {
	newest, err = value[int64](ctx, q, `SELECT COALESCE(MAX(change), 0) FROM certificates WHERE change > 0`)
	return newest, newest, err
}

func (e *sqliteEngine) fault(err error) fault {
	own, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		if errno, ok := errors.AsType[syscall.Errno](err); ok && errno == syscall.ENOSPC {
			return faultFull
		}
		return faultOther
	}
	switch own.Code() & 0xff { // the primary result code
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return faultBusy
	case sqlite3.SQLITE_FULL:
		return faultFull
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return faultReadOnly
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR:
		return faultGone
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return faultCorrupt
	case sqlite3.SQLITE_CONSTRAINT:
		return faultConstraint
	}
	return faultOther
}

func (e *sqliteEngine) close() error {
	e.writes.close()
	e.reads.close()
	return errors.Join(e.readers.Close(), e.writer.Close())
}
