package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/migrations"
)

// What a backup is.
//
// A gzip-compressed tar archive that any engine writes and any engine reads,
// because it holds rows and no database file. Its entries, in this order:
//
//	backup.json               Header: what the backup is of, with tables and columns
//	rows/TABLE/000000.ndjson  the rows of each table, parents before children, in
//	                          parts of a few MiB; one JSON array a row, its values in
//	                          the order of the columns, bytes in base64
//	rows/jobs/000000.ndjson   the background work that waits: kind and subject
//	files/NAME                what the caller hands in: encrypted keys, certificates
//	manifest.json             size and SHA-256 of every entry before it, rows by table
//
// Everything is read from one snapshot (a WAL read transaction on SQLite,
// REPEATABLE READ on PostgreSQL), so a backup taken under load is the state
// after some commit. Rows are streamed: memory does not grow with the database.
//
// River's tables are not in it: what they mean is in rows/jobs, and a restore
// inserts it again. Neither is schema_migrations: the header has the version.
//
// The hashes find damage. They do not find a forger, who computes them anew.

const (
	backupFormat  = "fleetca backup"
	backupVersion = 1
	jobsTable     = "jobs" // the pseudo table of background work
)

// A BackupHeader says what a backup is of.
type BackupHeader struct {
	Format     string        `json:"format"`
	Version    int           `json:"version"`    // of the format
	Program    string        `json:"program"`    // version of the program that wrote it
	Engine     string        `json:"engine"`     // it was read from: sqlite, postgres
	Schema     int           `json:"schema"`     // version of the schema
	Migrations []string      `json:"migrations"` // SHA-256 of the engine's files, oldest first
	At         time.Time     `json:"at"`         // what was committed before is in it
	Tables     []BackupTable `json:"tables"`     // in the order of their rows
}

// A BackupTable is a table of a backup.
type BackupTable struct {
	Name    string         `json:"name"`
	Columns []BackupColumn `json:"columns"`
}

// A BackupColumn is a column of a backup's table.
type BackupColumn struct {
	Name string     `json:"name"`
	Kind columnKind `json:"kind"`
}

// A BackupFile is a file that travels with the rows.
type BackupFile struct {
	Name string // relative, slashes
	Data []byte // at most 1 MiB
}

// BackupConfig says what goes into a backup beside the rows.
type BackupConfig struct {
	Program string // version of this program
	// Files returns the files that go with the issuers of the snapshot.
	Files func(issuers []ca.Issuer) ([]BackupFile, error)
}

// Backup writes a backup of the whole database to w, while others work on it.
// It changes nothing. When it fails, what was written is worth nothing.
func (s *Store) Backup(ctx context.Context, w io.Writer, c BackupConfig) (*BackupHeader, error) {
	ctx = atLeisure(ctx)
	var h *BackupHeader
	out := &backupOutput{Writer: w}
	err := s.db.snapshot(ctx, func(q querier) error {
		var err error
		if h, err = s.backupHeader(ctx, q, c.Program); err != nil {
			return err
		}
		issuers, err := issuersOfAnySchema(ctx, q)
		if err != nil {
			return fmt.Errorf("read issuers: %w", err)
		}
		var files []BackupFile
		if c.Files != nil {
			if files, err = c.Files(issuers); err != nil {
				return err
			}
		}
		return writeBackup(ctx, q, out, h, files)
	})
	if out.err != nil { // a full disk there is none of the database's
		return nil, fmt.Errorf("write the backup: %w", out.err)
	}
	if err != nil {
		return nil, s.explain("back up the database", err)
	}
	return h, nil
}

// A backupOutput remembers that writing failed.
type backupOutput struct {
	io.Writer
	err error
}

func (o *backupOutput) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		o.err = err
	}
	return n, err
}

