package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// A lineWriter hands every line on to whoever waits for it.
type lineWriter struct{ lines chan string }

func (w lineWriter) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		w.lines <- strings.TrimRight(line, "\n")
	}
	return len(p), nil
}

func (w lineWriter) next(t *testing.T) string {
	t.Helper()
	select {
	case line := <-w.lines:
		return line
	case <-time.After(time.Minute):
		t.Fatal("no line")
		return ""
	}
}

// TestVerifyWatch renews, spoils and takes away the client certificate while
// somebody watches: a line a run, a line a change, and the exit code of the last
// run.
func TestVerifyWatch(t *testing.T) {
	b := newScriptBrokers(t)
	in := func(name string) string { return filepath.Join(b.dir, name) }
	use := func(name string) {
		for _, kind := range []string{".key", ".pem"} {
			data, err := os.ReadFile(in(name + kind))
			if err != nil {
				t.Fatal(err)
			}
			if err := ca.ReplaceFile(in("watched"+kind), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	use("device")
	o := verifyOptions{ca: in("ca.pem"), cert: in("watched.pem"), key: in("watched.key"), mqtt: "auto", tls: "auto", foreign: "auto",
		timeout: time.Minute, stepTimeout: 20 * time.Second, publish: true, watch: 30 * time.Millisecond, junit: in("report.xml")}
	ctx, cancel := context.WithCancel(t.Context())
	out := lineWriter{make(chan string)}
	done := make(chan error, 1)
	go func() { done <- runVerify(ctx, out, o, b.env["STRICT"]) }()

	until := func(part string) (between []string) {
		for range 1000 {
			line := out.next(t)
			if strings.Contains(line, part) {
				return between
			}
			between = append(between, line)
		}
		t.Fatalf("no %q", part)
		return nil
	}
	first := out.next(t)
	if !strings.Contains(first, "PASS; TLS 1.3, MQTT 5, certificate 2 with 0 days left") {
		t.Errorf("first line %q", first)
	}
	use("revoked") // its files come one after the other: what does not fit is not taken
	for _, line := range until("FAIL at session_keys: broker_crl_expired_or_clock") {
		if !strings.Contains(line, " PASS;") {
			t.Errorf("line %q of runs that saw the same", line)
		}
	}
	for _, want := range []string{"verdict: fail, was pass", "session_keys: fail, was pass", "connect: skipped, was pass",
		"connack: skipped, was pass", "publish_subscribe: skipped, was pass", "new: broker_crl_expired_or_clock"} {
		if line := out.next(t); strings.TrimSpace(line) != want {
			t.Errorf("change %q, want %q", line, want)
		}
	}
	cancel()
	until(" runs: ")
	if err := <-done; exitCode(err) != exitFail {
		t.Errorf("%v", err)
	}
	if xml, err := os.ReadFile(in("report.xml")); err != nil || !bytes.Contains(xml, []byte("broker_crl_expired_or_clock")) {
		t.Errorf("JUnit: %v\n%s", err, xml)
	}
}

// TestVerifyWatchJSON prints a report a line.
func TestVerifyWatchJSON(t *testing.T) {
	b := newScriptBrokers(t)
	o := verifyOptions{ca: filepath.Join(b.dir, "ca.pem"), mqtt: "auto", tls: "auto", timeout: time.Minute, stepTimeout: 20 * time.Second,
		watch: time.Millisecond, json: true}
	ctx, cancel := context.WithCancel(t.Context())
	out := lineWriter{make(chan string)}
	done := make(chan error, 1)
	go func() { done <- runVerify(ctx, out, o, b.env["OPEN"]) }()
	for range 3 {
		var r mqtts.Report
		if err := json.Unmarshal([]byte(out.next(t)), &r); err != nil || len(r.Steps) != 8 {
			t.Errorf("%v: %+v", err, r)
		}
	}
	cancel()
	for {
		select {
		case <-out.lines:
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		}
	}
}
