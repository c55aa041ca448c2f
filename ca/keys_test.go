package ca_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
)

// copyKeys copies the hierarchy's key files to a folder.
func copyKeys(t testing.TB, dir string) {
	t.Helper()
	if err := os.CopyFS(dir, os.DirFS(made().dir)); err != nil {
		t.Fatal(err)
	}
}

func TestKeyFilesAreEncryptedAndPrivate(t *testing.T) {
	t.Parallel()
	h := made()
	for _, file := range []string{"root.pem", "keys/device-issuer.pem", "keys/broker-issuer.pem"} {
		path := filepath.Join(h.dir, file)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "ENCRYPTED PRIVATE KEY" || len(rest) > 0 {
			t.Fatalf("%s holds %s", file, text)
		}
		if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			t.Errorf("%s is not encrypted", file)
		}
	}
}

func TestKeysThatDoNotOpenAreNamed(t *testing.T) {
	t.Parallel()
	h := made()
	device, public := h.Issuers[1].KeyURI, h.Issuers[1].Certificate.PublicKey
	for _, test := range []struct {
		name   string
		spoil  func(t *testing.T, path string)
		secret []byte
		want   string // in the error
	}{
		{"another passphrase", nil, []byte("hunter2"), "passphrase"},
		{"no passphrase", nil, nil, "password protected"},
		{"no file", func(t *testing.T, path string) { must(t, os.Remove(path)) }, passphrase, "is missing"},
		{"no PEM in it", func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("garbage"), 0o600)) }, passphrase, "does not open"},
		{"cut off", func(t *testing.T, path string) { must(t, os.Truncate(path, 200)) }, passphrase, "does not open"},
		{"a folder", func(t *testing.T, path string) { must(t, errors.Join(os.Remove(path), os.Mkdir(path, 0o700))) }, passphrase, "does not open"},
		{"a certificate", func(t *testing.T, path string) {
			must(t, os.WriteFile(path, []byte(ca.EncodeChain(h.Issuers[1].Certificate)), 0o600))
		}, passphrase, "does not open"},
		{"another issuer's key", func(t *testing.T, path string) {
			must(t, os.Rename(filepath.Join(filepath.Dir(path), "broker-issuer.pem"), path))
		}, passphrase, "is not the issuer certificate's"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			copyKeys(t, dir)
			if test.spoil != nil {
				test.spoil(t, filepath.Join(dir, "keys", "device-issuer.pem"))
			}
			_, err := ca.Keyring{Dir: dir, Passphrase: test.secret}.Open(t.Context(), device, public)
			wantKind(t, err, ca.KindKey, "")
			e, _ := errors.AsType[*ca.Error](err)
			if text := err.Error(); !strings.Contains(text, filepath.Join(dir, "keys", "device-issuer.pem")) || !strings.Contains(text, test.want) || e.Hint == "" {
				t.Errorf("the error says %q with hint %q", text, e.Hint)
			}
			if len(test.secret) > 0 && strings.Contains(err.Error(), string(test.secret)) {
				t.Error("I23: the error shows the passphrase")
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestKeyURIsThatAreNoneAreNamed(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{"", "keys/device-issuer.pem", "softkms", "nosuchkms:name=x", "pkcs11:id=1", "awskms:key-id=1;region=x", "tpmkms:name=x", "testkms:name=none", "softkms:", "softkms:path="} {
		_, err := ca.Keyring{Dir: t.TempDir(), Passphrase: passphrase}.Open(t.Context(), uri, made().Root().PublicKey)
		if wantKind(t, err, ca.KindKey, ""); !strings.Contains(err.Error(), uri) && !strings.Contains(err.Error(), "built without") {
			t.Errorf("%q: %v", uri, err)
		}
	}
}

// TestKeysOpenInFoldersOfAnyName: a key URI has characters of its own.
func TestKeysOpenInFoldersOfAnyName(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "my+data; 100%&path=x#é")
	copyKeys(t, dir)
	i := made().Issuers[1]
	_, err := ca.Keyring{Dir: dir, Passphrase: passphrase}.Open(t.Context(), i.KeyURI, i.Certificate.PublicKey)
	must(t, err)
	absolute := "softkms:path=" + filepath.Join(made().dir, "keys", "device-issuer.pem")
	_, err = ca.Keyring{Dir: "elsewhere", Passphrase: passphrase}.Open(t.Context(), absolute, i.Certificate.PublicKey)
	must(t, err)
}

// TestAnIssuerWhoseKeyDoesNotOpenIsDisabledAlone: it signs nothing, is named,
// and is tried again; the others sign. An authority without any key is none.
func TestAnIssuerWhoseKeyDoesNotOpenIsDisabledAlone(t *testing.T) {
	t.Parallel()
	const late = "testkms:name=late"
	var uri string
	f := newFixture(t, with("broker", func(i *ca.Issuer) { uri, i.KeyURI = i.KeyURI, late }))
	unusable := f.ca.Unusable()
	if err := unusable["broker"]; len(unusable) != 1 || err == nil || !strings.HasPrefix(err.Error(), "issuer broker: ") {
		t.Fatalf("unusable: %v", unusable)
	}
	_, err := f.ca.Issue(f.ctx, f.order("broker"))
	wantKind(t, err, ca.KindKey, "")
	_, err = f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "broker"}, true)
	wantKind(t, err, ca.KindKey, "")
	f.issue(f.order("device"))
	f.publish("device", true)
	f.ca.RetryKeys(f.ctx)
	if len(f.ca.Unusable()) != 1 {
		t.Error("a key that is still not there was found")
	}
	key, _ := kept.Load(uri)
	kept.Store(late, key)
	f.ca.RetryKeys(f.ctx)
	if got := f.ca.Unusable(); len(got) != 0 {
		t.Fatalf("unusable: %v", got)
	}
	f.issue(f.order("broker"))
	f.publish("broker", true)

	_, err = openFixture(t, with("broker", func(i *ca.Issuer) { i.KeyURI = "testkms:name=none" }), with("device", func(i *ca.Issuer) { i.KeyURI = "testkms:name=none" }))
	if wantKind(t, err, ca.KindKey, ""); !strings.HasPrefix(err.Error(), "issuer broker: ") {
		t.Errorf("the error says %q", err)
	}
}

