package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// A folder that was made and not filled, as an interruption leaves it, is filled
// by the same command; one that was filled is not filled again.
func TestSeedGoesOn(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "fleet")
	if _, err := initialize(t.Context(), initConfig{data: data, organization: "fleetca TEST DATA", testData: true}); err != nil {
		t.Fatal(err)
	}
	args := []string{"seed", "--data", data, "--devices", "20"}
	if stdout, stderr, code := fleetca(t, args...); code != exitPass || !strings.Contains(stdout, "devices ") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	if stdout, stderr, code := fleetca(t, args...); code != exitUsage || !strings.Contains(stderr, "has devices already") || !strings.Contains(stderr, hintNewFolder) {
		t.Errorf("again: exit %d\n%s%s", code, stdout, stderr)
	}
}
