package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"

	"go.step.sm/crypto/kms"
	kmsapi "go.step.sm/crypto/kms/apiv1"
	_ "go.step.sm/crypto/kms/softkms" // encrypted key files
	"go.step.sm/crypto/pemutil"
)

// A Keyring opens signing keys by their go.step.sm/crypto/kms URI.
type Keyring struct {
	Dir        string // what a relative path in a softkms URI is relative to
	Passphrase []byte // of encrypted key files
	PIN        string // of PKCS #11 tokens whose URI names no pin-source
}

// Open opens a key and tests it with a signature: it must be the private key
// of public. Anything else is an Error of KindKey that says which and why.
func (k Keyring) Open(ctx context.Context, keyURI string, public crypto.PublicKey) (crypto.Signer, error) {
	u, err := parseKeyURI(keyURI)
	if err != nil {
		return nil, err
	}
	name := keyURI
	if path := u.Get("path"); u.Scheme == "softkms" && path != "" {
		// As a path, not a URI: the folder may hold characters that a URI escapes.
		if name = path; !filepath.IsAbs(path) {
			name = filepath.Join(k.Dir, path)
		}
	}
	km, err := k.store(ctx, u, keyURI)
	if err != nil {
		return nil, err
	}
	key, err := km.CreateSigner(&kmsapi.CreateSignerRequest{SigningKey: name, Password: k.Passphrase})
	switch {
	case errors.As(err, &kmsapi.NotFoundError{}):
		return nil, Errorf(KindKey, "", "put the key back (a file from a backup, a token into its slot)", "key %s is missing: %w", name, err)
	case errors.Is(err, x509.IncorrectPasswordError):
		return nil, Errorf(KindKey, "", "give the passphrase that init was run with (--passphrase-file or FLEETCA_PASSPHRASE)", "the passphrase does not open key %s: %w", name, err)
	case err != nil && u.Scheme != "softkms":
		return nil, Errorf(KindKey, "", "see that the key store is the right one, and holds the key", "key %s does not open: %w", name, err)
	case err != nil:
		// A wrong passphrase gets here too: one in 256 decrypts to what looks padded.
		return nil, Errorf(KindKey, "", "give the passphrase that init was run with (--passphrase-file or FLEETCA_PASSPHRASE), let the server read the file, or restore a backup", "key %s does not open: %w", name, err)
	}
	if err := testKey(key, public); err != nil {
		return nil, Errorf(KindKey, "", "put the right key file back, or restore a backup", "key %s is not the issuer certificate's: %w", name, err)
	}
	return key, nil
}

// testKey signs a certification request, and verifies it with the public key.
func testKey(key crypto.Signer, public crypto.PublicKey) error {
	same, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !same.Equal(public) {
		return errors.New("public keys differ")
	}
	template := &x509.CertificateRequest{RawSubject: []byte{0x30, 0}}
	if _, err := x509.CreateCertificateRequest(rand.Reader, template, key); err != nil { // verifies what it signed
		return fmt.Errorf("self-test signature: %w", err)
	}
	return nil
}

// A KeyAlgorithm is a kind of key, with its size.
type KeyAlgorithm string

// The kinds of keys that are made for roots and issuers.
const (
	KeyP256    KeyAlgorithm = "P-256" // the default
	KeyP384    KeyAlgorithm = "P-384"
	KeyRSA3072 KeyAlgorithm = "RSA-3072"
	KeyRSA4096 KeyAlgorithm = "RSA-4096"
)

// request returns how a key store is asked for such a key.
func (k KeyAlgorithm) request(name string) (*kmsapi.CreateKeyRequest, error) {
	r := &kmsapi.CreateKeyRequest{Name: name}
	switch k {
	case "", KeyP256:
		r.SignatureAlgorithm = kmsapi.ECDSAWithSHA256
	case KeyP384:
		r.SignatureAlgorithm = kmsapi.ECDSAWithSHA384
	case KeyRSA3072:
		r.SignatureAlgorithm, r.Bits = kmsapi.SHA256WithRSA, 3072
	case KeyRSA4096:
		r.SignatureAlgorithm, r.Bits = kmsapi.SHA256WithRSA, 4096
	default:
		return nil, Errorf(KindMalformed, "keyAlgorithm", "one of P-256, P-384, RSA-3072, RSA-4096", "%.40q is no kind of key that is made here", k)
	}
	return r, nil
}

// CreateKeyFile makes a key and writes it to path, mode 0600, as PKCS #8
// encrypted with the passphrase (PBES2, RFC 8018). A file that exists is an
// error.
func CreateKeyFile(ctx context.Context, path string, passphrase []byte, kind KeyAlgorithm) (crypto.Signer, error) {
	request, err := kind.request(path)
	if err != nil {
		return nil, err
	}
	km, err := kms.New(ctx, kmsapi.Options{URI: "softkms:"})
	if err != nil {
		return nil, err
	}
	made, err := km.CreateKey(request)
	if err != nil {
		return nil, err
	}
	key, ok := made.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", made.PrivateKey)
	}
	return key, WriteKeyFile(path, key, passphrase)
}

// WriteKeyFile writes a key that is in memory as CreateKeyFile does.
func WriteKeyFile(path string, key crypto.Signer, passphrase []byte) error {
	if len(passphrase) == 0 {
		return errors.New("key files need a passphrase")
	}
	block, err := pemutil.Serialize(key, pemutil.WithPKCS8(true), pemutil.WithPassword(passphrase))
	if err != nil {
		return err
	}
	return WriteNewFile(path, pem.EncodeToMemory(block), 0o600)
}

// FingerprintOf returns the SHA-256 fingerprint of a certificate in lower-case hex.
func FingerprintOf(c *x509.Certificate) string {
	return hexSHA256(c.Raw)
}
