package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fleetca/fleetca/store/storetest"
)

// I22: while somebody holds locks in the database, /readyz says so in time to
// everybody, and a server that is told to stop ends.
func TestStopWithoutAnswers(t *testing.T) {
	t.Parallel()
	database := storetest.StartPostgres(t).NewDatabase(t)
	s := newTestServerOn(t, database)
	admin := s.rest(t, "admin")
	other, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	if _, err := other.Exec(t.Context(), `BEGIN; LOCK TABLE authority, api_tokens IN EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	if a := admin.send(t, "GET", "/devices", nil); a.status != http.StatusOK { // whose token's use is to be kept
		t.Errorf("a read: %d %s", a.status, a.body)
	}
	time.Sleep(1100 * time.Millisecond) // readyz may answer what it saw a second ago
	status := &restClient{base: "http://" + s.status, http: http.DefaultClient}
	for range 2 {
		began := time.Now()
		if a := status.send(t, "GET", "/readyz", nil); a.status != http.StatusServiceUnavailable || time.Since(began) > 8*time.Second {
			t.Errorf("readyz: %d after %v", a.status, time.Since(began))
		}
	}
	began := time.Now()
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		t.Logf("ended after %v", time.Since(began))
	case <-time.After(stopMost + 5*time.Second):
		s.cmd.Process.Kill()
		t.Errorf("serve did not stop\n%s", s.log)
	}
	s.exited = nil
}

// A second signal ends a server that is about to end in order.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	conn, err := net.Dial("tcp", s.people) // on which a request is awaited
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	time.Sleep(100 * time.Millisecond) // until it is accepted
	s.cmd.Process.Signal(syscall.SIGTERM)
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(s.log.String(), "stopping"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("serve does not stop\n%s", s.log)
		}
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.exited:
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
			t.Errorf("serve ended with %v", err)
		}
	case <-time.After(3 * time.Second):
		s.cmd.Process.Kill()
		t.Errorf("serve did not stop at the second signal\n%s", s.log)
	}
	s.exited = nil
}
