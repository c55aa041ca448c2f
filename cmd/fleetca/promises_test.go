package main

import (
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// An idempotency key that was first used by a request that got an earlier
// certificate again is bound to that request (I5).
func TestKeyOfRepeatedRequest(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	admin := s.rest(t, "admin")
	_, csr := newCSR(t, "dev-1")
	_, other := newCSR(t, "dev-2")
	first := map[string]any{"deviceId": "dev-1", "csr": csr}
	var without, with struct{ Chain string }
	admin.send(t, "POST", "/enrollments", first).into(t, http.StatusCreated, &without)
	admin.send(t, "POST", "/enrollments", first, "Idempotency-Key", "key").into(t, http.StatusOK, &with)
	if with.Chain != without.Chain {
		t.Error("the same request got another certificate")
	}
	if a := admin.send(t, "POST", "/enrollments", map[string]any{"deviceId": "dev-2", "csr": other}, "Idempotency-Key", "key"); a.status != http.StatusConflict {
		t.Errorf("another request under the key: %d %s", a.status, a.body)
	}
	admin.send(t, "POST", "/enrollments", first, "Idempotency-Key", "key").into(t, http.StatusOK, &with)
	if with.Chain != without.Chain {
		t.Error("the same request got another certificate under its key")
	}
}

// A device whose one certificate was revoked by itself can be enrolled again
// by an operator, and by nobody else; one that was put on hold by itself comes
// back with the device's release.
func TestCertificateByItself(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	operator, factory, security := s.rest(t, "operator"), s.rest(t, "factory"), s.rest(t, "security")
	operator.send(t, "POST", "/work-orders", map[string]any{"id": "WO-1", "product": "p", "quantity": 9})
	var e struct {
		Certificate struct{ SerialNumber, Status string }
	}
	enroll := func(c *restClient, status int) {
		t.Helper()
		_, csr := newCSR(t, "dev-1")
		c.send(t, "POST", "/enrollments", map[string]any{"deviceId": "dev-1", "csr": csr, "workOrder": "WO-1"}).into(t, status, &e)
	}
	enroll(factory, http.StatusCreated)
	revoke := func(reason string) {
		t.Helper()
		if a := security.send(t, "POST", "/certificates/"+e.Certificate.SerialNumber+"/revocation", map[string]any{"reason": reason}); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	revoke("certificateHold")
	if a := security.send(t, "POST", "/devices/dev-1/release", nil); a.status != http.StatusOK {
		t.Errorf("release: %d %s", a.status, a.body)
	}
	var cert struct{ Status string }
	operator.send(t, "GET", "/certificates/"+e.Certificate.SerialNumber, nil).into(t, http.StatusOK, &cert)
	if cert.Status != "good" {
		t.Errorf("after the release it is %s", cert.Status)
	}
	revoke("superseded")
	serial := e.Certificate.SerialNumber
	enroll(factory, http.StatusConflict)
	enroll(operator, http.StatusCreated)
	if e.Certificate.SerialNumber == serial {
		t.Error("the revoked certificate was given again")
	}
	enroll(operator, http.StatusConflict)
}

// curl -d alone is understood: it calls every body a form.
func TestPlainCurl(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	admin := s.rest(t, "admin")
	for _, media := range []string{"application/x-www-form-urlencoded", ""} {
		id := "dev-" + strings.Trim(media, "/-")[:min(3, len(media))]
		if a := admin.send(t, "POST", "/devices", map[string]any{"id": id}, "Content-Type", media); a.status != http.StatusCreated {
			t.Errorf("%q: %d %s", media, a.status, a.body)
		}
	}
	if a := admin.send(t, "POST", "/devices", "id=dev-9", "Content-Type", "application/x-www-form-urlencoded"); a.status != http.StatusBadRequest {
		t.Errorf("a form: %d %s", a.status, a.body)
	}
}

// Devices are sent to a broker that was verified, whatever ids others have.
func TestBrokerOfEnrollment(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	admin := s.rest(t, "admin")
	admin.send(t, "POST", "/brokers", map[string]any{"id": "aaa", "url": "mqtts://nowhere.invalid", "names": []string{"nowhere.invalid"}, "kind": "mosquitto"})
	_, csr := newCSR(t, "dev-1")
	var e struct {
		Broker struct{ URL string }
	}
	admin.send(t, "POST", "/enrollments", map[string]any{"deviceId": "dev-1", "csr": csr}).into(t, http.StatusCreated, &e)
	if e.Broker.URL != "mqtts://"+s.mqtts {
		t.Errorf("devices are sent to %s", e.Broker.URL)
	}
}

// Two demos at the same time, both on their default addresses, do not get in
// each other's way.
func TestTwoDemos(t *testing.T) {
	t.Parallel()
	var both sync.WaitGroup
	for range 2 {
		dir := filepath.Join(t.TempDir(), "demo")
		both.Go(func() {
			out, err := program(t.Context(), "demo", "--exit", "--data", dir).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	both.Wait()
}
