package main

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll/leaktest"
)

// A device whose key is lost is not given the certificate of that key again: it
// is refused until a renewal link is there, and then has a pair that fits.
func TestEnrollAfterLostKey(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	out := t.TempDir()
	roster := filepath.Join(out, "devices.csv")
	if err := os.WriteFile(roster, []byte("deviceId\nlost-2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	operator := s.clientArgs(t, s.people, "operator")
	for id, enroll := range map[string][]string{
		"lost-1": {"lost-1", "--out", filepath.Join(out, "lost-1")},
		"lost-2": {"--csv", roster, "--out", out},
	} {
		t.Run(id, func(t *testing.T) {
			dir := filepath.Join(out, id)
			args := append(append([]string{"device", "enroll"}, enroll...), operator...)
			mustRun(t, args...)
			if err := os.Remove(filepath.Join(dir, "key.pem")); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time with the new key
				stdout, stderr, code := fleetca(t, args...)
				if code != exitFail || !strings.Contains(stdout+stderr, `device "`+id+`" is enrolled`) {
					t.Errorf("exit %d\n%s%s", code, stdout, stderr)
				}
			}
			link := mustRun(t, append([]string{"device", "renewal-link", id}, operator...)...)
			leaktest.Secret(link)
			file := filepath.Join(t.TempDir(), "link.token")
			if err := os.WriteFile(file, []byte(link), 0o600); err != nil {
				t.Fatal(err)
			}
			mustRun(t, "device", "enroll", id, "--enrollment-token-file", file, "--out", dir, "--server", "https://"+s.people, "--ca", s.bundle())
			if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")); err != nil {
				t.Error(err)
			}
			mustRun(t, args...) // and again: nothing is in the way
		})
	}
}

// A request that is kept for another key, or cannot be read, is replaced; one
// for the key is sent as it is.
func TestDeviceCSRIsForItsKey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key.pem")
	kept := strings.TrimSuffix(file, ".pem") + ".csr.pem"
	_, other := newCSR(t, "d")
	for _, text := range []string{"", other, other[:100]} {
		if err := os.WriteFile(kept, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		first, err := deviceCSR("", file, "d")
		if err != nil || first == text {
			t.Errorf("%v: %q was sent for %q", err, first, text)
		}
		if again, err := deviceCSR("", file, "d"); err != nil || again != first {
			t.Errorf("%v: the request changed", err)
		}
	}
}
