package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll"
)

// A mistake in a list of devices names its line or column.
func TestRosterMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"deviceId,attributes.site\na,Köln\nb,K\xf6ln\n": `line 3: "K\xf6ln" is not UTF-8`, // Latin-1
		"deviceId,attributes.K\xf6ln\na,b\n":            `line 1: "attributes.K\xf6ln" is not UTF-8`,
		"deviceId,workOrder,workOrder \na,b,c\n":        `the column "workOrder" is there twice`,
		"deviceId,attributes.a,attributes.a\na,b,c\n":   `the column "attributes.a" is there twice`,
	} {
		path := filepath.Join(t.TempDir(), "line.csv")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := readRoster(path, enroll.EnrollRequest{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
}
