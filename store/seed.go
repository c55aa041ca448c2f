package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// SeedConfig says what a store of test data is filled with.
type SeedConfig struct {
	Devices      int
	Certificates int       // of each device that has any
	Orders       int       // work orders that the devices were built for
	Issuer       ca.Issuer // of devices; its name stands in the certificates
	Now          time.Time
	Progress     func(devices int) // nil for none
}

// Check refuses numbers that make no fleet: KindMalformed.
func (c SeedConfig) Check() error {
	if c.Devices < 1 || c.Devices > 100_000_000 || c.Certificates < 1 || c.Certificates > 10 || c.Orders < 0 || c.Orders > c.Devices {
		return ca.Errorf(ca.KindMalformed, "devices", "give 1 to 100,000,000 devices, 1 to 10 certificates of each, and no more orders than devices", "so much cannot be seeded")
	}
	return nil
}

// seedChunk is how many devices are made and inserted at a time.
const seedChunk = 10_000

// seedTables are the tables that are filled, with the columns that are given.
var seedTables = []struct {
	name    string
	columns []string
}{
	{"work_orders", []string{"id", "product", "quantity", "issued", "profile", "state", "created_at", "full_at"}},
	{"devices", []string{"id", "status", "group_name", "attributes", "work_order", "trust_generation", "created_at", "last_seen_at", "enrolled_at", "not_after"}},
	{"certificates", []string{"serial", "recorded_at", "sha256", "subject", "names", "issuer_id", "profile", "holder_kind", "holder_id",
		"status", "reason", "revoked_at", "not_before", "not_after", "key_sha256", "cdp", "der"}},
	{"keys", []string{"sha256", "holder_kind", "holder_id"}},
	{"revocations", []string{"id", "device", "reason", "comment", "state", "serials", "steps", "evidence", "at", "attempts", "version"}},
	{"events", []string{"id", "at", "actor", "action", "subject", "canonical", "leaf_hash"}},
}

// CheckEmpty refuses a database with issuers, certificates or devices, which may
// be a real fleet's: KindConflict. It takes one of any version, and changes
// nothing.
func (s *Store) CheckEmpty(ctx context.Context) error {
	version, err := s.SchemaVersion(ctx)
	if err != nil || version == 0 {
		return err
	}
	return s.explain("look whether the database is empty", checkEmpty(ctx, s.db))
}

func checkEmpty(ctx context.Context, q querier) error {
	for _, table := range []string{"issuers", "certificates", "devices"} {
		if _, err := value[int64](ctx, q, `SELECT 1 FROM `+table+` LIMIT 1`); err == nil {
			return conflict("", "use the authority that is there, or an empty database", "the database has %s already, and may be a real fleet's", table)
		} else if !errors.Is(err, errNoRows) {
			return err
		}
	}
	return nil
}

// MarkTestData says, for good, that the store is none of a real fleet. One that is
// not empty is refused; see CheckEmpty.
func (s *Store) MarkTestData(ctx context.Context, c enroll.Change) error {
	return s.change(ctx, "mark the store as test data", c, func(ctx context.Context, q tx) error {
		if err := checkEmpty(ctx, q); err != nil {
			return err
		}
		_, err := q.exec(ctx, `INSERT INTO test_data (id, created_at) VALUES (1, $1) ON CONFLICT (id) DO NOTHING`, micros(s.now()))
		return err
	})
}

// TestData reports whether the store is marked as test data.
func (s *Store) TestData(ctx context.Context) (bool, error) {
	_, err := value[int64](ctx, s.db, `SELECT id FROM test_data WHERE id = 1`)
	if errors.Is(err, errNoRows) {
		return false, nil
	}
	return err == nil, s.explain("look for the mark of test data", err)
}

// Seed fills a store that is marked as test data, and has no devices, in one
// transaction. The spread is that of a real fleet: most devices are active,
// some are registered, held, revoked and retired; certificates expire all
// through the year, some have; groups are few large ones and many small ones.
//
// The certificates can be read, and their names, serial numbers and times are
// those of their rows; but all carry one public key and one signature, which
// verifies nowhere. Indexes are made after the rows.
func (s *Store) Seed(ctx context.Context, c SeedConfig) error {
	if err := c.Check(); err != nil {
		return err
	}
	ctx = atLeisure(ctx)
	seeding, err := newSeeding(c)
	if err != nil {
		return fmt.Errorf("prepare the certificates: %w", err)
	}
	err = s.db.update(ctx, func(q tx) error {
		if err := checkSeedable(ctx, q); err != nil {
			return err
		}
		names := make([]string, len(seedTables))
		for i, t := range seedTables {
			names[i] = t.name
		}
		indexes, err := s.db.indexes(ctx, q, names)
		if err != nil {
			return fmt.Errorf("read the indexes: %w", err)
		}
		for _, i := range indexes {
			if _, err := q.exec(ctx, "DROP INDEX "+quoted(i.name)); err != nil {
				return err
			}
		}
		if err := s.load(ctx, q, seeding); err != nil {
			return err
		}
		for _, i := range indexes {
			if _, err := q.exec(ctx, i.create); err != nil {
				return fmt.Errorf("make index %s: %w", i.name, err)
			}
		}
		_, err = q.exec(ctx, `DELETE FROM aggregates`) // counted before
		return err
	})
	if err != nil {
		return s.explain("seed the store", err)
	}
	return s.explain("make the planner know the rows", s.db.analyze(ctx))
}

// CheckSeedable refuses a database that is not marked as test data, or has devices:
// KindConflict. It takes one of any version, and changes nothing.
func (s *Store) CheckSeedable(ctx context.Context) error {
	exists, err := s.db.tableExists(ctx, s.db, "test_data")
	switch {
	case err != nil:
	case !exists:
		err = errNoTestData
	default:
		err = checkSeedable(ctx, s.db)
	}
	return s.explain("look whether the database can be seeded", err)
}

var errNoTestData = conflict("", "seed a new folder: fleetca seed makes it", "the store is not marked as test data, and may be a real fleet's")

// checkSeedable refuses a store that is not there to be filled.
func checkSeedable(ctx context.Context, q querier) error {
	if _, err := value[int64](ctx, q, `SELECT id FROM test_data WHERE id = 1`); errors.Is(err, errNoRows) {
		return errNoTestData
	} else if err != nil {
		return err
	}
	if _, err := value[string](ctx, q, `SELECT id FROM devices LIMIT 1`); err == nil {
		return conflict("", "seed a new folder", "the store has devices already")
	} else if !errors.Is(err, errNoRows) {
		return err
	}
	return nil
}

// load inserts all rows, chunk by chunk.
func (s *Store) load(ctx context.Context, q tx, seeding *seeding) error {
	for first := 0; first < seeding.Devices; first += seedChunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows := seeding.chunk(first, min(first+seedChunk, seeding.Devices))
		for _, t := range seedTables {
			if err := s.db.load(ctx, q, t.name, t.columns, rows[t.name]); err != nil {
				return fmt.Errorf("fill table %s: %w", t.name, err)
			}
		}
		if seeding.Progress != nil {
			seeding.Progress(min(first+seedChunk, seeding.Devices))
		}
	}
	return nil
}

// An indexText is an index with the statement that makes it.
type indexText struct{ name, create string }

func scanIndex(row scanner) (i indexText, err error) {
	err = row.Scan(&i.name, &i.create)
	return i, err
}
