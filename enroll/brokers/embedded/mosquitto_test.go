package embedded

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mosquitto_sub gets what mosquitto_pub sends, with a certificate and nothing
// else to tell who they are.
func TestMosquittoClients(t *testing.T) {
	for _, program := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("FLEETCA_TEST_ALL") == "1" {
				t.Fatal(err)
			}
			t.Skipf("needs the Debian package mosquitto-clients: %v", err)
		}
	}
	s := newSite(t)
	host, port, _ := net.SplitHostPort(s.Addr().String())
	files := writeFiles(t, s, s.clients.Device("d"))
	arguments := append([]string{"-h", host, "-p", port, "-q", "1", "-t", "devices/d/state"}, files...)
	for _, version := range []string{"311", "5"} {
		publish := exec.CommandContext(t.Context(), "mosquitto_pub", append(arguments, "-V", version, "-r", "-m", "hello "+version)...)
		if out, err := publish.CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_pub: %v\n%s", err, out)
		}
		subscribe := exec.CommandContext(t.Context(), "mosquitto_sub", append(arguments, "-V", version, "-C", "1", "-W", "5")...)
		if out, err := subscribe.CombinedOutput(); err != nil || string(out) != "hello "+version+"\n" {
			t.Fatalf("mosquitto_sub: %v\n%s", err, out)
		}
	}
	revoked := s.clients.Device("revoked")
	s.revoke(revoked)
	publish := exec.CommandContext(t.Context(), "mosquitto_pub", append(append(arguments[:6:6], "-t", "x", "-m", "y"), writeFiles(t, s, revoked)...)...)
	if out, err := publish.CombinedOutput(); err == nil {
		t.Fatalf("mosquitto_pub with a revoked certificate succeeded:\n%s", out)
	}
}

// writeFiles writes what mosquitto_pub reads, and returns its arguments.
func writeFiles(t *testing.T, s *site, device tls.Certificate) []string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(device.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var arguments []string
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
			t.Fatal(err)
		}
		arguments = append(arguments, file.flag, path)
	}
	return arguments
}
