package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fleetca/fleetca/enroll/leaktest"
)

// TestMain makes the test binary serve as the program itself: run under the
// name fleetca, or with asProgram set, it is fleetca.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	testscript.Main(m, map[string]func(){"fleetca": main})
}

const asProgram = "FLEETCA_TEST_AS_PROGRAM"

// program returns a command that runs fleetca as a process of its own.
func program(ctx context.Context, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "FLEETCA_CONFIG=")
	return cmd
}

// fleetca runs a command line to its end.
func fleetca(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := program(t.Context(), args...)
	cmd.Stdout, cmd.Stderr = &out, leaktest.Tee(&errs)
	err := cmd.Run()
	if !asksForSecret(args) {
		leaktest.Write(out.String())
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatalf("fleetca %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), 0
}

// asksForSecret reports whether a command line prints a secret as its answer.
func asksForSecret(args []string) bool {
	return slices.Contains([]string{"user token", "token create", "device renewal-link"}, strings.Join(args[:min(2, len(args))], " ")) || args[0] == "demo"
}

// mustRun runs a command line that must succeed, and returns its output.
func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, code := fleetca(t, args...)
	if code != 0 {
		t.Fatalf("fleetca %s: exit %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// A testServer is fleetca serve as a process of its own.
type testServer struct {
	dir                             string
	people, machines, status, mqtts string // host:port
	database                        string // URL; empty for SQLite in dir
	args                            []string
	earlier                         string // path of an earlier fleetca to run; empty for this one
	cmd                             *exec.Cmd
	log                             *output
	exited                          chan error
}

// An output is what a running process has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return leaktest.Tee(&o.text).Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// newTestServer makes an authority and starts a server on it, with an embedded
// broker, on free ports and SQLite.
func newTestServer(t *testing.T, args ...string) *testServer {
	t.Helper()
	return newTestServerOn(t, "", args...)
}

// newTestServerOn is newTestServer on a database.
func newTestServerOn(t *testing.T, database string, args ...string) *testServer {
	t.Helper()
	s := &testServer{dir: filepath.Join(t.TempDir(), "data"), database: database, args: args}
	mustRun(t, "init", "--data", s.dir, "--database", database)
	passphrase, err := os.ReadFile(filepath.Join(s.dir, "passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	leaktest.Secret(string(passphrase))
	s.people, s.machines, s.status, s.mqtts = freePort(t), freePort(t), freePort(t), freePort(t)
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	return s
}

// ports are the next ports to try: below those that connections and listeners
// on any port get, so that nobody takes one between two looks, and elsewhere in
// every process.
var ports atomic.Int64

func init() { ports.Store(int64(10_000 + os.Getpid()%200*100)) }

// freePort returns a loopback address that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.FormatInt(ports.Add(1), 10)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

// start starts the server, and returns when /readyz answers 200.
func (s *testServer) start(t *testing.T) {
	t.Helper()
	args := append([]string{"serve", "--data", s.dir, "--database", s.database, "--people-addr", s.people, "--machine-addr", s.machines,
		"--status-addr", s.status, "--mqtts-addr", s.mqtts}, s.args...)
	s.cmd, s.log = program(context.Background(), args...), &output{}
	if s.earlier != "" {
		s.cmd.Path = s.earlier
	}
	s.cmd.Stderr, s.cmd.Stdout = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.exited = make(chan error, 1)
	go func() { s.exited <- s.cmd.Wait() }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + s.status + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case err := <-s.exited:
			t.Fatalf("serve ended: %v\n%s", err, s.log)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("serve is not ready: %v\n%s", err, s.log)
		}
	}
}

// stop ends the server as a person would; it must end in order.
func (s *testServer) stop(t *testing.T) {
	t.Helper()
	if s.exited == nil {
		return
	}
	s.tell(t)
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.exited:
		if err != nil {
			t.Errorf("serve ended with %v\n%s", err, s.log)
		}
	case <-time.After(20 * time.Second):
		s.cmd.Process.Kill()
		t.Errorf("serve did not stop\n%s", s.log)
	}
	s.exited = nil
}

// tell adds to the run's output what the server shows: metrics and, on SQLite,
// the audit trail.
func (s *testServer) tell(t *testing.T) {
	t.Helper()
	if resp, err := http.Get("http://" + s.status + "/metrics"); err == nil {
		text, _ := io.ReadAll(resp.Body) // as much as there is
		resp.Body.Close()
		leaktest.Write(string(text))
	}
	if s.database != "" {
		return
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "fleetca.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var trail sql.NullString
	if err := db.QueryRow(`SELECT group_concat(CAST(canonical AS TEXT), char(10)) FROM events`).Scan(&trail); err != nil {
		t.Error(err)
	}
	leaktest.Write(trail.String)
}

// kill ends the server with SIGKILL.
func (s *testServer) kill() {
	s.cmd.Process.Kill()
	<-s.exited
	s.exited = nil
}

func (s *testServer) bundle() string { return filepath.Join(s.dir, "trust-bundle.pem") }

// token mints an API token.
func (s *testServer) token(t *testing.T, role string) string {
	t.Helper()
	cmd := program(t.Context(), "user", "token", "--role", role, "--data", s.dir, "--database", s.database)
	if s.earlier != "" {
		cmd.Path = s.earlier
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("fleetca user token: %v", err)
	}
	text := string(out)
	leaktest.Secret(text)
	return strings.TrimSpace(text)
}

// tool returns the path of a program of another package, and skips the test
// without it (or fails it under FLEETCA_TEST_ALL=1).
func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		message := fmt.Sprintf("%s is not installed (Debian package %s)", name, debianPackage)
		if os.Getenv("FLEETCA_TEST_ALL") == "1" {
			t.Fatal(message)
		}
		t.Skip(message)
	}
	return path
}
