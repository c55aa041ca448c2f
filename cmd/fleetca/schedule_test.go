package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A server verifies its brokers from the start, what they must refuse included,
// and shows it, without being asked.
func TestServerVerifiesBySchedule(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, "--verify-every", "30s")
	want := `fleetca_broker_refuses{broker="embedded",check="revoked"} 1` + "\n"
	var shown string
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(shown, want); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no line %s in\n%s\nlog:\n%s", want, shown, s.log)
		}
		resp, err := http.Get("http://" + s.status + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		shown = string(text)
	}
	var history struct {
		Items []struct {
			Scheduled, Negative bool
			Looks               int
			Report              struct{ Verdict string }
		}
	}
	a := s.rest(t, "auditor").send(t, "GET", "/brokers/embedded/verifications", nil)
	if err := json.Unmarshal(a.body, &history); err != nil || len(history.Items) == 0 {
		t.Fatalf("history %s, %v", a.body, err)
	}
	for _, v := range history.Items {
		if !v.Scheduled || !v.Negative || v.Looks < 1 || v.Report.Verdict != "pass" {
			t.Errorf("%+v", v)
		}
	}
}
