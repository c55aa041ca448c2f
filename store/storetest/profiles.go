package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// profile stores a version of a profile.
func (f *fixture) profile(name string, version int64) error {
	return f.store.CreateProfileVersion(f.ctx, enroll.StoredProfile{
		Name: name, Version: version, Body: fmt.Sprintf(`{"name": %q, "version": %d}`, name, version), Widens: version%2 == 0, Actor: "user:eve", At: f.now,
	}, map[string]int64{"device": 1}[name], 3, f.change("profile.apply", "profile:"+name))
}

var profileTests = []test{
	{"profiles read back, the newest version and those before", func(f *fixture) {
		for name, last := range map[string]int64{"device": 3, "pump": 2} {
			for version := map[string]int64{"device": 2, "pump": 1}[name]; version <= last; version++ {
				f.must(f.profile(name, version))
			}
		}
		all, err := f.store.Profiles(f.ctx)
		f.must(err)
		newest, err := f.store.Profile(f.ctx, "device")
		f.must(err)
		f.sameJSON(newest, enroll.StoredProfile{Name: "device", Version: 3, Body: `{"name": "device", "version": 3}`, Actor: "user:eve", At: f.now})
		if len(all) != 2 || all[0].Name != "device" || all[0].Version != 3 || all[1].Name != "pump" || all[1].Version != 2 || !all[1].Widens {
			f.Fatalf("profiles are %+v", all)
		}
		versions, err := f.store.ProfileVersions(f.ctx, "device", 1)
		f.must(err)
		if len(versions) != 1 || versions[0].Version != 3 {
			f.Fatalf("versions are %+v", versions)
		}
		old, err := f.store.ProfileVersion(f.ctx, "device", 2)
		f.must(err)
		if old == nil || old.Version != 2 {
			f.Fatalf("version 2 is %+v", old)
		}
		if p, err := f.store.Profile(f.ctx, "none"); p != nil || err != nil {
			f.Fatalf("none is %+v, %v", p, err)
		}
		if p, err := f.store.ProfileVersion(f.ctx, "device", 4); p != nil || err != nil {
			f.Fatalf("version 4 is %+v, %v", p, err)
		}
	}},
	{"a version follows the one that is in force, and no other", func(f *fixture) {
		f.must(f.profile("device", 2))
		f.unchanged(func() {
			f.wantKind(f.profile("device", 2), enroll.KindConflict)
			f.wantKind(f.profile("device", 4), enroll.KindConflict)
			f.wantKind(f.profile("pump", 2), enroll.KindConflict)
		})
		errs := race(racers, func(int) error { return f.profile("device", 3) })
		f.wantOne(errs, func(err error) { f.wantKind(err, enroll.KindConflict) })
		if n := len(f.events(enroll.EventFilter{Action: "profile.apply"})); n != 2 {
			f.Fatalf("%d events of 2 versions", n)
		}
	}},
	{"there is an end to profiles", func(f *fixture) {
		f.must(f.profile("a", 1))
		f.must(f.profile("b", 1))
		f.must(f.profile("c", 1))
		f.unchanged(func() { f.wantKind(f.profile("d", 1), enroll.KindConflict) })
		f.must(f.profile("a", 2))
	}},
	{"a work order comes with the newest version of its profile", func(f *fixture) {
		f.order("o1", 5)
		o, p, err := f.store.ProfiledOrder(f.ctx, "o1")
		f.must(err)
		plain, err := f.store.WorkOrder(f.ctx, "o1")
		f.must(err)
		if f.sameJSON(o, plain); p != nil {
			f.Fatalf("a built-in profile is %+v", p)
		}
		f.must(f.profile("device", 2))
		f.must(f.profile("device", 3))
		o, p, err = f.store.ProfiledOrder(f.ctx, "o1")
		f.must(err)
		if f.sameJSON(o, plain); p == nil || p.Name != "device" || p.Version != 3 || p.Body != `{"name": "device", "version": 3}` {
			f.Fatalf("the profile is %+v", p)
		}
		_, _, err = f.store.ProfiledOrder(f.ctx, "none")
		f.wantKind(err, ca.KindNotFound)
	}},
	{"who uses a profile is counted up to a bound", func(f *fixture) {
		for _, id := range []string{"d1", "d2", "d3"} {
			f.enroll(id)
		}
		f.must(f.commit(f.renewal(f.enroll("d4"))))
		_, err := f.store.RevokeDevice(f.ctx, enroll.Revocation{ID: "r1", Device: "d1", Reason: ca.ReasonSuperseded, State: enroll.RevocationRecorded, At: f.now}, f.change("device.revoke", "device:d1"))
		f.must(err)
		f.order("o1", 5)
		f.order("o2", 5)
		closed := enroll.OrderClosed
		_, err = f.store.UpdateWorkOrder(f.ctx, "o2", enroll.WorkOrderUpdate{State: &closed}, f.now, f.change("order.update", "order:o2"))
		f.must(err)
		for _, c := range []struct {
			at                   time.Time
			certificates, orders int
			want                 enroll.ProfileUse
		}{
			{f.now, 10, 10, enroll.ProfileUse{Certificates: 4, Holders: 3, Orders: 1}},
			{f.now, 5, 1, enroll.ProfileUse{Certificates: 4, Holders: 3, Orders: 1}},
			{f.now, 2, 0, enroll.ProfileUse{Certificates: 2, Holders: 1, More: true, MoreOrders: true}},
			{f.now.AddDate(1, 0, 0), 10, 10, enroll.ProfileUse{Orders: 1}},
		} {
			got, err := f.store.ProfileUse(f.ctx, "device", c.at, c.certificates, c.orders)
			f.must(err)
			f.sameJSON(got, c.want)
		}
	}},
	{"a certificate keeps the version it was issued under, and when it is renewed", func(f *fixture) {
		var all []ca.Issuance
		for n := range 3 { // the third is no plain enrollment
			i := f.enrollment(fmt.Sprintf("d%d", n))
			i.Certificate.ProfileVersion, i.Certificate.RenewFrom = int64(n+2), f.now.Add(time.Duration(n)*time.Hour)
			if n == 2 {
				claimOf(i).Jobs = []enroll.Job{{Kind: enroll.JobDisconnect, Subject: "d2"}}
			}
			all = append(all, i)
		}
		f.must(errors.Join(f.store.Commit(f.ctx, all)...))
		for n, i := range all {
			c, err := f.store.Certificate(f.ctx, i.Certificate.SerialNumber)
			f.must(err)
			if c.ProfileVersion != int64(n+2) || !c.RenewFrom.Equal(f.now.Add(time.Duration(n)*time.Hour)) {
				f.Fatalf("certificate %d: version %d, renewed from %v", n, c.ProfileVersion, c.RenewFrom)
			}
		}
	}},
	{"racing renewals never give a device one certificate too many", func(f *fixture) {
		first := f.enroll("d1")
		limited := func() ca.Issuance {
			i := f.renewal(first)
			claimOf(i).MaxActive = 3
			return i
		}
		renewed := 0
		for _, err := range race(racers, func(int) error { return f.commit(limited()) }) {
			if err == nil {
				renewed++
				continue
			}
			f.wantKind(err, enroll.KindCertificateLimit)
		}
		d, err := f.store.Device(f.ctx, "d1")
		f.must(err)
		if renewed != 2 || len(d.Certificates) != 3 {
			f.Fatalf("%d renewals, %d certificates", renewed, len(d.Certificates))
		}
		f.refusal(limited(), enroll.KindCertificateLimit)
		// One that is revoked makes room; one that supersedes needs none.
		_, err = f.store.RevokeCertificate(f.ctx, d.Certificates[0].SerialNumber, ca.ReasonSuperseded, f.now, f.change("certificate.revoke", "certificate:x"))
		f.must(err)
		f.must(f.commit(limited()))
		f.refusal(limited(), enroll.KindCertificateLimit)
		unlimited := f.renewal(first)
		f.must(f.commit(unlimited))
	}},
}
