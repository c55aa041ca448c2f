package ca_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kmsapi "go.step.sm/crypto/kms/apiv1"

	"github.com/fleetca/fleetca/ca"
)

var passphrase = []byte("correct horse battery staple")

// scratch is a folder for the whole run, and made the hierarchy in it, which
// is read-only: its key files take long to encrypt and to open.
var (
	scratch string
	made    = sync.OnceValue(func() *hierarchy {
		h, err := makeHierarchy(filepath.Join(scratch, "made"))
		if err != nil {
			panic(err)
		}
		return h
	})
)

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "fleetca-ca-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	kmsapi.Register("testkms", func(context.Context, kmsapi.Options) (kmsapi.KeyManager, error) { return testKMS{}, nil })
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// A hierarchy is what ca.Initialize made, in dir.
type hierarchy struct {
	*ca.Hierarchy
	dir     string
	issuers []ca.Issuer // with their keys in the test key store
	at      time.Time
}

func makeHierarchy(dir string) (*hierarchy, error) {
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		return nil, err
	}
	h := &hierarchy{dir: dir, at: time.Now()}
	var err error
	h.Hierarchy, err = ca.Initialize(context.Background(), ca.InitConfig{
		Dir: dir, RootKeyPath: filepath.Join(dir, "root.pem"), Passphrase: passphrase, Organization: "Fleet of Tests",
		Now: func() time.Time { return h.at },
	})
	if err != nil {
		return nil, err
	}
	h.issuers = slices.Clone(h.Issuers)
	for n, i := range h.issuers {
		if i.KeyURI == "" {
			continue
		}
		key, err := (ca.Keyring{Dir: dir, Passphrase: passphrase}).Open(context.Background(), i.KeyURI, i.Certificate.PublicKey)
		if err != nil {
			return nil, err
		}
		h.issuers[n].KeyURI = keepKey(key)
		h.issuers[n].StatusURLs = []string{"http://status.test"}
	}
	return h, nil
}

// testKMS is a key store in memory, under testkms:name=NAME.
type testKMS struct{ kmsapi.KeyManager }

var kept sync.Map // crypto.Signer by URI

func (testKMS) Close() error { return nil }

func (testKMS) CreateSigner(r *kmsapi.CreateSignerRequest) (crypto.Signer, error) {
	key, ok := kept.Load(r.SigningKey)
	if !ok {
		return nil, kmsapi.NotFoundError{Message: "no such key"}
	}
	return key.(crypto.Signer), nil
}

// keepKey puts a key into the test key store and returns its URI.
func keepKey(key crypto.Signer) string {
	uri := "testkms:name=" + rand.Text()
	kept.Store(uri, key)
	return uri
}

// A faultyKey signs wrongly while broken is set, as hardware with a fault does.
type faultyKey struct {
	crypto.Signer
	broken atomic.Bool
}

func (k *faultyKey) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.broken.Load() {
		digest = slices.Clone(digest)
		digest[0] ^= 1
	}
	return k.Signer.Sign(r, digest, opts)
}

// A clock is set by hand.
type clock struct{ nanos atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *clock) set(t time.Time)         { c.nanos.Store(t.UnixNano()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

// A fixture is an authority on a ledger in memory.
type fixture struct {
	testing.TB
	ctx    context.Context
	ca     *ca.Authority
	ledger *ledger
	clock  *clock
	root   *x509.Certificate
}

// newFixture opens an authority. A change sees the Config before.
func newFixture(t testing.TB, changes ...func(*ca.Config)) *fixture {
	t.Helper()
	f, err := openFixture(t, changes...)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func openFixture(t testing.TB, changes ...func(*ca.Config)) (*fixture, error) {
	h := made()
	f := &fixture{TB: t, ctx: t.Context(), ledger: newLedger(h.CRLs), clock: &clock{}, root: h.Root()}
	f.clock.set(h.at.Add(time.Minute))
	cfg := ca.Config{Issuers: slices.Clone(h.issuers), Ledger: f.ledger, Now: f.clock.now}
	for _, change := range changes {
		change(&cfg)
	}
	var err error
	f.ca, err = ca.Open(f.ctx, cfg)
	return f, err
}

// with returns a change of one issuer.
func with(id string, change func(*ca.Issuer)) func(*ca.Config) {
	return func(cfg *ca.Config) {
		for n := range cfg.Issuers {
			if cfg.Issuers[n].ID == id {
				change(&cfg.Issuers[n])
			}
		}
	}
}

// order returns an order for a fresh P-256 key, as enroll would write it.
func (f *fixture) order(profile string) ca.Order {
	f.Helper()
	p, err := ca.ProfileNamed("profile", profile)
	f.must(err)
	key := newKey(f)
	o := ca.Order{
		Profile: profile, Holder: ca.Holder{Kind: p.Holder, ID: profile + "-1"}, CommonName: profile + "-1",
		PublicKey: key.Public(), KeySHA256: keySHA256(f, key.Public()), Claim: func(ca.Certificate) any { return nil },
	}
	if profile == ca.ResponderProfile {
		o.IssuerID = "device"
	}
	if slices.Contains(p.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		o.CommonName, o.DNSNames = "mqtt.test", []string{"mqtt.test"}
	}
	return o
}

func (f *fixture) issue(o ca.Order) *ca.Certificate {
	f.Helper()
	cert, err := f.ca.Issue(f.ctx, o)
	f.must(err)
	return cert
}

func (f *fixture) publish(issuer string, scheduled bool) *ca.CRL {
	f.Helper()
	crl, err := f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: issuer}, scheduled)
	f.must(err)
	return crl
}

// verify verifies a certificate up to the root, for a usage, at the clock's time.
func (f *fixture) verify(cert *ca.Certificate, usages ...x509.ExtKeyUsage) error {
	f.Helper()
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: f.clock.now(), KeyUsages: usages}
	for _, c := range f.ca.Roots() {
		opts.Roots.AddCert(c)
	}
	for _, c := range f.ca.Chain(cert.IssuerID) {
		opts.Intermediates.AddCert(c)
	}
	_, err := f.parse(cert).Verify(opts)
	return err
}

func (f *fixture) parse(cert *ca.Certificate) *x509.Certificate {
	f.Helper()
	c, err := cert.X509()
	f.must(err)
	return c
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// wantKind fails unless err is of a kind, and about a field.
func wantKind(t testing.TB, err error, kind ca.Kind, field string) {
	t.Helper()
	e, ok := errors.AsType[*ca.Error](err)
	if !ok {
		t.Fatalf("the error is %v, not of kind %s", err, kind)
	}
	if e.Kind != kind || e.Field != field {
		t.Fatalf("the error is of kind %s about %q, want %s about %q: %v", e.Kind, e.Field, kind, field, err)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keySHA256(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// sign makes a CA certificate under a parent (nil: its own), for hierarchies
// that ca.Initialize would not make.
func sign(t testing.TB, template, parent *x509.Certificate, key, parentKey crypto.Signer) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent, parentKey = template, key
	}
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(time.Now().UnixNano())
	}
	template.BasicConstraintsValid = true
	if template.NotBefore.IsZero() {
		template.NotBefore, template.NotAfter = made().at.Add(-time.Hour), made().at.AddDate(1, 0, 0)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
