package mosquitto

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// Settings say what a Mosquitto is to fleetca, and what goes into its
// configuration. They are kept in DIR/fleetca.json.
type Settings struct {
	// ID is the broker's id.
	ID string `json:"id"`
	// URL is where devices dial it, mqtts://HOST[:8883].
	URL string `json:"url"`
	// Names are the DNS names and IP addresses of its certificate. The URL's
	// host when empty.
	Names []string `json:"names"`
	// Listen is the HOST:PORT of its listener. Without a host it is all
	// addresses; empty is the URL's port on all of them.
	Listen string `json:"listen"`
	// User is who Mosquitto becomes after it was started by root; "mosquitto"
	// when empty and root writes the configuration. For anybody else it must
	// be empty: Mosquitto then runs as that user.
	User string `json:"user,omitempty"`
	// Applications are the common names of certificates that may read and
	// write everything below devices/, as back ends do.
	Applications []string `json:"applications,omitempty"`
	// Control is the common name of the certificate that closes sessions; see
	// Options.Certificate. Empty is "fleetca-canary".
	Control string `json:"control"`
	// Plugin is the path of mosquitto_dynamic_security.so. Where packages put
	// it when empty.
	Plugin string `json:"plugin"`
	// MaxConnections bounds the clients of the listener; 0 is 100,000.
	MaxConnections int `json:"maxConnections"`

	// ClientCAs are written to DIR/clients.pem when there are any; see
	// [Driver.SetClientCAs].
	ClientCAs []*x509.Certificate `json:"-"`
	// Overwrite replaces a configuration that is there. Certificates,
	// revocation lists and what Mosquitto wrote stay.
	Overwrite bool `json:"-"`
}

const (
	configFile   = "mosquitto.conf"
	aclFile      = "acl"
	settingsFile = "fleetca.json"
	clientsFile  = "clients.pem"
	crlFile      = "crl.pem"
	runDir       = "run" // all below it is Mosquitto's
	logFile      = "run/mosquitto.log"
	pidFile      = "run/mosquitto.pid"
	dynsecFile   = "run/dynsec.json"
)

// plugins is where packages put the dynamic security plugin, with wildcards.
var plugins = []string{
	"/usr/lib/*/mosquitto_dynamic_security.so", "/usr/lib/mosquitto_dynamic_security.so",
	"/usr/lib64/mosquitto_dynamic_security.so", "/usr/local/lib/mosquitto_dynamic_security.so",
	"/usr/local/lib/*/mosquitto_dynamic_security.so", "/opt/homebrew/lib/mosquitto_dynamic_security.so",
}

// WriteConfig writes the folder that a Mosquitto is started with. It makes the
// folder if it is absent, and refuses to replace a configuration unless it is
// told to.
func WriteConfig(dir string, s Settings) error {
	if err := writeConfig(dir, s); err != nil {
		return fmt.Errorf("write Mosquitto's configuration: %w", err)
	}
	return nil
}

func writeConfig(dir string, s Settings) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := checkText("the folder", dir); err != nil {
		return err
	}
	if err := s.complete(); err != nil {
		return err
	}
	for _, name := range []string{configFile, aclFile, settingsFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil && !s.Overwrite {
			return fmt.Errorf("%s is there already: allow it to be overwritten, or name another folder", filepath.Join(dir, name))
		}
	}
	run := filepath.Join(dir, runDir)
	if err := os.MkdirAll(run, 0o755); err != nil {
		return err
	}
	owner, err := s.owner()
	if err != nil {
		return err
	}
	if err := owner.canReach(dir); err != nil {
		return err
	}
	if err := owner.give(run, 0o700); err != nil {
		return err
	}
	if len(s.ClientCAs) > 0 {
		if err := brokers.WriteFile(filepath.Join(dir, clientsFile), encodeCertificates(s.ClientCAs), 0o644); err != nil {
			return err
		}
	}
	settings, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	files := []struct {
		name string
		data []byte
		mode fs.FileMode
		own  bool // Mosquitto's
	}{
		{dynsecFile, []byte(dynsec), 0o600, true},
		{aclFile, s.acl(), 0o600, true},
		{configFile, s.config(dir), 0o644, false},
		{settingsFile, append(settings, '\n'), 0o644, false}, // last: with it the folder is one of ours
	}
	for _, file := range files {
		path := filepath.Join(dir, file.name)
		if err := brokers.WriteFile(path, file.data, file.mode); err != nil {
			return err
		}
		if file.own {
			if err := owner.give(path, file.mode); err != nil {
				return err
			}
		}
	}
	return nil
}

