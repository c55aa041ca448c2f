package storetest

import (
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// generation returns a trust bundle.
func (f *fixture) generation(n int64, roots ...string) enroll.TrustGeneration {
	return enroll.TrustGeneration{Generation: n, CreatedAt: f.now, Roots: roots}
}

// acknowledge confirms a trust bundle for a device or a broker.
func (f *fixture) acknowledge(kind ca.HolderKind, id string, generation int64) error {
	holder := ca.Holder{Kind: kind, ID: id}
	return f.store.AcknowledgeTrust(f.ctx, holder, generation, f.change(string(kind)+".trust", holder.String()))
}

var trustTests = []test{
	{"trust bundles follow each other, and are kept", func(f *fixture) {
		f.issuers()
		cert := selfSigned(f.T)
		next := ca.Issuer{ID: "root-2", Purpose: ca.PurposeRoot, State: ca.IssuerCreated, Certificate: cert, Parent: "root-2"}
		cross := []ca.CrossCertificate{{Root: "root-2", By: "root", Certificate: cert}, {Root: "root", By: "root-2", Certificate: cert}}
		f.must(f.store.AddIssuers(f.ctx, []ca.Issuer{next}, nil, cross, f.change("issuer.create", "issuer:root-2")))
		f.must(f.store.SaveTrustGeneration(f.ctx, f.generation(2, "root", "root-2"), f.change("trust.add", "issuer:root-2")))
		f.unchanged(func() {
			for _, n := range []int64{1, 2, 4} {
				f.wantKind(f.store.SaveTrustGeneration(f.ctx, f.generation(n, "root"), f.change("trust.drop", "issuer:root-2")), enroll.KindConflict)
			}
		})
		move := func(id string, to ca.IssuerState) error {
			from := []ca.IssuerState{ca.IssuerPublished, ca.IssuerActive, ca.IssuerRetired}
			return f.store.SetIssuerState(f.ctx, id, from, to, f.change("issuer."+string(to), "issuer:"+id))
		}
		drop := func() error {
			return f.store.SaveTrustGeneration(f.ctx, f.generation(3, "root-2"), f.change("trust.drop", "issuer:root"))
		}
		f.unchanged(func() { f.wantKind(drop(), enroll.KindConflict) }) // root is active
		f.must(move("root-2", ca.IssuerActive))
		f.unchanged(func() { f.wantKind(drop(), enroll.KindConflict) }) // devices signs below it
		f.must(move("devices", ca.IssuerRetired))
		f.must(drop())
		f.unchanged(func() { // which is for good
			f.wantKind(move("root", ca.IssuerActive), enroll.KindConflict)
			f.wantKind(move("devices", ca.IssuerActive), enroll.KindConflict)
		})
		all, err := f.store.TrustGenerations(f.ctx)
		f.must(err)
		if len(all) != 3 || !slices.Equal(all[0].Roots, []string{"root"}) || !slices.Equal(all[1].Roots, []string{"root", "root-2"}) || !slices.Equal(all[2].Roots, []string{"root-2"}) ||
			all[0].Generation != 1 || !all[2].CreatedAt.Equal(f.now) {
			f.Fatalf("%+v", all)
		}
		issuers, err := f.store.Issuers(f.ctx)
		f.must(err)
		if issuers[2].ID != "root-2" || issuers[2].State != ca.IssuerActive || issuers[0].State != ca.IssuerRetired {
			f.Fatalf("%+v", issuers[2])
		}
		f.must(f.store.AddCrossCertificates(f.ctx, cross[:1], f.change("issuer.cross", "issuer:root-2")))
		got, err := f.store.CrossCertificates(f.ctx)
		f.must(err)
		if len(got) != 2 || got[0].Root != "root" || got[0].By != "root-2" || got[1].Root != "root-2" || !got[1].Certificate.Equal(cert) {
			f.Fatalf("%+v", got)
		}
	}},
	{"who confirmed a trust bundle is counted, and the others are named", func(f *fixture) {
		f.issuers()
		for _, id := range []string{"a", "b", "c", "d"} {
			f.enroll(id)
		}
		f.broker("hall")
		f.must(f.acknowledge(ca.HolderDevice, "b", 2))
		f.must(f.acknowledge(ca.HolderBroker, "hall", 3))
		f.unchanged(func() {
			f.wantKind(f.acknowledge(ca.HolderDevice, "b", 2), enroll.KindConflict)
			f.wantKind(f.acknowledge(ca.HolderDevice, "b", 1), enroll.KindConflict)
			f.wantKind(f.acknowledge(ca.HolderBroker, "hall", 3), enroll.KindConflict)
			f.wantKind(f.acknowledge(ca.HolderDevice, "none", 2), ca.KindNotFound)
			f.wantKind(f.acknowledge(ca.HolderBroker, "none", 2), ca.KindNotFound)
		})
		f.must(f.store.HoldDevice(f.ctx, "d", f.now, f.change("device.hold", "device:d")))
		counts, err := f.store.TrustCounts(f.ctx, 2, 2)
		f.must(err)
		if counts.Devices != 4 || counts.Behind != 3 || counts.Oldest != 1 || !slices.Equal(counts.Names, []string{"a", "c"}) {
			f.Fatalf("%+v", counts)
		}
		names, err := f.store.TrustStragglers(f.ctx, 2, 3)
		f.must(err)
		if !slices.Equal(names, []string{"a", "c", "d"}) {
			f.Fatalf("behind are %v", names)
		}
		if counts, err = f.store.TrustCounts(f.ctx, 1, 2); err != nil || counts.Behind != 0 || len(counts.Names) != 0 {
			f.Fatalf("%+v, %v", counts, err)
		}
		b, err := f.store.Broker(f.ctx, "hall")
		f.must(err)
		d, err := f.store.Device(f.ctx, "b")
		f.must(err)
		if b.TrustGeneration != 3 || d.TrustGeneration != 2 {
			f.Fatalf("broker %d, device %d", b.TrustGeneration, d.TrustGeneration)
		}
	}},
	{"who confirmed which trust bundle is counted with the figures", func(f *fixture) {
		f.issuers()
		got, err := f.store.TrustFigures(f.ctx)
		f.must(err)
		f.sameJSON(got, enroll.TrustFigures{})
		for _, id := range []string{"a", "b", "c", "d"} {
			f.enroll(id)
		}
		f.must(f.acknowledge(ca.HolderDevice, "b", 2))
		f.must(f.store.HoldDevice(f.ctx, "c", f.now, f.change("device.hold", "device:c")))
		f.revoke("d", ca.ReasonSuperseded)
		f.must(f.store.CountFleet(f.ctx, f.now))
		if got, err = f.store.TrustFigures(f.ctx); err != nil || !got.AsOf.Equal(f.now) {
			f.Fatalf("%+v, %v", got, err)
		}
		f.sameJSON(got.Shares, []enroll.TrustShare{{Generation: 1, Devices: 1}, {Generation: 2, Devices: 1}, {Generation: 1, Devices: 1}})
	}},
	{"holders of an issuer are those whose newest certificate is its", func(f *fixture) {
		f.issuers()
		for _, id := range []string{"a", "b", "c"} {
			f.enroll(id)
		}
		f.broker("hall")
		leaf := f.certificate(ca.Holder{Kind: ca.HolderBroker, ID: "hall"})
		f.must(f.commit(ca.Issuance{Certificate: leaf, Claim: &enroll.Claim{Change: f.change("broker.issue", "broker:hall")}}))
		renewed := f.enrollment("b")
		renewed.Certificate.IssuerID = "others"
		held, err := f.store.Device(f.ctx, "b")
		f.must(err)
		claimOf(renewed).Replaces = held.Certificates[0].SerialNumber
		f.must(f.commit(renewed))
		under := func(confirmed int64, at time.Time, limit int, issuers ...string) enroll.Holders {
			f.Helper()
			h, err := f.store.HoldersUnder(f.ctx, issuers, confirmed, at, limit)
			f.must(err)
			return h
		}
		if h := under(0, f.now, 10, "devices"); h.Devices != 2 || !slices.Equal(h.Names, []string{"a", "c"}) || !slices.Equal(h.Brokers, []string{"hall"}) {
			f.Fatalf("%+v", h)
		}
		if h := under(0, f.now, 10, "others", "devices"); h.Devices != 3 || !slices.Equal(h.Names, []string{"a", "b", "c"}) || len(h.Brokers) != 1 {
			f.Fatalf("%+v", h)
		}
		if h := under(0, f.now, 1, "devices"); h.Devices != 2 || len(h.Names) != 1 {
			f.Fatalf("one is named: %+v", h)
		}
		f.must(f.store.AcknowledgeTrust(f.ctx, ca.Holder{Kind: ca.HolderDevice, ID: "c"}, 7, f.change("device.trust", "device:c")))
		if h := under(7, f.now, 10, "devices"); h.Devices != 1 || !slices.Equal(h.Names, []string{"c"}) {
			f.Fatalf("of those that confirmed generation 7: %+v", h)
		}
		next := f.certificate(ca.Holder{Kind: ca.HolderBroker, ID: "hall"})
		next.IssuerID = "others"
		f.must(f.commit(ca.Issuance{Certificate: next, Claim: &enroll.Claim{Change: f.change("broker.issue", "broker:hall")}}))
		if h := under(0, f.now, 10, "devices"); len(h.Brokers) != 0 {
			f.Fatalf("a broker with a newer certificate: %+v", h)
		}
		r := f.rotation("hall", enroll.RotationRolledBack)
		r.NewSerial = next.SerialNumber
		f.must(f.store.CreateRotation(f.ctx, r, f.change("broker.rotate", "broker:hall")))
		if h := under(0, f.now, 10, "devices"); !slices.Equal(h.Brokers, []string{"hall"}) {
			f.Fatalf("a broker that was rolled back: %+v", h)
		}
		if h := under(0, f.now.Add(48*time.Hour), 10, "devices", "others"); h.Devices != 0 || len(h.Names)+len(h.Brokers) != 0 {
			f.Fatalf("expired: %+v", h)
		}
	}},
	{"an approval is kept, the last one of a step", func(f *fixture) {
		f.issuers()
		if a, err := f.store.Approval(f.ctx, "root", enroll.StepDrop); a != nil || err != nil {
			f.Fatalf("%+v, %v", a, err)
		}
		for _, reason := range []string{"first", "second"} {
			a := enroll.Approval{Root: "root", Step: enroll.StepDrop, Actor: "user:eve", Reason: reason, At: f.now}
			f.must(f.store.SaveApproval(f.ctx, a, f.change("rollover.approve", "issuer:root")))
		}
		a, err := f.store.Approval(f.ctx, "root", enroll.StepDrop)
		f.must(err)
		if a.Reason != "second" || a.Actor != "user:eve" || !a.At.Equal(f.now) || a.Root != "root" || a.Step != enroll.StepDrop {
			f.Fatalf("%+v", a)
		}
		if a, err := f.store.Approval(f.ctx, "root", enroll.StepSwitch); a != nil || err != nil {
			f.Fatalf("%+v, %v", a, err)
		}
	}},
}
