// Package brokerkit starts real MQTT brokers for tests, each with the
// certificates, authorities and CRLs that a test gives it: Mosquitto, RabbitMQ,
// NATS, ejabberd and mochi. Every broker listens on free loopback ports, keeps
// its files in a temporary folder, and ends with its test. The services that a
// Debian package installs are neither used nor disturbed.
//
// A broker that is not installed skips its test, naming the package; with
// FLEETCA_TEST_ALL=1 that fails the test.
package brokerkit

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/nats-io/nats-server/v2/server"
)

// The account that every broker admits, beside a client certificate. Another
// password for it is refused.
const (
	User     = "verifier@localhost" // in the form of ejabberd, which others take as well
	Password = "correct horse"
)

// A Setup is what a broker works with.
type Setup struct {
	// Certificate is the broker's chain and key. They need not match.
	Certificate *tls.Certificate
	// ClientCAs are whom clients' certificates are required from.
	ClientCAs []*x509.Certificate
	// CRLs are held against clients' certificates, by brokers that can. Nil
	// checks none.
	CRLs []*x509.RevocationList
}

// A Broker is a broker that runs.
type Broker struct {
	MQTTS string // URL of its MQTT listener with TLS
	WSS   string // URL of its websocket listener with TLS; Mosquitto's takes no part in Reload
	Plain string // URL of a listener without TLS, in the form mqtts://HOST:PORT all the same

	reload func(Setup) error
}

// Reload gives the broker other certificates and CRLs as an operator would:
// files are replaced, and the broker is told. It returns when they are in force,
// or ErrReloadRefused when the broker keeps what it had.
func (b *Broker) Reload(s Setup) error { return b.reload(s) }

// ErrReloadRefused says that a broker looked at new files and kept the old.
var ErrReloadRefused = errors.New("the broker refuses the new files and keeps the old")

// A Kind is a broker that can be started.
type Kind struct {
	Name    string // with the version that is expected
	Program string // on PATH; empty for one that is compiled in
	Package string // of Debian, that has the program
	Start   func(t testing.TB, s Setup) *Broker

	MQTT5      bool // speaks version 5
	Revocation bool // checks CRLs
	Enforces   bool // refuses clients without a valid certificate
}

// Kinds are the brokers there are.
func Kinds() []Kind {
	return []Kind{
		{Name: "Mosquitto 2.0.11", Program: "mosquitto", Package: "mosquitto", Start: startMosquitto, MQTT5: true, Revocation: true, Enforces: true},
		{Name: "RabbitMQ 3.10.8", Program: "rabbitmq-server", Package: "rabbitmq-server", Start: startRabbitMQ, Revocation: true, Enforces: true},
		{Name: "NATS 2.9.10", Program: "nats-server", Package: "nats-server", Start: startNATS, Enforces: true},
		{Name: "NATS " + server.VERSION, Start: startEmbeddedNATS, Enforces: true},
		{Name: "ejabberd 23.01", Program: "ejabberdctl", Package: "ejabberd", Start: startEjabberd, MQTT5: true},
		{Name: "mochi " + mqtt.Version, Start: startMochi, MQTT5: true, Revocation: true, Enforces: true},
	}
}

// Require skips the test where the broker is not installed; with
// FLEETCA_TEST_ALL=1 that fails it.
func (k Kind) Require(t testing.TB) {
	t.Helper()
	if k.Program != "" {
		find(t, k.Program, k.Package)
	}
}

// find returns the path of a program.
func find(t testing.TB, program, debian string) string {
	t.Helper()
	for _, name := range []string{program, "/usr/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing := fmt.Sprintf("%s is not on PATH: install the package %s", program, debian)
	if os.Getenv("FLEETCA_TEST_ALL") == "1" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// ports returns n free ports of 127.0.0.1. They are below those that the system
// gives to connections and to listeners on port 0: some brokers take a minute to
// listen.
func ports(t testing.TB, n int) []int {
	t.Helper()
	const lowest, highest = 20000, 32000
	var free []int
	for range 100 * n {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(highest-lowest)))
		if err != nil {
			continue
		}
		defer l.Close() // held together, so that none is given twice
		if free = append(free, l.Addr().(*net.TCPAddr).Port); len(free) == n {
			return free
		}
	}
	t.Fatal("no free ports on 127.0.0.1")
	return nil
}

func mqttsURL(port int) string { return fmt.Sprintf("mqtts://127.0.0.1:%d", port) }

// startTimeout bounds how long a broker may take to listen.
const startTimeout = 60 * time.Second

// A folder holds a broker's files.
type folder string

// newFolder makes a folder that other users can read, should the broker drop
// its privileges.
func newFolder(t testing.TB) folder {
	t.Helper()
	dir, err := os.MkdirTemp("", "broker")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return folder(dir)
}

// path returns the path of a file in the folder.
func (f folder) path(name string) string { return filepath.Join(string(f), name) }

// write replaces a file in one step, and returns its path.
func (f folder) write(name string, content []byte) (string, error) {
	path := f.path(name)
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}

// The files of a Setup.
const (
	chainFile = "chain.pem"
	keyFile   = "key.pem"
	caFile    = "ca.pem"
	crlFile   = "crl.pem"
)

// install writes a Setup as PEM files.
func (f folder) install(s Setup) error {
	key, err := x509.MarshalPKCS8PrivateKey(s.Certificate.PrivateKey)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		chainFile: encode("CERTIFICATE", s.Certificate.Certificate...),
		keyFile:   encode("PRIVATE KEY", key),
	}
	for _, c := range s.ClientCAs {
		files[caFile] = append(files[caFile], encode("CERTIFICATE", c.Raw)...)
	}
	for _, c := range s.CRLs {
		files[crlFile] = append(files[crlFile], encode("X509 CRL", c.Raw)...)
	}
	for name, content := range files {
		if _, err := f.write(name, content); err != nil {
			return err
		}
	}
	return nil
}

// encode returns blocks of PEM.
func encode(kind string, ders ...[]byte) []byte {
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	return out
}
