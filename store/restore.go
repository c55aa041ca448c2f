package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// insertParameters bounds the parameters of one INSERT; SQLite takes 32766.
const insertParameters = 2000

// RestoreConfig says how a backup is restored.
type RestoreConfig struct {
	// ID is the id of the audit event: a UUIDv7. Run again with the same one
	// after an interruption, Restore finds what it committed and is done.
	ID    string
	Actor string // who restores, for the audit trail
	Keep  []Keep // what stays as it was in the backup
	// CRLs are newer ones of the same authority, in DER, as brokers still have
	// them: what they list is revoked again.
	CRLs [][]byte
}

// Restored says what a restore did. It is the detail of its audit event.
type Restored struct {
	BackupSHA256 string           `json:"backupSha256"`
	BackupAt     time.Time        `json:"backupAt"`
	Program      string           `json:"program"` // that wrote the backup
	Engine       string           `json:"engine"`  // it was written from
	Schema       int              `json:"schema"`  // of the backup
	LastEvent    time.Time        `json:"lastEvent"`
	Rows         map[string]int64 `json:"rows"`
	Voided       map[Keep]int64   `json:"voided"` // how many of each; those kept are left out
	Kept         []Keep           `json:"kept"`
	CRLNumber    int64            `json:"crlNumber"` // every CRL from now on has a higher one
	CRLs         int              `json:"crls"`      // newer ones that were handed in
	Revoked      int64            `json:"revoked"`   // certificates that they list and the backup had as good
	Unknown      int64            `json:"unknown"`   // serial numbers that they list and the backup does not have
}

// Restore fills an empty database from a verified backup, in one transaction:
//
//  1. The tables are made as they were at the backup's schema version.
//  2. The rows are read again, inserted, and held against the manifest.
//  3. The schema is migrated to this program's version.
//  4. What newer CRLs list is revoked, and what may have been used since the
//     backup is made unusable (I20); see Keep.
//  5. The jobs that waited are inserted, and the audit event authority.restore.
//
// A database that is not empty is refused with KindConflict. Where Restore
// fails the database is as empty as it was, but for River's tables.
func (s *Store) Restore(ctx context.Context, b *Backup, c RestoreConfig) (*Restored, error) {
	ctx = atLeisure(ctx)
	if err := checkKeep(c.Keep); err != nil {
		return nil, err
	}
	if before, err := s.restoredBefore(ctx, b, c.ID); err != nil || before != nil {
		return before, s.explain("look for an earlier restore", err)
	}
	if err := b.checkClock(s.now(), b.At); err != nil {
		return nil, err
	}
	// Tells an occupied database from an empty one, and makes River's tables:
	// some of its steps need transactions of their own.
	empty := func(q tx) error { return s.checkEmpty(ctx, q) }
	if err := s.db.migrate(ctx, empty); err != nil {
		return nil, s.explain("look whether the database is empty", err)
	}
	var r *Restored
	err := s.db.migrate(ctx, func(q tx) (err error) {
		if err := s.checkEmpty(ctx, q); err != nil {
			return err
		}
		r, err = s.restore(ctx, q, b, c)
		return err
	})
	if err != nil {
		return nil, s.explain("restore the database", err)
	}
	return r, nil
}

