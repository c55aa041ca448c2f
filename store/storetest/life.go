package storetest

import (
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// superseding returns an enrollment of an active device under a new key, by a
// token that renews.
func (f *fixture) superseding(device, token string) ca.Issuance {
	i := f.spending(device, token)
	claimOf(i).Device.Supersedes = true
	return i
}

// goodOf returns the serial numbers of a device's good certificates.
func (f *fixture) goodOf(device string) []ca.SerialNumber {
	f.Helper()
	d, err := f.store.Device(f.ctx, device)
	f.must(err)
	f.wantExpiry(d)
	var good []ca.SerialNumber
	for _, c := range d.Certificates {
		if c.Status == ca.StatusGood {
			good = append(good, c.SerialNumber)
		}
	}
	return good
}

var lifeTests = []test{
	{"a superseding enrollment ends what the device held", func(f *fixture) {
		first := f.enroll("d")
		f.must(f.commit(f.renewal(first)))
		f.revokeCertificate(first.SerialNumber, ca.ReasonCertificateHold)
		f.token(enroll.EnrollmentToken{ID: "t", DeviceID: "d", Renews: true})
		i := f.superseding("d", "t")
		f.must(f.store.CheckClaim(f.ctx, claimOf(i), i.Certificate.Holder, i.Certificate.KeySHA256))
		f.must(f.commit(i))
		if good := f.goodOf("d"); !slices.Equal(good, []ca.SerialNumber{i.Certificate.SerialNumber}) {
			f.Fatalf("good are %v", good)
		}
		c, err := f.store.Certificate(f.ctx, first.SerialNumber)
		f.must(err)
		if c.Status != ca.StatusRevoked || c.Reason != ca.ReasonSuperseded {
			f.Fatalf("the first is %s for %s", c.Status, c.Reason)
		}
		again := i // the answer was lost
		f.wantReplay(f.commit(again), i.Certificate.SerialNumber)
		f.refusal(f.superseding("d", "t"), enroll.KindTokenUsed)
	}},
	{"I6 a superseding enrollment needs a token that renews, an active device and a new key", func(f *fixture) {
		first := f.enroll("d")
		f.token(enroll.EnrollmentToken{ID: "renews", DeviceID: "d", Renews: true, Uses: 9})
		f.token(enroll.EnrollmentToken{ID: "plain", DeviceID: "d"})
		f.unchanged(func() { f.wantKind(f.commit(f.superseding("d", "plain")), enroll.KindConflict) })
		i := f.superseding("d", "renews")
		i.Certificate.KeySHA256 = first.KeySHA256
		f.refusal(i, enroll.KindDuplicateKey)
		f.refusal(f.superseding("other", "renews"), enroll.KindTokenOtherDevice)
		f.must(f.store.HoldDevice(f.ctx, "d", f.now, f.change("device.hold", "device:d")))
		f.refusal(f.superseding("d", "renews"), enroll.KindDeviceHeld)
		f.revoke("d", ca.ReasonKeyCompromise)
		f.refusal(f.superseding("d", "renews"), enroll.KindDeviceRevoked)
		f.token(enroll.EnrollmentToken{ID: "new", DeviceID: "e", Renews: true})
		f.refusal(f.superseding("e", "new"), ca.KindNotFound)
		f.must(f.store.CreateDevice(f.ctx, enroll.Device{ID: "e", Status: enroll.DeviceRegistered, CreatedAt: f.now}, f.change("device.register", "device:e")))
		f.refusal(f.superseding("e", "new"), enroll.KindConflict)
	}},
	{"I6 of superseding enrollments at once, one token makes one certificate", func(f *fixture) {
		f.enroll("d")
		f.token(enroll.EnrollmentToken{ID: "t", DeviceID: "d", Renews: true})
		all := make([]ca.Issuance, 8)
		for n := range all {
			all[n] = f.superseding("d", "t")
			claimOf(all[n]).Token.RequestHash = sum(string(all[n].Certificate.SerialNumber))
		}
		won := f.wantOne(race(len(all), func(n int) error { return f.commit(all[n]) }), func(err error) { f.wantKind(err, enroll.KindTokenUsed) })
		if good := f.goodOf("d"); !slices.Equal(good, []ca.SerialNumber{all[won].Certificate.SerialNumber}) {
			f.Fatalf("good are %v", good)
		}
	}},
	{"a renewal and a superseding enrollment at once leave one good certificate", func(f *fixture) {
		for _, id := range []string{"d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"} {
			first := f.enroll(id)
			f.token(enroll.EnrollmentToken{ID: "t" + id, DeviceID: id, Renews: true})
			renewal, anew := f.renewal(first), f.superseding(id, "t"+id)
			errs := race(2, func(n int) error { return f.commit([]ca.Issuance{renewal, anew}[n]) })
			f.must(errs[1])
			if errs[0] != nil {
				f.wantKind(errs[0], ca.KindRevoked)
			}
			if good := f.goodOf(id); !slices.Equal(good, []ca.SerialNumber{anew.Certificate.SerialNumber}) {
				f.Fatalf("good are %v", good)
			}
		}
	}},
	{"a renewal and a revocation of its certificate at once do not wait for each other", func(f *fixture) {
		for _, id := range []string{"d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"} {
			first := f.enroll(id)
			renewal := f.renewal(first)
			begun := time.Now()
			errs := race(2, func(n int) error {
				if n == 0 {
					return f.commit(renewal)
				}
				_, err := f.store.RevokeCertificate(f.ctx, first.SerialNumber, ca.ReasonSuperseded, f.now, f.change("certificate.revoke", "certificate:x"))
				return err
			})
			f.must(errs[1])
			if errs[0] != nil {
				f.wantKind(errs[0], ca.KindRevoked)
			}
			if took := time.Since(begun); took > 900*time.Millisecond { // PostgreSQL breaks a deadlock after a second
				f.Errorf("took %v", took)
			}
			f.goodOf(id)
		}
	}},
	{"retiring revokes what is good or held, and is final", func(f *fixture) {
		cert := f.enroll("d")
		f.must(f.commit(f.renewal(cert)))
		f.revokeCertificate(cert.SerialNumber, ca.ReasonCertificateHold)
		r, err := f.retire("d")
		f.must(err)
		d, err := f.store.Device(f.ctx, "d")
		f.must(err)
		if d.Status != enroll.DeviceRetired || len(f.goodOf("d")) != 0 || len(r.SerialNumbers) != 2 {
			f.Fatalf("%s, %d good, revoked %v", d.Status, len(f.goodOf("d")), r.SerialNumbers)
		}
		for _, c := range d.Certificates {
			if c.Status != ca.StatusRevoked || c.Reason != ca.ReasonCessationOfOperation || !c.RevokedAt.Equal(f.now) {
				f.Errorf("%s is %s for %s at %v", c.SerialNumber, c.Status, c.Reason, c.RevokedAt)
			}
		}
		got, err := f.store.Revocation(f.ctx, r.ID)
		f.must(err)
		f.sameJSON(got, r)
		f.unchanged(func() {
			_, err := f.retire("d")
			f.wantKind(err, ca.KindRevoked)
			f.wantKind(f.commit(f.enrollment("d")), enroll.KindDeviceRevoked)
			f.wantKind(f.store.ReleaseDevice(f.ctx, "d", f.now, f.change("device.release", "device:d")), ca.KindNotHeld)
			_, err = f.retire("none")
			f.wantKind(err, ca.KindNotFound)
		})
	}},
	{"a registered and a held device can be retired", func(f *fixture) {
		f.must(f.store.CreateDevice(f.ctx, enroll.Device{ID: "new", Status: enroll.DeviceRegistered, CreatedAt: f.now}, f.change("device.register", "device:new")))
		f.enroll("held")
		f.must(f.store.HoldDevice(f.ctx, "held", f.now, f.change("device.hold", "device:held")))
		for id, revoked := range map[string]int{"new": 0, "held": 1} {
			r, err := f.retire(id)
			f.must(err)
			if len(r.SerialNumbers) != revoked {
				f.Errorf("%s: revoked %v", id, r.SerialNumbers)
			}
		}
	}},
	{"a work order's quota is raised, and it is closed and opened again", func(f *fixture) {
		f.order("o", 1)
		i := f.enrollment("d1")
		claimOf(i).Order = "o"
		f.must(f.commit(i))
		o, err := f.store.WorkOrder(f.ctx, "o")
		f.must(err)
		if o.FullAt == nil {
			f.Fatalf("%+v is full", o)
		}
		since := *o.FullAt
		two, closed, open, none := int64(2), enroll.OrderClosed, enroll.OrderOpen, int64(0)
		if o = f.update("o", enroll.WorkOrderUpdate{State: &closed}); o.State != closed || o.Quantity != 1 || o.FullAt == nil || !o.FullAt.Equal(since) {
			f.Fatalf("closed: %+v", o)
		}
		if o = f.update("o", enroll.WorkOrderUpdate{Quantity: &two, State: &open}); o.State != open || o.Quantity != 2 || o.FullAt != nil {
			f.Fatalf("raised: %+v", o)
		}
		i = f.enrollment("d2")
		claimOf(i).Order = "o"
		f.must(f.commit(i))
		one := int64(1)
		f.unchanged(func() {
			_, err := f.store.UpdateWorkOrder(f.ctx, "o", enroll.WorkOrderUpdate{Quantity: &one}, f.now, f.change("order.update", "order:o"))
			f.wantKind(err, enroll.KindConflict)
			_, err = f.store.UpdateWorkOrder(f.ctx, "none", enroll.WorkOrderUpdate{Quantity: &two}, f.now, f.change("order.update", "order:none"))
			f.wantKind(err, ca.KindNotFound)
		})
		if o = f.update("o", enroll.WorkOrderUpdate{Quantity: &none}); o.Quantity != 2 || o.FullAt == nil {
			f.Fatalf("nothing given: %+v", o)
		}
	}},
	{"I6 a quota that is lowered at the same time is not exceeded", func(f *fixture) {
		f.order("o", 20)
		five := int64(5)
		race(21, func(n int) error {
			if n == 10 {
				_, err := f.store.UpdateWorkOrder(f.ctx, "o", enroll.WorkOrderUpdate{Quantity: &five}, f.now, f.change("order.update", "order:o"))
				return err
			}
			i := f.enrollment(string(rune('a' + n)))
			claimOf(i).Order = "o"
			return f.commit(i)
		})
		o, err := f.store.WorkOrder(f.ctx, "o")
		f.must(err)
		if o.Issued > o.Quantity || (o.FullAt != nil) != (o.Issued == o.Quantity) {
			f.Fatalf("%+v", o)
		}
	}},
}

// retire retires a device.
func (f *fixture) retire(id string) (*enroll.Revocation, error) {
	change := f.change("device.retire", "device:"+id)
	return f.store.RetireDevice(f.ctx, enroll.Revocation{
		ID: change.Event.ID, Device: id, Reason: ca.ReasonCessationOfOperation, State: enroll.RevocationRunning, Steps: []enroll.Step{}, At: f.now, Version: 1,
	}, change)
}

// update changes a work order.
func (f *fixture) update(id string, u enroll.WorkOrderUpdate) *enroll.WorkOrder {
	f.Helper()
	o, err := f.store.UpdateWorkOrder(f.ctx, id, u, f.now.Add(time.Minute), f.change("order.update", "order:"+id))
	f.must(err)
	return o
}