// backupHeader describes the snapshot.
func (s *Store) backupHeader(ctx context.Context, q querier, program string) (*BackupHeader, error) {
	h := &BackupHeader{Format: backupFormat, Version: backupVersion, Program: program, Engine: s.db.name(), At: s.now()}
	var err error
	if h.Schema, err = s.checkedVersion(ctx, q); err != nil {
		return nil, err
	}
	if h.Schema == 0 {
		return nil, ca.Errorf(ca.KindNotFound, "", "give the database that fleetca init made", "the database is empty")
	}
	known, err := s.db.migrations()
	if err != nil {
		return nil, err
	}
	for _, m := range known[:h.Schema] {
		h.Migrations = append(h.Migrations, m.SHA256)
	}
	h.Tables, err = backupTables(ctx, s.db, q)
	return h, err
}

// writeBackup writes the archive.
func writeBackup(ctx context.Context, q querier, w io.Writer, h *BackupHeader, files []BackupFile) error {
	a, err := newArchiveWriter(w, h)
	if err != nil {
		return err
	}
	for _, t := range h.Tables {
		if err := a.rows(ctx, q, t, t.selectAll()); err != nil {
			return fmt.Errorf("table %s: %w", t.Name, err)
		}
	}
	if err := a.rows(ctx, q, waitingJobs, selectWaitingJobs); err != nil {
		return fmt.Errorf("background work: %w", err)
	}
	for _, f := range files {
		if len(f.Data) > maxBackupFile {
			return fmt.Errorf("%s is larger than %d bytes", f.Name, maxBackupFile)
		}
		if err := a.entry(filesPrefix+f.Name, f.Data); err != nil {
			return err
		}
	}
	return a.close()
}

// waitingJobs is the pseudo table of background work: what every job means,
// without what River adds.
var waitingJobs = BackupTable{Name: jobsTable, Columns: []BackupColumn{{"kind", kindText}, {"subject", kindText}}}

// Jobs without a subject are those of the clock, which start by themselves.
const selectWaitingJobs = `SELECT DISTINCT args ->> 'job', args ->> 'subject' FROM river_job
	WHERE kind = 'fleetca' AND args ->> 'subject' <> '' AND state IN ('available', 'pending', 'retryable', 'running', 'scheduled')
	ORDER BY 1, 2`

// check refuses a backup that this program cannot restore, by its header alone.
func (h *BackupHeader) check() error {
	switch {
	case h.Format != backupFormat:
		return refuseBackup(hintForeign, "it is no backup of fleetca")
	case h.Version > backupVersion:
		return refuseBackup(h.newerHint(), "its format is version %d; this program reads up to %d", h.Version, backupVersion)
	case h.Engine != migrations.SQLite && h.Engine != migrations.Postgres:
		return refuseBackup(h.newerHint(), "it is of a database engine %.40q that this program does not know", h.Engine)
	case h.Schema < 1 || h.Schema != len(h.Migrations):
		return refuseBackup(hintDamaged, "schema version %d with %d migrations makes no sense", h.Schema, len(h.Migrations))
	}
	known, err := migrations.List(h.Engine)
	if err != nil {
		return err
	}
	if h.Schema > len(known) {
		return refuseBackup(h.newerHint(), "its schema is version %d, by a newer program (%.80s); this one knows %d", h.Schema, h.Program, len(known))
	}
	for i, sum := range h.Migrations {
		if sum != known[i].SHA256 {
			return refuseBackup("restore it with the program that made it", "its schema is another than this program's (migration %s)", known[i].Name)
		}
	}
	return nil
}

func (h *BackupHeader) newerHint() string {
	return fmt.Sprintf("restore it with the program that made it (%.80s) or a newer one", h.Program)
}

// Hints about backups that are not restored.
const (
	hintForeign = "give a file that fleetca backup wrote"
	hintDamaged = "use another copy of it, or an older backup; nothing was written"
)

// refuseBackup returns the error for a backup that is not restored.
func refuseBackup(hint, format string, args ...any) error {
	return ca.Errorf(ca.KindMalformed, "", hint, format, args...)
}

// damaged returns the error for a backup that is not what was written.
func damaged(format string, args ...any) error {
	return refuseBackup(hintDamaged, "the backup is damaged: "+format, args...)
}

// asDamage returns what reading a backup gave as a refusal. What ends the
// archive early, or does not parse, is damage.
func asDamage(err error) error {
	var own *ca.Error
	if err == nil || errors.As(err, &own) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return damaged("%w", err)
}