// checkEmpty refuses a database that holds a table of ours or of anybody else.
func (s *Store) checkEmpty(ctx context.Context, q querier) error {
	columns, err := s.db.columns(ctx, q)
	if err != nil {
		return fmt.Errorf("read the catalog of columns: %w", err)
	}
	var found []string
	for _, c := range columns {
		if !strings.HasPrefix(c.table, "river_") && !strings.HasPrefix(c.table, "sqlite_") && !slices.Contains(found, c.table) {
			found = append(found, c.table)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return conflict("", "give an empty database; nothing was changed", "the database holds %d tables (%s, ...)", len(found), found[0])
}

// restoredBefore returns what an earlier run of the same restore committed.
func (s *Store) restoredBefore(ctx context.Context, b *Backup, id string) (*Restored, error) {
	if exists, err := s.db.tableExists(ctx, s.db, "events"); err != nil || !exists {
		return nil, err
	}
	event, err := one(ctx, s.db, scanEvent, selectEvent+` WHERE id = $1 AND action = $2`, id, actionRestore)
	if errors.Is(err, errNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &Restored{}
	if err := json.Unmarshal(event.Detail, r); err != nil {
		return nil, fmt.Errorf("audit event %s: %w", id, err)
	}
	if r.BackupSHA256 != b.SHA256() {
		return nil, conflict("", "restore that one, or give an empty database", "the database was restored from another backup, of %s", r.BackupAt.Format(time.RFC3339))
	}
	return r, nil
}

// restore does what Restore says, in its transaction.
func (s *Store) restore(ctx context.Context, q tx, b *Backup, c RestoreConfig) (*Restored, error) {
	steps, err := s.db.migrations()
	if err != nil {
		return nil, err
	}
	if b.Schema > len(steps) {
		return nil, refuseBackup(b.newerHint(), "its schema is version %d; this program knows %d", b.Schema, len(steps))
	}
	if err := s.applyMigrations(ctx, q, steps[:b.Schema]); err != nil {
		return nil, err
	}
	tables, err := backupTables(ctx, s.db, q)
	if err != nil {
		return nil, err
	}
	if difference := sameTables(b.Tables, tables); difference != "" {
		return nil, damaged("%s", difference)
	}
	jobs, err := loadRows(ctx, q, b)
	if err != nil {
		return nil, err
	}
	if err := s.applyMigrations(ctx, q, steps[b.Schema:]); err != nil {
		return nil, err
	}
	return s.settle(ctx, q, b, c, jobs)
}

// loadRows inserts every row, and returns the background work.
func loadRows(ctx context.Context, q tx, b *Backup) ([]enroll.Job, error) {
	var jobs []enroll.Job
	in := &inserter{q: q}
	err := b.again(ctx, func(t BackupTable, row []any) error {
		if t.Name == jobsTable {
			job, err := jobOf(row)
			jobs = append(jobs, job)
			return err
		}
		return in.add(ctx, t, row)
	})
	if err != nil {
		return nil, err
	}
	return jobs, in.flush(ctx)
}

// jobOf reads a row of waitingJobs. It is due at once: a handler that comes
// too early says so, and waits again.
func jobOf(row []any) (enroll.Job, error) {
	kind, _ := row[0].(string)
	subject, _ := row[1].(string)
	if kind == "" || subject == "" {
		return enroll.Job{}, damaged("background work without a kind or a subject")
	}
	return enroll.Job{Kind: enroll.JobKind(kind), Subject: subject}, nil
}

// An inserter inserts rows of one table after the other, many at a time.
type inserter struct {
	q      tx
	table  BackupTable
	values []any // of whole rows that wait
	size   int   // of their texts and bytes
}

// add takes a row, and inserts what waits when that is enough.
func (in *inserter) add(ctx context.Context, t BackupTable, row []any) error {
	if in.table.Name != t.Name {
		if err := in.flush(ctx); err != nil {
			return err
		}
		in.table = t
	}
	in.values = append(in.values, row...)
	for _, v := range row {
		switch v := v.(type) {
		case string:
			in.size += len(v)
		case []byte:
			in.size += len(v)
		}
	}
	if len(in.values)+len(t.Columns) > insertParameters || in.size > backupPart {
		return in.flush(ctx)
	}
	return nil
}

// flush inserts what waits.
func (in *inserter) flush(ctx context.Context) error {
	if len(in.values) == 0 {
		return nil
	}
	n := len(in.values) / len(in.table.Columns)
	if _, err := in.q.exec(ctx, in.table.insertText(n), in.values...); err != nil {
		return fmt.Errorf("insert into %s: %w", in.table.Name, err)
	}
	in.values, in.size = in.values[:0], 0
	return nil
}

// clockTolerance is how far the clock may be behind what a backup holds (I7).
const clockTolerance = 5 * time.Second

// checkClock refuses to restore what is from the future: CRL numbers are
// derived from the time, and nothing would be signed afterwards (I7).
func (b *Backup) checkClock(now, newest time.Time) error {
	if behind := newest.Sub(now); behind > clockTolerance {
		return ca.Errorf(ca.KindClock, "", "set this machine's clock (chrony, systemd-timesyncd), and run restore again",
			"the clock is %v behind the newest record of the backup", behind.Round(time.Second))
	}
	return nil
}
