package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
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

// The file of a key goes with what it was for, unless that may have come about.
func TestKeyOfWhatFailed(t *testing.T) {
	t.Parallel()
	failed := errors.New("no answer")
	for _, c := range []struct {
		err   error
		stays bool
	}{{nil, true}, {failed, false}, {&unknownOutcome{failed}, true}} {
		k := newKey{file: filepath.Join(t.TempDir(), "key.pem")}
		if err := os.WriteFile(k.file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		err := k.keep(c.err)
		if _, gone := os.Stat(k.file); !errors.Is(err, c.err) || (gone == nil) != c.stays {
			t.Errorf("after %v: %v, and the file: %v", c.err, err, gone)
		}
		if c.err != nil && c.stays && !strings.Contains(err.Error()+hintOf(err), k.file) {
			t.Errorf("%v does not name the file", err)
		}
	}
}
