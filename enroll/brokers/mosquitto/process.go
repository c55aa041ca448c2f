package mosquitto

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// errStopped says that Mosquitto does not run: what it reads next is what is on
// disk when it starts.
var errStopped = errors.New("no Mosquitto runs with this folder")

// poll is how often something is looked at that Mosquitto does in its own time.
const poll = 10 * time.Millisecond

// A process is the Mosquitto of this folder.
type process struct {
	*os.Process // on Linux by descriptor: it is never another one with the same number
}

// process finds Mosquitto. errors.Is(err, errStopped) when it does not run, which
// is not concluded from a missing pid file alone.
func (d *Driver) process(ctx context.Context) (*process, error) {
	p, why := d.named()
	if why == nil {
		return p, nil
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", d.settings.address())
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err == nil {
		conn.Close()
		if p, err := d.named(); err == nil { // it has just started
			return p, nil
		}
		return nil, fmt.Errorf("something listens on %s, but it is not known as our Mosquitto: %w: restart it with: %s", d.settings.address(), why, d.StartCommand())
	}
	return nil, fmt.Errorf("%w: %w: is Mosquitto running? Start it with: %s", errStopped, why, d.StartCommand())
}

// named returns the process in the pid file, or why it is not our Mosquitto.
func (d *Driver) named() (*process, error) {
	path := filepath.Join(d.dir, pidFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no pid file %s", path)
	}
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 {
		return nil, fmt.Errorf("the pid file %s names no process", path)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	if err := d.checkProcess(pid); err != nil {
		return nil, fmt.Errorf("the pid file %s is stale: %w", path, err)
	}
	return &process{p}, nil
}

// checkProcess looks whether a process is a Mosquitto with our configuration
// file on its command line.
func (d *Driver) checkProcess(pid int) error {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	name, err := os.ReadFile(filepath.Join(proc, "comm"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("process %d has ended", pid)
	}
	if err != nil {
		return err
	}
	if string(bytes.TrimSpace(name)) != "mosquitto" {
		return fmt.Errorf("process %d is %q", pid, bytes.TrimSpace(name))
	}
	command, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return err
	}
	ours, err := os.Stat(filepath.Join(d.dir, configFile))
	if err != nil {
		return err
	}
	arguments := strings.Split(string(command), "\x00")
	for i, argument := range arguments[:len(arguments)-1] {
		if argument != "-c" && argument != "--config-file" {
			continue
		}
		path := arguments[i+1]
		if !filepath.IsAbs(path) {
			path = filepath.Join(proc, "cwd", path)
		}
		if theirs, err := os.Stat(path); err == nil && os.SameFile(ours, theirs) {
			return nil
		}
	}
	return fmt.Errorf("process %d is a Mosquitto with another configuration", pid)
}

// hangUp sends SIGHUP. Before Mosquitto has set up its handler, which it does
// last, the signal would end it.
func (p *process) hangUp(ctx context.Context) error {
	for !p.catchesHangUp() {
		if err := pause(ctx, poll); err != nil {
			return fmt.Errorf("wait until Mosquitto has started: %w", err)
		}
	}
	err := p.Signal(syscall.SIGHUP)
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("send SIGHUP to Mosquitto, process %d: %w: run this program as root, or as the user that Mosquitto runs as", p.Pid, err)
	case err != nil:
		return fmt.Errorf("send SIGHUP to Mosquitto, process %d: %w", p.Pid, err)
	}
	return nil
}

// catchesHangUp reports whether the process has a handler for SIGHUP, or is gone.
func (p *process) catchesHangUp() bool {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.Pid), "status"))
	if err != nil {
		return true
	}
	_, rest, found := bytes.Cut(status, []byte("\nSigCgt:"))
	if !found {
		return true
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	mask, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 64)
	return err != nil || mask&(1<<(uint(syscall.SIGHUP)-1)) != 0
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
