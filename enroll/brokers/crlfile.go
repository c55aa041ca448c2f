package brokers

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// A CRLFile is the path of the file with the last bundle that a [Guard]
// admitted, in PEM form. A broker may read it at any time.
type CRLFile string

// Load returns the lists in the file, expired ones too: their numbers still
// count. It returns none and no error when there is no file.
func (f CRLFile) Load() ([]*x509.RevocationList, error) {
	data, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load revocation lists: %w", err)
	}
	lists, err := ParseBundle(data)
	if err != nil {
		return nil, fmt.Errorf("load revocation lists from %s: %w", string(f), err)
	}
	return lists, nil
}

// Store replaces the lists in the file atomically, and returns when they are on
// stable storage. It leaves a file alone that has the same content.
func (f CRLFile) Store(lists []*x509.RevocationList) error {
	data := EncodeBundle(lists)
	if old, err := os.ReadFile(string(f)); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := replaceFile(osDisk{}, string(f), data, 0o644); err != nil {
		return fmt.Errorf("store revocation lists: %w", err)
	}
	return nil
}
