// Package leaktest finds secrets in what a test run writes (I23).
//
// With FLEETCA_TEST_OUTPUT naming a folder, every test package appends to it:
//
//  1. what the server logs, answers as an error, keeps in the audit trail and
//     shows as metrics, by Tee and Write;
//  2. the secrets that the tests make up, by Secret, in files of their own.
//
// The log of go test -v goes there too. Scan then looks through it all for
// every one of these secrets, and for anything that has the form of one. A test
// of this package does so over the folder that FLEETCA_TEST_SCAN names.
package leaktest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

const (
	outputEnv = "FLEETCA_TEST_OUTPUT"
	scanEnv   = "FLEETCA_TEST_SCAN"
	secretEnd = ".secrets" // of the names of files that hold secrets, a line each
)

// A sink is one file of this process in the folder.
type sink struct {
	end  string // of its name
	once sync.Once
	mu   sync.Mutex
	file *os.File // nil without a folder
}

var output, secrets = sink{end: ".output"}, sink{end: secretEnd}

// Write implements io.Writer; without a folder it discards.
func (s *sink) Write(p []byte) (int, error) {
	s.once.Do(func() {
		dir := os.Getenv(outputEnv)
		if dir == "" {
			return
		}
		name := fmt.Sprintf("%s-%d%s", filepath.Base(os.Args[0]), os.Getpid(), s.end)
		file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			panic(fmt.Sprintf("%s: %v", outputEnv, err)) // nothing would be looked through
		}
		s.file = file
	})
	if s.file == nil {
		return len(p), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Write(p)
}

// Tee returns a writer to w that also appends to the run's output.
func Tee(w io.Writer) io.Writer { return io.MultiWriter(w, &output) }

// Write appends a text to the run's output.
func Write(text string) { fmt.Fprintln(&output, text) }

// Canary returns a secret for a test to use, which Scan knows by its form. what
// is of letters and spaces.
func Canary(what string) string { return "CANARY-" + strings.ReplaceAll(what, " ", "-") + "-7f3a9c" }

// minSecret is how long a secret must be to be looked for by its value: a
// shorter one is found in innocent text.
const minSecret = 12

// Secret notes values that must not be in the run's output. Those shorter than
// 12 octets are left out, and the prefix of a token is no part of the secret.
func Secret(values ...string) {
	for _, v := range values {
		v = bare(strings.TrimSpace(v))
		if len(v) >= minSecret && !strings.Contains(v, "\n") {
			fmt.Fprintln(&secrets, v)
		}
	}
}

// bare returns a token without the prefix that names its kind.
func bare(token string) string {
	if m := tokenPrefix.FindString(token); m != "" {
		return token[len(m):]
	}
	return token
}
