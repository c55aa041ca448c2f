package main

import (
	"bufio"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/enroll"
)

// A device that meets a conflict or a broken server is sent again, a few times,
// and a server that asks to be left alone is.
func TestBulkRetriesWhatPasses(t *testing.T) {
	t.Parallel()
	answers := map[string][]string{ // kinds, the last for good
		"meets-a-conflict": {"conflict", "conflict", "duplicate-device"},
		"meets-a-bug":      {"internal"},
		"is-refused":       {"device-revoked"},
	}
	statuses := map[string]int{"conflict": 409, "duplicate-device": 409, "internal": 500, "device-revoked": 422}
	sent := map[string]int{}
	streams, begun := 0, time.Now()
	var asked time.Duration
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if streams++; streams == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			begun = time.Now()
			return
		}
		if streams == 2 {
			asked = time.Since(begun)
		}
		index := 0
		for lines := bufio.NewScanner(r.Body); lines.Scan(); index++ {
			var item client.BatchItem
			if err := json.Unmarshal(lines.Bytes(), &item); err != nil {
				t.Error(err)
			}
			kinds := answers[item.DeviceID]
			kind := kinds[min(sent[item.DeviceID], len(kinds)-1)]
			sent[item.DeviceID]++
			fmt.Fprintf(w, `{"index":%d,"status":%d,"problem":{"type":"urn:fleetca:problem:%s","title":"%[3]s","status":%[2]d}}`+"\n", index, statuses[kind], kind)
		}
	}))
	t.Cleanup(s.Close)
	c, err := client.New(client.Config{Server: s.URL, Token: "token", CA: []*x509.Certificate{s.Certificate()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	b := &bulkEnrollment{client: c, out: t.TempDir(), pause: time.Millisecond, show: newBulkProgress(io.Discard, len(answers))}
	for id := range answers {
		b.pending = append(b.pending, rosterDevice{EnrollRequest: enroll.EnrollRequest{DeviceID: id}})
	}
	if err := b.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	failed := map[string]string{}
	for _, f := range b.outcome.Failures {
		failed[f.DeviceID] = f.Problem
	}
	for id, want := range map[string]struct {
		times   int
		problem string
	}{"meets-a-conflict": {3, "duplicate-device"}, "meets-a-bug": {deviceTries, "internal"}, "is-refused": {1, "device-revoked"}} {
		if sent[id] != want.times || failed[id] != want.problem {
			t.Errorf("%s was sent %d times, and failed with %q", id, sent[id], failed[id])
		}
	}
	if asked < time.Second {
		t.Errorf("the server was asked again after %v", asked)
	}
}
