package ca

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.step.sm/crypto/pemutil"
)

// ChangePassphrase encrypts key files with another passphrase. All are
// rewritten beside the old ones before the first is replaced; run again after
// an interruption it takes those that have the new passphrase already as done.
// A file that neither passphrase opens is an Error of KindKey, and none is
// changed.
func ChangePassphrase(paths []string, old, next []byte) error {
	if len(next) == 0 {
		return errors.New("key files need a passphrase")
	}
	type rewrite struct{ from, to string }
	var ready []rewrite
	defer func() {
		for _, r := range ready {
			os.Remove(r.from) // those that were not put in place
		}
	}()
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return Errorf(KindKey, "", "put the key file back, or restore a backup", "key %s: %w", path, err)
		}
		if _, err := pemutil.ParseKey(text, pemutil.WithPassword(next)); err == nil {
			continue
		}
		key, err := pemutil.ParseKey(text, pemutil.WithPassword(old))
		if err != nil {
			return Errorf(KindKey, "", "give the passphrase that the key has now", "the passphrase does not open key %s: %w", path, err)
		}
		block, err := pemutil.Serialize(key, pemutil.WithPKCS8(true), pemutil.WithPassword(next))
		if err != nil {
			return fmt.Errorf("encrypt key %s: %w", path, err)
		}
		temporary := path + ".new"
		if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := WriteNewFile(temporary, pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
		ready = append(ready, rewrite{temporary, path})
	}
	for len(ready) > 0 {
		if err := os.Rename(ready[0].from, ready[0].to); err != nil {
			return err
		}
		if err := SyncDir(filepath.Dir(ready[0].to)); err != nil {
			return err
		}
		ready = ready[1:]
	}
	return nil
}
