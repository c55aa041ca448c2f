package store

import (
	"context"
	"database/sql"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/migrations"
)

// A querier runs SQL. Placeholders are $1, $2, ...
type querier interface {
	// exec returns how many rows were changed.
	exec(ctx context.Context, sql string, args ...any) (int64, error)
	query(ctx context.Context, sql string, args ...any) (rows, error)
}

// A tx is a querier in a transaction that writes.
type tx interface {
	querier
	// insertJobs adds jobs, which start once the transaction has committed.
	insertJobs(ctx context.Context, jobs []enroll.Job) error
}

// rows is the answer to a query; database/sql and pgx share this much.
type rows interface {
	scanner
	Next() bool
	Err() error
	close()
}

// A scanner reads the columns of a row.
type scanner interface {
	Scan(dest ...any) error
}

// An engine is a database: what SQLite and PostgreSQL do differently.
type engine interface {
	querier // one statement each, outside any transaction; reads alone

	// snapshot runs fn on one consistent view of the database.
	snapshot(ctx context.Context, fn func(querier) error) error
	// update runs fn in a transaction that writes, and commits it durably
	// unless fn fails. Its error is fn's own, a *beginError or a *commitError.
	update(ctx context.Context, fn func(tx) error) error
	// migrate runs fn in a transaction that may create tables, with every
	// other process that migrates kept out, and then creates River's tables.
	migrate(ctx context.Context, fn func(tx) error) error
	// name is the engine's in package migrations.
	name() string
	// migrations lists the engine's schema steps.
	migrations() ([]migrations.Migration, error)
	// writers is how many transactions may write at the same time.
	writers() int
	// tableExists reports whether there is such a table.
	tableExists(ctx context.Context, q querier, name string) (bool, error)
	// columns lists the columns of all tables, by table and in their order.
	columns(ctx context.Context, q querier) ([]catalogColumn, error)
	// references lists the foreign keys.
	references(ctx context.Context, q querier) ([]reference, error)
	// load inserts many rows of a table, in a transaction that update began.
	load(ctx context.Context, q tx, table string, columns []string, rows [][]any) error
	// indexes lists the tables' indexes that are no constraint's.
	indexes(ctx context.Context, q querier, tables []string) ([]indexText, error)
	// analyze follows a load, outside any transaction.
	analyze(ctx context.Context) error
	// changes returns how far the changes of statuses are complete: every one
	// up to settled is committed or will never be, and none after newest was
	// made yet.
	changes(ctx context.Context, q querier) (settled, newest int64, err error)
	// fault says what kind of failure an error of the driver is.
	fault(err error) fault
	// startJobs works off jobs until the returned stop is called.
	startJobs(ctx context.Context, w JobWorkers) (stop func(context.Context) error, err error)
	close() error
}

// A fault is a kind of failure of the database.
type fault int

const (
	faultOther      fault = iota // a bug, or something new
	faultBusy                    // somebody else held the lock for too long
	faultFull                    // no space left
	faultReadOnly                // the file or the server takes no writes
	faultGone                    // the file or the server cannot be reached
	faultCorrupt                 // the file is damaged
	faultConstraint              // a constraint refused the change
	faultRetry                   // the transaction lost a race and may be run again
)

// A beginError says that no transaction could be begun: nothing was changed.
type beginError struct{ err error }

func (e *beginError) Error() string { return "begin transaction: " + e.err.Error() }
func (e *beginError) Unwrap() error { return e.err }

// A commitError says that COMMIT failed: whether it took effect is unknown.
type commitError struct{ err error }

func (e *commitError) Error() string { return "commit: " + e.err.Error() }
func (e *commitError) Unwrap() error { return e.err }

// A lateError says that a transaction took too long and was given up before
// COMMIT: nothing was changed.
type lateError struct{ err error }

func (e *lateError) Error() string { return "took too long: " + e.err.Error() }
func (e *lateError) Unwrap() error { return e.err }

// errNoRows is what one returns for an empty answer, on every engine.
var errNoRows = sql.ErrNoRows

// collect returns every row of a query, read by scan.
func collect[T any](ctx context.Context, q querier, scan func(scanner) (T, error), text string, args ...any) ([]T, error) {
	found, err := q.query(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer found.close()
	var all []T
	for found.Next() {
		v, err := scan(found)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, found.Err()
}

// one returns the first row of a query, read by scan; errNoRows for none.
func one[T any](ctx context.Context, q querier, scan func(scanner) (T, error), text string, args ...any) (T, error) {
	var zero T
	found, err := q.query(ctx, text, args...)
	if err != nil {
		return zero, err
	}
	defer found.close()
	if !found.Next() {
		// A query that failed found nothing either, and must not look like it.
		if err := found.Err(); err != nil {
			return zero, err
		}
		return zero, errNoRows
	}
	v, err := scan(found)
	if err != nil {
		return zero, err
	}
	return v, found.Err()
}

// value returns the only column of the first row; errNoRows for none.
func value[T any](ctx context.Context, q querier, text string, args ...any) (T, error) {
	return one(ctx, q, func(s scanner) (v T, err error) {
		err = s.Scan(&v)
		return v, err
	}, text, args...)
}
