package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.step.sm/crypto/kms"
	kmsapi "go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/uri"
)

// schemePKCS11 is the scheme of keys in a PKCS #11 token (RFC 7512).
const schemePKCS11 = "pkcs11"

// cloudSchemes are the schemes of keys in a TPM or at a cloud provider.
var cloudSchemes = []string{"awskms", "azurekms", "cloudkms", "tpmkms"}

// store opens the key store of a URI.
func (k Keyring) store(ctx context.Context, u *uri.URI, keyURI string) (kmsapi.KeyManager, error) {
	if u.Scheme == schemePKCS11 {
		if err := checkPKCS11(u); err != nil {
			return nil, err
		}
	}
	if slices.Contains(cloudSchemes, u.Scheme) && !cloudKMSBuilt {
		return nil, Errorf(KindKey, "", "build it again with: go build -tags cloudkms", "this program was built without cloud key stores: %s is not available", u.Scheme)
	}
	km, err := kms.New(ctx, kmsapi.Options{URI: keyURI, Pin: k.PIN})
	switch {
	case err != nil && u.Scheme == schemePKCS11:
		return nil, Errorf(KindKey, "", "see that the module and the token are there, and that the PIN is right (a token locks itself after a few wrong ones)", "key store %s: %w", keyURI, err)
	case err != nil && slices.Contains(cloudSchemes, u.Scheme):
		return nil, Errorf(KindKey, "", "see that the URI is right, and that this machine may use the key store", "key store %s: %w", keyURI, err)
	case err != nil:
		return nil, Errorf(KindKey, "", "the kinds are softkms, pkcs11, awskms, azurekms, cloudkms and tpmkms", "key URI %q: %w", keyURI, err)
	}
	return km, nil
}

// pinHint says how a PIN is given.
const pinHint = "give the PIN by a file that this user alone can read: ?pin-source=/path/of/a/file in the URI, or by FLEETCA_PIN"

// checkPKCS11 refuses what PKCS #11 cannot do here.
func checkPKCS11(u *uri.URI) error {
	if !pkcs11Built {
		return Errorf(KindKey, "", "install a C compiler (Debian: gcc libc6-dev) and build again", "this program was built without cgo: PKCS#11 is not available")
	}
	file := u.Get("pin-source")
	if file == "" {
		return nil
	}
	if !filepath.IsAbs(file) {
		return Errorf(KindKey, "", "give its whole path: the server reads it too", "pin-source %s is a relative path", file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return Errorf(KindKey, "", pinHint, "read the PIN: %w", err)
	}
	if strings.TrimSpace(string(text)) == "" { // an empty one would count as a wrong one
		return Errorf(KindKey, "", "write the PIN into it", "%s is empty", file)
	}
	return nil
}

// Make makes a key inside the key store of a URI, such as
// pkcs11:token=LABEL?pin-source=FILE, and returns it with its own URI. The key's
// object name is label, with an id made up, unless the URI has them. A key that
// exists is not touched: that is an Error of KindKey.
func (k Keyring) Make(ctx context.Context, storeURI, label string, kind KeyAlgorithm) (crypto.Signer, string, error) {
	u, err := parseKeyURI(storeURI)
	if err != nil {
		return nil, "", err
	}
	if u.Scheme != schemePKCS11 {
		return nil, "", Errorf(KindKey, "", "give the URI of a PKCS #11 token, such as pkcs11:token=LABEL?pin-source=FILE", "no key can be made in %q", storeURI)
	}
	km, err := k.store(ctx, u, storeURI)
	if err != nil {
		return nil, "", err
	}
	keyURI := withObject(u, storeURI, label)
	request, err := kind.request(keyURI)
	if err != nil {
		return nil, "", err
	}
	made, err := km.CreateKey(request)
	switch {
	case errors.As(err, &kmsapi.AlreadyExistsError{}):
		return nil, "", Errorf(KindKey, "", "leave object and id out of the URI, or name others", "there is a key %s already: %w", keyURI, err)
	case err != nil:
		return nil, "", Errorf(KindKey, "", "see that the token can be written and makes such keys", "make key %s: %w", keyURI, err)
	}
	key, err := k.Open(ctx, keyURI, made.PublicKey)
	return key, keyURI, err
}

// withObject completes a PKCS #11 URI to that of one key.
func withObject(u *uri.URI, storeURI, label string) string {
	path, query, _ := strings.Cut(storeURI, "?")
	if u.Get("object") == "" {
		path += ";object=" + url.QueryEscape(label)
	}
	if u.Get("id") == "" {
		var id [8]byte
		rand.Read(id[:])
		path += ";id=" + hex.EncodeToString(id[:])
	}
	if query != "" {
		query = "?" + query
	}
	return path + query
}

// parseKeyURI parses a key's URI. One with a PIN in it is refused, however it
// is written: on a command line it shows, and a key's URI is kept and printed.
func parseKeyURI(keyURI string) (*uri.URI, error) {
	u, err := uri.Parse(keyURI)
	text := strings.Contains(keyURI, "pin-value") || strings.Contains(keyURI, "pin-prompt") // in a part that does not parse, even
	if text || err == nil && (u.Has("pin-value") || u.Has("pin-prompt")) {
		return nil, Errorf(KindKey, "", pinHint, "the URI of a key may not hold its PIN")
	}
	if err != nil {
		return nil, Errorf(KindKey, "", "a key's URI begins with its kind: softkms:path=FILE, pkcs11:token=LABEL;object=NAME", "key URI %q is none", keyURI)
	}
	return u, nil
}

// IsKeyFile reports whether a key's URI names a file, which a passphrase opens.
func IsKeyFile(keyURI string) bool { return strings.HasPrefix(keyURI, "softkms:") }
