package store

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// gzipStart is how every backup begins: deflate, no name, no time, no system.
var gzipStart = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

// A Backup is a backup that was read to its end and verified: the hash and
// size of every entry, the count and form of all rows, the version of the
// schema.
type Backup struct {
	BackupHeader
	Rows  map[string]int64 // by table; jobs are background work
	Files []BackupFile

	source io.ReadSeeker
	sum    [sha256.Size]byte // of the manifest, which has those of all the rest
}

// OpenBackup verifies a backup. Anything wrong with it is an error of
// ca.KindMalformed that ends in the next step.
func OpenBackup(ctx context.Context, source io.ReadSeeker) (*Backup, error) {
	b := &Backup{source: source}
	sum, err := b.walk(ctx, func(BackupTable, []any) error { return nil })
	if err != nil {
		return nil, asDamage(err)
	}
	b.sum = sum
	return b, nil
}

// SHA256 returns what names this backup: the hash of its manifest.
func (b *Backup) SHA256() string { return hex.EncodeToString(b.sum[:]) }

// again reads the backup once more, for its rows, and fails unless it is still
// what was verified.
func (b *Backup) again(ctx context.Context, row func(BackupTable, []any) error) error {
	second := &Backup{source: b.source}
	var refused error // by row: no fault of the backup
	sum, err := second.walk(ctx, func(t BackupTable, values []any) error {
		refused = row(t, values)
		return refused
	})
	if refused != nil {
		return refused
	}
	if err == nil && sum != b.sum {
		err = damaged("it was changed while it was read")
	}
	return asDamage(err)
}

// walk reads the backup from its start to its end, and returns the hash of the
// manifest. What row was handed counts only when walk ends without an error.
func (b *Backup) walk(ctx context.Context, row func(BackupTable, []any) error) (sum [sha256.Size]byte, err error) {
	if _, err := b.source.Seek(0, io.SeekStart); err != nil {
		return sum, err
	}
	start := make([]byte, len(gzipStart))
	if _, err := io.ReadFull(b.source, start); err != nil || !bytes.Equal(start, gzipStart) {
		return sum, refuseBackup(hintForeign, "it is no backup of fleetca")
	}
	gz, err := gzip.NewReader(bufio.NewReaderSize(io.MultiReader(bytes.NewReader(start), b.source), 1<<20))
	if err != nil {
		return sum, err
	}
	w := &backupWalk{Backup: b, ctx: ctx, row: row, rows: map[string]int64{}, parts: map[string]int{}}
	if err := w.read(tar.NewReader(gz)); err != nil {
		return sum, err
	}
	// What follows a tar archive is zeros; reading them checks gzip's own sum.
	rest := make([]byte, 4096)
	for {
		n, err := gz.Read(rest)
		if len(bytes.Trim(rest[:n], "\x00")) > 0 {
			return sum, errors.New("something follows its end")
		}
		if errors.Is(err, io.EOF) {
			return w.sum, nil
		}
		if err != nil {
			return sum, err
		}
	}
}

// A backupWalk is one reading of a backup.
type backupWalk struct {
	*Backup
	ctx     context.Context
	row     func(BackupTable, []any) error
	entries []backupEntry
	rows    map[string]int64 // counted
	parts   map[string]int   // by table
	table   int              // index of the table under way
	sum     [sha256.Size]byte
}

// read reads every entry.
func (w *backupWalk) read(archive *tar.Reader) error {
	for n := 0; ; n++ {
		entry, err := archive.Next()
		switch {
		case n == 0 && (err != nil || entry.Name != headerName):
			return refuseBackup(hintForeign, "it is no backup of fleetca")
		case errors.Is(err, io.EOF):
			return errors.New("its end is missing")
		case err != nil:
			return err
		case entry.Typeflag != tar.TypeReg:
			return fmt.Errorf("entry %.80q is no file", entry.Name)
		}
		if entry.Name == manifestName {
			if err := w.manifest(archive); err != nil {
				return err
			}
			if _, err := archive.Next(); !errors.Is(err, io.EOF) {
				return errors.New("something follows its manifest")
			}
			return nil
		}
		digest := &digestReader{r: archive, hash: sha256.New()}
		if err := w.entry(entry.Name, digest); err != nil {
			return err
		}
		w.entries = append(w.entries, backupEntry{entry.Name, digest.size, hex.EncodeToString(digest.hash.Sum(nil))})
	}
}

