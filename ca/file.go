package ca

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// WriteNewFile writes a file that must not exist yet: it is there whole, or not
// at all, also after a crash. It returns when the file is on stable storage. One
// that exists stays as it is, and is an error that is fs.ErrExist.
func WriteNewFile(path string, data []byte, mode fs.FileMode) error {
	beside, err := writeBeside(path, data, mode)
	if err != nil {
		return err
	}
	defer os.Remove(beside)
	err = os.Link(beside, path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		err = renameNew(beside, path) // a file system without links
	}
	if errors.Is(err, fs.ErrExist) {
		return &fs.PathError{Op: "write", Path: path, Err: fs.ErrExist}
	}
	if err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// renameNew renames a file to what is not there.
func renameNew(from, to string) error {
	_, err := os.Lstat(to)
	switch {
	case err == nil:
		return fs.ErrExist
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return os.Rename(from, to)
}

// ReplaceFile writes a file, whatever was there: readers see the old or the new
// one, whole, also after a crash. It returns when the file is on stable storage.
func ReplaceFile(path string, data []byte, mode fs.FileMode) error {
	beside, err := writeBeside(path, data, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(beside, path); err != nil {
		return errors.Join(err, os.Remove(beside))
	}
	return SyncDir(filepath.Dir(path))
}

// writeBeside writes a file for a path, in the same folder, and returns its own.
func writeBeside(path string, data []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), unfinished+"*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// unfinished begins the names of files that are not in their place yet.
const unfinished = ".new-"

// IsUnfinished reports whether a name is that of a file that was not put in its
// place: who wrote it was killed, or is at it.
func IsUnfinished(name string) bool { return strings.HasPrefix(name, unfinished) }

// SyncDir makes the names in a folder durable.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
