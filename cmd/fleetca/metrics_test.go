package main

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// Every metric that the alert rules and the board name is one that a running
// server shows.
func TestInstalledMetrics(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	mustRun(t, "doctor", "--data", s.dir) // asks the OCSP responder
	admin := s.rest(t, "admin")
	_, csr := newCSR(t, "dev-1")
	admin.send(t, "POST", "/enrollments", map[string]any{"deviceId": "dev-1", "csr": csr})
	admin.send(t, "POST", "/brokers", map[string]any{"id": "dead", "url": "mqtts://127.0.0.1:1"})
	for _, id := range []string{"embedded", "dead"} {
		admin.send(t, "POST", "/brokers/"+id+"/verifications", map[string]any{"negative": true})
	}
	admin.send(t, "POST", "/devices/dev-1/revocation", map[string]any{"reason": "superseded"})
	resp, err := http.Get("http://" + s.status + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	shown, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`fleetca_broker_refuses{broker="embedded",check="revoked"} 1`, `fleetca_broker_refuses{broker="embedded",check="plaintext"} 1`,
		`fleetca_broker_diagnosed{broker="dead",code="tcp_refused",severity="error"} 1`, `fleetca_broker_verified{broker="dead"} 0`,
	} {
		if !strings.Contains(string(shown), line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if strings.Contains(string(shown), `fleetca_broker_refuses{broker="dead"`) {
		t.Error("a broker that is dead refuses, or admits")
	}
	for _, file := range []string{"alerts.yaml", "grafana.json"} {
		text, err := installFiles.ReadFile("install/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var parsed any
		if file == "alerts.yaml" {
			err = yaml.Unmarshal(text, &parsed)
		} else {
			err = json.Unmarshal(text, &parsed)
		}
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		names := regexp.MustCompile(`\bfleetca_[a-z_]+`).FindAllString(string(text), -1)
		if len(names) < 10 {
			t.Errorf("%s names %d metrics", file, len(names))
		}
		for _, name := range names {
			if !regexp.MustCompile(`(?m)^` + name + `[{ ]`).Match(shown) {
				t.Errorf("%s: no metric %s", file, name)
			}
		}
	}
}

// A broker's certificate ends with the earlier of what it should serve and what
// it was seen to serve.
func TestFirstEnd(t *testing.T) {
	t.Parallel()
	end := time.Now()
	saw := func(c *mqtts.ServerCertificate) *enroll.Verification {
		return &enroll.Verification{Report: &mqtts.Report{ServerCertificate: c}}
	}
	for _, c := range []struct {
		last *enroll.Verification
		want time.Time
	}{
		{nil, end},
		{saw(nil), end},
		{saw(&mqtts.ServerCertificate{NotAfter: end.Add(time.Hour)}), end},
		{saw(&mqtts.ServerCertificate{NotAfter: end.Add(-time.Hour)}), end.Add(-time.Hour)},
	} {
		if got := firstEnd(&enroll.Broker{Certificate: &ca.Certificate{NotAfter: end}, LastVerification: c.last}); !got.Equal(c.want) {
			t.Errorf("%v, want %v", got, c.want)
		}
	}
}
