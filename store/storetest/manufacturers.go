package storetest

import (
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// maker adds the manufacturer maker, with a manifest.
func (f *fixture) maker(reenroll bool, entries ...enroll.ManifestEntry) enroll.Manufacturer {
	f.Helper()
	m := (&enroll.Manufacturer{ID: "maker", State: enroll.ManufacturerActive, Reenroll: reenroll, Certificate: selfSigned(f.T), CreatedAt: f.now}).Describe()
	f.must(f.store.CreateManufacturer(f.ctx, *m, f.change("manufacturer.add", "manufacturer:maker")))
	if len(entries) > 0 {
		n, err := f.manifest("maker", entries...)
		f.must(err)
		if n != len(entries) {
			f.Fatalf("%d of %d added", n, len(entries))
		}
	}
	return *m
}

func (f *fixture) manifest(id string, entries ...enroll.ManifestEntry) (int, error) {
	f.Helper()
	for i := range entries {
		entries[i].AddedAt = f.now
	}
	return f.store.AddManifest(f.ctx, id, entries, f.change("manifest.add", "manufacturer:"+id))
}

// born returns the first enrollment of a device with its manufacturer's
// certificate.
func (f *fixture) born(device string) ca.Issuance {
	i := f.enrollment(device)
	claimOf(i).IDevID = &enroll.IDevIDClaim{Manufacturer: "maker", DeviceID: device, AddedAt: f.now, RequestHash: sum(device + string(i.Certificate.SerialNumber))}
	return i
}

// bornAgain returns one that supersedes what the device holds.
func (f *fixture) bornAgain(device string) ca.Issuance {
	i := f.born(device)
	claimOf(i).Device.Supersedes = true
	return i
}

func (f *fixture) wantCounts(devices, enrolled int64) {
	f.Helper()
	m, err := f.store.Manufacturer(f.ctx, "maker")
	f.must(err)
	if m.Devices != devices || m.Enrolled != enrolled {
		f.Fatalf("%d devices, %d enrolled; want %d and %d", m.Devices, m.Enrolled, devices, enrolled)
	}
}

var manufacturerTests = []test{
	{"a manufacturer is kept as it was made, and its certificate once", func(f *fixture) {
		want := f.maker(true)
		got, err := f.store.Manufacturer(f.ctx, "maker")
		f.must(err)
		f.sameJSON(got, want)
		if !got.Certificate.Equal(want.Certificate) {
			f.Fatal("another certificate")
		}
		f.unchanged(func() {
			same := want
			same.ID = "other"
			err := f.store.CreateManufacturer(f.ctx, same, f.change("manufacturer.add", "manufacturer:other"))
			f.wantKind(err, enroll.KindConflict)
			if !strings.Contains(err.Error(), "maker") {
				f.Fatal(err)
			}
			f.wantKind(f.store.CreateManufacturer(f.ctx, want, f.change("manufacturer.add", "manufacturer:maker")), enroll.KindConflict)
			_, err = f.store.Manufacturer(f.ctx, "none")
			f.wantKind(err, ca.KindNotFound)
		})
	}},
	{"a manufacturer's change is guarded by what it was", func(f *fixture) {
		before := f.maker(false)
		after := before
		after.State, after.Reenroll = enroll.ManufacturerDisabled, true
		f.must(f.store.SetManufacturer(f.ctx, before, after, f.change("manufacturer.update", "manufacturer:maker")))
		got, err := f.store.Manufacturer(f.ctx, "maker")
		f.must(err)
		f.sameJSON(got, after)
		f.unchanged(func() {
			f.wantKind(f.store.SetManufacturer(f.ctx, before, after, f.change("manufacturer.update", "manufacturer:maker")), enroll.KindConflict)
		})
	}},
	{"a manifest is added whole, again without a trace, and otherwise not at all", func(f *fixture) {
		f.order("o1", 5)
		a := enroll.ManifestEntry{DeviceID: "a", SubjectSerial: "1", WorkOrder: "o1"}
		b := enroll.ManifestEntry{DeviceID: "b", CertificateSerial: "0b", SHA256: "ff"}
		f.maker(false, a, b)
		f.wantCounts(2, 0)
		f.unchanged(func() {
			n, err := f.manifest("maker", a, b)
			if n != 0 || err != nil {
				f.Fatal(n, err)
			}
			for _, other := range []enroll.ManifestEntry{
				{DeviceID: "a", SubjectSerial: "2", WorkOrder: "o1"}, {DeviceID: "a", SubjectSerial: "1"}, {DeviceID: "c", SubjectSerial: "1"},
				{DeviceID: "c", CertificateSerial: "0b"}, {DeviceID: "c", SHA256: "ff"},
			} {
				_, err := f.manifest("maker", enroll.ManifestEntry{DeviceID: "fine", SubjectSerial: "9"}, other)
				f.wantKind(err, enroll.KindConflict)
			}
			_, err = f.manifest("maker", enroll.ManifestEntry{DeviceID: "c", SubjectSerial: "3", WorkOrder: "none"})
			f.wantKind(err, ca.KindNotFound)
			_, err = f.manifest("none", enroll.ManifestEntry{DeviceID: "c", SubjectSerial: "3"})
			f.wantKind(err, ca.KindNotFound)
		})
		n, err := f.manifest("maker", a, enroll.ManifestEntry{DeviceID: "c", SubjectSerial: "3"})
		f.must(err)
		f.wantCounts(3, 0)
		if n != 1 {
			f.Fatalf("%d added", n)
		}
		other := (&enroll.Manufacturer{ID: "other", State: enroll.ManufacturerActive, Certificate: selfSigned(f.T), CreatedAt: f.now}).Describe()
		f.must(f.store.CreateManufacturer(f.ctx, *other, f.change("manufacturer.add", "manufacturer:other")))
		_, err = f.manifest("other", enroll.ManifestEntry{DeviceID: "a", SubjectSerial: "1", WorkOrder: "o1"})
		f.wantKind(err, enroll.KindConflict) // a device has one certificate of birth
		if n, err := f.manifest("other", enroll.ManifestEntry{DeviceID: "z", SubjectSerial: "1"}); n != 1 || err != nil {
			f.Fatal("serial numbers are each manufacturer's own", err)
		}
	}},
	{"an entry is found by whatever it gives, once", func(f *fixture) {
		f.maker(false, enroll.ManifestEntry{DeviceID: "a", SubjectSerial: "1", CertificateSerial: "0a", SHA256: "aa"}, enroll.ManifestEntry{DeviceID: "b", SubjectSerial: "2"},
			enroll.ManifestEntry{DeviceID: "c", SHA256: "cc"})
		for _, c := range []struct {
			known enroll.ManifestEntry
			want  string
		}{
			{enroll.ManifestEntry{SubjectSerial: "1", CertificateSerial: "0a", SHA256: "aa"}, "a"}, {enroll.ManifestEntry{SubjectSerial: "1"}, "a"},
			{enroll.ManifestEntry{CertificateSerial: "0a"}, "a"}, {enroll.ManifestEntry{SHA256: "aa"}, "a"}, {enroll.ManifestEntry{}, ""},
			{enroll.ManifestEntry{SubjectSerial: "2", SHA256: "cc"}, "bc"}, {enroll.ManifestEntry{SubjectSerial: "3"}, ""},
		} {
			got, err := f.store.ManifestEntries(f.ctx, "maker", c.known)
			f.must(err)
			devices := ""
			for _, e := range got {
				devices += e.DeviceID
			}
			if devices != c.want {
				f.Errorf("%+v finds %q, want %q", c.known, devices, c.want)
			}
			if got, err := f.store.ManifestEntries(f.ctx, "none", c.known); len(got) != 0 || err != nil {
				f.Error(got, err)
			}
		}
	}},
	{"I6 a manufacturer's certificate enrolls its device once", func(f *fixture) {
		f.order("o1", 5)
		f.maker(false, enroll.ManifestEntry{DeviceID: "a", SubjectSerial: "1", WorkOrder: "o1"})
		i := f.born("a")
		claimOf(i).Order = "o1"
		f.must(f.store.CheckClaim(f.ctx, claimOf(i), i.Certificate.Holder, i.Certificate.KeySHA256))
		f.must(f.commit(i))
		f.wantCounts(1, 1)
		e, err := f.store.ManifestOf(f.ctx, "maker", "a")
		f.must(err)
		if e.SerialNumber != i.Certificate.SerialNumber || e.EnrolledAt == nil || f.orderIssued("o1") != 1 {
			f.Fatalf("%+v", e)
		}
		f.refusal(f.born("a"), enroll.KindIDevIDUsed)
		again := i
		again.Certificate = f.certificate(i.Certificate.Holder)
		f.unchanged(func() {
			f.wantReplay(f.commit(again), i.Certificate.SerialNumber) // the very request
			f.wantReplay(f.store.CheckClaim(f.ctx, claimOf(again), again.Certificate.Holder, again.Certificate.KeySHA256), i.Certificate.SerialNumber)
		})
	}},
	{"I6 of racing enrollments with one certificate one is made", func(f *fixture) {
		f.maker(false, enroll.ManifestEntry{DeviceID: "a", SubjectSerial: "1"})
		f.wantOne(race(8, func(int) error { return f.store.Commit(f.ctx, []ca.Issuance{f.born("a")})[0] }), func(err error) { f.wantKind(err, enroll.KindIDevIDUsed) })
		f.wantCounts(1, 1)
	}},
	{"a manufacturer's certificate is refused where its line or its manufacturer is not", func(f *fixture) {
		before := f.maker(false, enroll.ManifestEntry{DeviceID: "a", SubjectSerial: "1"})
		f.refusal(f.born("b"), enroll.KindNotInManifest)
		stale := f.born("a")
		claimOf(stale).IDevID.AddedAt = f.now.Add(-time.Second) // of a line that was taken off and added anew
		f.refusal(stale, enroll.KindNotInManifest)
		f.refusal(f.bornAgain("a"), enroll.KindIDevIDUsed) // they enroll once
		after := before
		after.State = enroll.ManufacturerDisabled
		f.must(f.store.SetManufacturer(f.ctx, before, after, f.change("manufacturer.disable", "manufacturer:maker")))
		f.refusal(f.born("a"), enroll.KindUnknownManufacturer)
		f.wantCounts(1, 0)
	}},
	{"a device of a manufacturer enrolls again where it may: what it held is superseded", func(f *fixture) {
		before := f.maker(true, enroll.ManifestEntry{DeviceID: "a", SubjectSerial: "1"})
		first := f.born("a")
		f.must(f.commit(first))
		second := f.bornAgain("a")
		f.must(f.store.CheckClaim(f.ctx, claimOf(second), second.Certificate.Holder, second.Certificate.KeySHA256))
		f.must(f.commit(second))
		f.wantCounts(1, 1)
		old, err := f.store.Certificate(f.ctx, first.Certificate.SerialNumber)
		f.must(err)
		if old.Status != ca.StatusRevoked || old.Reason != ca.ReasonSuperseded {
			f.Fatalf("the first is %s, %s", old.Status, old.Reason)
		}
		again := second
		again.Certificate = f.certificate(second.Certificate.Holder)
		f.unchanged(func() { f.wantReplay(f.commit(again), second.Certificate.SerialNumber) })
		f.refusal(f.born("a"), enroll.KindIDevIDUsed) // and never as if it were the first
		after := before
		after.Reenroll = false
		f.must(f.store.SetManufacturer(f.ctx, before, after, f.change("manufacturer.update", "manufacturer:maker")))
		f.refusal(f.bornAgain("a"), enroll.KindIDevIDUsed)
		f.must(f.store.HoldDevice(f.ctx, "a", f.now, f.change("device.hold", "device:a")))
		f.must(f.store.SetManufacturer(f.ctx, after, before, f.change("manufacturer.update", "manufacturer:maker")))
		f.refusal(f.bornAgain("a"), enroll.KindDeviceHeld)
	}},
	{"lines are taken off a manifest, all or none", func(f *fixture) {
		f.maker(false, enroll.ManifestEntry{DeviceID: "a", SubjectSerial: "1"}, enroll.ManifestEntry{DeviceID: "b", SubjectSerial: "2"})
		f.must(f.commit(f.born("a")))
		f.unchanged(func() {
			f.wantKind(f.store.RemoveManifest(f.ctx, "maker", []string{"a", "none"}, f.change("manifest.remove", "manufacturer:maker")), ca.KindNotFound)
		})
		f.must(f.store.RemoveManifest(f.ctx, "maker", []string{"a", "b"}, f.change("manifest.remove", "manufacturer:maker")))
		f.wantCounts(0, 0)
		f.refusal(f.born("a"), enroll.KindNotInManifest)
		_, err := f.store.ManifestOf(f.ctx, "maker", "a")
		f.wantKind(err, ca.KindNotFound)
	}},
}
