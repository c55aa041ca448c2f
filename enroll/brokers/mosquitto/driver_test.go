package mosquitto

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
)

// A lateSite starts its Mosquitto when it has a certificate.
type lateSite struct {
	*site
	once sync.Once
}

func (l *lateSite) Install(ctx context.Context, chain [][]byte) error {
	err := l.site.Install(ctx, chain)
	if err == nil {
		l.once.Do(l.start)
	}
	return err
}

func TestContract(t *testing.T) {
	t.Parallel()
	brokertest.Run(t, func(t *testing.T, clients *brokertest.CA) brokers.Driver {
		s := newFolder(t, clients)
		s.revoke()
		return &lateSite{site: s}
	})
}

// What is written starts, without a warning, also when it is reloaded; the
// programs of Mosquitto get in with a device's files, and no further than the
// access list says.
func TestMosquittoClients(t *testing.T) {
	t.Parallel()
	pub, sub := program(t, "mosquitto_pub", "mosquitto-clients"), program(t, "mosquitto_sub", "mosquitto-clients")
	s := newSite(t, func(s *Settings) { s.Applications = []string{"back end"} })
	s.revoke()
	device, other := s.arguments(s.clients.Device("d")), s.arguments(s.clients.Device("other"))
	backEnd := s.arguments(s.clients.Device("back end"))
	publish := func(arguments []string, topic, text string) {
		t.Helper()
		if out, err := exec.Command(pub, append(arguments, "-r", "-t", topic, "-m", text)...).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_pub: %v\n%s", err, out)
		}
	}
	read := func(arguments []string, topic string) string {
		t.Helper()
		out, _ := exec.Command(sub, append(arguments, "-t", topic, "-C", "1", "-W", "1")...).CombinedOutput()
		return strings.TrimSpace(string(out))
	}
	for _, version := range []string{"311", "5"} {
		publish(append(device, "-V", version), "devices/d/state", "hello "+version)
		if got := read(append(device, "-V", version), "devices/d/state"); got != "hello "+version {
			t.Errorf("the device reads %q", got)
		}
	}
	publish(other, "devices/d/state", "not mine")
	if got := read(backEnd, "devices/#"); got != "hello 5" {
		t.Errorf("the back end reads %q", got)
	}
	if got := read(other, "devices/#"); got != "Timed out" {
		t.Errorf("another device reads %q", got)
	}
	publish(other, controlTopic, `{"commands":[{"command":"createClient","username":"x"}]}`)
	if got, err := os.ReadFile(filepath.Join(s.dir, dynsecFile)); err != nil || bytes.Contains(got, []byte(`"x"`)) {
		t.Errorf("a device controls the plugin: %v %s", err, got)
	}
	log, err := os.ReadFile(filepath.Join(s.dir, logFile))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "Warning") || strings.Contains(line, " Error") && !strings.Contains(line, "OpenSSL Error") {
			t.Errorf("Mosquitto complains: %s", line)
		}
	}
	if output, err := os.ReadFile(s.output); err != nil || len(output) > 0 {
		t.Errorf("Mosquitto prints %q: %v", output, err)
	}
	if os.Geteuid() == 0 {
		s.wantModes()
	}
}

