package store

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// wantRefused ends the test unless err is a refusal that ends in a hint.
func wantRefused(t *testing.T, what string, err error, kind ca.Kind, words ...string) {
	t.Helper()
	own, ok := errors.AsType[*ca.Error](err)
	if !ok || own.Kind != kind || own.Hint == "" {
		t.Fatalf("%s: error is %+v, want kind %s with a hint", what, err, kind)
	}
	for _, word := range words {
		if !strings.Contains(err.Error()+" "+own.Hint, word) {
			t.Errorf("%s: %q is missing in %v (hint: %s)", what, word, err, own.Hint)
		}
	}
}

// What is not a whole backup is refused before anything is written.
func TestBackupDamage(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	fill(t, s)
	good := backUp(t, s)
	open := func(data []byte) error {
		_, err := OpenBackup(t.Context(), bytes.NewReader(data))
		return err
	}
	if err := open(good); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(good); n += 1 + n/16 {
		wantRefused(t, fmt.Sprintf("cut to %d bytes", n), open(good[:n]), ca.KindMalformed)
	}
	for n := 0; n < len(good); n += 1 + len(good)/500 {
		bad := bytes.Clone(good)
		bad[n] ^= 0xff
		wantRefused(t, fmt.Sprintf("byte %d flipped", n), open(bad), ca.KindMalformed)
	}
	for n := range len(gzipStart) * 8 {
		bad := bytes.Clone(good)
		bad[n/8] ^= 1 << (n % 8)
		wantRefused(t, fmt.Sprintf("bit %d flipped", n), open(bad), ca.KindMalformed)
	}
	wantRefused(t, "last byte missing", open(good[:len(good)-1]), ca.KindMalformed, "damaged")
	wantRefused(t, "one byte more", open(append(bytes.Clone(good), 0)), ca.KindMalformed)
	wantRefused(t, "twice", open(append(bytes.Clone(good), good...)), ca.KindMalformed)
	wantRefused(t, "text", open([]byte("-----BEGIN CERTIFICATE-----")), ca.KindMalformed, "no backup", "fleetca backup")

	plain := unpack(t, good)
	wantRefused(t, "another tar", open(packTar(t, map[string]string{"README": "text"})), ca.KindMalformed, "no backup")
	for what, change := range map[string]struct{ from, to string }{
		"a row changed":      {`"CN=d1"`, `"CN=d3"`},
		"a file changed":     {"2 issuers", "3 issuers"},
		"the header changed": {`"v1.2.3"`, `"v1.2.4"`},
		"a count changed":    {`"devices": 2`, `"devices": 3`},
		"a hash changed":     {`"size": 9,`, `"size": 8,`},
	} {
		bad := bytes.Replace(plain, []byte(change.from), []byte(change.to), 1)
		if bytes.Equal(bad, plain) {
			t.Fatalf("%s: %s is not there", what, change.from)
		}
		wantRefused(t, what, open(pack(t, bad)), ca.KindMalformed, "damaged")
	}
}

// pack compresses an archive as Backup does.
func pack(t *testing.T, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	gz := gzip.NewWriter(&out)
	gz.Write(plain)
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func packTar(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	for name, text := range files {
		archive.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Typeflag: tar.TypeReg})
		archive.Write([]byte(text))
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return pack(t, out.Bytes())
}