// A digestReader counts and hashes what is read.
type digestReader struct {
	r    io.Reader
	hash hash.Hash
	size int64
}

func (d *digestReader) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	d.hash.Write(p[:n])
	d.size += int64(n)
	return n, err
}

// entry reads one entry before the manifest, to its end.
func (w *backupWalk) entry(name string, r io.Reader) error {
	switch {
	case name == headerName && len(w.entries) == 0:
		return w.header(r)
	case strings.HasPrefix(name, rowsPrefix):
		return w.part(name, r)
	case strings.HasPrefix(name, filesPrefix):
		file := strings.TrimPrefix(name, filesPrefix)
		data, err := readAtMost(r, maxBackupFile)
		if err != nil {
			return fmt.Errorf("%.80q: %w", name, err)
		}
		if path.Clean("/"+file) != "/"+file {
			return fmt.Errorf("entry %.80q does not belong there", name)
		}
		w.Files = append(w.Files, BackupFile{file, data})
		return nil
	}
	return fmt.Errorf("entry %.80q does not belong there", name)
}

// header reads the header. A backup of a newer program is refused here, before
// anything in it can look like damage.
func (w *backupWalk) header(r io.Reader) error {
	text, err := readAtMost(r, maxBackupText)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &w.BackupHeader); err != nil {
		return fmt.Errorf("%s: %w", headerName, err)
	}
	return w.check()
}

// part reads one part of a table's rows.
func (w *backupWalk) part(name string, r io.Reader) error {
	tables := append(slices.Clone(w.Tables), waitingJobs)
	for ; w.table < len(tables); w.table++ {
		t := tables[w.table]
		if name == partName(t.Name, w.parts[t.Name]) {
			w.parts[t.Name]++
			if err := w.lines(t, r); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("entry %.80q does not belong there", name)
}

func (w *backupWalk) lines(t BackupTable, r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxBackupRow)
	for lines.Scan() {
		row, err := t.parseRow(lines.Bytes())
		if err != nil {
			return err
		}
		w.rows[t.Name]++
		if err := w.row(t, row); err != nil {
			return err
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
	}
	return lines.Err()
}

// parseRow is the inverse of what archiveWriter.rows writes.
func (t BackupTable) parseRow(line []byte) ([]any, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil {
		return nil, err
	}
	if len(raw) != len(t.Columns) {
		return nil, fmt.Errorf("a row of %s has %d values for %d columns", t.Name, len(raw), len(t.Columns))
	}
	row := make([]any, len(raw))
	for i, c := range t.Columns {
		if string(raw[i]) == "null" {
			continue
		}
		var err error
		switch c.Kind {
		case kindInteger:
			row[i], err = strconv.ParseInt(string(raw[i]), 10, 64)
		case kindText:
			var text string
			err = json.Unmarshal(raw[i], &text)
			row[i] = text
		case kindBytes:
			data := []byte{}
			err = json.Unmarshal(raw[i], &data)
			row[i] = data
		default:
			err = fmt.Errorf("kind %.40q is not known", c.Kind)
		}
		if err != nil {
			return nil, fmt.Errorf("column %s of %s: %w", c.Name, t.Name, err)
		}
	}
	return row, nil
}

// manifest holds the manifest against what was read.
func (w *backupWalk) manifest(r io.Reader) error {
	text, err := readAtMost(r, maxBackupText)
	if err != nil {
		return err
	}
	var m backupManifest
	if err := json.Unmarshal(text, &m); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	for i, e := range w.entries {
		if i >= len(m.Entries) || m.Entries[i] != e {
			return fmt.Errorf("entry %s is not what the manifest says", e.Name)
		}
	}
	if len(m.Entries) != len(w.entries) {
		return fmt.Errorf("entry %s is missing", m.Entries[len(w.entries)].Name)
	}
	for _, t := range append(slices.Clone(w.Tables), waitingJobs) {
		w.rows[t.Name] += 0 // tables without rows are counted too
	}
	if !maps.Equal(m.Rows, w.rows) {
		return errors.New("the counts of rows are not what the manifest says")
	}
	w.Rows, w.sum = m.Rows, sha256.Sum256(text)
	return nil
}

// readAtMost reads all of r, which must not be longer than limit.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	return data, err
}