func TestAKeyThatFailsItsSelfTestDoesNotOpen(t *testing.T) {
	t.Parallel()
	key := &faultyKey{Signer: newKey(t)}
	key.broken.Store(true)
	_, err := ca.Keyring{}.Open(t.Context(), keepKey(key), key.Public())
	if wantKind(t, err, ca.KindKey, ""); !strings.Contains(err.Error(), "self-test") {
		t.Errorf("the error says %q", err)
	}
}

func TestInitializeOverwritesNothing(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"root.pem", "keys/device-issuer.pem"} {
		dir := t.TempDir()
		path := filepath.Join(dir, file)
		must(t, errors.Join(os.Mkdir(filepath.Join(dir, "keys"), 0o700), os.WriteFile(path, []byte("mine"), 0o600)))
		_, err := ca.Initialize(t.Context(), ca.InitConfig{Dir: dir, RootKeyPath: filepath.Join(dir, "root.pem"), Passphrase: passphrase})
		if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", file, err)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != "mine" {
			t.Errorf("%s holds %q, %v", file, text, err)
		}
		if files, err := filepath.Glob(filepath.Join(dir, "*.pem")); err != nil || len(files) > 1-strings.Count(file, "/") {
			t.Errorf("%s: stray keys were left: %v, %v", file, files, err)
		}
	}
}

func TestInitializeRefuses(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]ca.InitConfig{
		"no passphrase":              {Organization: "x"},
		"an organization too long":   {Organization: strings.Repeat("x", 65), Passphrase: passphrase},
		"a folder that is not there": {Passphrase: passphrase},
	} {
		cfg.Dir = filepath.Join(t.TempDir(), "none")
		cfg.RootKeyPath = filepath.Join(cfg.Dir, "root.pem")
		if _, err := ca.Initialize(context.Background(), cfg); err == nil {
			t.Errorf("%s: made", name)
		}
		if _, err := os.Stat(cfg.Dir); err == nil {
			t.Errorf("%s: something was written", name)
		}
	}
}

func TestI16InitializeMakesARootAndIssuersWithTheirFirstCRLs(t *testing.T) {
	t.Parallel()
	h := made()
	if len(h.Issuers) != 3 || len(h.CRLs) != 3 {
		t.Fatalf("%d issuers, %d CRLs", len(h.Issuers), len(h.CRLs))
	}
	const sign = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	for n, i := range h.Issuers {
		c := i.Certificate
		pathLen := 0
		if i.Purpose == ca.PurposeRoot {
			pathLen = 2
		}
		if !c.IsCA || c.KeyUsage != sign || c.MaxPathLen != pathLen || len(c.SerialNumber.Bytes()) != 20 || i.State != ca.IssuerActive || len(i.StatusURLs) != 0 {
			t.Errorf("%s: %+v", i.ID, i)
		}
		if (i.KeyURI == "") != (i.Purpose == ca.PurposeRoot) {
			t.Errorf("%s: key URI %q", i.ID, i.KeyURI)
		}
		if err := c.CheckSignatureFrom(h.Root()); err != nil {
			t.Errorf("%s: %v", i.ID, err)
		}
		if slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
			t.Errorf("%s may sign OCSP answers for the root (RFC 6960, 4.2.2.2)", i.ID)
		}
		crl, err := x509.ParseRevocationList(h.CRLs[n].DER)
		must(t, err)
		if err := crl.CheckSignatureFrom(c); err != nil || crl.Number.Int64() != 1 || h.CRLs[n].Number != 1 || len(crl.RevokedCertificateEntries) != 0 || !h.CRLs[n].Scheduled || h.CRLs[n].IssuerID != i.ID {
			t.Errorf("first CRL of %s: %+v, %v", i.ID, h.CRLs[n], err)
		}
	}
}
