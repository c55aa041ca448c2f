package ca_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fleetca/fleetca/ca"
)

// whole reads a file from its first moment on, and returns what it read.
func whole(path string) <-chan []byte {
	read := make(chan []byte)
	go func() {
		for {
			if data, err := os.ReadFile(path); err == nil {
				read <- data
				return
			}
		}
	}()
	return read
}

// Whoever sees a new file sees all of it, with links and without.
func TestNewFilesAreWholeOrNotThere(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("whole"), 1<<18)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for range 5 {
		read := whole(path)
		if err := ca.WriteNewFile(path, data, 0o640); err != nil {
			t.Fatal(err)
		}
		if got := <-read; !bytes.Equal(got, data) {
			t.Fatalf("%d bytes of %d are there", len(got), len(data))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := ca.WriteNewFile(path, data, 0o640); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	other := filepath.Join(dir, "other")
	for what, write := range map[string]func() error{
		"with links":    func() error { return ca.WriteNewFile(path, []byte("other"), 0o600) },
		"without links": func() error { return errors.Join(os.WriteFile(other, nil, 0o600), ca.RenameNew(other, path)) },
	} {
		if err := write(); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s, a file that exists: %v", what, err)
		}
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, data) {
		t.Error("the file that existed is another")
	}
	if err := ca.RenameNew(other, filepath.Join(dir, "new")); err != nil {
		t.Error(err)
	}
	if err := ca.ReplaceFile(path, []byte("next"), 0o600); err != nil {
		t.Error(err)
	}
	wantNames(t, dir, "file", "new")
}

// wantNames checks what a folder holds.
func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("the folder holds %q, want %q", names, want)
	}
}
