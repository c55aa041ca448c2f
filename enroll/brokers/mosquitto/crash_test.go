package mosquitto

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
)

// killed runs a step while Mosquitto stands still, and kills it in the middle.
func (s *site) killed(step func() error) error {
	s.t.Helper()
	_ = s.command.Process.Signal(syscall.SIGSTOP)
	done := make(chan error)
	go func() { done <- step() }()
	time.Sleep(50 * time.Millisecond)
	s.kill()
	select {
	case err := <-done:
		return err
	case <-time.After(5 * time.Second):
		s.t.Fatal("the step goes on without a broker")
		return nil
	}
}

// Mosquitto is killed in the middle of each step and started again: nothing is
// half done, and the step can be taken again.
func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first, err := s.Installed()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := s.CertificateRequest(t.Context(), brokertest.Loopback)
	if err != nil {
		t.Fatal(err)
	}
	chain := s.servers.Server(csr)
	if err := s.killed(func() error { return s.Install(t.Context(), chain) }); err == nil || !strings.Contains(err.Error(), "mosquitto -c ") {
		t.Errorf("install: %v", err)
	}
	s.start()
	s.wantServed(first.Raw)
	if err := s.Install(t.Context(), chain); err != nil {
		t.Fatal(err)
	}
	s.wantServed(chain[0])
	if err := s.killed(func() error { return s.Rollback(t.Context()) }); err == nil {
		t.Error("rollback: no error")
	}
	s.start()
	s.wantServed(chain[0])
	if err := s.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wantServed(first.Raw)

	device := s.clients.Device("d")
	bundle := s.next(device)
	if err := s.killed(func() error { return s.LoadCRL(t.Context(), bundle) }); err == nil {
		t.Error("load: no error")
	}
	s.start()
	s.refused(device) // a good list stays: the next start loads it
	if err := s.LoadCRL(t.Context(), bundle); err != nil {
		t.Fatal(err)
	}

	other := s.clients.Device("other")
	s.mustPaho(other, "other")
	s.wantList("other/other")
	err = s.killed(func() error { _, err := s.Disconnect(t.Context(), "other"); return err })
	if err == nil {
		t.Error("disconnect: no error")
	}
	if list := s.list(); len(list) != 0 {
		t.Errorf("sessions of a dead broker: %v", list)
	}
	s.start()
	if closed, err := s.Disconnect(t.Context(), "other"); closed != 0 || err != nil {
		t.Errorf("closed %d: %v", closed, err)
	}
}

// The program dies between two steps and is started again.
func TestDriverKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first, err := s.Active(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	csr, err := s.CertificateRequest(t.Context(), brokertest.Loopback)
	if err != nil {
		t.Fatal(err)
	}
	chain := s.servers.Server(csr)
	if err := s.generations.Install(chain, func(*brokers.Pair) error { return nil }); err != nil { // and dies before SIGHUP
		t.Fatal(err)
	}
	s.open()
	s.wantServed(first.Raw)
	if err := s.Install(t.Context(), chain); err != nil {
		t.Fatal(err)
	}
	s.wantServed(chain[0])

	device := s.clients.Device("d")
	bundle := s.next(device)
	lists, err := brokers.ParseBundle(bundle.PEM)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.lists.Store(lists); err != nil { // and dies before SIGHUP
		t.Fatal(err)
	}
	s.mustPaho(device, "d")
	s.open()
	if err := s.LoadCRL(t.Context(), bundle); err != nil {
		t.Fatal(err)
	}
	s.refused(device)
	if closed, err := s.Disconnect(t.Context(), "d"); closed != 1 || err != nil {
		t.Errorf("closed %d: %v", closed, err)
	}
}

// A Mosquitto that does not run, another one's process, and somebody else's
// listener are told apart, and what to do is said.
func TestProcess(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	pid, err := os.ReadFile(filepath.Join(s.dir, pidFile))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := s.Installed()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"another program": "1\n", "this program": "PID", "empty": "", "garbage": "x"} {
		if content == "PID" {
			content = itoa(os.Getpid())
		}
		if err := os.WriteFile(filepath.Join(s.dir, pidFile), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sessions(t.Context()); err == nil || errors.Is(err, errStopped) || !strings.Contains(err.Error(), "restart it with: mosquitto -c ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, pidFile), pid, 0o644); err != nil {
		t.Fatal(err)
	}
	s.wantServed(leaf.Raw)
	s.kill()
	if _, err := s.Active(t.Context()); err == nil || !strings.Contains(err.Error(), "is Mosquitto running? Start it with: mosquitto -c ") {
		t.Errorf("stopped: %v", err)
	}
	other := newSite(t) // with the process number of another's broker in the file
	stranger := itoa(other.command.Process.Pid)
	if err := os.WriteFile(filepath.Join(s.dir, pidFile), []byte(stranger), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Active(t.Context()); err == nil || !strings.Contains(err.Error(), "another configuration") {
		t.Errorf("another broker: %v", err)
	}
	next := brokertest.Install(t, s, s.servers) // on disk, for the next start
	s.start()
	s.wantServed(next[0])
}

// A reload does not end a Mosquitto that is still starting.
func TestReloadWhileStarting(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for range 5 {
		s.end(syscall.SIGTERM)
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
					_ = s.LoadCRL(t.Context(), s.next())
				}
			}
		}()
		s.start()
		close(stop)
		<-done
		s.revoke()
	}
}

