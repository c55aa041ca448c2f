package store

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// TestMain lets more tests run at the same time than there are processors:
// many of them only wait for a clock.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("8"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// migrated is a SQLite file that was just migrated.
var migrated = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "fleetca-store")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "fleetca.db")
	s, err := Open(context.Background(), Config{URL: path})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.Migrate(context.Background()), s.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// openTemp opens a migrated SQLite store in a temporary folder.
func openTemp(t *testing.T) *Store {
	t.Helper()
	file, err := migrated()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "fleetca.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return openAt(t, path)
}

// openAt opens and migrates a store, and closes it at the end of the test.
func openAt(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// A server that is too old is refused at the start, and the error says which is
// not.
func TestOldPostgres(t *testing.T) {
	for version, ok := range map[int64]bool{90624: false, 130018: false, 140000: true, 150004: true, 180001: true} {
		err := checkPostgresVersion(version)
		e, refused := errors.AsType[*ca.Error](err)
		if refused == ok || refused && (e.Kind != enroll.KindUnavailable || e.Hint != "use PostgreSQL 14 or newer" || !strings.Contains(e.Message, "too old")) {
			t.Errorf("%d: %v", version, err)
		}
	}
}
