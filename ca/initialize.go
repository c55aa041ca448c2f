package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"
)

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
func keyFile(id string) string { return "keys/" + id + "-issuer.pem" }

func (c InitConfig) keyPath(p Purpose) string { return filepath.Join(c.Dir, keyFile(string(p))) }

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
	if n := utf8.RuneCountInString(cfg.Organization); n > maxOrganization { // before anything is written
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
	}{{PurposeDevice, "Device issuing CA"}, {PurposeBroker, "Broker issuing CA"}} {
		id := string(kind.purpose)
		key, keyURI, err := b.key(ctx, cfg.IssuerKMS, id, cfg.keyPath(kind.purpose), "softkms:path="+keyFile(id))
		if err != nil {
			return nil, fmt.Errorf("make the %s issuer's key: %w", id, err)
		}
		cert, err := SignIssuer(b.plan(id, kind.purpose, kind.name), key.Public(), root, rootKey, b.now)
		if err != nil {
			return nil, err
		}
		keys[id] = key
		h.Issuers = append(h.Issuers, Issuer{ID: id, Purpose: kind.purpose, State: IssuerActive, Certificate: cert, Parent: "root", KeyURI: keyURI})
	}
	for _, i := range h.Issuers {
		number := int64(1)
		if i.Purpose == PurposeRoot && cfg.RootCertificate != nil { // it may have signed others before
			number = b.now.Unix()
		}
		crl, err := FirstCRL(ctx, i, keys[i.ID], number, b.now)
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
	root, err := SignRoot(b.plan("root", PurposeRoot, "Root CA"), key, b.now)
	return root, key, keyURI, err
}

// key makes a key: in a key store, or without one in a file, whose URI is given.
func (b *builder) key(ctx context.Context, storeURI, id, path, fileURI string) (crypto.Signer, string, error) {
	if storeURI != "" {
		return Keyring{PIN: b.cfg.PIN}.Make(ctx, storeURI, "fleetca-"+id+"-"+b.suffix, KeyP256)
	}
	key, err := CreateKeyFile(ctx, path, b.cfg.Passphrase, KeyP256)
	return key, fileURI, err
}

// ownRoot opens the key of a root that exists already, once the certificate
// was seen to be one that may sign issuers.
func (b *builder) ownRoot(ctx context.Context, root *x509.Certificate) (*x509.Certificate, crypto.Signer, error) {
	if !root.IsCA || root.CheckSignatureFrom(root) != nil {
		return nil, nil, Errorf(KindKey, "root-cert", "give the certificate of a root CA", "%s is not a self-signed CA certificate", root.Subject)
	}
	if err := checkParent(root, b.now); err != nil {
		return nil, nil, err
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

// plan returns what is to be made.
func (b *builder) plan(id string, p Purpose, name string) CAPlan {
	return CAPlan{ID: id, Purpose: p, CommonName: name + " " + b.suffix, Organization: b.cfg.Organization}
}

func isNotFound(err error) bool { return errors.Is(err, IsKind(KindNotFound)) }
