package store

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
	"github.com/fleetca/fleetca/store/storetest"
)

// fill puts at least a row into every table, with every kind of value.
func fill(t *testing.T, s *Store) {
	t.Helper()
	ctx, now := t.Context(), time.Now()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	crl := func(issuer string, number int64) *ca.CRL {
		return &ca.CRL{IssuerID: issuer, Number: number, ThisUpdate: now, NextUpdate: now.Add(time.Hour), Scheduled: true, DER: []byte{0, 1, 255, byte(number)}}
	}
	withAnswer, emptyAnswer := someChange(), someChange()
	withAnswer.Idempotency = &enroll.Idempotency{Scope: "a b", Key: "k", RequestHash: make([]byte, 32), Answer: []byte{0, 254}}
	emptyAnswer.Idempotency = &enroll.Idempotency{Scope: "a b", Key: "l", RequestHash: make([]byte, 32), Answer: []byte{}}
	enrolled := newIssuance("d1")
	enrolled.Claim.(*enroll.Claim).Token = &enroll.TokenClaim{ID: "spent", DeviceID: "d1", RequestHash: make([]byte, 32)}
	enrolled.Claim.(*enroll.Claim).IDevID = &enroll.IDevIDClaim{Manufacturer: "maker", DeviceID: "d1", AddedAt: now, RequestHash: make([]byte, 32)}
	steps := []func() error{
		func() error { return s.MarkTestData(ctx, someChange()) },
		func() error {
			return s.CreateIssuers(ctx, []ca.Issuer{
				{ID: "root", Purpose: ca.PurposeRoot, State: ca.IssuerActive, Certificate: cert, Parent: "root"},
				{ID: "devices", Purpose: ca.PurposeDevice, State: ca.IssuerActive, Certificate: cert, Parent: "root", KeyURI: "softkms:path=keys/d.pem"},
			}, []*ca.CRL{crl("root", 1), crl("devices", 7)}, withAnswer)
		},
		func() error {
			return s.CreateWorkOrder(ctx, enroll.WorkOrder{ID: "order", Product: "sensor \u2028 <\"é\\> \U0001f512", Quantity: 1 << 40, State: enroll.OrderOpen, CreatedAt: now}, emptyAnswer)
		},
		func() error {
			return s.CreateProfileVersion(ctx, enroll.StoredProfile{Name: "pump", Version: 1, Body: "{}", Widens: true, Actor: "user:u", At: now}, 0, 10, someChange())
		},
		func() error {
			for _, id := range []string{"spent", "fresh"} {
				if err := s.CreateEnrollmentToken(ctx, enroll.EnrollmentToken{ID: id, Hash: []byte("hash of " + id), WorkOrder: "order", Uses: 1,
					ExpiresAt: now.Add(time.Hour), CreatedAt: now}, someChange()); err != nil {
					return err
				}
			}
			return nil
		},
		func() error {
			return s.CreateManufacturer(ctx, *(&enroll.Manufacturer{ID: "maker", State: enroll.ManufacturerActive, Certificate: cert, CreatedAt: now}).Describe(), someChange())
		},
		func() error {
			_, err := s.AddManifest(ctx, "maker", []enroll.ManifestEntry{{DeviceID: "d1", SubjectSerial: "é 1", WorkOrder: "order", AddedAt: now}, {DeviceID: "d3", SHA256: "ab", AddedAt: now}}, someChange())
			return err
		},
		func() error { return s.Commit(ctx, []ca.Issuance{enrolled})[0] },
		func() error { return s.Commit(ctx, []ca.Issuance{newIssuance("d2")})[0] },
		func() error {
			return s.CreateAPIToken(ctx, enroll.APIToken{ID: "t", Name: "n", Role: enroll.RoleAdmin, Hash: []byte("api"), CreatedAt: now, ExpiresAt: now.Add(time.Hour)}, someChange())
		},
		func() error {
			return s.db.update(ctx, func(q tx) error {
				if _, err := q.exec(ctx, `INSERT INTO users (name, role, password_hash, disabled, created_at, changed_at, last_login_at)
					VALUES ('u', 'admin', 'hash', 0, 1, 1, 0)`); err != nil {
					return err
				}
				if _, err := q.exec(ctx, `INSERT INTO sessions (id, hash, user_name, address, agent, second_factor, created_at, seen_at, expires_at)
					VALUES ('s', $1, 'u', 'a', 'g', 0, 1, 1, 2)`, []byte("session")); err != nil {
					return err
				}
				_, err := q.exec(ctx, `INSERT INTO login_failures (subject, failures, until, forget_at) VALUES ('user:u', 1, 2, 3)`)
				return err
			})
		},
		func() error {
			return s.CreateBroker(ctx, enroll.Broker{ID: "b", URL: "mqtts://b:1", Kind: "k", Status: enroll.BrokerRegistered, CreatedAt: now}, someChange())
		},
		func() error { return s.AnnounceDrivers(ctx, "host:/data", []string{"b"}, now) },
		func() error {
			return s.SaveVerification(ctx, enroll.Verification{ID: "v", Broker: "b", At: now, Report: &mqtts.Report{Verdict: mqtts.VerdictPass}}, someChange())
		},
		func() error {
			return s.CreateRotation(ctx, enroll.Rotation{ID: "rot", Broker: "b", State: enroll.RotationRunning, At: now}, someChange(enroll.Job{Kind: enroll.JobRotation, Subject: "rot"}))
		},
		func() error {
			_, err := s.RevokeDevice(ctx, enroll.Revocation{ID: "rev", Device: "d1", Reason: ca.ReasonKeyCompromise, State: enroll.RevocationRunning, At: now},
				someChange(enroll.Job{Kind: enroll.JobRevocation, Subject: "rev"}, enroll.Job{Kind: enroll.JobDisconnect, Subject: "d1", After: time.Hour}))
			return err
		},
		func() error {
			return s.CreateBulk(ctx, enroll.BulkResult{ID: "bulk", Action: enroll.BulkHold, State: enroll.BulkRunning, Total: 2, At: now}, []string{"d1", "d2"}, someChange())
		},
		func() error {
			return s.SaveRefusals(ctx, []enroll.OrderRefusals{{WorkOrder: "order", Counts: []enroll.RefusalCount{{Kind: ca.KindWeakKey, Count: 3, LastAt: now}},
				Last: []enroll.RefusedUnit{{ID: "r1", Kind: ca.KindWeakKey, Message: "m", At: now}}}})
		},
		func() error {
			return s.AddCrossCertificates(ctx, []ca.CrossCertificate{{Root: "root", By: "root", Certificate: cert}}, someChange())
		},
		func() error {
			return s.SaveApproval(ctx, enroll.Approval{Root: "root", Step: enroll.StepDrop, Actor: "a", Reason: "é", At: now}, someChange())
		},
		func() error { return s.CountFleet(ctx, now) },
		func() error {
			return s.RecordEvent(ctx, someChange(enroll.Job{Kind: enroll.JobCRL, Subject: "device:d1"}, enroll.Job{Kind: enroll.JobScheduledCRL}))
		},
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
}

// pendingWork is what fill leaves to be done, but for what the clock starts.
var pendingWork = []string{"disconnect d1", "publish-crl device:d1", "revocation rev", "rotation rot"}

// backUp returns a backup.
func backUp(t *testing.T, s *Store) []byte {
	t.Helper()
	var out bytes.Buffer
	_, err := s.Backup(t.Context(), &out, BackupConfig{Program: "v1.2.3", Files: func(issuers []ca.Issuer) ([]BackupFile, error) {
		return []BackupFile{{Name: "keys/d.pem", Data: fmt.Appendf(nil, "%d issuers", len(issuers))}, {Name: "empty"}}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func openBackup(t *testing.T, data []byte) *Backup {
	t.Helper()
	b, err := OpenBackup(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rowsOf returns every row of every table as text, and the background work.
func rowsOf(t *testing.T, s *Store) map[string][]string {
	t.Helper()
	tables, err := backupTables(t.Context(), s.db, s.db)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	read := func(table BackupTable, text string) {
		rows, err := collect(t.Context(), s.db, func(row scanner) (string, error) {
			values, err := table.scanRow(row)
			return fmt.Sprintf("%#v", values), err
		}, text)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(rows)
		all[table.Name] = rows
	}
	for _, table := range tables {
		read(table, table.selectAll())
	}
	read(waitingJobs, selectWaitingJobs)
	return all
}

// emptyStore opens a database that was never migrated.
func emptyStore(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func emptySQLite(t *testing.T) *Store {
	t.Helper()
	return emptyStore(t, filepath.Join(t.TempDir(), "restored.db"))
}

// A backup of either engine restores into either, row by row.
func TestBackupRestore_I20(t *testing.T) {
	t.Parallel()
	t.Run("SQLite to SQLite", func(t *testing.T) {
		t.Parallel()
		testBackupRestore(t, openTemp(t), emptySQLite(t))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		server := storetest.StartPostgres(t)
		for name, run := range map[string]func(t *testing.T){
			"from SQLite": func(t *testing.T) { testBackupRestore(t, openTemp(t), emptyStore(t, server.NewDatabase(t))) },
			"to SQLite":   func(t *testing.T) { testBackupRestore(t, openAt(t, server.NewDatabase(t)), emptySQLite(t)) },
			"to PostgreSQL": func(t *testing.T) {
				testBackupRestore(t, openAt(t, server.NewDatabase(t)), emptyStore(t, server.NewDatabase(t)))
			},
			"under load": func(t *testing.T) { testBackupUnderLoad(t, openAt(t, server.NewDatabase(t))) },
			"old schema": func(t *testing.T) {
				testOldSchemas(t, func(t *testing.T) *Store { return emptyStore(t, server.NewDatabase(t)) })
			},
		} {
			t.Run(name, run)
		}
	})
}

func testBackupRestore(t *testing.T, from, to *Store) {
	fill(t, from)
	before := rowsOf(t, from)
	data := backUp(t, from)
	if after := rowsOf(t, from); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("the backup changed something")
	}
	b := openBackup(t, data)
	for table, rows := range before {
		if len(rows) == 0 || b.Rows[table] != int64(len(rows)) {
			t.Errorf("table %s has %d rows, the backup says %d: fill must put some in", table, len(rows), b.Rows[table])
		}
	}
	if b.Engine != from.db.name() || b.Program != "v1.2.3" || len(b.Files) != 2 || string(b.Files[0].Data) != "2 issuers" || b.Files[1].Name != "empty" {
		t.Errorf("%+v", b)
	}
	r, err := to.Restore(t.Context(), b, RestoreConfig{ID: someChange().Event.ID, Actor: "local:test", Keep: Keeps()})
	if err != nil {
		t.Fatal(err)
	}
	after := rowsOf(t, to)
	for _, table := range []string{"crl_numbers", "crls", "events"} {
		delete(before, table)
	}
	before["broker_drivers"] = nil // work would wait for servers of before
	for table, rows := range before {
		if !slices.Equal(rows, after[table]) {
			t.Errorf("table %s was\n%s\nand is\n%s", table, strings.Join(rows, "\n"), strings.Join(after[table], "\n"))
		}
	}
	if version, err := to.SchemaVersion(t.Context()); err != nil || version < b.Schema {
		t.Errorf("schema version %d, %v", version, err)
	}
	checkRestoredCRLs(t, to, r)
	checkRestoreEvent(t, from, to, r)
	checkWorkResumes(t, to)
}

// checkRestoredCRLs: no CRL of before is served, and the next one's number is
// beyond all; the root's, which is signed elsewhere, stays.
func checkRestoredCRLs(t *testing.T, to *Store, r *Restored) {
	t.Helper()
	if _, err := to.LatestCRL(t.Context(), ca.CRLScope{IssuerID: "devices"}); !errors.Is(err, ca.IsKind(ca.KindNotFound)) {
		t.Errorf("a CRL of before is served: %v", err)
	}
	if crl, err := to.LatestCRL(t.Context(), ca.CRLScope{IssuerID: "root"}); err != nil || crl.Number != 1 {
		t.Errorf("the root's CRL: %+v, %v", crl, err)
	}
	draft, err := to.ReserveCRL(t.Context(), ca.CRLScope{IssuerID: "devices"}, ca.CRLKnown{})
	if err != nil || draft.Number <= r.CRLNumber || r.CRLNumber < time.Now().Add(-time.Minute).UnixMicro() || len(draft.Entries) != 1 {
		t.Errorf("%+v, %v", draft, err)
	}
}

// checkRestoreEvent: the trail is as it was, and one event longer (I19).
func checkRestoreEvent(t *testing.T, from, to *Store, r *Restored) {
	t.Helper()
	old, _, err := from.Events(t.Context(), enroll.EventFilter{}, enroll.Page{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	all, _, err := to.Events(t.Context(), enroll.EventFilter{}, enroll.Page{Limit: 100})
	if err != nil || len(all) != len(old)+1 || all[0].Action != "authority.restore" || all[0].Actor != "local:test" || all[1].ID != old[0].ID {
		t.Fatalf("%d events, were %d; %v", len(all), len(old), err)
	}
	if !r.LastEvent.Equal(old[0].At.Truncate(time.Microsecond)) || !strings.Contains(string(all[0].Detail), r.BackupSHA256) {
		t.Errorf("%+v, %s", r, all[0].Detail)
	}
}

// checkWorkResumes: what waited is done after the restore.
func checkWorkResumes(t *testing.T, to *Store) {
	t.Helper()
	ran := make(chan string, 16)
	w := JobWorkers{Handlers: handlers{}}
	for _, kind := range []enroll.JobKind{enroll.JobCRL, enroll.JobDisconnect, enroll.JobRevocation, enroll.JobRotation, enroll.JobScheduledCRL} {
		w.Handlers[kind] = func(_ context.Context, subject string) error {
			ran <- string(kind) + " " + subject
			return nil
		}
	}
	startJobs(t, to, w)
	var got []string
	for range pendingWork {
		got = append(got, receive(t, ran, 10*time.Second))
	}
	slices.Sort(got)
	if !slices.Equal(got, pendingWork) {
		t.Errorf("resumed %q, want %q", got, pendingWork)
	}
}

func TestBackupUnderLoad(t *testing.T) {
	t.Parallel()
	testBackupUnderLoad(t, openTemp(t))
}

// A backup taken while devices enroll is the state after some commit.
func testBackupUnderLoad(t *testing.T, s *Store) {
	fill(t, s)
	var n atomic.Int64
	stop := make(chan bool)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := newIssuance(fmt.Sprintf("load-%d", n.Add(1)))
				i.Claim.(*enroll.Claim).Event.Subject = "device:" + i.Certificate.Holder.ID
				if err := s.Commit(context.Background(), []ca.Issuance{i})[0]; err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	goOn := func() {
		for begun := n.Load(); n.Load() < begun+100 && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
	}
	var backups [][]byte
	for range 3 {
		goOn()
		backups = append(backups, backUp(t, s))
	}
	goOn()
	close(stop)
	workers.Wait()
	var last int64
	for _, data := range backups {
		b := openBackup(t, data)
		if b.Rows["certificates"] <= last || b.Rows["certificates"] >= n.Load()+2 {
			t.Errorf("%d certificates after %d of %d: the load was not under way", b.Rows["certificates"], last, n.Load()+2)
		}
		last = b.Rows["certificates"]
		to := emptySQLite(t)
		if _, err := to.Restore(t.Context(), b, RestoreConfig{ID: someChange().Event.ID, Actor: "test"}); err != nil {
			t.Fatal(err)
		}
		for what, query := range map[string]string{
			"certificates without device, key or event": `SELECT COUNT(*) FROM certificates c WHERE NOT EXISTS (SELECT 1 FROM devices d WHERE d.id = c.holder_id)
				OR NOT EXISTS (SELECT 1 FROM keys k WHERE k.sha256 = c.key_sha256)
				OR holder_id LIKE 'load-%' AND NOT EXISTS (SELECT 1 FROM events e WHERE e.subject = 'device:' || c.holder_id)`,
			"devices without certificate":      `SELECT COUNT(*) FROM devices d WHERE NOT EXISTS (SELECT 1 FROM certificates c WHERE d.id = c.holder_id)`,
			"devices that no order counts":     `SELECT (SELECT COUNT(*) FROM devices) - (SELECT issued FROM work_orders)`,
			"certificates without idempotency": `SELECT (SELECT COUNT(*) FROM certificates) - (SELECT COUNT(*) FROM idempotency WHERE serial <> '')`,
		} {
			if wrong, err := value[int64](t.Context(), to.db, query); err != nil || wrong != 0 {
				t.Errorf("%d %s, %v", wrong, what, err)
			}
		}
	}
}

// unpack returns a backup's archive, uncompressed.
func unpack(t *testing.T, data []byte) []byte {
	t.Helper()
	gz, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(gz)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// Anybody can look into a backup with tar.
func TestBackupIsTar(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	fill(t, s)
	archive := tar.NewReader(bytes.NewReader(unpack(t, backUp(t, s))))
	var names []string
	for {
		entry, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, entry.Name)
	}
	for _, want := range []string{"backup.json", "rows/devices/000000.ndjson", "rows/jobs/000000.ndjson", "files/keys/d.pem", "manifest.json"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing in %v", want, names)
		}
	}
}

// Rows larger than a part, and many parts of one table.
func TestBackupParts(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	fill(t, s)
	for n := range 5 {
		c := someChange()
		c.Event.Detail = fmt.Appendf(nil, `"%s"`, strings.Repeat(string(rune('a'+n)), 1<<20+n))
		if n == 3 {
			c.Event.Detail = fmt.Appendf(nil, `"%s"`, strings.Repeat("f", 2*backupPart))
		}
		if err := s.RecordEvent(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	data := backUp(t, s)
	if !bytes.Contains(unpack(t, data), []byte("rows/events/000001.ndjson")) {
		t.Error("the events are not in parts")
	}
	to := emptySQLite(t)
	if _, err := to.Restore(t.Context(), openBackup(t, data), RestoreConfig{ID: someChange().Event.ID, Actor: "test"}); err != nil {
		t.Fatal(err)
	}
	read := func(s *Store) []string {
		all, err := collect(t.Context(), s.db, func(row scanner) (canonical []byte, err error) {
			err = row.Scan(&canonical)
			return canonical, err
		}, selectEvent+` WHERE action <> $1 ORDER BY id`, actionRestore)
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, canonical := range all {
			texts = append(texts, string(canonical))
		}
		return texts
	}
	if !slices.Equal(read(s), read(to)) {
		t.Error("an event was lost or changed")
	}
}
