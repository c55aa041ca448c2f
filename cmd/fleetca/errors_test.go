package main

import (
	"errors"
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
