package main

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// The moments of a rotation, in their order, at which something dies. broker.rotate
// is the call itself, in its transaction.
var rotationMoments = []string{
	"event broker.rotate", "driver CertificateRequest", "event rotation.step issue running", "event broker.issue",
	"event rotation.step issue done", "event rotation.step install running", "driver Install", "event rotation.step install done",
	"event rotation.step probe done", "event rotation.step soak done", "event rotation.step commit done",
}

// The moments of a revocation.
var revocationMoments = []string{
	"event device.revoke", "event canary.issue", "event revocation.step canary_admitted done", "event canary.revoke", "event crl.publish",
	"event revocation.step crl_signed done", "driver LoadCRL", "event revocation.step crl_loaded done", "driver Disconnect",
	"event revocation.step session_closed done", "event revocation.step refusal_seen done", "event revocation.proven",
}

// PostgreSQL is killed with SIGKILL in the middle of every step of an
// enrollment, of a rotation and of a revocation, and started again on the same
// folder, and so is Mosquitto; nobody does anything else. Nothing is half-done
// then (I2, I27): see checkRotation and checkRevocation.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	var sites sync.WaitGroup // all at once: they wait more than they work
	for _, part := range []struct {
		name    string
		moments []string
		shares  int // sites that share the moments
		run     func(k *killSite, moment string, kill func(string))
	}{
		{"rotation", rotationMoments, 2, (*killSite).rotate},
		{"revocation", revocationMoments, 2, (*killSite).revoke},
		{"enrollment", []string{"event device.enroll"}, 1, (*killSite).enroll},
	} {
		for _, victim := range []string{"PostgreSQL", "Mosquitto"} {
			if part.name == "enrollment" && victim == "Mosquitto" {
				continue // it has no part in it
			}
			for share := range part.shares {
				sites.Go(func() {
					t.Run(fmt.Sprintf("%s/%s/%d", part.name, victim, share), func(t *testing.T) {
						k := newKillSite(t, victim == "PostgreSQL")
						kill := k.killMosquitto
						if victim == "PostgreSQL" {
							kill = k.killPostgres
						}
						for i := share; i < len(part.moments); i += part.shares {
							started := time.Now()
							part.run(k, part.moments[i], kill)
							t.Logf("%s: %s dies: over after %v", part.moments[i], victim, time.Since(started).Round(time.Millisecond))
						}
					})
				})
			}
		}
	}
	sites.Wait()
}

// enroll enrolls a device. A client that repeats its request gets one
// certificate, and the order counts one.
func (k *killSite) enroll(moment string, kill func(string)) {
	k.Helper()
	_, csr := newCSR(k.T, "dev")
	request := map[string]any{"deviceId": "dev", "csr": csr, "workOrder": "WO"}
	k.arm(moment, kill)
	if a := k.admin.send(k.T, "POST", "/enrollments", request, "Idempotency-Key", "dev"); a.status != 503 || a.header.Get("Retry-After") == "" {
		k.Errorf("%s: status %d, want 503 with Retry-After: %s", moment, a.status, a.body)
	}
	k.mustStrike(moment)
	k.must(k.insist("POST", "/enrollments", request, "Idempotency-Key", "dev"), 201, nil)
	k.must(k.admin.send(k.T, "POST", "/enrollments", request, "Idempotency-Key", "dev"), 200, nil)
	var order struct{ Issued int }
	k.must(k.admin.send(k.T, "GET", "/work-orders/WO", nil), 200, &order)
	if n := k.certificates("device=dev"); n != 1 || order.Issued != 1 {
		k.Errorf("%s: %d certificates, the order counts %d", moment, n, order.Issued)
	}
}

// certificates counts certificates.
func (k *killSite) certificates(filter string) int {
	k.Helper()
	var found struct {
		Items []struct{ SerialNumber string }
	}
	k.must(k.insist("GET", "/certificates?limit=500&"+filter, nil), 200, &found)
	return len(found.Items)
}

