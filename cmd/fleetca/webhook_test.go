package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// Audit events reach the receiver, signed; one that the receiver refuses comes
// again; others than asked for do not come; a server that was killed delivers
// after its restart.
func TestWebhook(t *testing.T) {
	t.Parallel()
	const secret = "a secret of the webhook, long enough"
	events := make(chan enroll.Event, 100)
	refuse := make(chan struct{}, 1)
	refuse <- struct{}{}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		stamp, signature, _ := strings.Cut(r.Header.Get("Fleetca-Signature"), ",v1=")
		mac := hmac.New(sha256.New, []byte(secret))
		io.WriteString(mac, strings.TrimPrefix(stamp, "t=")+"."+string(body))
		if signature != hex.EncodeToString(mac.Sum(nil)) {
			t.Errorf("signature %q", r.Header.Get("Fleetca-Signature"))
		}
		select {
		case <-refuse:
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		default:
		}
		var e enroll.Event
		if err := json.Unmarshal(body, &e); err != nil || e.ID != r.Header.Get("Fleetca-Delivery") {
			t.Errorf("%v: %s", err, body)
		}
		events <- e
	}))
	t.Cleanup(receiver.Close)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, "--webhook", receiver.URL, "--webhook-secret-file", file, "--webhook-events", "work-order.,device.register")
	seen := map[string]bool{} // a delivery may repeat: its id tells
	expect := func(action, subject string) {
		t.Helper()
		for timeout := time.After(15 * time.Second); ; {
			select {
			case e := <-events:
				if seen[e.ID] {
					continue
				}
				seen[e.ID] = true
				if e.Action != action || e.Subject != subject {
					t.Fatalf("%s %s came in place of %s %s", e.Action, e.Subject, action, subject)
				}
				return
			case <-timeout:
				t.Fatalf("%s %s did not come\n%s", action, subject, s.log)
			}
		}
	}
	admin := s.rest(t, "admin")
	admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO-1", "product": "p", "quantity": 1})
	expect("work-order.create", "work-order:WO-1") // refused once before

	receiver.Config.SetKeepAlivesEnabled(false)
	refuse <- struct{}{}
	admin.send(t, "POST", "/devices", map[string]any{"id": "dev-1"})
	s.kill()
	s.start(t)
	expect("device.register", "device:dev-1")
}
