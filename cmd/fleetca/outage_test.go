package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/fleetca/fleetca/store/storetest"
)

// While PostgreSQL is away the server says so (503 with Retry-After, not
// ready) and stays up; when it is back, the same requests go through, and a
// revocation that was under way is proven.
func TestPostgresOutage(t *testing.T) {
	t.Parallel()
	postgres := storetest.StartPostgres(t)
	s := newTestServerOn(t, postgres.NewDatabase(t))
	admin := s.rest(t, "admin")
	_, csr := newCSR(t, "dev-1")
	enroll := func() answer {
		return admin.send(t, "POST", "/enrollments", map[string]any{"deviceId": "dev-1", "csr": csr}, "Idempotency-Key", "k")
	}
	_, other := newCSR(t, "dev-2")
	if a := admin.send(t, "POST", "/enrollments", map[string]any{"deviceId": "dev-2", "csr": other}); a.status != http.StatusCreated {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := admin.send(t, "POST", "/devices/dev-2/revocation", map[string]any{"reason": "keyCompromise"}); a.status != http.StatusAccepted {
		t.Fatalf("%d %s", a.status, a.body)
	}
	postgres.Kill()
	time.Sleep(time.Second) // a child that has not noticed yet may commit once more
	if a := enroll(); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("without a database: %d %v %s", a.status, a.header, a.body)
	}
	status := &restClient{base: "http://" + s.status, http: http.DefaultClient}
	if a := status.send(t, "GET", "/healthz", nil); a.status != http.StatusOK {
		t.Errorf("healthz: %d", a.status)
	}
	time.Sleep(1100 * time.Millisecond) // readyz may answer what it saw a second ago
	if a := status.send(t, "GET", "/readyz", nil); a.status != http.StatusServiceUnavailable {
		t.Errorf("readyz without a database: %d", a.status)
	}
	postgres.Start(t)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if a := enroll(); a.status == http.StatusCreated {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the database is back: %d %s", a.status, a.body)
		}
	}
	if a := enroll(); a.status != http.StatusOK {
		t.Errorf("replay: %d %s", a.status, a.body)
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		var found struct{ Items []struct{ State string } }
		admin.send(t, "GET", "/revocations?device=dev-2", nil).into(t, http.StatusOK, &found)
		if len(found.Items) == 1 && found.Items[0].State == "proven" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the revocation: %+v\n%s", found, s.log)
		}
	}
}
