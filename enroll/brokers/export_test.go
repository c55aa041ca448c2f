package brokers

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A FaultDisk is the operating system's disk until a chosen step, where it
// fails once, or dies: nothing works from there on.
type FaultDisk struct {
	At    int // the step that fails, from 1; 0 for none
	Dies  bool
	Steps []string // what was done, or tried
}

var ErrFault = errors.New("fault")

// OpenGenerationsOn opens generations on a disk with faults.
func OpenGenerationsOn(dir string, now func() time.Time, d *FaultDisk) (*Generations, error) {
	return openGenerations(dir, now, d)
}

func (d *FaultDisk) step(operation, path string) error {
	d.Steps = append(d.Steps, operation+" "+filepath.Base(path))
	if d.At > 0 && (len(d.Steps) == d.At || d.Dies && len(d.Steps) > d.At) {
		return ErrFault
	}
	return nil
}

func (d *FaultDisk) mkdir(path string) error {
	return errors.Join(d.step("mkdir", path), d.unless(func() error { return osDisk{}.mkdir(path) }))
}

// create writes the first half of the file when it fails.
func (d *FaultDisk) create(path string, data []byte, mode fs.FileMode) error {
	if err := d.step("create", path); err != nil {
		if len(d.Steps) == d.At {
			_ = os.WriteFile(path, data[:len(data)/2], mode)
		}
		return err
	}
	return osDisk{}.create(path, data, mode)
}

func (d *FaultDisk) share(path string, gid int) error {
	return errors.Join(d.step("share", path), d.unless(func() error { return osDisk{}.share(path, gid) }))
}

func (d *FaultDisk) symlink(target, path string) error {
	return errors.Join(d.step("symlink", path), d.unless(func() error { return osDisk{}.symlink(target, path) }))
}

func (d *FaultDisk) rename(from, to string) error {
	return errors.Join(d.step("rename", to), d.unless(func() error { return osDisk{}.rename(from, to) }))
}

// removeAll removes the key and leaves the folder when it fails.
func (d *FaultDisk) removeAll(path string) error {
	if err := d.step("remove", path); err != nil {
		if len(d.Steps) == d.At {
			_ = os.Remove(filepath.Join(path, KeyFile))
		}
		return err
	}
	return osDisk{}.removeAll(path)
}

func (d *FaultDisk) syncDir(path string) error {
	return errors.Join(d.step("sync", path), d.unless(func() error { return osDisk{}.syncDir(path) }))
}

func (d *FaultDisk) unless(do func() error) error {
	if d.At > 0 && (len(d.Steps) == d.At || d.Dies && len(d.Steps) > d.At) {
		return nil
	}
	return do()
}
