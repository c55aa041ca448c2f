package main

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store/storetest"
)

// The whole story on a real Mosquitto, with curl, openssl, mosquitto_pub and
// mosquitto_sub alone on the devices' side, and on both databases: enroll,
// publish, rotate under a live session, revoke, session closed, refused.
func TestMosquittoStory(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) { mosquittoStory(t, "") })
	t.Run("PostgreSQL", func(t *testing.T) { mosquittoStory(t, storetest.StartPostgres(t).NewDatabase(t)) })
}

func mosquittoStory(t *testing.T, database string) {
	f := newMosquittoFixture(t, database)
	f.admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO-1", "product": "sensor", "quantity": 5})
	f.enroll(t, "dev-1")
	f.enroll(t, "dev-2")

	received := f.subscribe(t, "dev-1")
	f.mustPublish(t, "dev-1", "before")
	expectLine(t, received, "before")
	// Its own topics alone: nobody hears another device's.
	f.mustPublish(t, "dev-2", "of another")

	var rotation enroll.Rotation
	unmarshal(t, f.fleetca(t, "broker", "rotate", "mosq", "--wait", "--json"), &rotation)
	if rotation.State != enroll.RotationDone || rotation.SessionsBefore != 1 || rotation.SessionsDropped != 0 {
		t.Fatalf("rotation: %+v", rotation)
	}
	f.mustPublish(t, "dev-1", "after the rotation")
	expectLine(t, received, "after the rotation")

	var revocation enroll.Revocation
	unmarshal(t, f.fleetca(t, "device", "revoke", "dev-1", "--reason", "keyCompromise", "--wait", "--json"), &revocation)
	if revocation.State != enroll.RevocationProven {
		t.Fatalf("revocation: %+v", revocation)
	}
	for _, st := range revocation.Steps {
		if st.Name == "session_closed" && st.Broker == "mosq" && st.Detail != "1 closed" {
			t.Errorf("session_closed: %s", st.Detail)
		}
	}
	for _, seen := range revocation.Evidence.Brokers { // the embedded broker is there too
		if seen.Broker == "mosq" && (seen.Refusal == nil || seen.Refusal.Alert != 44) {
			t.Errorf("refusal: %+v, want TLS alert 44 (certificate_revoked)", seen.Refusal)
		}
	}
	if out, err := f.publish(t, "dev-1", "refused"); err == nil {
		t.Errorf("the revoked device can publish: %s", out)
	}
	f.mustPublish(t, "dev-2", "still here")
}

// A mosquittoFixture is a server with a real Mosquitto.
type mosquittoFixture struct {
	*testServer
	admin                   *restClient
	adminToken              string // file
	curl, openssl, pub, sub string
	devices                 string // folder
	host, port              string
}

func newMosquittoFixture(t *testing.T, database string) *mosquittoFixture {
	t.Helper()
	f := &mosquittoFixture{
		curl: tool(t, "curl", "curl"), openssl: tool(t, "openssl", "openssl"),
		pub: tool(t, "mosquitto_pub", "mosquitto-clients"), sub: tool(t, "mosquitto_sub", "mosquitto-clients"),
		devices: t.TempDir(),
	}
	folder, addr := configureMosquitto(t)
	f.host, f.port, _ = strings.Cut(addr, ":")
	f.testServer = newTestServerOn(t, database, "--mosquitto", folder)
	runMosquitto(t, folder, addr)
	f.admin = f.rest(t, "admin")
	f.adminToken = filepath.Join(f.devices, "token")
	if err := ca.WriteNewFile(f.adminToken, []byte(f.admin.token), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// configureMosquitto writes the folder of a Mosquitto, broker mosq.
func configureMosquitto(t *testing.T) (folder, addr string) {
	t.Helper()
	addr, folder = freePort(t), filepath.Join(t.TempDir(), "mosq")
	args := []string{"broker", "config", "mosquitto", "--out", folder, "--url", "mqtts://" + addr, "--names", "127.0.0.1,localhost", "--listen", addr}
	if os.Geteuid() == 0 {
		args = append(args, "--user", "root") // the test's folder is for its owner alone
	}
	mustRun(t, args...)
	return folder, addr
}

// runMosquitto runs it until the test ends, once a server has given it a
// certificate.
func runMosquitto(t *testing.T, folder, addr string) {
	t.Helper()
	program, err := findMosquitto()
	if err != nil {
		tool(t, "mosquitto", "mosquitto")
	}
	m := &mosquittoProcess{program: program, dir: folder}
	if _, err := m.start(t.Context(), "mqtts://"+addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	})
}

// fleetca runs a client command, and returns what it prints.
func (f *mosquittoFixture) fleetca(t *testing.T, args ...string) string {
	t.Helper()
	return mustRun(t, append(args, "--server", "https://"+f.people, "--ca", f.bundle(), "--token-file", f.adminToken)...)
}

func (f *mosquittoFixture) file(name string) string { return filepath.Join(f.devices, name) }

// enroll makes a key with openssl, and enrolls with curl.
func (f *mosquittoFixture) enroll(t *testing.T, id string) {
	t.Helper()
	f.tool(t, f.openssl, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-keyout", f.file(id+".key"), "-subj", "/CN="+id, "-out", f.file(id+".csr"))
	csr, err := os.ReadFile(f.file(id + ".csr"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{"deviceId": id, "csr": string(csr), "workOrder": "WO-1"})
	if err != nil {
		t.Fatal(err)
	}
	f.tool(t, f.curl, "-fsS", "--cacert", f.bundle(), "-H", "Authorization: Bearer "+f.admin.token, "-H", "Content-Type: application/json",
		"-H", "Accept: application/pem-certificate-chain", "-H", "Idempotency-Key: "+id, "-d", string(body), "-o", f.file(id+".pem"),
		"https://"+f.people+"/api/v1/enrollments")
}

func (f *mosquittoFixture) tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(name), err, out)
	}
}

// clientArgs are what mosquitto_pub and mosquitto_sub are run with.
func (f *mosquittoFixture) clientArgs(id string) []string {
	return []string{"-h", f.host, "-p", f.port, "--cafile", f.bundle(), "--cert", f.file(id + ".pem"), "--key", f.file(id + ".key"),
		"-q", "1", "-t", "devices/" + id + "/talk"}
}

func (f *mosquittoFixture) publish(t *testing.T, id, text string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), f.pub, append(f.clientArgs(id), "-m", text)...).CombinedOutput()
	return string(out), err
}

func (f *mosquittoFixture) mustPublish(t *testing.T, id, text string) {
	t.Helper()
	if out, err := f.publish(t, id, text); err != nil {
		t.Fatalf("mosquitto_pub as %s: %v %s", id, err, out)
	}
}

// subscribe keeps a session of the device open, and returns what it receives.
func (f *mosquittoFixture) subscribe(t *testing.T, id string) <-chan string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), f.sub, append(f.clientArgs(id), "-i", id)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
		close(lines)
		cmd.Wait()
	}()
	for range 50 { // until the subscription is there
		f.mustPublish(t, id, "ready?")
		select {
		case <-lines:
			return lines
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatalf("%s receives nothing", id)
	return nil
}

// expectLine waits for a line.
func expectLine(t *testing.T, lines <-chan string, want string) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case line, open := <-lines:
			if line == want {
				return
			}
			if !open || line == "of another" {
				t.Fatalf("%q came in place of %q", line, want)
			}
		case <-timeout:
			t.Fatalf("%q did not come", want)
		}
	}
}

func unmarshal(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}
