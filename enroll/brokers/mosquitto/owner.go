package mosquitto

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// An owner is the user that Mosquitto runs as.
type owner struct {
	name     string // "" for the one who runs this program
	uid, gid int
}

// owner finds the user. Only root may make files for another.
func (s *Settings) owner() (owner, error) {
	if s.User == "" {
		return owner{}, nil
	}
	account, err := user.Lookup(s.User)
	if err != nil {
		return owner{}, fmt.Errorf("find Mosquitto's user: %w", err)
	}
	uid, err := strconv.Atoi(account.Uid)
	if err != nil {
		return owner{}, fmt.Errorf("find Mosquitto's user: %w", err)
	}
	gid, err := strconv.Atoi(account.Gid)
	if err != nil {
		return owner{}, fmt.Errorf("find Mosquitto's user: %w", err)
	}
	return owner{s.User, uid, gid}, nil
}

// give makes a file or folder Mosquitto's.
func (o owner) give(path string, mode fs.FileMode) error {
	if o.name != "" {
		if err := os.Lchown(path, o.uid, o.gid); err != nil {
			return fmt.Errorf("give a file to %s: %w", o.name, err)
		}
	}
	return os.Chmod(path, mode)
}

// canReach reports a folder on the way that keeps Mosquitto out.
func (o owner) canReach(dir string) error {
	if o.name == "" || o.uid == 0 {
		return nil
	}
	for at := dir; at != filepath.Dir(at); at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		bit := fs.FileMode(0o001)
		if ok && int(stat.Uid) == o.uid {
			bit = 0o100
		} else if ok && int(stat.Gid) == o.gid {
			bit = 0o010
		}
		if info.Mode()&bit == 0 {
			return fmt.Errorf("the user %s cannot get through %s: choose a folder such as /etc/fleetca/mosquitto", o.name, at)
		}
	}
	return nil
}

// mayDrive reports when this program would write files that Mosquitto cannot
// read, or could not send it a signal.
func (o owner) mayDrive(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) == os.Geteuid() {
		return nil
	}
	owned := strconv.Itoa(int(stat.Uid))
	if account, err := user.LookupId(owned); err == nil {
		owned = account.Username
	}
	return fmt.Errorf("%s belongs to %s: run this program as that user", dir, owned)
}
