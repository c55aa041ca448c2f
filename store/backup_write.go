package store

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// The entries of a backup, and their limits.
const (
	headerName   = "backup.json"
	manifestName = "manifest.json"
	rowsPrefix   = "rows/"
	filesPrefix  = "files/"

	backupPart    = 4 << 20 // rows are collected up to this, and become an entry
	maxBackupRow  = 1 << 30 // a CRL of a large fleet is one value
	maxBackupFile = 1 << 20
	maxBackupText = 64 << 20 // of header and manifest
)

// A backupEntry is an entry as the manifest lists it.
type backupEntry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// A backupManifest ends a backup.
type backupManifest struct {
	Entries []backupEntry    `json:"entries"` // in the order of the archive
	Rows    map[string]int64 `json:"rows"`    // by table
}

// An archiveWriter writes a backup's entries in their order.
type archiveWriter struct {
	gz       *gzip.Writer
	tar      *tar.Writer
	at       time.Time // of every entry
	manifest backupManifest
}

// newArchiveWriter begins an archive with the header.
func newArchiveWriter(w io.Writer, h *BackupHeader) (*archiveWriter, error) {
	gz := gzip.NewWriter(w)
	a := &archiveWriter{gz: gz, tar: tar.NewWriter(gz), at: h.At.Truncate(time.Second), manifest: backupManifest{Rows: map[string]int64{}}}
	text, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return nil, err
	}
	return a, a.entry(headerName, text)
}

// entry adds one entry.
func (a *archiveWriter) entry(name string, data []byte) error {
	sum := sha256.Sum256(data)
	a.manifest.Entries = append(a.manifest.Entries, backupEntry{name, int64(len(data)), hex.EncodeToString(sum[:])})
	return a.put(name, data)
}

func (a *archiveWriter) put(name string, data []byte) error {
	err := a.tar.WriteHeader(&tar.Header{Name: name, Size: int64(len(data)), Mode: 0o600, ModTime: a.at, Typeflag: tar.TypeReg})
	if err == nil {
		_, err = a.tar.Write(data)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// rows adds the rows of a query as the table's, in parts.
func (a *archiveWriter) rows(ctx context.Context, q querier, t BackupTable, text string) error {
	found, err := q.query(ctx, text)
	if err != nil {
		return err
	}
	defer found.close()
	var part bytes.Buffer
	enc := json.NewEncoder(&part)
	enc.SetEscapeHTML(false)
	parts, count := 0, int64(0)
	flush := func() error {
		name := partName(t.Name, parts)
		parts++
		defer part.Reset()
		return a.entry(name, part.Bytes())
	}
	for found.Next() {
		row, err := t.scanRow(found)
		if err != nil {
			return err
		}
		if err := enc.Encode(row); err != nil {
			return err
		}
		if count++; part.Len() >= backupPart {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := found.Err(); err != nil {
		return err
	}
	a.manifest.Rows[t.Name] = count
	if part.Len() > 0 {
		return flush()
	}
	return nil
}

// partName returns the name of the n-th part of a table's rows.
func partName(table string, n int) string {
	return fmt.Sprintf("%s%s/%06d.ndjson", rowsPrefix, table, n)
}

// close ends the archive with the manifest.
func (a *archiveWriter) close() error {
	text, err := json.MarshalIndent(a.manifest, "", "  ")
	if err != nil {
		return err
	}
	if err := a.put(manifestName, text); err != nil {
		return err
	}
	if err := a.tar.Close(); err != nil {
		return err
	}
	return a.gz.Close()
}
