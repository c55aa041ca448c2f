package ca_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/fleetca/fleetca/ca"
)

// After a change the new passphrase opens every key and the old one none; a
// file that does not open stops it before anything is changed; a change that
// was interrupted between two files is finished by the next.
func TestChangePassphrase(t *testing.T) {
	dir := t.TempDir()
	h, err := ca.Initialize(t.Context(), ca.InitConfig{Dir: mkdirKeys(t, dir), RootKeyPath: filepath.Join(dir, "root.pem"), Passphrase: []byte("one")})
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{filepath.Join(dir, "keys", "device-issuer.pem"), filepath.Join(dir, "keys", "broker-issuer.pem")}
	opens := func(passphrase string) error {
		t.Helper()
		var errs []error
		for _, i := range h.Issuers[1:] {
			_, err := ca.Keyring{Dir: dir, Passphrase: []byte(passphrase)}.Open(t.Context(), i.KeyURI, i.Certificate.PublicKey)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	if err := ca.ChangePassphrase(append(paths, filepath.Join(dir, "missing.pem")), []byte("one"), []byte("two")); !errors.Is(err, ca.IsKind(ca.KindKey)) {
		t.Errorf("missing file: %v", err)
	}
	if err := ca.ChangePassphrase(paths, []byte("wrong"), []byte("two")); !errors.Is(err, ca.IsKind(ca.KindKey)) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if err := opens("one"); err != nil {
		t.Fatalf("a change that failed changed something: %v", err)
	}
	if err := ca.ChangePassphrase(paths[:1], []byte("one"), []byte("two")); err != nil { // interrupted after the first
		t.Fatal(err)
	}
	if err := ca.ChangePassphrase(paths, []byte("one"), []byte("two")); err != nil {
		t.Fatal(err)
	}
	if err := opens("two"); err != nil {
		t.Error(err)
	}
	if opens("one") == nil {
		t.Error("the old passphrase still opens")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "keys", "*.new")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func mkdirKeys(t *testing.T, dir string) string {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A root of one's own signs the issuers; what cannot be a root is refused with
// nothing written.
func TestInitializeOwnRoot(t *testing.T) {
	first := t.TempDir()
	rootKey := filepath.Join(first, "root.pem")
	h, err := ca.Initialize(t.Context(), ca.InitConfig{Dir: mkdirKeys(t, first), RootKeyPath: rootKey, Passphrase: []byte("one")})
	if err != nil {
		t.Fatal(err)
	}
	second := t.TempDir()
	own := ca.InitConfig{Dir: mkdirKeys(t, second), RootCertificate: h.Root(), RootKeyURI: "softkms:path=" + rootKey, RootPassphrase: []byte("one"), Passphrase: []byte("two")}
	got, err := ca.Initialize(t.Context(), own)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Root().Equal(h.Root()) || got.Issuers[1].Certificate.CheckSignatureFrom(h.Root()) != nil || len(got.CRLs) != 3 {
		t.Error("the issuers are not below the root that was given")
	}
	if got.Issuers[1].Certificate.NotAfter.After(h.Root().NotAfter) {
		t.Error("an issuer outlives its root")
	}
	third := mkdirKeys(t, t.TempDir())
	for name, change := range map[string]func(*ca.InitConfig){
		"an issuer, not a root": func(c *ca.InitConfig) { c.RootCertificate = h.Issuers[1].Certificate },
		"wrong passphrase":      func(c *ca.InitConfig) { c.RootPassphrase = []byte("wrong") },
		"another key": func(c *ca.InitConfig) {
			c.RootKeyURI = "softkms:path=" + filepath.Join(first, "keys", "device-issuer.pem")
		},
	} {
		cfg := own
		cfg.Dir = third
		change(&cfg)
		if _, err := ca.Initialize(t.Context(), cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if left, _ := filepath.Glob(filepath.Join(third, "keys", "*")); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}