// wantModes holds that Mosquitto's user can read the key, and write to nothing
// but its own folder.
func (s *site) wantModes() {
	s.t.Helper()
	for name, want := range map[string]string{
		".": "-rwxr-xr-x root", "broker/key.pem": "-rw-r----- root", "crl.pem": "-rw-r--r-- root", "clients.pem": "-rw-r--r-- root",
		"mosquitto.conf": "-rw-r--r-- root", "run": "-rwx------ mosquitto", "acl": "-rw------- mosquitto",
	} {
		out, err := exec.Command("stat", "-L", "-c", "%a %U", filepath.Join(s.dir, name)).Output()
		if err != nil {
			s.t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(s.dir, name))
		if err != nil {
			s.t.Fatal(err)
		}
		_, user, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
		if got := info.Mode().Perm().String() + " " + user; got != want {
			s.t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
}

// The certificate is replaced, twice and back once, while devices publish at
// QoS 1: no message is lost, no session is another one.
func TestRotateUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(s *Settings) { s.Applications = []string{"reader"} })
	var mu sync.Mutex
	received := map[string]bool{}
	reader, _ := s.mustPaho(s.clients.Device("reader"), "reader")
	wait(t, reader.Subscribe("devices/#", 1, func(_ paho.Client, message paho.Message) {
		mu.Lock()
		defer mu.Unlock()
		received[string(message.Payload())] = true
	}))
	var sent atomic.Int64
	stop := make(chan struct{})
	var publishers sync.WaitGroup
	for i := range 4 {
		name := fmt.Sprintf("device-%d", i)
		client, _ := s.mustPaho(s.clients.Device(name), name)
		publishers.Go(func() {
			for i := 0; ; i++ {
				token := client.Publish("devices/"+name+"/x", 1, false, fmt.Sprintf("%s/%d", name, i))
				if !token.WaitTimeout(5*time.Second) || token.Error() != nil {
					t.Errorf("publish: %v", token.Error())
					return
				}
				sent.Add(1)
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	before := s.ids()
	first, err := s.Active(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second := brokertest.Install(t, s, s.servers)
	s.wantServed(second[0])
	third := brokertest.Install(t, s, s.servers)
	s.wantServed(third[0])
	if err := s.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wantServed(second[0])
	if bytes.Equal(first.Raw, second[0]) {
		t.Error("nothing was replaced")
	}
	close(stop)
	publishers.Wait()
	if after := s.ids(); len(before) != 5 || !slices.Equal(before, after) {
		t.Errorf("sessions before %v, after %v", before, after)
	}
	eventually(t, "all received", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(received) == int(sent.Load())
	})
	t.Logf("%d messages", sent.Load())
}

// Bad bundles never reach the broker, whatever they are; a revoked device stays
// refused and a good one admitted.
func TestBadBundles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	device := s.clients.Device("d")
	s.mustPaho(device, "d")
	s.revoke(device)
	s.refused(device)
	good, err := os.ReadFile(filepath.Join(s.dir, crlFile))
	if err != nil {
		t.Fatal(err)
	}
	scopes := []brokers.Scope{s.clients.Scope()}
	uncovered := s.clients.Bundle(brokertest.List{Number: 9, IDP: brokertest.IDP("http://crl.test/elsewhere.crl")})
	for name, bundle := range map[string]brokers.Bundle{
		"missing":   {},
		"empty":     {Scopes: scopes},
		"garbage":   {PEM: []byte("garbage"), Scopes: scopes},
		"half":      {PEM: good[:len(good)/2], Scopes: scopes},
		"expired":   s.clients.Bundle(brokertest.List{Number: 9, NextUpdate: time.Now().Add(-time.Second)}),
		"older":     s.clients.Bundle(brokertest.List{Number: 1}),
		"uncovered": uncovered,
		"foreign":   {PEM: brokertest.NewCA(t, "foreign").CRL(brokertest.List{Number: 9}), Scopes: scopes},
	} {
		guarded(t, name, s.LoadCRL(t.Context(), bundle))
		if now, err := os.ReadFile(filepath.Join(s.dir, crlFile)); err != nil || !bytes.Equal(now, good) {
			t.Errorf("%s: the file changed: %v", name, err)
		}
	}
	s.refused(device)
	if err := os.WriteFile(filepath.Join(s.dir, crlFile), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.revoke(device) // what somebody damaged is mended by the next good bundle
	s.refused(device)
}

// Revoked, reloaded, closed, refused. The second list is of the same second as
// the first, and a TLS session from before is not resumed.
func TestRevoke(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	device, other := s.clients.Device("d"), s.clients.Device("other")
	_, lost := s.mustPaho(device, "d")
	_, lostToo := s.mustPaho(device, "d as something else")
	_, kept := s.mustPaho(other, "other")
	config, resumed := s.tls(device), false
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	config.VerifyConnection = func(state tls.ConnectionState) error { resumed = state.DidResume; return nil }
	for range 2 {
		if err := s.admits(config); err != nil {
			t.Fatal(err)
		}
	}
	if !resumed {
		t.Error("nothing is resumed: there is nothing to test")
	}
	s.wantList("d/d", "d/d as something else", "other/other")
	s.revoke(device)
	s.wantList("d/d", "d/d as something else", "other/other") // the list alone closes nothing
	if err := s.admits(config); err == nil || !strings.Contains(err.Error(), "revoked certificate") {
		t.Errorf("resumed: %v", err)
	}
	if closed, err := s.Disconnect(t.Context(), "d"); closed != 2 || err != nil {
		t.Fatalf("closed %d: %v", closed, err)
	}
	within(t, "closed", lost)
	within(t, "closed", lostToo)
	s.wantList("other/other")
	if closed, err := s.Disconnect(t.Context(), "d"); closed != 0 || err != nil {
		t.Fatalf("closed again %d: %v", closed, err)
	}
	s.refused(device)
	select {
	case <-kept:
		t.Error("another device's session was closed")
	default:
	}
}

// A pair that does not match cannot be installed, nor one that Mosquitto cannot
// read: then the one before is served again.
func TestMismatchedPair(t *testing.T) {
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
	foreign := brokertest.NewCA(t, "brokers").Server(csr)
	if err := s.Install(t.Context(), [][]byte{s.servers.Issue(*foreignTemplate(), brokertest.NewKey(t).Public()).Raw}); err == nil {
		t.Fatal("a certificate without its key is installed")
	}
	s.wantServed(first.Raw)

	// The driver reloads a pair, and something else is in the file by then.
	broken := errors.New("")
	err = s.generations.Install(foreign, func(pair *brokers.Pair) error {
		path := filepath.Join(pair.Folder, brokers.KeyFile)
		if bytes.Equal(pair.Leaf.Raw, foreign[0]) {
			if err := os.WriteFile(path, []byte("garbage"), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		err := s.reload(t.Context(), pair.Leaf)
		if bytes.Equal(pair.Leaf.Raw, foreign[0]) {
			broken = err
		} else if err != nil {
			t.Errorf("the way back: %v", err)
		}
		return err
	})
	if err == nil || !errors.Is(broken, errRefused) {
		t.Fatalf("install: %v, reload: %v", err, broken)
	}
	s.wantServed(first.Raw)
	s.mustPaho(s.clients.Device("d"), "d")
}
