// Package migrations holds the database schema as numbered SQL files, one
// folder a database engine with the same file names in each.
//
// A file is named NNNN_what.sql and never changes once it was released: a
// database remembers the SHA-256 of every file that was applied to it, and
// package store refuses one whose files differ. What must change goes into the
// next file. A file holds plain statements and runs in one transaction.
//
// All times are UTC microseconds since 1970 and zero for none; serial numbers
// are lower-case hex; lists and maps are JSON text; an empty text means none.
package migrations

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"path"
	"strconv"
)

//go:embed sqlite/*.sql postgres/*.sql
var files embed.FS

// The engines that there are migrations for.
const (
	SQLite   = "sqlite"
	Postgres = "postgres"
)

// A Migration is one step of a schema.
type Migration struct {
	Version int    // 1, 2, 3, ... without a gap
	Name    string // of the file
	SQL     string
	SHA256  string // of the file, lower-case hex
}

// List returns an engine's migrations, oldest first.
func List(engine string) ([]Migration, error) {
	entries, err := files.ReadDir(engine) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("migrations for %s: %w", engine, err)
	}
	all := make([]Migration, 0, len(entries))
	for _, e := range entries {
		text, err := files.ReadFile(path.Join(engine, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", e.Name(), err)
		}
		if len(e.Name()) < 5 {
			return nil, fmt.Errorf("migration %s: the name does not begin with four digits", e.Name())
		}
		version, err := strconv.Atoi(e.Name()[:4])
		if err != nil || version != len(all)+1 {
			return nil, fmt.Errorf("migration %s: number %04d is expected", e.Name(), len(all)+1)
		}
		sum := sha256.Sum256(text)
		all = append(all, Migration{Version: version, Name: e.Name(), SQL: string(text), SHA256: hex.EncodeToString(sum[:])})
	}
	return all, nil
}
