package main

import (
	"testing"

	"github.com/fleetca/fleetca/ca"
)

func TestSuccessorID(t *testing.T) {
	t.Parallel()
	l := &localIssuers{all: []ca.Issuer{{ID: "root"}, {ID: "device"}, {ID: "device-2"}, {ID: "device-2026-2"}}}
	for id, want := range map[string]string{
		"root":          "root-2",
		"device":        "device-3", // the next is taken
		"device-2":      "device-3",
		"broker-9":      "broker-10",
		"device-2026":   "device-2026-3", // a year is no count
		"device-2026-2": "device-2026-3",
		"2026":          "2026-2",
		"g2":            "g2-2",
	} {
		if got := l.successorID(id); got != want {
			t.Errorf("the successor of %s is %s, want %s", id, got, want)
		}
	}
}
