package storetest

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// revocation returns a new revocation of a device.
func (f *fixture) revocation(device string, reason ca.Reason) enroll.Revocation {
	return enroll.Revocation{
		ID: uuid.Must(uuid.NewV7()).String(), Device: device, Reason: reason, Comment: "lost", State: enroll.RevocationRunning,
		Steps: []enroll.Step{{Name: "decided", State: enroll.StepDone}}, At: f.now,
	}
}

// revoke revokes a device.
func (f *fixture) revoke(device string, reason ca.Reason) *enroll.Revocation {
	f.Helper()
	r, err := f.store.RevokeDevice(f.ctx, f.revocation(device, reason), f.change("device.revoke", "device:"+device))
	f.must(err)
	return r
}

// wantStatus ends the test unless device and certificate are as given.
func (f *fixture) wantStatus(device string, want enroll.DeviceStatus, serial ca.SerialNumber, status ca.Status, reason ca.Reason) {
	f.Helper()
	d, err := f.store.Device(f.ctx, device)
	f.must(err)
	c, err := f.store.Certificate(f.ctx, serial)
	f.must(err)
	if d.Status != want || c.Status != status || c.Reason != reason || c.RevokedAt.IsZero() != (status == ca.StatusGood) {
		f.Fatalf("device is %s, certificate is %s for %q since %v; want %s, %s, %q", d.Status, c.Status, c.Reason, c.RevokedAt, want, status, reason)
	}
}

