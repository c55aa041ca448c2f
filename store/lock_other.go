//go:build !unix

package store

import "os"

// lockFile opens a file where there are no advisory locks: nothing keeps a
// second server away.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}