// rotate rotates the broker's certificate.
func (k *killSite) rotate(moment string, kill func(string)) {
	k.Helper()
	d := k.device(true)
	before, old := k.certificates("broker=mosq"), k.served()
	k.arm(moment, kill)
	var r enroll.Rotation
	k.must(k.insist("POST", "/brokers/mosq/rotations", map[string]any{}, "Idempotency-Key", moment), 202, &r)
	k.mustStrike(moment)
	for deadline := time.Now().Add(60 * time.Second); r.State == enroll.RotationRunning; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.Fatalf("%s: the rotation does not end: %+v\n%s", moment, r.Steps, k.log)
		}
		k.must(k.insist("GET", "/rotations/"+r.ID, nil), 200, &r)
	}
	k.checkRotation(moment, &r, before, old)
	if k.postgres != nil && d.dropped.Load() != 0 {
		k.Errorf("%s: the device's session was dropped: %+v", moment, r.Steps)
	}
	k.must(k.admin.send(k.T, "POST", "/brokers/mosq/verifications", map[string]any{}), 201, nil)
}

// checkRotation holds what became of a rotation against what may: it is done
// and the new certificate served, or (only when the broker died) rolled back
// and the old one served. There is one new certificate at most.
func (k *killSite) checkRotation(moment string, r *enroll.Rotation, before int, old string) {
	k.Helper()
	issued, served := k.certificates("broker=mosq")-before, k.served()
	switch {
	case r.State == enroll.RotationDone && served == string(r.NewSerial) && issued == 1:
		if k.postgres != nil && r.SessionsDropped != 0 {
			k.Errorf("%s: %d sessions are said to be dropped", moment, r.SessionsDropped)
		}
	case k.postgres == nil && r.State == enroll.RotationRolledBack && served == old && issued <= 1:
		k.Logf("%s: rolled back", moment)
	default:
		k.Errorf("%s: the rotation is %s, the broker serves %s, before it was %s, %d were issued: %+v", moment, r.State, served, old, issued, r)
	}
}

// revoke revokes a device, and watches the revocation become proven.
func (k *killSite) revoke(moment string, kill func(string)) {
	k.Helper()
	victim, other := k.device(false), k.device(true)
	k.arm(moment, kill)
	var r enroll.Revocation
	k.must(k.insist("POST", "/devices/"+victim.id+"/revocation", map[string]any{"reason": "keyCompromise"}, "Idempotency-Key", moment), 202, &r)
	k.mustStrike(moment)
	for deadline := time.Now().Add(90 * time.Second); r.State != enroll.RevocationProven; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.Fatalf("%s: not proven: %+v\n%s", moment, r.Steps, k.log)
		}
		k.must(k.insist("GET", "/revocations/"+r.ID, nil), 200, &r)
	}
	k.checkRevocation(moment, &r, victim, other)
}

// checkRevocation holds a proven revocation against the broker: no step is
// open, the device's session is closed and it gets no other, and another's
// lives on, or came back where the broker died.
func (k *killSite) checkRevocation(moment string, r *enroll.Revocation, victim, other *killDevice) {
	k.Helper()
	for _, st := range r.Steps {
		if st.State != enroll.StepDone {
			k.Errorf("%s: step %s is %s: %s", moment, st.Name, st.State, st.Detail)
		}
	}
	if victim.session.IsConnectionOpen() {
		k.Errorf("%s: the session of the revoked device lives on", moment)
	}
	if wait(victim.session.Connect(), "connect") == nil {
		k.Errorf("%s: the revoked device connects", moment)
	}
	if k.postgres != nil && other.dropped.Load() != 0 {
		k.Errorf("%s: the session of another device was dropped", moment)
	}
	for deadline := time.Now().Add(5 * time.Second); !other.session.IsConnectionOpen(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.Fatalf("%s: another device is not connected", moment)
		}
	}
}