var statusTests = []test{
	{"I10 revoking a device revokes all its certificates at once", func(f *fixture) {
		first := f.enroll("d1")
		second := f.renewal(first)
		f.must(f.commit(second))
		f.enroll("d2")
		r := f.revoke("d1", ca.ReasonKeyCompromise)
		want := []ca.SerialNumber{first.SerialNumber, second.Certificate.SerialNumber}
		slices.Sort(want)
		if !slices.Equal(r.SerialNumbers, want) {
			f.Fatalf("serial numbers are %v, want %v", r.SerialNumbers, want)
		}
		for _, serial := range want {
			f.wantStatus("d1", enroll.DeviceRevoked, serial, ca.StatusRevoked, ca.ReasonKeyCompromise)
		}
		stored, err := f.store.Revocation(f.ctx, r.ID)
		f.must(err)
		f.sameJSON(stored, r)
		d2, err := f.store.Device(f.ctx, "d2")
		f.must(err)
		if d2.Status != enroll.DeviceActive || d2.Certificates[0].Status != ca.StatusGood {
			f.Fatalf("another device is %+v", d2)
		}
	}},
	{"I10 a revocation is final", func(f *fixture) {
		cert := f.enroll("d1")
		f.revoke("d1", ca.ReasonSuperseded)
		f.unchanged(func() {
			_, err := f.store.RevokeDevice(f.ctx, f.revocation("d1", ca.ReasonKeyCompromise), f.change("device.revoke", "device:d1"))
			f.wantKind(err, ca.KindRevoked)
			f.wantKind(f.store.HoldDevice(f.ctx, "d1", f.now, f.change("device.hold", "device:d1")), ca.KindRevoked)
			f.wantKind(f.store.ReleaseDevice(f.ctx, "d1", f.now, f.change("device.release", "device:d1")), ca.KindNotHeld)
			for _, reason := range []ca.Reason{ca.ReasonKeyCompromise, ca.ReasonCertificateHold} {
				_, err = f.store.RevokeCertificate(f.ctx, cert.SerialNumber, reason, f.now, f.change("certificate.revoke", "certificate:x"))
				f.wantKind(err, ca.KindRevoked)
			}
			_, err = f.store.RevokeCertificate(f.ctx, cert.SerialNumber, "", f.now, f.change("certificate.release", "certificate:x"))
			f.wantKind(err, ca.KindNotHeld)
		})
	}},
	{"I10 a hold can be released, and held again", func(f *fixture) {
		cert := f.enroll("d1")
		for range 2 {
			f.must(f.store.HoldDevice(f.ctx, "d1", f.now, f.change("device.hold", "device:d1")))
			f.wantStatus("d1", enroll.DeviceHeld, cert.SerialNumber, ca.StatusHeld, ca.ReasonCertificateHold)
			f.unchanged(func() {
				f.wantKind(f.store.HoldDevice(f.ctx, "d1", f.now, f.change("device.hold", "device:d1")), enroll.KindDeviceHeld)
			})
			f.must(f.store.ReleaseDevice(f.ctx, "d1", f.now, f.change("device.release", "device:d1")))
			f.wantStatus("d1", enroll.DeviceActive, cert.SerialNumber, ca.StatusGood, "")
			f.unchanged(func() {
				f.wantKind(f.store.ReleaseDevice(f.ctx, "d1", f.now, f.change("device.release", "device:d1")), ca.KindNotHeld)
			})
		}
	}},
	{"I10 a held device can be revoked, and stays so", func(f *fixture) {
		cert := f.enroll("d1")
		f.must(f.store.HoldDevice(f.ctx, "d1", f.now, f.change("device.hold", "device:d1")))
		r := f.revoke("d1", ca.ReasonKeyCompromise)
		if len(r.SerialNumbers) != 1 {
			f.Fatalf("serial numbers are %v", r.SerialNumbers)
		}
		f.wantStatus("d1", enroll.DeviceRevoked, cert.SerialNumber, ca.StatusRevoked, ca.ReasonKeyCompromise)
		f.wantKind(f.store.ReleaseDevice(f.ctx, "d1", f.now, f.change("device.release", "device:d1")), ca.KindNotHeld)
	}},
	{"I10 a revocation for certificateHold is a hold", func(f *fixture) {
		cert := f.enroll("d1")
		f.revoke("d1", ca.ReasonCertificateHold)
		f.wantStatus("d1", enroll.DeviceHeld, cert.SerialNumber, ca.StatusHeld, ca.ReasonCertificateHold)
		f.must(f.store.ReleaseDevice(f.ctx, "d1", f.now, f.change("device.release", "device:d1")))
	}},
	{"a device without a certificate can be revoked, not held", func(f *fixture) {
		f.must(f.store.CreateDevice(f.ctx, enroll.Device{ID: "d1", Status: enroll.DeviceRegistered, CreatedAt: f.now}, f.change("device.create", "device:d1")))
		f.unchanged(func() {
			f.wantKind(f.store.HoldDevice(f.ctx, "d1", f.now, f.change("device.hold", "device:d1")), enroll.KindConflict)
		})
		if r := f.revoke("d1", ca.ReasonCessationOfOperation); r.SerialNumbers == nil || len(r.SerialNumbers) != 0 {
			f.Fatalf("serial numbers are %#v", r.SerialNumbers)
		}
		f.refusal(f.enrollment("d1"), enroll.KindDeviceRevoked)
	}},
	{"a certificate alone is held, released and revoked", func(f *fixture) {
		cert := f.enroll("d1")
		at := f.now.Add(time.Second)
		set := func(reason ca.Reason) *ca.Certificate {
			f.Helper()
			c, err := f.store.RevokeCertificate(f.ctx, cert.SerialNumber, reason, at, f.change("certificate.change", "certificate:x"))
			f.must(err)
			stored, err := f.store.Certificate(f.ctx, cert.SerialNumber)
			f.must(err)
			f.sameJSON(c, stored)
			return c
		}
		if c := set(ca.ReasonCertificateHold); c.Status != ca.StatusHeld || !c.RevokedAt.Equal(at) {
			f.Fatalf("held: %+v", c)
		}
		f.unchanged(func() {
			_, err := f.store.RevokeCertificate(f.ctx, cert.SerialNumber, ca.ReasonCertificateHold, at, f.change("certificate.change", "certificate:x"))
			f.wantKind(err, ca.KindRevoked)
		})
		if c := set(""); c.Status != ca.StatusGood || c.Reason != "" || !c.RevokedAt.IsZero() {
			f.Fatalf("released: %+v", c)
		}
		if c := set(ca.ReasonKeyCompromise); c.Status != ca.StatusRevoked || c.Reason != ca.ReasonKeyCompromise {
			f.Fatalf("revoked: %+v", c)
		}
	}},
	{"a key is blocked once it is compromised", func(f *fixture) {
		a, b := f.enroll("d1"), f.enroll("d2")
		f.revoke("d1", ca.ReasonKeyCompromise)
		f.revoke("d2", ca.ReasonSuperseded)
		for key, want := range map[string]bool{a.KeySHA256: true, b.KeySHA256: false, "none": false} {
			blocked, err := f.store.KeyBlocked(f.ctx, key)
			f.must(err)
			if blocked != want {
				f.Errorf("blocked is %t, want %t", blocked, want)
			}
		}
	}},
	{"a device id is taken once", func(f *fixture) {
		d := enroll.Device{ID: "d1", Status: enroll.DeviceRegistered, CreatedAt: f.now}
		f.must(f.store.CreateDevice(f.ctx, d, f.change("device.create", "device:d1")))
		f.unchanged(func() {
			f.wantKind(f.store.CreateDevice(f.ctx, d, f.change("device.create", "device:d1")), enroll.KindDuplicateDevice)
		})
	}},
	{"what does not exist is not found", func(f *fixture) {
		f.unchanged(func() {
			_, err := f.store.Device(f.ctx, "none")
			f.wantKind(err, ca.KindNotFound)
			_, err = f.store.Certificate(f.ctx, "none")
			f.wantKind(err, ca.KindNotFound)
			_, err = f.store.Revocation(f.ctx, "none")
			f.wantKind(err, ca.KindNotFound)
			_, err = f.store.Rotation(f.ctx, "none")
			f.wantKind(err, ca.KindNotFound)
			_, err = f.store.WorkOrder(f.ctx, "none")
			f.wantKind(err, ca.KindNotFound)
			_, err = f.store.Broker(f.ctx, "none")
			f.wantKind(err, ca.KindNotFound)
			_, err = f.store.RevokeDevice(f.ctx, f.revocation("none", ca.ReasonSuperseded), f.change("device.revoke", "device:none"))
			f.wantKind(err, ca.KindNotFound)
			_, err = f.store.RevokeCertificate(f.ctx, "none", ca.ReasonSuperseded, f.now, f.change("certificate.revoke", "certificate:none"))
			f.wantKind(err, ca.KindNotFound)
			f.wantKind(f.store.HoldDevice(f.ctx, "none", f.now, f.change("device.hold", "device:none")), ca.KindNotFound)
			f.wantKind(f.store.ReleaseDevice(f.ctx, "none", f.now, f.change("device.release", "device:none")), ca.KindNotFound)
		})
	}},
}
