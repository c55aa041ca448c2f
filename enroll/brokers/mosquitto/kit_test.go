package mosquitto

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
	"github.com/fleetca/fleetca/enroll/leaktest"
)

// Nothing is left running after a test that closed its driver.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program finds a program of Mosquitto, or skips; with FLEETCA_TEST_ALL=1 its
// absence fails the test.
func program(t *testing.T, name, debian string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	if os.Getenv("FLEETCA_TEST_ALL") == "1" {
		t.Fatalf("needs the Debian package %s", debian)
	}
	t.Skipf("needs the Debian package %s", debian)
	return ""
}

// A site is a folder, the driver on it, and at times a Mosquitto.
type site struct {
	*Driver
	t       *testing.T
	dir     string
	address string
	servers *brokertest.CA
	clients *brokertest.CA
	control atomic.Pointer[tls.Certificate]
	number  int64
	log     bytes.Buffer
	command *exec.Cmd
	output  string // file with what Mosquitto prints
}

// newFolder is a site with a configuration and nothing else.
func newFolder(t *testing.T, clients *brokertest.CA, changes ...func(*Settings)) *site {
	t.Helper()
	program(t, "mosquitto", "mosquitto")
	s := &site{t: t, servers: brokertest.NewCA(t, "brokers"), clients: clients, address: freeAddress(t)}
	public := publicDir(t)
	s.dir, s.output = filepath.Join(public, "a broker"), filepath.Join(public, "output")
	s.setControl(clients.Device("fleetca-canary"))
	settings := Settings{
		ID: "b1", URL: "mqtts://localhost:8883", Names: brokertest.Loopback, Listen: s.address,
		ClientCAs: []*x509.Certificate{clients.Certificate}, MaxConnections: 1000,
	}
	for _, change := range changes {
		change(&settings)
	}
	if err := WriteConfig(s.dir, settings); err != nil {
		t.Fatal(err)
	}
	s.open()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(s.dir, logFile))
			output, _ := os.ReadFile(s.output)
			t.Logf("mosquitto's log:\n%s\n%s\nthe driver's:\n%s", log, output, s.log.String())
		}
	})
	return s
}

// newSite is a site with all that Mosquitto needs, and a Mosquitto.
func newSite(t *testing.T, changes ...func(*Settings)) *site {
	t.Helper()
	s := newFolder(t, brokertest.NewCA(t, "devices"), changes...)
	brokertest.Install(t, s, s.servers)
	s.revoke()
	s.start()
	return s
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// publicDir is a temporary folder that another user can get through.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (s *site) open() {
	s.t.Helper()
	var mu sync.Mutex
	write := func(data []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return s.log.Write(data)
	}
	d, err := Open(s.dir, Options{
		Certificate: func(context.Context) (*tls.Certificate, error) { return s.control.Load(), nil },
		Log:         slog.New(slog.NewTextHandler(leaktest.Tee(writer(write)), nil)),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Driver = d
	s.t.Cleanup(func() { d.Close() })
}

// setControl changes the certificate that sessions are closed with.
func (s *site) setControl(certificate tls.Certificate) { s.control.Store(&certificate) }

type writer func([]byte) (int, error)

func (w writer) Write(data []byte) (int, error) { return w(data) }

// start starts Mosquitto, as a person does, and returns when it listens.
func (s *site) start() {
	s.t.Helper()
	s.command = exec.Command(program(s.t, "mosquitto", "mosquitto"), "-c", filepath.Join(s.dir, configFile))
	output, err := os.OpenFile(s.output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer output.Close()
	s.command.Stdout, s.command.Stderr = output, output
	if err := s.command.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "listening", func() bool {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func (s *site) kill() { s.end(syscall.SIGKILL) }

func (s *site) end(signal syscall.Signal) {
	if s.command != nil {
		_ = s.command.Process.Signal(signal)
		_ = s.command.Wait()
		s.command = nil
	}
}

// revoke loads the next revocation list, with these certificates on it.
func (s *site) revoke(certificates ...tls.Certificate) {
	s.t.Helper()
	if err := s.LoadCRL(s.t.Context(), s.next(certificates...)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) next(certificates ...tls.Certificate) brokers.Bundle {
	s.number++
	list := brokertest.List{Number: s.number}
	for _, certificate := range certificates {
		list.Revoked = append(list.Revoked, certificate.Leaf)
	}
	return s.clients.Bundle(list)
}

func (s *site) tls(certificate tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(s.servers.Certificate)
	return &tls.Config{
		RootCAs: roots, ServerName: "localhost",
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil },
	}
}

// paho connects a client of MQTT 3.1.1. The flag is set when it loses its
// connection.
func (s *site) paho(certificate tls.Certificate, clientID string) (client paho.Client, lost chan struct{}, err error) {
	lost = make(chan struct{})
	var once sync.Once
	client = paho.NewClient(paho.NewClientOptions().AddBroker("ssl://" + s.address).SetClientID(clientID).
		SetTLSConfig(s.tls(certificate)).SetAutoReconnect(false).SetProtocolVersion(4).SetConnectTimeout(5 * time.Second).
		SetConnectionLostHandler(func(paho.Client, error) { once.Do(func() { close(lost) }) }))
	token := client.Connect()
	if !token.WaitTimeout(5 * time.Second) {
		return nil, nil, os.ErrDeadlineExceeded
	}
	if token.Error() == nil {
		s.t.Cleanup(func() { client.Disconnect(0) })
	}
	return client, lost, token.Error()
}

func (s *site) mustPaho(certificate tls.Certificate, clientID string) (paho.Client, chan struct{}) {
	s.t.Helper()
	client, lost, err := s.paho(certificate, clientID)
	if err != nil {
		s.t.Fatal(err)
	}
	return client, lost
}

// refused fails the test unless Mosquitto refuses the certificate and takes
// another one.
func (s *site) refused(certificate tls.Certificate) {
	s.t.Helper()
	if err := s.admits(s.tls(certificate)); err == nil || !strings.Contains(err.Error(), "revoked certificate") {
		s.t.Fatalf("a revoked certificate: %v", err)
	}
	if err := s.admits(s.tls(s.clients.Device("control"))); err != nil {
		s.t.Fatal(err)
	}
}

// admits returns nil when Mosquitto lets a client wait for its own CONNECT. In
// TLS 1.3 a refusal comes with the first read.
func (s *site) admits(config *tls.Config) error {
	conn, err := tls.Dial("tcp", s.address, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err = conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// list is the sessions as IDENTITY/CLIENTID, sorted, without the control's.
func (s *site) list() []string {
	s.t.Helper()
	sessions, err := s.Sessions(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	list := []string{}
	for _, session := range sessions {
		if session.Identity != "control" && session.Identity != "fleetca-canary" {
			list = append(list, session.Identity+"/"+session.ClientID)
		}
	}
	slices.Sort(list)
	return list
}

func (s *site) wantList(want ...string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprint(want), func() bool { return slices.Equal(s.list(), want) })
}

func (s *site) ids() []string {
	s.t.Helper()
	sessions, err := s.Sessions(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	var ids []string
	for _, session := range sessions {
		ids = append(ids, session.ID)
	}
	return ids
}

// served is the serial number of the leaf in a handshake.
func (s *site) wantServed(leaf []byte) {
	s.t.Helper()
	active, err := s.Active(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	if !bytes.Equal(active.Raw, leaf) {
		s.t.Fatalf("served is %x", active.SerialNumber)
	}
}

// arguments are those of mosquitto_pub and mosquitto_sub for a device.
func (s *site) arguments(device tls.Certificate) []string {
	s.t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(device.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		s.t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(s.address)
	arguments := []string{"-h", host, "-p", port, "-q", "1"}
	dir := s.t.TempDir()
	for _, file := range []struct {
		flag, kind string
		der        []byte
	}{
		{"--cafile", "CERTIFICATE", s.servers.Certificate.Raw},
		{"--cert", "CERTIFICATE", device.Certificate[0]},
		{"--key", "PRIVATE KEY", key},
	} {
		path := filepath.Join(dir, strings.Trim(file.flag, "-")+".pem")
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.der}), 0o600); err != nil {
			s.t.Fatal(err)
		}
		arguments = append(arguments, file.flag, path)
	}
	return arguments
}

// eventually waits for something that Mosquitto does in its own time.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s after 10 s", what)
		}
	}
}

// within waits for a channel to be closed.
func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("not %s after 10 s", what)
	}
}

func wait(t *testing.T, token paho.Token) {
	t.Helper()
	if !token.WaitTimeout(5 * time.Second) {
		t.Fatal("no answer")
	}
	if token.Error() != nil {
		t.Fatal(token.Error())
	}
}

// guarded fails the test unless the error is that of a guard.
func guarded(t *testing.T, what string, err error) {
	t.Helper()
	if refusal, ok := errors.AsType[*brokers.GuardError](err); !ok || refusal.Problem == "" {
		t.Errorf("%s: %v", what, err)
	}
}

// foreignTemplate is a server's certificate for whatever key.
func foreignTemplate() *x509.Certificate {
	return &x509.Certificate{DNSNames: brokertest.Loopback[:1], ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
}

func certificates(ca *brokertest.CA) []*x509.Certificate { return []*x509.Certificate{ca.Certificate} }

func itoa(n int) string { return fmt.Sprintf("%d\n", n) }
