package enroll_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
)

// bundle returns the newest CRLs as a broker fetches them.
func (s *site) bundle() brokers.Bundle {
	s.Helper()
	text, err := s.CRLBundle(s.ctx)
	s.must(err)
	b := brokers.Bundle{PEM: text}
	issuers, err := s.store.Issuers(s.ctx)
	s.must(err)
	for _, i := range issuers {
		b.Scopes = append(b.Scopes, brokers.Scope{Issuer: i.Certificate, DistributionPoints: i.CDPs()})
	}
	return b
}

// A held device is off the broker within seconds, a released one is back.
func TestHoldAndRelease_I10_I13(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	s.startJobs(nil)
	e, key := s.enroll("d")
	renewed := must(s.RenewDevice(s.ctx, device(s.current(e), ""), ""))
	other := b.fleet(1)[0]
	for range 2 {
		live := b.mustConnect("d", e, key)
		made := s.newEvents(func() {
			d := must(s.HoldDevice(s.ctx, as("op", ""), "d"))
			if d.Status != enroll.DeviceHeld || d.Certificates[0].Status != ca.StatusHeld {
				t.Errorf("%+v", d)
			}
		})
		s.eventually(20*time.Second, "session closed and refused", func() bool {
			_, err := b.connect("d", e, key)
			_, again := b.connect("d", renewed, key)
			return err != nil && again != nil && !live.alive()
		})
		s.unchangedButJobs(func() {
			_, err := s.HoldDevice(s.ctx, as("op", ""), "d")
			s.wantKind(err, enroll.KindDeviceHeld, "deviceId")
		})
		made = append(made, s.newEvents(func() { must(s.ReleaseDevice(s.ctx, as("op", ""), "d")) })...)
		s.eventually(20*time.Second, "admitted again", func() bool {
			_, err := b.connect("d", e, key)
			return err == nil
		})
		made = slices.DeleteFunc(made, func(action string) bool { return action == "crl.publish" })
		if !slices.Equal(made, []string{"device.hold", "device.release"}) {
			t.Errorf("events %v", made)
		}
	}
	if !other.alive() || len(s.onCRL()) != 0 {
		t.Errorf("the other lives: %v, CRL %v", other.alive(), s.onCRL())
	}
}

// unchangedButJobs ends the test if do changes anything but the job queue.
func (s *site) unchangedButJobs(do func()) {
	s.Helper()
	before := s.dump()
	do()
	for table, rows := range s.dump() {
		if before[table] != rows && table[:min(5, len(table))] != "river" {
			s.Errorf("%s was changed", table)
		}
	}
}

// A CRL that is dated after a decision may still be without it, when it was
// signed while the decision was being committed. The job sees that.
func TestChangeCommittedBehindACRLIsStillPublished_I10_I13(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	slow := s.server(&between{Store: s.store, do: func() {
		s.clock.forward(2 * time.Second)
		must(s.authority.PublishCRL(s.ctx, ca.CRLScope{IssuerID: "device"}, false))
	}})
	held, heldKey := s.enroll("held")
	revoked, revokedKey := s.enroll("revoked")
	session := b.mustConnect("revoked", revoked, revokedKey)
	must(slow.HoldDevice(s.ctx, as("op", ""), "held"))
	must(slow.RevokeCertificate(s.ctx, as("op", ""), string(revoked.Certificate.SerialNumber), enroll.RevokeRequest{Reason: "superseded"}))
	if len(s.onCRL()) != 1 { // the hold, by the CRL that was too early for the other
		t.Fatalf("the test makes no such CRL: %v", s.onCRL())
	}
	s.startJobs(nil)
	s.eventually(20*time.Second, "on the CRL, and enforced", func() bool {
		_, err := b.connect("held", held, heldKey)
		_, again := b.connect("revoked", revoked, revokedKey)
		return err != nil && again != nil && !session.alive() && s.onCRL()[revoked.Certificate.SerialNumber]
	})
}

// What is published is published once: a job that finds its change on the CRL,
// and the brokers with it, does nothing more.
func TestCRLIsPublishedOncePerChange(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	loads := 0
	b.on("LoadCRL", func(context.Context) error { loads++; return nil })
	e, _ := s.enroll("d")
	must(s.HoldDevice(s.ctx, as("op", ""), "d"))
	jobs := s.Jobs()
	for _, subject := range []string{"device:d", "device:d", "certificate:" + string(e.Certificate.SerialNumber)} {
		s.must(jobs[enroll.JobCRL](s.ctx, subject))
		s.must(jobs[enroll.JobDisconnect](s.ctx, "d"))
		s.must(jobs[enroll.JobScheduledCRL](s.ctx, ""))
	}
	if crl := must(s.CRL(s.ctx, "device")); crl.Number != 3 || loads != 1 {
		t.Errorf("CRL %d, loaded %d times", crl.Number, loads)
	}
	if err := jobs[enroll.JobCRL](s.ctx, "device@5"); err == nil {
		t.Error("an unknown subject is done")
	}
}

// A broker that could not take a CRL when it was published gets it with the
// next look, from the job that is tried again and from the one by the clock.
func TestMissedCRLIsHandedOverLater_I13(t *testing.T) {
	t.Parallel()
	for _, kind := range []enroll.JobKind{enroll.JobCRL, enroll.JobScheduledCRL, enroll.JobDisconnect} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			b, fine := s.broker("b"), s.broker("fine")
			e, key := s.enroll("d")
			must(s.HoldDevice(s.ctx, as("op", ""), "d"))
			b.on("LoadCRL", func(context.Context) error { return errors.New("no") })
			if err := s.Jobs()[enroll.JobDisconnect](s.ctx, "d"); err == nil {
				t.Fatal("the job is done, and a broker lacks the CRL")
			}
			if _, err := fine.connect("d", e, key); err == nil {
				t.Error("the other broker was held up")
			}
			if _, err := b.connect("d", e, key); err != nil {
				t.Fatalf("the test breaks nothing: %v", err)
			}
			b.on("LoadCRL", nil)
			s.must(s.Jobs()[kind](s.ctx, map[enroll.JobKind]string{enroll.JobCRL: "device:d", enroll.JobDisconnect: "d"}[kind]))
			if _, err := b.connect("d", e, key); err == nil {
				t.Error("the broker still lacks the CRL")
			}
		})
	}
}

// A device that was released while a broker could not be reached is not thrown
// off it when it can be again.
func TestReleasedDeviceIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	e, key := s.enroll("d")
	must(s.HoldDevice(s.ctx, as("op", ""), "d"))
	must(s.ReleaseDevice(s.ctx, as("op", ""), "d"))
	live := b.mustConnect("d", e, key)
	s.must(s.Jobs()[enroll.JobDisconnect](s.ctx, "d")) // that of the hold, late
	if !live.alive() {
		t.Error("a good device was disconnected")
	}
}

// A revocation for certificateHold that is lifted before it was proven is left
// at that, and no longer disconnects the device.
func TestLiftedHoldIsNoLongerProven(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"released", "revoked"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			b := s.broker("b")
			e, key := s.enroll("d")
			r := must(s.RevokeDevice(s.ctx, as("op", ""), "d", enroll.RevokeRequest{Reason: "certificateHold"}))
			b.on("LoadCRL", func(context.Context) error { return errPretend })
			if _, ok := errors.AsType[*enroll.Again](s.AdvanceRevocation(s.ctx, r.ID)); !ok {
				t.Fatal("proven without the CRL")
			}
			b.on("LoadCRL", nil)
			var live *session
			if end == "released" {
				must(s.ReleaseDevice(s.ctx, as("op", ""), "d"))
				live = b.mustConnect("d", e, key)
			} else {
				s.revoke("d")
			}
			made := s.newEvents(func() { s.must(s.AdvanceRevocation(s.ctx, r.ID)) })
			got := s.revocation(r.ID)
			if got.State != enroll.RevocationRecorded || step(t, got.Steps, "evidence", "").State != enroll.StepSkipped || len(made) != 1 {
				t.Errorf("%+v, events %v", got, made)
			}
			if live != nil && !live.alive() {
				t.Error("a good device was disconnected")
			}
			s.unchanged(func() { s.must(s.AdvanceRevocation(s.ctx, r.ID)) })
		})
	}
}

// A certificate that is revoked alone takes the sessions that began with it;
// a session with the device's other certificate stays.
func TestRevokedCertificateLosesItsSession(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	first, key := s.enroll("d")
	second := must(s.RenewDevice(s.ctx, device(s.current(first), ""), ""))
	live := b.mustConnect("d", second, key)
	s.startJobs(nil)
	revoke := func(e *enroll.Enrollment) {
		cert := must(s.RevokeCertificate(s.ctx, as("op", ""), string(e.Certificate.SerialNumber), enroll.RevokeRequest{Reason: "superseded"}))
		if cert.Status != ca.StatusRevoked || cert.Reason != ca.ReasonSuperseded || cert.RevokedAt.IsZero() {
			t.Errorf("%+v", cert)
		}
		s.eventually(20*time.Second, "on the CRL", func() bool { return s.onCRL()[e.Certificate.SerialNumber] })
	}
	revoke(first)
	time.Sleep(300 * time.Millisecond) // for a job that would disconnect it
	if _, err := b.connect("d", first, key); err == nil || !live.alive() {
		t.Fatalf("with the revoked one: %v; the session with the good one lives: %v", err, live.alive())
	}
	revoke(second)
	s.eventually(20*time.Second, "closed", func() bool { return !live.alive() })
	if d := must(s.Device(s.ctx, "d")); d.Status != enroll.DeviceActive {
		t.Errorf("the device is %s", d.Status)
	}
}