// A list that Mosquitto cannot read is an error, not a silence.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, who writes files for another user")
	}
	s := newSite(t)
	device := s.clients.Device("d")
	s.mustPaho(device, "d") // Mosquitto has started
	s.patience = time.Second
	if err := os.Chmod(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.LoadCRL(t.Context(), s.next(device)); !errors.Is(err, errRefused) || !strings.Contains(err.Error(), "Unable to") {
		t.Errorf("load: %v", err)
	}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.patience = reloadTimeout
	s.revoke(device)
	s.refused(device)
}

// The CAs of the clients are replaced without a restart, both ways.
func TestSetClientCAs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, lost := s.mustPaho(s.clients.Device("d"), "d")
	next := brokertest.NewCA(t, "next")
	device := next.Device("n")
	s.number++
	both := s.clients.Bundle(brokertest.List{Number: s.number})
	both.PEM = append(both.PEM, next.CRL(brokertest.List{Number: 1})...)
	both.Scopes = append(both.Scopes, next.Scope())
	if err := s.LoadCRL(t.Context(), both); err != nil {
		t.Fatal(err)
	}
	if err := s.admits(s.tls(device)); err == nil {
		t.Fatal("an unknown CA is trusted")
	}
	if err := s.SetClientCAs(t.Context(), append(certificates(s.clients), next.Certificate)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.admits(s.tls(device)), s.admits(s.tls(s.clients.Device("d")))); err != nil {
		t.Fatal(err)
	}
	if err := s.SetClientCAs(t.Context(), certificates(s.clients)); err != nil {
		t.Fatal(err)
	}
	if err := s.admits(s.tls(device)); err == nil {
		t.Fatal("a CA that was taken away is trusted")
	}
	select {
	case <-lost:
		t.Error("a session was dropped")
	default:
	}
}

// A configuration is not overwritten unless that is asked for, and what cannot
// be one is refused.
func TestWriteConfig(t *testing.T) {
	t.Parallel()
	s := newFolder(t, brokertest.NewCA(t, "devices"))
	settings := s.Settings()
	config, err := os.ReadFile(filepath.Join(s.dir, configFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteConfig(s.dir, settings); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("overwritten: %v", err)
	}
	settings.Overwrite = true
	if err := WriteConfig(s.dir, settings); err != nil {
		t.Error(err)
	}
	if again, err := os.ReadFile(filepath.Join(s.dir, configFile)); err != nil || !bytes.Equal(again, config) {
		t.Errorf("the same settings make another configuration: %v\n%s", err, again)
	}
	if _, err := os.Stat(filepath.Join(s.dir, clientsFile)); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Settings){
		"no id":         func(s *Settings) { s.ID = "" },
		"no URL":        func(s *Settings) { s.URL = "" },
		"line break":    func(s *Settings) { s.Applications = []string{"a\nuser b"} },
		"space":         func(s *Settings) { s.Control = "a " },
		"no port":       func(s *Settings) { s.Listen = "127.0.0.1" },
		"port 0":        func(s *Settings) { s.Listen = ":0" },
		"no plugin":     func(s *Settings) { s.Plugin = "/nowhere.so" },
		"unknown user":  func(s *Settings) { s.User = "nobody-of-this-name" },
		"less than one": func(s *Settings) { s.MaxConnections = -1 },
	} {
		bad := s.Settings()
		change(&bad)
		dir := filepath.Join(publicDir(t), "x")
		if err := WriteConfig(dir, bad); err == nil {
			t.Errorf("%s: written", name)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something was written", name)
		}
	}
	if _, err := Open(t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), "write the configuration first") {
		t.Errorf("an empty folder: %v", err)
	}
	if os.Geteuid() == 0 {
		dir := publicDir(t)
		if err := os.Chmod(filepath.Dir(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := WriteConfig(filepath.Join(dir, "x"), s.Settings()); err == nil || !strings.Contains(err.Error(), "cannot get through") {
			t.Errorf("a folder that Mosquitto cannot reach: %v", err)
		}
	}
}
