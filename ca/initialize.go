package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"
)

// Lifetimes of what InitConfig makes.
const (
	rootYears     = 20
	issuerYears   = 8
	rootCRLPeriod = 366 * 24 * time.Hour // its key is offline: once a year is often enough
	caBackdate    = 24 * time.Hour       // wrong clocks on the line must not refuse a new CA
)

const maxOrganization = 64 // ub-organization-name, RFC 5280, appendix A.1

// InitConfig says where a new hierarchy's keys go.
type InitConfig struct {
	Dir         string // issuer keys go to Dir/keys
	RootKeyPath string // where the root's key goes, apart from Dir/keys
	Passphrase  []byte // encrypts every key file; none is needed without any
	// RootKMS and IssuerKMS are URIs of key stores to make keys inside, in
	// place of files; see Keyring.Make. PIN is Keyring's.
	RootKMS, IssuerKMS, PIN string
	Organization            string // O of the subjects, at most 64 characters; none when empty
	// RootCertificate is a root that exists already; one is made when nil. Its
	// key is opened by RootKeyURI with RootPassphrase, is not written anywhere,
	// and RootKeyPath has no meaning then.
	RootCertificate *x509.Certificate
	RootKeyURI      string
	RootPassphrase  []byte
	Now             func() time.Time
}

// keyFile returns where an issuer's key lies in the data folder.
func keyFile(p Purpose) string { return "keys/" + string(p) + "-issuer.pem" }

func (c InitConfig) keyPath(p Purpose) string { return filepath.Join(c.Dir, keyFile(p)) }

// A Hierarchy is what Initialize made: a root, and the issuers under it with
// their first, empty CRLs (I16).
type Hierarchy struct {
	Issuers []Issuer
	CRLs    []*CRL
	// RootKeyURI is of the root's key, where it was made in a key store.
	RootKeyURI string
}

// Root returns the root's certificate.
func (h *Hierarchy) Root() *x509.Certificate { return h.Issuers[0].Certificate }

// KeyFiles reports whether Initialize makes any key files.
func (c InitConfig) KeyFiles() bool {
	return c.IssuerKMS == "" || c.RootCertificate == nil && c.RootKMS == ""
}