// repack writes the backup of a store anew, under another header.
func repack(t *testing.T, s *Store, change func(h *BackupHeader)) []byte {
	t.Helper()
	var out bytes.Buffer
	err := s.db.snapshot(t.Context(), func(q querier) error {
		h, err := s.backupHeader(t.Context(), q, "v9.9.9")
		if err != nil {
			return err
		}
		change(h)
		return writeBackup(t.Context(), q, &out, h, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A backup that this program cannot understand is refused with what can.
func TestBackupOfOtherPrograms(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	fill(t, s)
	for what, c := range map[string]struct {
		change func(h *BackupHeader)
		word   string
	}{
		"newer schema": {func(h *BackupHeader) { h.Schema++; h.Migrations = append(h.Migrations, "x") }, "v9.9.9"},
		"newer format": {func(h *BackupHeader) { h.Version++ }, "v9.9.9"},
		"other engine": {func(h *BackupHeader) { h.Engine = "mysql" }, "v9.9.9"},
		"other schema": {func(h *BackupHeader) { h.Migrations[0] = "x" }, "program that made it"},
		"no schema":    {func(h *BackupHeader) { h.Schema, h.Migrations = 0, nil }, "no sense"},
	} {
		_, err := OpenBackup(t.Context(), bytes.NewReader(repack(t, s, c.change)))
		wantRefused(t, what, err, ca.KindMalformed, c.word)
	}
	b := openBackup(t, repack(t, s, func(h *BackupHeader) { h.Tables[0].Columns[0].Name = "other" }))
	to := emptySQLite(t)
	_, err := to.Restore(t.Context(), b, RestoreConfig{ID: someChange().Event.ID, Actor: "test"})
	wantRefused(t, "other columns", err, ca.KindMalformed, "columns")
	if version, err := to.SchemaVersion(t.Context()); version != 0 || err != nil {
		t.Errorf("schema version %d after a refusal, %v", version, err)
	}
}

// A backup of every schema there ever was is migrated forward.
func TestBackupOldSchemas(t *testing.T) {
	t.Parallel()
	testOldSchemas(t, emptySQLite)
}

func testOldSchemas(t *testing.T, fresh func(t *testing.T) *Store) {
	probe := fresh(t)
	steps, err := probe.db.migrations()
	if err != nil {
		t.Fatal(err)
	}
	for version := 1; version <= len(steps); version++ {
		s := fresh(t)
		if err := s.db.migrate(t.Context(), func(q tx) error {
			if err := s.applyMigrations(t.Context(), q, steps[:version]); err != nil {
				return err
			}
			_, err := q.exec(t.Context(), `INSERT INTO authority (id, created_at) VALUES (1, 42)`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		b := openBackup(t, backUp(t, s))
		to := emptySQLite(t)
		if _, err := to.Restore(t.Context(), b, RestoreConfig{ID: someChange().Event.ID, Actor: "test"}); err != nil {
			t.Fatal(err)
		}
		created, err := value[int64](t.Context(), to.db, `SELECT created_at FROM authority`)
		if now, _ := to.SchemaVersion(t.Context()); b.Schema != version || now != len(steps) || created != 42 || err != nil {
			t.Errorf("schema %d became %d, with %d, %v", b.Schema, now, created, err)
		}
	}
}

// A restore goes into an empty database, once; run again it finds what it did.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	fill(t, s)
	data := backUp(t, s)
	b := openBackup(t, data)
	c := RestoreConfig{ID: someChange().Event.ID, Actor: "test"}

	_, err := openTemp(t).Restore(t.Context(), b, c)
	wantRefused(t, "migrated database", err, enroll.KindConflict, "empty database", "nothing was changed")
	_, err = emptySQLite(t).Restore(t.Context(), b, RestoreConfig{ID: c.ID, Keep: []Keep{"everything"}})
	wantRefused(t, "unknown keep", err, ca.KindMalformed, "work-orders")
	_, err = openTemp(t).Backup(t.Context(), io.Discard, BackupConfig{})
	if err != nil {
		t.Error(err)
	}
	_, err = emptySQLite(t).Backup(t.Context(), io.Discard, BackupConfig{})
	wantRefused(t, "backup of nothing", err, ca.KindNotFound)

	early := emptySQLite(t)
	early.clock = func() time.Time { return time.Now().Add(-time.Hour) }
	_, err = early.Restore(t.Context(), b, c)
	wantRefused(t, "clock behind", err, ca.KindClock, "clock")

	to := emptySQLite(t)
	source := &changing{Reader: bytes.NewReader(data), second: bytes.NewReader(backUp(t, s))}
	b, err = OpenBackup(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	_, err = to.Restore(t.Context(), b, c)
	wantRefused(t, "changed after it was verified", err, ca.KindMalformed, "changed")

	b = openBackup(t, data) // the failed restore left nothing behind
	first, err := to.Restore(t.Context(), b, c)
	if err != nil {
		t.Fatal(err)
	}
	rows := fmt.Sprint(rowsOf(t, to))
	again, err := to.Restore(t.Context(), b, c)
	if err != nil || again.CRLNumber != first.CRLNumber || fmt.Sprint(rowsOf(t, to)) != rows {
		t.Errorf("run again: %+v, %v", again, err)
	}
	_, err = to.Restore(t.Context(), openBackup(t, backUp(t, s)), c)
	wantRefused(t, "another backup under the same id", err, enroll.KindConflict, "another backup")
	_, err = to.Restore(t.Context(), b, RestoreConfig{ID: someChange().Event.ID, Actor: "test"})
	wantRefused(t, "a second restore", err, enroll.KindConflict, "empty database")
}

// A changing source is another file when it is read a second time.
type changing struct {
	*bytes.Reader
	second *bytes.Reader
	seeks  int
}

func (c *changing) Seek(offset int64, whence int) (int64, error) {
	if c.seeks++; c.seeks == 2 {
		c.Reader = c.second
	}
	return c.Reader.Seek(offset, whence)
}

// I6, I11, I20: what may have been used since the backup is made unusable, or
// kept where that is asked for; and no restore gives out a CRL number of another.
func TestRestoreSettles_I20(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	fill(t, s)
	data := backUp(t, s)
	var numbers []int64
	for _, keep := range append([]Keep{""}, Keeps()...) {
		to := emptySQLite(t)
		c := RestoreConfig{ID: someChange().Event.ID, Actor: "test", Keep: []Keep{keep}}
		if keep == "" {
			c.Keep = nil
		}
		r, err := to.Restore(t.Context(), openBackup(t, data), c)
		if err != nil {
			t.Fatal(err)
		}
		order, err := to.WorkOrder(t.Context(), "order")
		if err != nil || (order.State == enroll.OrderOpen) != (keep == KeepWorkOrders) || order.Issued != 2 {
			t.Errorf("keep %q: %+v, %v", keep, order, err)
		}
		api, err := to.APITokenByHash(t.Context(), []byte("api"))
		if err != nil || api.Disabled == (keep == KeepAPITokens) {
			t.Errorf("keep %q: %+v, %v", keep, api, err)
		}
		fresh, err := to.EnrollmentTokenByHash(t.Context(), []byte("hash of fresh"))
		if err != nil || fresh.ExpiresAt.After(time.Now()) != (keep == KeepEnrollmentTokens) {
			t.Errorf("keep %q: %+v, %v", keep, fresh, err)
		}
		disabled, err := value[int64](t.Context(), to.db, `SELECT disabled FROM users`)
		if err != nil || (disabled == 0) != (keep == KeepUsers) {
			t.Errorf("keep %q: disabled %d, %v", keep, disabled, err)
		}
		maker, err := to.Manufacturer(t.Context(), "maker")
		if err != nil || (maker.State == enroll.ManufacturerActive) != (keep == KeepManufacturers) {
			t.Errorf("keep %q: %+v, %v", keep, maker, err)
		}
		for _, k := range Keeps() {
			if n, voided := r.Voided[k]; voided == (k == keep) || voided && n != 1 {
				t.Errorf("keep %q: %d of %s are voided", keep, n, k)
			}
		}
		// The request that a token was spent on before still has its answer (I5).
		again := &enroll.Claim{Device: &enroll.DeviceClaim{ID: "d1"}, Token: &enroll.TokenClaim{ID: "spent", DeviceID: "d1", RequestHash: make([]byte, 32)}}
		err = to.CheckClaim(t.Context(), again, ca.Holder{Kind: ca.HolderDevice, ID: "d1"}, "a key that nobody has")
		if _, ok := errors.AsType[*enroll.Replay](err); !ok {
			t.Errorf("keep %q: %v", keep, err)
		}
		for range 5 {
			draft, err := to.ReserveCRL(t.Context(), ca.CRLScope{IssuerID: "devices"}, ca.CRLKnown{})
			if err != nil || len(numbers) > 0 && draft.Number <= numbers[len(numbers)-1] {
				t.Fatalf("keep %q: CRL number %d after %v, %v", keep, draft.Number, numbers, err)
			}
			numbers = append(numbers, draft.Number)
		}
	}
}

// Numbers that are beyond the time already go on beyond all that were taken.
func TestRestoreNumbersBeyondTheClock_I11(t *testing.T) {
	t.Parallel()
	ahead := openAt(t, filepath.Join(t.TempDir(), "ahead.db"))
	fill(t, ahead)
	const number = int64(8e15)
	if err := ahead.db.update(t.Context(), func(q tx) error {
		_, err := q.exec(t.Context(), `UPDATE crl_numbers SET number = $1`, number)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	b := openBackup(t, backUp(t, ahead))
	to := emptySQLite(t)
	to.clock = func() time.Time { return b.At.Add(time.Hour) }
	r, err := to.Restore(t.Context(), b, RestoreConfig{ID: someChange().Event.ID, Actor: "test"})
	if err != nil || r.CRLNumber != number+time.Hour.Microseconds() {
		t.Errorf("%+v, %v", r, err)
	}
}

// What is handed in as a CRL must be one of the restored issuers'.
func TestRestoreForeignCRL(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	fill(t, s)
	data := backUp(t, s)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "other"}, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign}
	foreign, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(9), NextUpdate: time.Now()}, issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	to := emptySQLite(t)
	for what, der := range map[string][]byte{"garbage": []byte("no CRL"), "none of this authority": foreign} {
		_, err := to.Restore(t.Context(), openBackup(t, data), RestoreConfig{ID: someChange().Event.ID, Actor: "test", CRLs: [][]byte{der}})
		wantRefused(t, what, err, ca.KindMalformed, "nothing was restored")
	}
	if version, err := to.SchemaVersion(t.Context()); version != 0 || err != nil {
		t.Errorf("schema version %d after a refusal, %v", version, err)
	}
}

// A full disk under the backup is not said to be the database's.
func TestBackupOutputFull_I22(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	fill(t, s)
	_, err := s.Backup(t.Context(), fullDisk{}, BackupConfig{})
	if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ca.IsKind(enroll.KindUnavailable)) {
		t.Errorf("error is %v", err)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }
