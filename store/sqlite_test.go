package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/migrations"
)

func TestSQLiteFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a b%20?c#.db") // everything that means something in a URI
	s := openAt(t, "sqlite:"+path)
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000"} {
		err := s.write(t.Context(), func(ctx context.Context, q tx) error {
			got, err := value[string](ctx, q, "PRAGMA "+pragma)
			if err == nil && got != want {
				t.Errorf("%s is %s, want %s", pragma, got, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := s.db.exec(t.Context(), `DELETE FROM events`); err == nil {
		t.Error("a reader may write")
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"", "sqlite:", "mysql://host/db", filepath.Join(t.TempDir(), "none", "x.db"), garbage} {
		if s, err := Open(t.Context(), Config{URL: url}); err == nil {
			s.Close()
			t.Errorf("%q was opened", url)
		}
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fleetca.db")
	s, err := Open(t.Context(), Config{URL: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if v, err := s.SchemaVersion(t.Context()); v != 0 || err != nil {
		t.Fatalf("version of an empty database is %d, %v", v, err)
	}
	var done sync.WaitGroup
	for range 4 {
		done.Go(func() {
			if err := s.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	all, err := migrations.List(migrations.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.SchemaVersion(t.Context()); v != len(all) || err != nil {
		t.Fatalf("version is %d, %v", v, err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}

	for what, change := range map[string]string{
		"newer":   fmt.Sprintf(`INSERT INTO schema_migrations VALUES (%d, 'later.sql', 'x', 0)`, len(all)+1),
		"another": fmt.Sprintf(`DELETE FROM schema_migrations WHERE version > %d; UPDATE schema_migrations SET sha256 = 'x' WHERE version = 1`, len(all)),
	} {
		err := s.write(t.Context(), func(ctx context.Context, q tx) error {
			_, err := q.exec(ctx, change)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		refused, err := Open(t.Context(), Config{URL: path})
		if err == nil {
			refused.Close()
			t.Fatalf("a database of %s program was opened", what)
		}
		own, ok := errors.AsType[*ca.Error](err)
		if !ok || own.Hint == "" || !strings.Contains(err.Error(), "program") {
			t.Errorf("error is %v", err)
		}
		if err := s.Migrate(t.Context()); err == nil {
			t.Errorf("a database of %s program was migrated", what)
		}
		if what == "another" {
			break
		}
	}
}

// I19: what is stored is the canonical bytes and their leaf hash.
func TestLeafHashStored(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	c := someChange()
	if err := s.RecordEvent(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	var canonical []byte
	leaf, err := one(t.Context(), s.db, func(row scanner) (leaf []byte, err error) {
		err = row.Scan(&canonical, &leaf)
		return leaf, err
	}, `SELECT canonical, leaf_hash FROM events WHERE id = $1`, c.Event.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := enroll.LeafHash(c.Event.Canonical())
	if !bytes.Equal(canonical, c.Event.Canonical()) || !bytes.Equal(leaf, want[:]) {
		t.Errorf("stored %s with %s", canonical, hex.EncodeToString(leaf))
	}
}

// I22: a full disk and a read-only database refuse changes, name the cause and
// the cure, keep answering reads, and need no restart.
func TestSQLiteUnwritable(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct{ on, off, message string }{
		"disk full": {"PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000", "full"},
		"read-only": {"PRAGMA query_only = 1", "PRAGMA query_only = 0", "read-only"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := openTemp(t)
			writer := s.db.(*sqliteEngine).writer
			if err := s.RecordEvent(t.Context(), someChange()); err != nil {
				t.Fatal(err)
			}
			if _, err := writer.Exec(c.on); err != nil {
				t.Fatal(err)
			}
			big := someChange()
			big.Event.Detail = []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
			err := s.RecordEvent(t.Context(), big)
			own, ok := errors.AsType[*ca.Error](err)
			if !ok || own.Kind != enroll.KindUnavailable || !strings.Contains(own.Message, c.message) || own.Hint == "" || strings.Contains(own.Message, "SQLITE") {
				t.Fatalf("error is %+v", err)
			}
			for range 3 { // also as a batch
				i := newIssuance("d1")
				i.Claim.(*enroll.Claim).Order = ""
				j := i
				j.Certificate.SerialNumber = ca.NewSerialNumber()
				i.Certificate.DER = make([]byte, 1<<20)
				j.Certificate.DER = make([]byte, 1<<20)
				for _, err := range s.Commit(t.Context(), []ca.Issuance{i, j}) {
					if !errors.Is(err, ca.IsKind(enroll.KindUnavailable)) {
						t.Fatalf("error is %+v", err)
					}
				}
			}
			events, _, err := s.Events(t.Context(), enroll.EventFilter{}, enroll.Page{})
			if err != nil || len(events) != 1 {
				t.Fatalf("%d events, %v", len(events), err)
			}
			if _, err := writer.Exec(c.off); err != nil {
				t.Fatal(err)
			}
			if err := s.RecordEvent(t.Context(), big); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A lock that another process keeps is waited for, and then named.
func TestSQLiteBusy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fleetca.db")
	s := openAt(t, path)
	other, err := sql.Open("sqlite", sqliteDSN(path, "immediate"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	held, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	err = s.RecordEvent(t.Context(), someChange())
	if !errors.Is(err, ca.IsKind(enroll.KindUnavailable)) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("error is %v", err)
	}
	if err := held.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecordEvent(t.Context(), someChange()); err != nil {
		t.Error(err)
	}
}

// I5, I6: two processes on one file are as exact as one.
func TestSQLiteTwoProcesses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fleetca.db")
	stores := []*Store{openAt(t, path), openAt(t, path)}
	if err := stores[0].CreateWorkOrder(t.Context(), enroll.WorkOrder{ID: "order", Quantity: 10, State: enroll.OrderOpen}, someChange()); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var done sync.WaitGroup
	issued := 0
	for n := range 32 {
		done.Go(func() {
			err := stores[n%2].Commit(t.Context(), []ca.Issuance{newIssuance(fmt.Sprint("d", n))})[0]
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				issued++
			} else if !errors.Is(err, ca.IsKind(enroll.KindQuotaReached)) {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if issued != 10 {
		t.Errorf("%d issued of 10", issued)
	}
}