// Initialize makes a root, an issuer for devices and one for brokers and
// servers, each with a P-256 key in an encrypted file or in a key store, and
// their first CRLs.
// Key files that exist already are an error; nothing is overwritten.
func Initialize(ctx context.Context, cfg InitConfig) (*Hierarchy, error) {
	if len(cfg.Passphrase) == 0 && cfg.KeyFiles() {
		return nil, errors.New("key files need a passphrase")
	}
	if n := utf8.RuneCountInString(cfg.Organization); n > maxOrganization {
		return nil, fmt.Errorf("the organization is %d characters long, more than %d", n, maxOrganization)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	var id [2]byte
	rand.Read(id[:])
	var paths []string
	if cfg.IssuerKMS == "" {
		paths = []string{cfg.keyPath(PurposeDevice), cfg.keyPath(PurposeBroker)}
	}
	if cfg.RootCertificate == nil && cfg.RootKMS == "" {
		paths = append(paths, cfg.RootKeyPath)
	}
	for _, path := range paths {
		if _, err := os.Lstat(path); err == nil { // before anything is written
			return nil, &fs.PathError{Op: "make key", Path: path, Err: fs.ErrExist}
		}
	}
	b := &builder{cfg: cfg, now: cfg.Now(), suffix: hex.EncodeToString(id[:])}

	root, rootKey, rootURI, err := b.root(ctx)
	if err != nil {
		return nil, err
	}
	h := &Hierarchy{RootKeyURI: rootURI, Issuers: []Issuer{{ID: "root", Purpose: PurposeRoot, State: IssuerActive, Certificate: root, Parent: "root"}}}
	keys := map[string]crypto.Signer{"root": rootKey}
	for _, kind := range []struct {
		purpose Purpose
		name    string
		usages  []x509.ExtKeyUsage
	}{
		{PurposeDevice, "Device issuing CA", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		{PurposeBroker, "Broker issuing CA", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}},
	} {
		id := string(kind.purpose)
		key, keyURI, err := b.key(ctx, cfg.IssuerKMS, id, cfg.keyPath(kind.purpose), "softkms:path="+keyFile(kind.purpose))
		if err != nil {
			return nil, fmt.Errorf("make the %s issuer's key: %w", id, err)
		}
		cert, err := b.sign(kind.name, kind.usages, key.Public(), root, rootKey)
		if err != nil {
			return nil, err
		}
		keys[id] = key
		h.Issuers = append(h.Issuers, Issuer{ID: id, Purpose: kind.purpose, State: IssuerActive, Certificate: cert, Parent: "root", KeyURI: keyURI})
	}
	for _, i := range h.Issuers {
		crl, err := b.firstCRL(ctx, i, keys[i.ID])
		if err != nil {
			return nil, err
		}
		h.CRLs = append(h.CRLs, crl)
	}
	return h, nil
}

// root makes the root, or opens the one that is given. The URI is of its key in
// a key store; empty for others.
func (b *builder) root(ctx context.Context) (*x509.Certificate, crypto.Signer, string, error) {
	if b.cfg.RootCertificate != nil {
		root, key, err := b.ownRoot(ctx, b.cfg.RootCertificate)
		return root, key, "", err
	}
	key, keyURI, err := b.key(ctx, b.cfg.RootKMS, "root", b.cfg.RootKeyPath, "")
	if err != nil {
		return nil, nil, "", fmt.Errorf("make the root's key: %w", err)
	}
	root, err := b.selfSign(key)
	return root, key, keyURI, err
}

// key makes a key: in a key store, or without one in a file, whose URI is given.
func (b *builder) key(ctx context.Context, storeURI, id, path, fileURI string) (crypto.Signer, string, error) {
	if storeURI != "" {
		return Keyring{PIN: b.cfg.PIN}.Make(ctx, storeURI, "fleetca-"+id+"-"+b.suffix)
	}
	key, err := createKeyFile(ctx, path, b.cfg.Passphrase)
	return key, fileURI, err
}

// ownRoot opens the key of a root that exists already, once the certificate
// was seen to be one that may sign issuers.
func (b *builder) ownRoot(ctx context.Context, root *x509.Certificate) (*x509.Certificate, crypto.Signer, error) {
	const usage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	var why string
	switch {
	case !root.IsCA || root.CheckSignatureFrom(root) != nil:
		why = "is not a self-signed CA certificate"
	case root.KeyUsage&usage != usage:
		why = "may not sign both certificates and CRLs (keyUsage)"
	case root.MaxPathLen == 0 && root.MaxPathLenZero:
		why = "allows no issuer below it (path length 0)"
	case b.now.Before(root.NotBefore) || !b.now.Before(root.NotAfter):
		why = "is not valid now"
	}
	if why != "" {
		return nil, nil, Errorf(KindKey, "root-cert", "give the certificate of a root CA", "%s %s", root.Subject, why)
	}
	key, err := Keyring{Dir: b.cfg.Dir, Passphrase: b.cfg.RootPassphrase, PIN: b.cfg.PIN}.Open(ctx, b.cfg.RootKeyURI, root.PublicKey)
	return root, key, err
}

// A builder makes the certificates of one hierarchy.
type builder struct {
	cfg    InitConfig
	now    time.Time
	suffix string // tells two hierarchies of one organization apart
}

func (b *builder) template(name string, years int) *x509.Certificate {
	subject := pkix.Name{CommonName: name + " " + b.suffix}
	if b.cfg.Organization != "" {
		subject.Organization = []string{b.cfg.Organization}
	}
	return &x509.Certificate{
		SerialNumber: NewSerialNumber().Int(), Subject: subject,
		NotBefore: b.now.Add(-caBackdate).Truncate(time.Second), NotAfter: b.now.AddDate(years, 0, 0).Truncate(time.Second),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
	}
}

// selfSign makes the root.
func (b *builder) selfSign(key crypto.Signer) (*x509.Certificate, error) {
	t := b.template("Root CA", rootYears)
	t.MaxPathLen = 1
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the root: %w", err)
	}
	return x509.ParseCertificate(der)
}

// sign makes an issuer under the root: path length 0, its usages nested. Never
// with OCSPSigning: that would let it answer for the root, on its siblings and
// on itself (RFC 6960, 4.2.2.2). A responder below it does not need it there.
func (b *builder) sign(name string, usages []x509.ExtKeyUsage, key crypto.PublicKey, root *x509.Certificate, rootKey crypto.Signer) (*x509.Certificate, error) {
	t := b.template(name, issuerYears)
	t.MaxPathLenZero, t.ExtKeyUsage = true, usages
	if t.NotAfter.After(root.NotAfter) {
		t.NotAfter = root.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, root, key, rootKey)
	if err != nil {
		return nil, fmt.Errorf("sign the %s: %w", name, err)
	}
	return x509.ParseCertificate(der)
}

// firstCRL signs an issuer's first CRL, without entries. Its number is 1, or for
// a root that may have signed others before, the time in Unix seconds.
func (b *builder) firstCRL(ctx context.Context, i Issuer, key crypto.Signer) (*CRL, error) {
	period, number := 7*24*time.Hour, int64(1)
	if i.Purpose == PurposeRoot {
		period = rootCRLPeriod
		if b.cfg.RootCertificate != nil {
			number = b.now.Unix()
		}
	}
	cas, err := softcas.New(ctx, apiv1.Options{CertificateChain: []*x509.Certificate{i.Certificate}, Signer: key})
	if err != nil {
		return nil, err
	}
	this, next := b.now.Add(-crlBackdate).UTC().Truncate(time.Second), b.now.Add(period).UTC().Truncate(time.Second)
	res, err := cas.CreateCRL(&apiv1.CreateCRLRequest{RevocationList: &x509.RevocationList{
		Number: big.NewInt(number), ThisUpdate: this, NextUpdate: next,
	}})
	if err != nil {
		return nil, fmt.Errorf("sign the first CRL of %s: %w", i.ID, err)
	}
	return &CRL{IssuerID: i.ID, Number: number, ThisUpdate: this, NextUpdate: next, Scheduled: true, DER: res.CRL}, nil
}

func isNotFound(err error) bool { return errors.Is(err, IsKind(KindNotFound)) }
