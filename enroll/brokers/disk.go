package brokers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A disk makes the changes to a file system that must survive a crash between
// any two of them. The operating system is one; the test's, which fails or dies
// at a chosen step, is the other.
type disk interface {
	mkdir(path string) error                                 // one folder, mode 0755; it may exist
	create(path string, data []byte, mode fs.FileMode) error // a new file, on stable storage on return
	share(path string, gid int) error                        // a file that this group may read, on stable storage on return
	symlink(target, path string) error                       // a new symbolic link
	rename(from, to string) error                            // atomic, replaces a file or link
	removeAll(path string) error                             // it may be absent
	syncDir(path string) error                               // the folder's entries, on stable storage on return
}

type osDisk struct{}

func (osDisk) mkdir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (osDisk) create(path string, data []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Chmod(mode) // whatever the umask
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func (osDisk) share(path string, gid int) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	err = file.Chown(-1, gid)
	if err == nil {
		err = file.Chmod(0o640)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func (osDisk) symlink(target, path string) error { return os.Symlink(target, path) }
func (osDisk) rename(from, to string) error      { return os.Rename(from, to) }
func (osDisk) removeAll(path string) error       { return os.RemoveAll(path) }

func (osDisk) syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// WriteFile gives a file new content: readers see the old or the new one,
// whole, also after a crash. It returns when it is on stable storage.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	return replaceFile(osDisk{}, path, data, mode)
}

// replaceFile gives a file new content: readers see the old or the new one,
// whole, also after a crash.
func replaceFile(d disk, path string, data []byte, mode fs.FileMode) error {
	dir, name := filepath.Split(path)
	temporary := filepath.Join(dir, "."+name+".new")
	if err := d.removeAll(temporary); err != nil {
		return fmt.Errorf("remove leftover: %w", err)
	}
	if err := d.create(temporary, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := d.rename(temporary, path); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return d.syncDir(filepath.Clean(dir))
}

// replaceLink points a symbolic link elsewhere, atomically.
func replaceLink(d disk, target, path string) error {
	dir, name := filepath.Split(path)
	temporary := filepath.Join(dir, "."+name+".new")
	if err := d.removeAll(temporary); err != nil {
		return fmt.Errorf("remove leftover: %w", err)
	}
	if err := d.symlink(target, temporary); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := d.rename(temporary, path); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return d.syncDir(filepath.Clean(dir))
}
