package main

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store/storetest"
)

// crlOf fetches an issuer's CRL from the status listener.
func (s *testServer) crlOf(t *testing.T, issuer string) *x509.RevocationList {
	t.Helper()
	resp, err := http.Get("http://" + s.status + "/crl/" + issuer + ".crl")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	der, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v", resp.StatusCode, err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// crlWith waits for a CRL that lists a serial number.
func (s *testServer) crlWith(t *testing.T, serial string) *x509.RevocationList {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		list := s.crlOf(t, "device")
		if slices.Contains(serialsOn(list), serial) {
			return list
		}
		if time.Now().After(deadline) {
			t.Fatalf("CRL %v does not list %s", list.Number, serial)
		}
	}
}

func serialsOn(list *x509.RevocationList) []string {
	var all []string
	for _, e := range list.RevokedCertificateEntries {
		all = append(all, strings.ToLower(e.SerialNumber.Text(16)))
	}
	return all
}

// enrolled enrolls a device, and returns its serial number.
func enrolled(t *testing.T, c *restClient, request map[string]any) string {
	t.Helper()
	_, request["csr"] = newCSR(t, request["deviceId"].(string))
	var e struct {
		Certificate struct{ SerialNumber string }
	}
	c.send(t, "POST", "/enrollments", request).into(t, http.StatusCreated, &e)
	return e.Certificate.SerialNumber
}

// refusedAs sends an enrollment that must be refused as a kind of problem.
func refusedAs(t *testing.T, c *restClient, kind string, request map[string]any) {
	t.Helper()
	_, request["csr"] = newCSR(t, request["deviceId"].(string))
	if a := c.send(t, "POST", "/enrollments", request); a.status/100 != 4 || !bytes.Contains(a.body, []byte("urn:fleetca:problem:"+kind)) {
		t.Errorf("%d %s, want %s", a.status, a.body, kind)
	}
}

func revoke(t *testing.T, c *restClient, device string) {
	t.Helper()
	if a := c.send(t, "POST", "/devices/"+device+"/revocation", map[string]any{"reason": "keyCompromise"}); a.status != http.StatusAccepted {
		t.Fatalf("revoke %s: %d %s", device, a.status, a.body)
	}
}

// before is what a server did around its backup.
type before struct {
	*testServer
	backup      string
	crls        string   // file with the last CRLs that a broker has
	secrets     []string // that no backup may hold
	spent, open string   // enrollment tokens: spent after the backup, and never
	serials     []string // of all devices; the first is revoked after the backup
	number      int64    // highest CRL number published
}

// liveBefore runs a server, backs it up as it runs, goes on, and kills it.
func liveBefore(t *testing.T, database string) *before {
	t.Helper()
	b := &before{testServer: newTestServerOn(t, database), backup: filepath.Join(t.TempDir(), "older.backup")}
	admin, nobody := b.rest(t, "admin"), b.rest(t, "")
	var order enroll.WorkOrder
	admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO-1", "product": "sensor", "quantity": 10}).into(t, http.StatusCreated, &order)
	for _, token := range []*string{&b.spent, &b.open} {
		var made enroll.EnrollmentToken
		admin.send(t, "POST", "/work-orders/WO-1/tokens", map[string]any{}).into(t, http.StatusCreated, &made)
		*token = made.Token
	}
	b.serials = append(b.serials, enrolled(t, admin, map[string]any{"deviceId": "early", "workOrder": "WO-1"}))
	out := mustRun(t, "backup", "--data", b.dir, "--database", database, "--out", b.backup)
	if info, err := os.Stat(b.backup); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	passphrase, err := os.ReadFile(filepath.Join(b.dir, "passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	b.secrets = append(b.secrets, strings.TrimSpace(string(passphrase)), admin.token, b.spent, b.open)
	for _, secret := range b.secrets {
		if strings.Contains(out, secret) {
			t.Error("a secret is in the output")
		}
	}

	b.serials = append(b.serials, enrolled(t, nobody, map[string]any{"deviceId": "late", "token": b.spent}))
	revoke(t, admin, "early")
	b.crlWith(t, b.serials[0])
	revoke(t, admin, "late")
	list := b.crlWith(t, b.serials[1])
	b.number = list.Number.Int64()
	bundle := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list.Raw})
	b.crls = filepath.Join(t.TempDir(), "crl.pem")
	if err := os.WriteFile(b.crls, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	b.kill()
	return b
}

// restored restores the backup, and starts a server on it.
func (b *before) restored(t *testing.T, database string, args ...string) (*testServer, string) {
	t.Helper()
	s := &testServer{dir: filepath.Join(t.TempDir(), "data"), database: database}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "passphrase"), []byte(b.secrets[0]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := mustRun(t, append([]string{"restore", "--from", b.backup, "--data", s.dir, "--database", database}, args...)...)
	s.people, s.machines, s.status, s.mqtts = freePort(t), freePort(t), freePort(t), freePort(t)
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	return s, out
}

// I20: after an older backup was restored no serial number, no CRL number and
// no token is used a second time.
func TestRestoreOlderBackup_I20(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		b := liveBefore(t, "")
		t.Run("without CRL", func(t *testing.T) { testRestoredServer(t, b, "", false) })
		t.Run("with CRL", func(t *testing.T) { testRestoredServer(t, b, "", true) })
		t.Run("secrets", func(t *testing.T) { checkSecrets(t, b) })
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		server := storetest.StartPostgres(t)
		b := liveBefore(t, server.NewDatabase(t))
		t.Run("to SQLite", func(t *testing.T) { testRestoredServer(t, b, "", false) })
		t.Run("to PostgreSQL", func(t *testing.T) { testRestoredServer(t, b, server.NewDatabase(t), true) })
	})
}

