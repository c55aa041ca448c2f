package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// SIGHUP takes a changed log level into force, and says what needs a restart;
// a file that is wrong changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "fleetca.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log-level: info\n")
	s := newTestServer(t, "--config", file)
	hangUp := func(want string) {
		t.Helper()
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if strings.Contains(s.log.String(), want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%q is not logged:\n%s", want, s.log)
			}
		}
	}
	hangUp(`"logLevel":"INFO"`)
	write("log-level: debug\nproof-timeout-typo: 1\n")
	hangUp("unknown key")
	write("log-level: debug\npublic-host: other.example\n")
	hangUp(`"key":"public-host"`)
	hangUp(`"logLevel":"DEBUG"`)
}
