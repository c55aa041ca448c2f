package main

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
)

// What a hint tells a program to call, a person is told to run.
func TestHintsNameCommands(t *testing.T) {
	t.Parallel()
	for hint, want := range map[string]string{
		"GET /api/v1/issuers lists them":                  "fleetca issuer list lists them",
		"look at GET /api/v1/devices?q= first":            "look at fleetca device list TERM first",
		"GET /api/v1/brokers/ID/verifications lists them": "GET /api/v1/brokers/ID/verifications lists them", // no command does
	} {
		if got := hintOf(hinted(errors.New("no"), hint)); got != want {
			t.Errorf("%q becomes %q", hint, got)
		}
		if got := hintOf(ca.Errorf(ca.KindNotFound, "", hint, "no")); got != want {
			t.Errorf("%q becomes %q", hint, got)
		}
	}
	for call, command := range commandOf {
		name := strings.Fields(command)
		if cmd, _, err := newRootCommand().Find(name[1:]); err != nil || cmd.Name() != name[2] {
			t.Errorf("%s: there is no command %s", call, command)
		}
	}
}

// A port in use is told from an address that is none.
func TestListenErrors(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for addr, want := range map[string]string{
		taken.Addr().String(): "free the port",
		"bad":                 "give HOST:PORT",
		"127.0.0.1:65536":     "give HOST:PORT",
		"192.0.2.1:80":        "give HOST:PORT", // TEST-NET-1, of no machine
	} {
		_, err := definiteAddress(addr)
		if hint := hintOf(err); exitCode(err) != exitUsage || !strings.HasPrefix(hint, want) || !strings.Contains(err.Error(), "--mqtts-addr "+addr) {
			t.Errorf("%s: %v, hint %q", addr, err, hint)
		}
	}
}