// complete checks the settings and fills in what was left empty.
func (s *Settings) complete() error {
	if s.ID == "" || s.URL == "" {
		return errors.New("the broker needs an id and a URL, as in mqtts://HOST:8883")
	}
	host, port, err := mqtts.SplitURL(s.URL)
	if err != nil {
		return err
	}
	if len(s.Names) == 0 {
		s.Names = []string{host}
	}
	if s.Listen == "" {
		s.Listen = net.JoinHostPort("", strconv.Itoa(port))
	}
	if _, number, err := net.SplitHostPort(s.Listen); err != nil {
		return fmt.Errorf("listen on %q: write HOST:PORT or :PORT", s.Listen)
	} else if n, err := strconv.ParseUint(number, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("listen on %q: %q is not a port", s.Listen, number)
	}
	if s.MaxConnections < 0 {
		return fmt.Errorf("%d connections are too few", s.MaxConnections)
	}
	if s.MaxConnections == 0 {
		s.MaxConnections = 100_000
	}
	if s.Control == "" {
		s.Control = "fleetca-canary"
	}
	if err := s.completeUser(); err != nil {
		return err
	}
	if err := s.findPlugin(); err != nil {
		return err
	}
	for _, text := range append([]string{s.ID, s.Listen, s.User, s.Control, s.Plugin}, s.Applications...) {
		if err := checkText("a setting", text); err != nil {
			return err
		}
	}
	return nil
}

func (s *Settings) completeUser() error {
	if os.Geteuid() != 0 {
		if s.User != "" {
			return fmt.Errorf("only root can have Mosquitto run as %q: leave the user out to run it as yourself", s.User)
		}
		return nil
	}
	if s.User == "" {
		s.User = "mosquitto"
	}
	if _, err := user.Lookup(s.User); err != nil {
		return fmt.Errorf("find Mosquitto's user: %w: install the package mosquitto, or name another user", err)
	}
	return nil
}

func (s *Settings) findPlugin() error {
	if s.Plugin != "" {
		if _, err := os.Stat(s.Plugin); err != nil {
			return fmt.Errorf("find the dynamic security plugin: %w", err)
		}
		return nil
	}
	for _, pattern := range plugins {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			s.Plugin = found[0]
			return nil
		}
	}
	return errors.New("mosquitto_dynamic_security.so, which closes sessions, is not installed: install the package mosquitto, or name its path")
}

// checkText refuses what cannot be a value in the configuration, which has one
// in a line and no quoting.
func checkText(what, text string) error {
	if strings.ContainsFunc(text, unicode.IsControl) || strings.TrimSpace(text) != text || strings.HasPrefix(text, "#") {
		return fmt.Errorf("%s, %q, cannot stand in a configuration file", what, text)
	}
	return nil
}

func readSettings(dir string) (Settings, error) {
	var s Settings
	data, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("%s has no %s: write the configuration first", dir, settingsFile)
	}
	if err != nil {
		return s, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return s, fmt.Errorf("read %s: %w", filepath.Join(dir, settingsFile), err)
	}
	if s.ID == "" || s.URL == "" || len(s.Names) == 0 || s.Listen == "" {
		return s, fmt.Errorf("%s lacks an id, a URL, names or an address: write the configuration again", filepath.Join(dir, settingsFile))
	}
	return s, nil
}

// address is where the listener is dialled on this host.
func (s *Settings) address() string {
	host, port, _ := net.SplitHostPort(s.Listen) // it was checked when it was written
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.Equal(net.IPv4zero) {
		host = "127.0.0.1"
	} else if ip != nil && ip.IsUnspecified() {
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
