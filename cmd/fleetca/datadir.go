package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/fleetca/fleetca/ca"
)

// A dataDir is the folder that init makes and serve runs on.
//
//	fleetca.db              SQLite, unless --database says otherwise
//	passphrase              of the key files, when init made one up
//	keys/                   the issuers' encrypted keys
//	root/                   the root's certificate, and its encrypted key unless kept elsewhere (key.uri: in a key store)
//	server/                 the server's own certificate and key
//	trust-bundle.pem        the roots: what devices and people verify with
//	crl.pem, broker/        of the embedded broker, where there is one
type dataDir string

func (d dataDir) path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

func (d dataDir) database() string    { return d.path("fleetca.db") }
func (d dataDir) passphrase() string  { return d.path("passphrase") }
func (d dataDir) trustBundle() string { return d.path("trust-bundle.pem") }
func (d dataDir) crl() string         { return d.path("crl.pem") }
func (d dataDir) rootKey() string     { return d.path("root", "key.pem") }
func (d dataDir) rootCert() string    { return d.path("root", "certificate.pem") }

// rootKeyURI names a root's key that was made in a key store.
func (d dataDir) rootKeyURI() string { return d.path("root", "key.uri") }

// initMarker stands while init works. Found later, it says that init was
// interrupted and that nothing it left was ever used.
func (d dataDir) initMarker() string { return d.path(".init") }

// server is what other servers on the database know the one on this folder by:
// HOST:FOLDER.
func (d dataDir) server() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	folder, err := filepath.Abs(string(d))
	if err != nil {
		folder = string(d)
	}
	return host + ":" + folder
}

// databaseURL returns the database to use: as asked for, or the folder's own.
func (d dataDir) databaseURL(asked string) string {
	if asked != "" {
		return asked
	}
	return "sqlite:" + d.database()
}

// errNoPassphrase says that nothing names a passphrase.
var errNoPassphrase = errors.New("the passphrase is missing")

const hintPassphrase = "give --passphrase-file FILE, or set FLEETCA_PASSPHRASE"

// readPassphrase returns the passphrase of the key files: from the file given,
// FLEETCA_PASSPHRASE, or the file that init made, in this order.
func (d dataDir) readPassphrase(file string) ([]byte, error) {
	if file != "" || os.Getenv("FLEETCA_PASSPHRASE") != "" {
		return givenPassphrase(file)
	}
	text, err := givenPassphrase(d.passphrase())
	if errors.Is(err, os.ErrNotExist) {
		err = usageError(fmt.Errorf("%w: there is no %s", errNoPassphrase, d.passphrase()), hintPassphrase)
	}
	return text, err
}

// givenPassphrase returns the passphrase in a file, or FLEETCA_PASSPHRASE where
// none is given.
func givenPassphrase(file string) ([]byte, error) {
	if file == "" {
		if text := os.Getenv("FLEETCA_PASSPHRASE"); text != "" {
			return []byte(text), nil
		}
		return nil, usageError(errNoPassphrase, hintPassphrase)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError(fmt.Errorf("read the passphrase: %w", err), hintPassphrase)
	}
	text = bytes.TrimRight(text, "\r\n")
	if len(text) == 0 {
		return nil, usageError(fmt.Errorf("%s is empty", file), "write the passphrase of the key files into it")
	}
	return text, nil
}

// keyring returns what opens the keys of issuers, for which passphrase-file is
// read only where one of them is a file.
func (d dataDir) keyring(issuers []ca.Issuer, passphraseFile string) (ca.Keyring, error) {
	ring := ca.Keyring{Dir: string(d), PIN: pinOfTokens()}
	if !slices.ContainsFunc(issuers, func(i ca.Issuer) bool { return ca.IsKeyFile(i.KeyURI) }) {
		return ring, nil
	}
	var err error
	ring.Passphrase, err = d.readPassphrase(passphraseFile)
	return ring, err
}

// pinOfTokens is the PIN of PKCS #11 tokens whose URI names no file with it.
func pinOfTokens() string { return os.Getenv("FLEETCA_PIN") }

// makePassphrase makes a passphrase up, and keeps it in the folder.
func (d dataDir) makePassphrase() ([]byte, error) {
	var b [20]byte
	rand.Read(b[:])
	text := []byte(base32.StdEncoding.EncodeToString(b[:]))
	return text, ca.WriteNewFile(d.passphrase(), append(text, '\n'), 0o600)
}

// lock keeps a second server off the folder, until the process ends.
func (d dataDir) lock() (release func(), err error) {
	f, err := os.OpenFile(d.path(".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, usageError(err, "let this user write the folder, and see that fleetca init made it")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, hinted(fmt.Errorf("another fleetca serves %s", string(d)), "stop it first; client commands work beside it")
	}
	return func() { f.Close() }, nil
}

// initialised reports whether init, or restore, has finished on the folder.
func (d dataDir) initialised() bool {
	_, keys := os.Stat(d.path("keys"))
	_, marker := os.Stat(d.initMarker())
	_, restoring := os.Stat(d.restoreMarker())
	return keys == nil && errors.Is(marker, os.ErrNotExist) && errors.Is(restoring, os.ErrNotExist)
}