func testRestoredServer(t *testing.T, b *before, database string, withCRL bool) {
	args := []string{}
	if withCRL {
		args = []string{"--crl", b.crls}
	}
	s, out := b.restored(t, database, args...)
	for _, want := range []string{"2 enrollment tokens", "1 work orders", "1 api tokens", "keys open", "1 devices"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	first := s.crlOf(t, "device")
	if first.Number.Int64() <= b.number || s.crlOf(t, "broker").Number.Int64() <= b.number {
		t.Errorf("CRL number %v after %d", first.Number, b.number)
	}
	if got := slices.Contains(serialsOn(first), b.serials[0]); got != withCRL {
		t.Errorf("revoked after the backup, and on the CRL: %v", got)
	}
	if strings.Contains(out, "serial numbers on those CRLs are not in the backup") != withCRL { // late's
		t.Errorf("of what the CRL lists and the backup does not have:\n%s", out)
	}

	old := s.rest(t, "")
	refusedAs(t, old, "token-expired", map[string]any{"deviceId": "again", "token": b.spent})
	refusedAs(t, old, "token-expired", map[string]any{"deviceId": "again", "token": b.open})
	old.token = b.secrets[1]
	if a := old.send(t, "GET", "/devices", nil); a.status != http.StatusUnauthorized {
		t.Errorf("a token of before: %d", a.status)
	}
	admin := s.rest(t, "admin")
	refusedAs(t, admin, "work-order-closed", map[string]any{"deviceId": "again", "workOrder": "WO-1"})

	var order enroll.WorkOrder
	admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO-2", "product": "sensor", "quantity": 5}).into(t, http.StatusCreated, &order)
	serial := enrolled(t, admin, map[string]any{"deviceId": "new", "workOrder": "WO-2"})
	if slices.Contains(b.serials, serial) {
		t.Errorf("serial number %s is used again", serial)
	}
	revoke(t, admin, "new")
	if next := s.crlWith(t, serial); next.Number.Cmp(first.Number) <= 0 {
		t.Errorf("CRL number %v after %v", next.Number, first.Number)
	}
	var events struct {
		Items []enroll.Event
	}
	admin.send(t, "GET", "/events?action=authority.restore", nil).into(t, http.StatusOK, &events)
	if len(events.Items) != 1 || !strings.HasPrefix(events.Items[0].Actor, "local:") {
		t.Errorf("%+v", events.Items)
	}
}

// checkSecrets looks for secrets in the backup, packed and unpacked, and in
// the database that it makes.
func checkSecrets(t *testing.T, b *before) {
	key, err := os.ReadFile(filepath.Join(b.dir, "server", "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	secrets := append([]string{"BEGIN PRIVATE KEY", "BEGIN EC PRIVATE KEY", strings.Split(string(key), "\n")[1]}, b.secrets...)
	packed, err := os.ReadFile(b.backup)
	if err != nil {
		t.Fatal(err)
	}
	gz, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(gz)
	if err != nil {
		t.Fatal(err)
	}
	all := [][]byte{packed, plain}
	dir := filepath.Join(t.TempDir(), "data")
	mustRun(t, "restore", "--from", b.backup, "--data", dir)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all = append(all, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range all {
		for _, secret := range secrets {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%.12s... is in the backup", secret)
			}
		}
	}
	if !bytes.Contains(plain, []byte("BEGIN ENCRYPTED PRIVATE KEY")) {
		t.Error("the keys are not in the backup")
	}
}

// I2: a restore that was killed anywhere is run again to its end.
func TestRestoreKilled_I2(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustRun(t, "init", "--data", filepath.Join(dir, "data"))
	backup := filepath.Join(dir, "a.backup")
	mustRun(t, "backup", "--data", filepath.Join(dir, "data"), "--out", backup)
	t.Run("SQLite", func(t *testing.T) { testRestoreKilled(t, backup, "") })
	t.Run("PostgreSQL", func(t *testing.T) { testRestoreKilled(t, backup, storetest.StartPostgres(t).NewDatabase(t)) })
}

func testRestoreKilled(t *testing.T, backup, database string) {
	dir := filepath.Join(t.TempDir(), "data")
	args := []string{"restore", "--from", backup, "--data", dir, "--database", database}
	begun := time.Now()
	mustRun(t, "backup", "verify", backup) // how long a process takes at least
	least := time.Since(begun) / 2
	done := false
	for n := 0; n < 10 && !done; n++ {
		cmd := program(t.Context(), args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(least + time.Duration(n)*15*time.Millisecond)
		cmd.Process.Kill()
		done = cmd.Wait() == nil
		_, marker := os.Stat(filepath.Join(dir, ".restore"))
		_, keys := os.Stat(filepath.Join(dir, "keys"))
		done = done || marker != nil && keys == nil // killed as it reported
	}
	if !done {
		mustRun(t, args...)
	}
	again := filepath.Join(t.TempDir(), "again.backup")
	mustRun(t, "user", "token", "--role", "auditor", "--data", dir, "--database", database)
	mustRun(t, "backup", "--data", dir, "--database", database, "--out", again)
	var got struct{ Rows map[string]int64 }
	if err := json.Unmarshal([]byte(mustRun(t, "backup", "verify", "--json", again)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Rows["issuers"] != 3 || got.Rows["events"] != 3 { // init, restore, token
		t.Errorf("%v", got.Rows)
	}
}
