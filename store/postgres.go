package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/migrations"
)

// Settings of PostgreSQL.
const (
	postgresOldest = 140000 // server_version_num
	postgresConns  = 16     // unless the URL has pool_max_conns
	postgresLeast  = 6      // writers, listener, leader's lock and a reader
	migrationLock  = 0x666c656574636101
)

// postgresEngine is a PostgreSQL database, which any number of servers share.
type postgresEngine struct {
	pool  *pgxpool.Pool
	log   *slog.Logger
	queue *queue[pgx.Tx]
}

var _ engine = (*postgresEngine)(nil)

func openPostgres(ctx context.Context, url string, log *slog.Logger) (engine, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err) // pgx leaves the password out
	}
	if !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = postgresConns
	}
	config.MaxConns = max(config.MaxConns, postgresLeast)
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "fleetca"
	}
	config.AfterConnect = setSession
	silent := watchSilence(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	silent.pool.Store(pool)
	e := &postgresEngine{pool: pool, log: log}
	if e.queue, err = newQueue(&postgresDriver{riverpgxv5.New(pool)}, log); err != nil {
		return nil, errors.Join(err, e.close())
	}
	if err := e.checkServer(ctx); err != nil {
		return nil, errors.Join((&Store{db: e}).explain("open database", err), e.close())
	}
	return e, nil
}

// checkServer refuses a server that is too old.
func (e *postgresEngine) checkServer(ctx context.Context) error {
	version, err := value[int64](ctx, e, `SELECT CAST(current_setting('server_version_num') AS BIGINT)`)
	if err != nil {
		return err
	}
	return checkPostgresVersion(version)
}

// checkPostgresVersion refuses a server_version_num that is too old: without
// pg_current_xact_id, which 13 brought, changes of status have no order.
func checkPostgresVersion(version int64) error {
	if version < postgresOldest {
		return &ca.Error{Kind: enroll.KindUnavailable, Message: fmt.Sprintf("PostgreSQL %d is too old", version/10000),
			Hint: fmt.Sprintf("use PostgreSQL %d or newer", postgresOldest/10000)}
	}
	return nil
}

func (e *postgresEngine) exec(ctx context.Context, text string, args ...any) (int64, error) {
	return pgxQuerier{e.pool}.exec(ctx, text, args...)
}

func (e *postgresEngine) query(ctx context.Context, text string, args ...any) (rows, error) {
	return pgxQuerier{e.pool}.query(ctx, text, args...)
}

func (e *postgresEngine) snapshot(ctx context.Context, fn func(querier) error) error {
	t, err := e.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return &beginError{err}
	}
	defer t.Rollback(context.WithoutCancel(ctx)) // it only read
	return fn(pgxQuerier{t})
}

func (e *postgresEngine) update(ctx context.Context, fn func(tx) error) error {
	t, err := e.pool.BeginTx(ctx, writing(ctx))
	if err != nil {
		return &beginError{err}
	}
	defer t.Rollback(ctx) // when fn panics; else it is over by then
	return e.finish(ctx, t, fn(&postgresTx{pgxQuerier{t}, t, e.queue}))
}

// writing are the options of a transaction that writes. Where ctx has a deadline
// the server ends one of which it hears nothing for as long, with its locks.
func writing(ctx context.Context) pgx.TxOptions {
	deadline, bounded := ctx.Deadline()
	if !bounded {
		return pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
	}
	left := max(time.Until(deadline), time.Second)
	return pgx.TxOptions{BeginQuery: "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = " + strconv.FormatInt(left.Milliseconds(), 10)}
}

// finish commits a transaction, or rolls it back after an error.
func (e *postgresEngine) finish(ctx context.Context, t pgx.Tx, err error) error {
	if err != nil {
		if undone := t.Rollback(ctx); undone != nil && !errors.Is(undone, pgx.ErrTxClosed) {
			return errors.Join(err, undone)
		}
		return err
	}
	return outcome(t.Commit(ctx))
}

// outcome tells a commit that the server refused from one of which nothing is
// known.
func outcome(err error) error {
	own, answered := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrTxCommitRollback), answered && own.Code[:2] != "57" && own.Code[:2] != "08":
		return fmt.Errorf("commit: %w", err) // the server said that it did not
	}
	return &commitError{err}
}

