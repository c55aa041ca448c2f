package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// A cutter passes connections on to a server, and cuts each after so many bytes
// that the server answered, as often as it is told to.
type cutter struct {
	net.Listener
	to    string
	after int64
	cuts  atomic.Int64 // left
	made  atomic.Int64
}

func newCutter(t *testing.T, to string, after, cuts int64) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, to: to, after: after}
	c.cuts.Store(cuts)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go c.pass(conn)
		}
	}()
	return c
}

// pass copies both ways until one side ends, or it is cut.
func (c *cutter) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		defer client.Close()
		defer server.Close()
		buffer := make([]byte, 16<<10)
		for {
			n, err := client.Read(buffer)
			if _, werr := server.Write(buffer[:n]); err != nil || werr != nil {
				return
			}
		}
	}()
	buffer := make([]byte, 16<<10)
	for total := int64(0); ; {
		n, err := server.Read(buffer)
		if total += int64(n); total > c.after && c.cuts.Add(-1) >= 0 {
			c.made.Add(1)
			return // and what was read is lost
		}
		if _, werr := client.Write(buffer[:n]); err != nil || werr != nil {
			return
		}
	}
}

// writeRoster writes a CSV file of n devices.
func writeRoster(t *testing.T, prefix string, n int) string {
	t.Helper()
	var text strings.Builder
	text.WriteString("deviceId\n")
	for i := range n {
		fmt.Fprintf(&text, "%s-%04d\n", prefix, i)
	}
	path := filepath.Join(t.TempDir(), "devices.csv")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// clientArgs are the flags of a client command as a role.
func (s *testServer) clientArgs(t *testing.T, addr, role string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), role+".token")
	if err := os.WriteFile(file, []byte(s.token(t, role)), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--server", "https://" + addr, "--ca", s.bundle(), "--token-file", file}
}

// A bulk enrollment whose connection is cut in the middle, again and again,
// enrolls every device once: the order counts them, and no retry made a second
// certificate. Killed itself and run again it goes on.
func TestBulkOverBrokenConnections(t *testing.T) {
	t.Parallel()
	const devices = 300
	s := newTestServer(t)
	admin := s.rest(t, "admin")
	admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO", "product": "p", "quantity": devices}).into(t, 201, new(any))
	cut := newCutter(t, s.people, 200<<10, 3)
	out := filepath.Join(t.TempDir(), "line")
	args := append([]string{"device", "enroll", "--csv", writeRoster(t, "cut", devices), "--out", out, "--work-order", "WO"},
		s.clientArgs(t, cut.Addr().String(), "factory")...)

	first := program(t.Context(), args...)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); len(enrolledIn(t, out)) < 20; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is enrolled")
		}
	}
	first.Process.Kill()
	first.Wait() // it was killed
	before := enrolledIn(t, out)
	if len(before) == devices {
		t.Fatal("it was killed too late to have been interrupted")
	}

	stdout := mustRun(t, args...)
	after := enrolledIn(t, out)
	if len(after) != devices || cut.made.Load() == 0 {
		t.Errorf("%d of %d devices, %d cuts\n%s", len(after), devices, cut.made.Load(), stdout)
	}
	for name, text := range before {
		if !bytes.Equal(after[name], text) {
			t.Errorf("%s changed", name)
		}
	}
	var order struct{ Issued int }
	admin.send(t, "GET", "/work-orders/WO", nil).into(t, 200, &order)
	var certificates struct{ Items []struct{ Device string } }
	admin.send(t, "GET", "/certificates?limit=500&profile=device", nil).into(t, 200, &certificates)
	if order.Issued != devices || len(certificates.Items) != devices {
		t.Errorf("the order counts %d, there are %d certificates, for %d devices", order.Issued, len(certificates.Items), devices)
	}
}

