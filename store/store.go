package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Config says which database to open.
type Config struct {
	// URL is sqlite:PATH or a plain path for a SQLite file, which is created
	// with mode 0600 when it does not exist; or postgres://USER:PASSWORD@HOST/DB
	// with the parameters of libpq, and pool_max_conns (16).
	URL string
	// Log takes warnings; nil discards them.
	Log *slog.Logger
	// Now is the clock; nil means time.Now. Token expiry and the times that
	// rows are stamped with follow it.
	Now func() time.Time
	// OnEvent returns jobs that are committed with every audit event; nil for
	// none.
	OnEvent func(enroll.Event) []enroll.Job
}

// A Store is an open database. It is safe for concurrent use.
type Store struct {
	db      engine
	log     *slog.Logger
	clock   func() time.Time
	onEvent func(enroll.Event) []enroll.Job
	writes  *committer
	closing time.Duration // that Close takes at most
	tidying sync.Mutex
	tidied  idempotencyKey // up to which Tidy has looked at idempotency keys
	firsts  group[first, bool]
	serials group[ca.SerialNumber, *ca.Certificate] // nil for one that there is not
	renewed group[ca.SerialNumber, *enroll.Device]  // by a certificate's, nil for one that there is not
}

var _ enroll.Store = (*Store)(nil)

// Open opens a database. It does not create or change tables: Migrate does.
// A database that a newer program migrated is refused.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	db, err := openEngine(ctx, c)
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, log: c.Log, clock: c.Now, onEvent: c.OnEvent, closing: closeBound}
	if _, err := s.checkedVersion(ctx, db); err != nil {
		return nil, errors.Join(s.explain("read the schema version", err), db.close())
	}
	s.writes, s.firsts.ask = newCommitter(s), s.allFree
	s.firsts.bound, s.serials.bound, s.renewed.bound = askBound, askBound, askBound
	if p, ok := db.(*postgresEngine); ok {
		s.serials.ask, s.renewed.ask = p.certificates, p.devicesToRenew
	}
	return s, nil
}

// openEngine opens the engine that a URL names.
func openEngine(ctx context.Context, c Config) (engine, error) {
	scheme, rest, found := strings.Cut(c.URL, ":")
	switch {
	case c.URL == "":
		return nil, errors.New("no database is given: give sqlite:PATH or postgres://USER@HOST/DATABASE")
	case found && scheme == "sqlite":
		return openSQLite(ctx, rest, c.Log)
	case found && (scheme == "postgres" || scheme == "postgresql"):
		return openPostgres(ctx, c.URL, c.Log)
	case found && len(scheme) > 1 && strings.HasPrefix(rest, "//"):
		return nil, fmt.Errorf("database URLs that begin with %q are not known: give sqlite:PATH or postgres://USER@HOST/DATABASE", scheme+"://")
	}
	return openSQLite(ctx, c.URL, c.Log)
}

// closeBound is how long Close waits for a database that does not answer: as
// long as a transaction may take.
const closeBound = writeBound

// Close writes what is queued and closes the database. Jobs must be stopped
// first. Where that does not end soon it returns an error: then what nobody was
// told of may not be written.
func (s *Store) Close() error {
	closed := make(chan error, 1)
	go func() {
		s.writes.close()
		closed <- s.db.close()
	}()
	select {
	case err := <-closed:
		return err
	case <-time.After(s.closing):
		return unavailable(nil, "look at the database", "the database did not close within "+s.closing.String())
	}
}

// ClockSkew returns how far the database's clock is ahead of this process's;
// negative when it is behind. SQLite has no clock of its own: 0.
func (s *Store) ClockSkew(ctx context.Context) (time.Duration, error) {
	if _, ok := s.db.(*postgresEngine); !ok {
		return 0, nil
	}
	before := s.clock()
	theirs, err := value[int64](ctx, s.db, `SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)`)
	if err != nil {
		return 0, s.explain("read the database's clock", err)
	}
	middle := before.Add(s.clock().Sub(before) / 2) // of the round trip
	return time.UnixMicro(theirs).Sub(middle), nil
}

// Ping reports whether the database answers and takes writes. It changes nothing,
// and ends with ctx: its transaction is its own.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.SchemaVersion(ctx); err != nil {
		return err
	}
	return s.explain("look whether the database takes writes", s.db.update(ctx, func(q tx) error {
		_, err := q.exec(ctx, `UPDATE authority SET created_at = created_at WHERE id = 1`)
		return err
	}))
}

// now returns the time for rows, without what a database does not keep.
func (s *Store) now() time.Time { return s.clock().UTC().Truncate(time.Microsecond) }