// recordTogether is recordTogether in a transaction of its own.
func (e *postgresEngine) recordTogether(ctx context.Context, batch []*issuance, now int64) error {
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return &beginError{err}
	}
	defer conn.Release()
	err = recordTogether(ctx, conn, batch, now)
	switch {
	case errors.Is(err, errNotTogether):
		return err
	case pgconn.SafeToRetry(err):
		return &beginError{err}
	}
	return outcome(err)
}

// pgxRunner is what a pool, a connection and a transaction share.
type pgxRunner interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// pgxQuerier runs SQL on pgx, which keeps statements prepared by itself.
type pgxQuerier struct{ runner pgxRunner }

func (q pgxQuerier) exec(ctx context.Context, text string, args ...any) (int64, error) {
	tag, err := q.runner.Exec(ctx, text, args...)
	return tag.RowsAffected(), err
}

func (q pgxQuerier) query(ctx context.Context, text string, args ...any) (rows, error) {
	found, err := q.runner.Query(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	return pgxRows{found}, nil
}

// pgxRows are rows of pgx.
type pgxRows struct{ pgx.Rows }

func (r pgxRows) close() { r.Rows.Close() }

// A postgresTx is a transaction that writes.
type postgresTx struct {
	pgxQuerier
	tx    pgx.Tx
	queue *queue[pgx.Tx]
}

func (t *postgresTx) insertJobs(ctx context.Context, jobs []enroll.Job) error {
	return t.queue.insert(ctx, t, t.tx, jobs)
}

// migrate holds an advisory lock on a connection of its own, because some of
// River's steps need transactions of their own.
func (e *postgresEngine) migrate(ctx context.Context, fn func(tx) error) error {
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return &beginError{err}
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(migrationLock)); err != nil {
		return fmt.Errorf("lock for migration: %w", err)
	}
	defer func() {
		// Where this fails the connection is broken, and its locks are gone with it.
		_, _ = conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, int64(migrationLock))
	}()
	t, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return &beginError{err}
	}
	if err := e.finish(ctx, t, fn(&postgresTx{pgxQuerier{t}, t, e.queue})); err != nil {
		return err
	}
	if err := e.queue.migrate(func(m *rivermigrate.Migrator[pgx.Tx]) error {
		_, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil)
		return err
	}); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, waitingIndex)
	return err
}

func (e *postgresEngine) name() string { return migrations.Postgres }

func (e *postgresEngine) migrations() ([]migrations.Migration, error) {
	return migrations.List(e.name())
}

func (e *postgresEngine) tableExists(ctx context.Context, q querier, name string) (bool, error) {
	n, err := value[int64](ctx, q, `SELECT CASE WHEN to_regclass($1) IS NULL THEN 0 ELSE 1 END`, name)
	return n == 1, err
}

// changes have the id of their transaction, in whatever order those commit.
func (e *postgresEngine) changes(ctx context.Context, q querier) (settled, newest int64, err error) {
	_, err = one(ctx, q, func(row scanner) (struct{}, error) { return struct{}{}, row.Scan(&settled, &newest) },
		`SELECT CAST(CAST(pg_snapshot_xmin(s) AS TEXT) AS BIGINT) - 1, CAST(CAST(pg_snapshot_xmax(s) AS TEXT) AS BIGINT) - 1
		FROM pg_current_snapshot() AS s`)
	return settled, newest, err
}

// writers is two, so that a slow transaction does not hold up all others.
func (e *postgresEngine) writers() int { return 2 }

// fault reads SQLSTATE (PostgreSQL documentation, appendix A).
func (e *postgresEngine) fault(err error) fault {
	own, answered := errors.AsType[*pgconn.PgError](err)
	if !answered {
		connect, lost := errors.AsType[*pgconn.ConnectError](err)
		network, cut := errors.AsType[net.Error](err)
		if lost && connect != nil || cut && network != nil || pgconn.SafeToRetry(err) || pgconn.Timeout(err) ||
			errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
			return faultGone
		}
		return faultOther
	}
	switch own.Code {
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return faultRetry
	case "55P03", "57014", "25P03": // lock_not_available, query_canceled, idle_in_transaction_session_timeout
		return faultBusy
	case "53100": // disk_full
		return faultFull
	case "25006": // read_only_sql_transaction
		return faultReadOnly
	case "XX001", "XX002": // data_corrupted, index_corrupted
		return faultCorrupt
	}
	switch own.Code[:2] {
	case "23": // integrity constraint violation
		return faultConstraint
	case "08", "53", "57", "28", "3D": // connection, resources, operator, authorization, no such database
		return faultGone
	}
	return faultOther
}

func (e *postgresEngine) close() error {
	e.pool.Close()
	return nil
}
