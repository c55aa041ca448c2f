package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers/mosquitto"
)

// mosquittoID is the id and the folder of the demo's Mosquitto.
const mosquittoID = "mosquitto"

// A mosquittoProcess is a Mosquitto that the demo runs.
type mosquittoProcess struct {
	program string // its path
	dir     string // that mosquitto.WriteConfig wrote
	cmd     *exec.Cmd
	output  bytes.Buffer
	exited  chan struct{}
}

// prepareBroker says in cfg which broker the server acts on. A folder keeps
// the broker it began with.
func (d *demo) prepareBroker(cfg *serveConfig) error {
	folder := d.dir.path(mosquittoID)
	if _, err := os.Stat(folder); (err == nil) != (d.cfg.broker == mosquittoID) && d.resumed {
		return usageError(fmt.Errorf("%s was begun with another broker than %s", d.cfg.data, d.cfg.broker), "give the same --broker, or another --data")
	}
	if d.cfg.broker == embeddedID {
		cfg.mqttsAddr = d.cfg.addresses[3]
		return nil
	}
	program, err := findMosquitto()
	if err != nil {
		return err
	}
	addr, err := definiteAddress(d.cfg.addresses[3])
	if err != nil && d.cfg.anyPort[3] {
		addr, err = definiteAddress("127.0.0.1:0")
	}
	if err != nil {
		return err
	}
	settings := mosquitto.Settings{ID: mosquittoID, URL: "mqtts://" + addr, Names: []string{"127.0.0.1", "localhost"}, Listen: addr, Overwrite: true}
	if os.Geteuid() == 0 {
		settings.User = "root" // the folder is for its owner alone
	}
	if err := mosquitto.WriteConfig(folder, settings); err != nil {
		return err
	}
	for link, target := range map[string]string{"broker": mosquittoID + "/broker", "crl.pem": mosquittoID + "/crl.pem"} {
		if err := os.Symlink(target, d.dir.path(link)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	cfg.mosquitto = []string{folder}
	d.mosquitto = &mosquittoProcess{program: program, dir: folder}
	return nil
}

// findMosquitto returns the path of mosquitto, which Debian keeps off the PATH
// of people.
func findMosquitto() (string, error) {
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", usageError(errors.New("mosquitto is not installed"), "install it (Debian package mosquitto), or leave --broker out")
}

// definiteAddress gives an address without a port a free one.
func definiteAddress(addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", listenError("mqtts-addr", addr, err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start starts Mosquitto, waits until it listens, and returns its version.
func (m *mosquittoProcess) start(ctx context.Context, url string) (string, error) {
	m.cmd = exec.Command(m.program, "-c", filepath.Join(m.dir, "mosquitto.conf"))
	m.cmd.Stdout, m.cmd.Stderr = &m.output, &m.output
	// Ctrl-C is for the demo, which then stops it after the devices.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.cmd.Start(); err != nil {
		return "", err
	}
	m.exited = make(chan struct{})
	go func() {
		_ = m.cmd.Wait() // what it said is in output, and in its log
		close(m.exited)
	}()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(url, "mqtts://"))
		if err == nil {
			conn.Close()
			return m.version(), nil
		}
		select {
		case <-m.exited:
			return "", hinted(fmt.Errorf("mosquitto ended: %s", strings.TrimSpace(m.output.String())), "its log is in "+filepath.Join(m.dir, "run"))
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// version returns what Mosquitto says it is.
func (m *mosquittoProcess) version() string {
	out, _ := exec.Command(m.program, "-h").Output() // its help ends with 1 or 3
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// stop ends Mosquitto.
func (m *mosquittoProcess) stop() error {
	if m.cmd == nil || m.cmd.Process == nil {
		return nil
	}
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-m.exited:
		return nil
	case <-time.After(5 * time.Second):
		return m.cmd.Process.Kill()
	}
}
