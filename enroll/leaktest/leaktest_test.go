package leaktest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// I23: no secret shows in the whole output of the test run that
// FLEETCA_TEST_SCAN names. .ci/run calls this after all tests.
func TestWholeOutput_I23(t *testing.T) {
	dir := os.Getenv(scanEnv)
	if dir == "" {
		t.Skip(scanEnv + " names no folder: .ci/run does")
	}
	s, err := Scan(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range s.Leaks {
		t.Error(l)
	}
	if s.Files < 5 || s.Bytes < 1<<20 || s.Secrets < 50 {
		t.Errorf("%d files, %d bytes, %d secrets: this was no whole run", s.Files, s.Bytes, s.Secrets)
	}
	t.Logf("looked through %d files with %d bytes for %d secrets and all that looks like one", s.Files, s.Bytes, s.Secrets)
}

// What is planted is found, whatever file it is in, and innocent text is not.
func TestPlantedSecretsAreFound(t *testing.T) {
	if os.Getenv("LEAKTEST_PLANT") != "" { // the process that plants
		Secret("fca_a-token-of-the-tests-own-making", "a password of several words", "short")
		Write("innocent text, with a short word")
		if _, err := Tee(os.Stdout).Write([]byte("the log says a password of several words\n")); err != nil {
			t.Fatal(err)
		}
		return
	}
	for what, c := range map[string]struct {
		text  string
		leaks int
	}{
		"nothing":             {"device dev-1 enrolled, serial 7123c8b2b9347625, fca_ tokens, argon2id", 0},
		"token":               {`{"msg":"x","token":"fca_0123456789012345678901234567890123456789abc"}`, 1},
		"session":             {"fcs_0123456789012345678901234567890123456789abc", 1},
		"canary":              {"passphrase CANARY-pass-phrase-7f3a9c is wrong", 1},
		"key":                 {"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw", 1},
		"encrypted key":       {"-----BEGIN ENCRYPTED PRIVATE KEY-----", 1},
		"hash":                {"$argon2id$v=19$m=19456", 1},
		"DSN":                 {"dial postgres://fleetca:hunter22@db/fleetca", 1},
		"DSN without":         {"dial postgres://fleetca@db/fleetca and postgres:///x?host=/tmp", 0},
		"DSN redacted":        {"cannot parse `postgres://fleetca:xxxxx@127.0.0.1:port/fleetca`", 0},
		"header":              {"Authorization: Bearer abcdefghijklmnopqrstuvwxyz", 1},
		"asked for":           {"    > exec fleetca user token --role admin --data ca\n    [stdout]\n    fca_0123456789012345678901234567890123456789abc\n    > stdout x\n", 0},
		"asked for as JSON":   {"> exec fleetca token create --json\n[stdout]\n{\n  \"token\": \"fca_0123456789012345678901234567890123456789abc\"\n}\n> stdout x\n", 0},
		"asked for, and more": {"> exec fleetca token create --role admin\n[stdout]\nfca_0123456789012345678901234567890123456789abc\n> exec fleetca device list\n[stderr]\nfca_0123456789012345678901234567890123456789abc\n", 1},
	} {
		if got := find("log", c.text, nil); len(got) != c.leaks {
			t.Errorf("%s: %v", what, got)
		}
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run", t.Name())
	cmd.Env = append(os.Environ(), outputEnv+"="+dir, "LEAKTEST_PLANT=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "go-test.log"), []byte("the bare a-token-of-the-tests-own-making\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Scan(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, l := range s.Leaks {
		found = append(found, l.String())
	}
	text := strings.Join(found, "\n")
	if s.Files != 2 || s.Secrets != 2 || len(found) != 2 || !strings.Contains(text, "the log says a password") || !strings.Contains(text, "the bare a-token") {
		t.Errorf("%+v", s)
	}
}