// enrolledIn returns the certificates in the folders of a bulk enrollment.
func enrolledIn(t *testing.T, out string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(out, "*", "certificate.pem"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, name := range files {
		if all[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// On a terminal a bulk enrollment shows how far it is, and when it will be over.
func TestBulkOnTerminal(t *testing.T) {
	t.Parallel()
	script := tool(t, "script", "bsdutils")
	s := newTestServer(t)
	args := append([]string{"device", "enroll", "--csv", writeRoster(t, "tty", 60), "--out", filepath.Join(t.TempDir(), "line")},
		s.clientArgs(t, s.people, "operator")...)
	inner := program(t.Context(), args...)
	cmd := exec.CommandContext(t.Context(), script, "-qec", strings.Join(inner.Args, " "), "/dev/null")
	cmd.Env = inner.Env
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, want := range []string{`\[#{24}\] 60/60`, `\d+/s  ETA 0s`, `enrolled +60`} {
		if !regexp.MustCompile(want).Match(text) {
			t.Errorf("no match of %s in\n%q", want, text)
		}
	}
}

func TestBulkProgress(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	var text bytes.Buffer
	p := &bulkProgress{w: &text, total: 1000, now: func() time.Time { return now }}
	p.update(200, 0)
	p.begin()
	now = now.Add(10 * time.Second)
	p.update(400, 3)
	if want := "\r[#########...............] 400/1000  20/s  ETA 30s  3 refused\x1b[K"; !strings.HasSuffix(text.String(), want) {
		t.Errorf("%q, want %q at the end", text.String(), want)
	}
	shown := text.Len()
	now = now.Add(progressPause / 2)
	p.update(401, 3)
	if text.Len() != shown {
		t.Error("it is shown more often than can be read")
	}
}

// A bulk enrollment whose server is gone gives up after a while, and says how
// to go on.
func TestBulkWithoutServer(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	args := append([]string{"device", "enroll", "--csv", writeRoster(t, "gone", 3), "--out", filepath.Join(t.TempDir(), "line")},
		s.clientArgs(t, freePort(t), "operator")...)
	stdout, stderr, code := fleetca(t, args...)
	if code != exitFail || !strings.Contains(stdout, "open    3") || !strings.Contains(stderr, "run the same command again") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
}

// A server that is told to stop in the middle of a stream answers what it has
// read of it and ends at once; the stream's client goes on when it is back.
func TestBulkOverRestart(t *testing.T) {
	t.Parallel()
	const devices = 400
	s := newTestServer(t)
	out := filepath.Join(t.TempDir(), "line")
	cmd := program(t.Context(), append([]string{"device", "enroll", "--csv", writeRoster(t, "restart", devices), "--out", out},
		s.clientArgs(t, s.people, "operator")...)...)
	text := &output{}
	cmd.Stdout, cmd.Stderr = text, text
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); len(enrolledIn(t, out)) < 20; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is enrolled\n%s", text)
		}
	}
	s.stop(t)
	if !strings.Contains(s.log.String(), "batch broken off") || len(enrolledIn(t, out)) == devices {
		t.Errorf("the stream was not interrupted: %d enrolled\n%s", len(enrolledIn(t, out)), s.log)
	}
	s.start(t)
	if err := cmd.Wait(); err != nil || !strings.Contains(text.String(), fmt.Sprintf("folder    %s", out)) {
		t.Errorf("%v\n%s", err, text)
	}
	if n := len(enrolledIn(t, out)); n != devices {
		t.Errorf("%d of %d devices", n, devices)
	}
}

// A folder that is damaged is not taken for one that has its files, and is
// mended by the next run; nothing is made by the look at it.
func TestBulkMendsFolders(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	out := filepath.Join(t.TempDir(), "line")
	args := append([]string{"device", "enroll", "--csv", writeRoster(t, "mend", 2), "--out", out}, s.clientArgs(t, s.people, "operator")...)
	mustRun(t, args...)
	file := func(device, name string) string { return filepath.Join(out, device, name) }
	other, err := os.ReadFile(file("mend-0001", "chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"certificate.pem": string(other), "chain.pem": string(other), "trust-bundle.pem": "-----BEGIN CERTIFICATE-----\n"} {
		path := file("mend-0000", name)
		sound, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout := mustRun(t, args...)
		if mended, err := os.ReadFile(path); err != nil || !bytes.Equal(mended, sound) || !strings.Contains(stdout, "given again  1") {
			t.Errorf("%s: %v\n%s", name, err, stdout)
		}
	}
	if err := os.Remove(file("mend-0000", "key.pem")); err != nil {
		t.Fatal(err)
	}
	b := &bulkEnrollment{out: out}
	if b.has(rosterDevice{EnrollRequest: enroll.EnrollRequest{DeviceID: "mend-0000"}}) || !b.has(rosterDevice{EnrollRequest: enroll.EnrollRequest{DeviceID: "mend-0001"}}) {
		t.Error("the device without its key has everything, or the other has not")
	}
	if _, err := os.Stat(file("mend-0000", "key.pem")); err == nil {
		t.Error("a key was made")
	}
}

// What became of the devices is said also when the failures cannot be kept, with
// why the run ended.
func TestBulkWithoutFailuresFile(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	out := filepath.Join(t.TempDir(), "line")
	if err := os.MkdirAll(filepath.Join(out, failuresFile, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	operator := s.clientArgs(t, s.people, "operator")
	for _, c := range []struct {
		args           []string
		stdout, stderr string
	}{
		{[]string{"--work-order", "none"}, "refused  2", "2 of 2 devices were not enrolled"},
		{nil, "enrolled  2", ""},
	} {
		args := append([]string{"device", "enroll", "--csv", writeRoster(t, "full", 2), "--out", out}, append(operator, c.args...)...)
		stdout, stderr, code := fleetca(t, args...)
		if code != exitFail || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || !strings.Contains(stderr, failuresFile+": ") {
			t.Errorf("exit %d\n%s%s", code, stdout, stderr)
		}
	}
}
