package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An issuer whose key is another's signs nothing, and says so in the log, at
// /readyz, in the metrics and by doctor; the other issuer and all that needs no
// signature go on. With the right key back SIGHUP is enough.
func TestIssuerKeyUnusable(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	s.stop(t)
	file := filepath.Join(s.dir, "keys", "device-issuer.pem")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := os.ReadFile(filepath.Join(s.dir, "keys", "broker-issuer.pem"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(wrong)
	s.start(t)
	admin := s.rest(t, "admin")
	enroll := func() answer {
		_, csr := newCSR(t, "dev-1")
		return admin.send(t, "POST", "/enrollments", map[string]any{"deviceId": "dev-1", "csr": csr}, "Idempotency-Key", "k")
	}
	if a := enroll(); a.status != http.StatusInternalServerError || !strings.Contains(string(a.body), "issuer-key-failure") {
		t.Errorf("an enrollment: %d %s", a.status, a.body)
	}
	if got := s.unusable(t); !slices.Equal(got, []string{"device"}) {
		t.Errorf("readyz names %v", got)
	}
	if text := s.get(t, "/metrics"); !strings.Contains(text, `fleetca_issuer_usable{issuer="device"} 0`) || !strings.Contains(text, `fleetca_issuer_usable{issuer="broker"} 1`) {
		t.Errorf("metrics:\n%s", text)
	}
	if text := s.log.String(); !strings.Contains(text, "key cannot be used") || !strings.Contains(text, `"issuer":"device"`) {
		t.Errorf("log:\n%s", text)
	}
	stdout, _, code := fleetca(t, "doctor", "--data", s.dir)
	if code == 0 || !strings.Contains(stdout, "issuer device: key ") || !strings.Contains(stdout, "fix keys: ") {
		t.Errorf("doctor: exit %d\n%s", code, stdout)
	}
	var rotation struct{ State string }
	unmarshal(t, string(admin.send(t, "POST", "/brokers/embedded/rotations", map[string]any{"dryRun": true}).body), &rotation)
	if rotation.State != "planned" {
		t.Errorf("the broker's rotation: %+v", rotation)
	}
	s.get(t, "/crl/device.crl")

	write(good)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if a := enroll(); a.status == http.StatusCreated {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("with the key back: %d %s", a.status, a.body)
		}
	}
	if got := s.unusable(t); got != nil {
		t.Errorf("readyz names %v", got)
	}
}

// unusable returns the issuers that /readyz names.
func (s *testServer) unusable(t *testing.T) []string {
	t.Helper()
	var ready struct{ UnusableIssuers []string }
	if err := json.Unmarshal([]byte(s.get(t, "/readyz")), &ready); err != nil {
		t.Fatal(err)
	}
	return ready.UnusableIssuers
}

// get fetches from the status listener.
func (s *testServer) get(t *testing.T, path string) string {
	t.Helper()
	resp, err := http.Get("http://" + s.status + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v\n%s", path, resp.Status, err, text)
	}
	return string(text)
}
