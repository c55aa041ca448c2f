package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/migrations"
)

// Migrate brings the tables up to what this program needs, with other
// processes kept out. It does nothing when they are.
func (s *Store) Migrate(ctx context.Context) error {
	ctx = atLeisure(ctx)
	err := s.db.migrate(ctx, func(q tx) error {
		version, err := s.checkedVersion(ctx, q)
		if err != nil {
			return err
		}
		steps, err := s.db.migrations()
		if err != nil {
			return err
		}
		return s.applyMigrations(ctx, q, steps[version:])
	})
	return s.explain("migrate the database", err)
}

// applyMigrations runs steps of the schema, and records them.
func (s *Store) applyMigrations(ctx context.Context, q tx, steps []migrations.Migration) error {
	if _, err := q.exec(ctx, `CREATE TABLE IF NOT EXISTS schema_migrations (
		version BIGINT PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at BIGINT NOT NULL)`); err != nil {
		return fmt.Errorf("create schema_migrations: %w", err)
	}
	for _, m := range steps {
		if _, err := q.exec(ctx, m.SQL); err != nil {
			return fmt.Errorf("apply migration %s: %w", m.Name, err)
		}
		if _, err := q.exec(ctx, `INSERT INTO schema_migrations (version, name, sha256, applied_at) VALUES ($1, $2, $3, $4)`,
			int64(m.Version), m.Name, m.SHA256, micros(s.now())); err != nil {
			return fmt.Errorf("record migration %s: %w", m.Name, err)
		}
	}
	return nil
}

// SchemaVersion returns the number of the last migration that the database
// has, 0 for an empty database.
func (s *Store) SchemaVersion(ctx context.Context) (int, error) {
	version, err := s.checkedVersion(ctx, s.db)
	return version, s.explain("read the schema version", err)
}

// checkedVersion returns the schema version, and refuses a database that a
// newer or another program migrated.
func (s *Store) checkedVersion(ctx context.Context, q querier) (int, error) {
	exists, err := s.db.tableExists(ctx, q, "schema_migrations")
	if err != nil || !exists {
		return 0, err
	}
	type applied struct {
		version      int64
		name, sha256 string
	}
	all, err := collect(ctx, q, func(row scanner) (a applied, err error) {
		err = row.Scan(&a.version, &a.name, &a.sha256)
		return a, err
	}, `SELECT version, name, sha256 FROM schema_migrations ORDER BY version`)
	if err != nil {
		return 0, err
	}
	known, err := s.db.migrations()
	if err != nil {
		return 0, err
	}
	for i, a := range all {
		switch {
		case a.version != int64(i)+1:
			return 0, fmt.Errorf("migration %d of the database is missing", i+1)
		case i >= len(known):
			return 0, &ca.Error{
				Kind:    enroll.KindUnavailable,
				Message: fmt.Sprintf("the database was migrated to version %d by a newer program; this one knows %d", len(all), len(known)),
				Hint:    "run the newer program, or restore a backup from before its first start",
			}
		case a.sha256 != known[i].SHA256:
			return 0, &ca.Error{
				Kind:    enroll.KindUnavailable,
				Message: fmt.Sprintf("migration %s of the database is another than this program's", a.name),
				Hint:    "run the program that made this database, or open another database",
				Err:     errors.New("SHA-256 of the migration differs"),
			}
		}
	}
	return len(all), nil
}
