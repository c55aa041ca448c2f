package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fleetca/fleetca/ca"
)

// A newKey is the key of a root or an issuer that is being added.
type newKey struct {
	crypto.Signer
	uri  string // where it is kept; empty for a root's
	file string // that was written for it; empty when none was
}

// keep ends what the key was for, with the error that this came to. Where nothing
// came of it the file goes again, so that it can be repeated.
func (k newKey) keep(err error) error {
	if err == nil || k.file == "" {
		return err
	}
	if _, unknown := errors.AsType[*unknownOutcome](err); unknown {
		return hinted(fmt.Errorf("%w; the key stays in %s", err, k.file),
			"see whether fleetca issuer list has it now; when it has not, remove the key, and repeat")
	}
	return errors.Join(err, os.Remove(k.file))
}

// An unknownOutcome is the error of storing an issuer that may be stored.
type unknownOutcome struct{ error }

func (u *unknownOutcome) Unwrap() error { return u.error }

// makeKey makes the key of an issuer, in the folder or in a key store.
func (f *issuerFlags) makeKey(ctx context.Context, d dataDir, id string) (newKey, error) {
	if f.keyKMS != "" {
		key, uri, err := ca.Keyring{Dir: f.data, PIN: pinOfTokens()}.Make(ctx, f.keyKMS, "fleetca-"+id, ca.KeyP256)
		return newKey{key, uri, ""}, err
	}
	passphrase, err := d.readPassphrase(f.passphraseFile)
	if err != nil {
		return newKey{}, err
	}
	key, err := ca.CreateKeyFile(ctx, d.issuerKey(id), passphrase, ca.KeyP256)
	return newKey{key, issuerKeyURI(id), d.issuerKey(id)}, inTheWay(err, hintIssuerKey)
}

// hintIssuerKey is for the key of an issuer that is not here.
const hintIssuerKey = "choose another id, or remove it when it is of no request (fleetca issuer csr) that waits to be signed"

// takeKey returns an issuer's key and where it is kept. One in a file of its own
// is encrypted into the folder.
func (f *issuerImport) takeKey(ctx context.Context, d dataDir, i ca.Issuer) (newKey, error) {
	own := issuerKeyURI(i.ID)
	uri := own
	if f.key != "" {
		var err error
		if uri, err = keyURI(f.key); err != nil {
			return newKey{}, err
		}
	}
	file := f.passphraseFile
	if f.keyPassphrase != "" {
		file = f.keyPassphrase
	}
	ring, err := d.keyring([]ca.Issuer{{KeyURI: uri}}, file)
	if err != nil {
		return newKey{}, err
	}
	key, err := ring.Open(ctx, uri, i.Certificate.PublicKey)
	if err != nil || uri == own || !ca.IsKeyFile(uri) {
		return newKey{key, uri, ""}, err
	}
	passphrase, err := d.readPassphrase(f.passphraseFile)
	if err != nil {
		return newKey{}, err
	}
	err = ca.WriteKeyFile(d.issuerKey(i.ID), key, passphrase)
	return newKey{key, own, d.issuerKey(i.ID)}, inTheWay(err, hintIssuerKey)
}

// issuerKeyName is where an issuer's key lies in the folder.
func issuerKeyName(id string) string { return "keys/" + id + "-issuer.pem" }

func (d dataDir) issuerKey(id string) string { return filepath.Join(string(d), issuerKeyName(id)) }

func issuerKeyURI(id string) string { return "softkms:path=" + issuerKeyName(id) }
