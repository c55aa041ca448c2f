package storetest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// reserve reserves a CRL number of the issuer of devices.
func (f *fixture) reserve() ca.CRLDraft {
	f.Helper()
	draft, err := f.store.ReserveCRL(f.ctx, ca.CRLScope{IssuerID: "devices"}, ca.CRLKnown{})
	f.must(err)
	return draft
}

// publish reserves a number and saves a CRL under it.
func (f *fixture) publish(thisUpdate time.Time, scheduled bool) ca.CRLDraft {
	f.Helper()
	draft := f.reserve()
	crl := f.crl(draft.Number, thisUpdate, scheduled)
	crl.Entries = len(draft.Entries)
	f.must(f.store.SaveCRL(f.ctx, crl))
	return draft
}

// has reports whether a draft carries a serial number.
func has(d ca.CRLDraft, serial ca.SerialNumber) bool {
	return slices.ContainsFunc(d.Entries, func(e ca.CRLEntry) bool { return e.SerialNumber == serial })
}

var crlTests = []test{
	{"I11 numbers grow, and one that was reserved is gone", func(f *fixture) {
		f.issuers()
		last := int64(1)
		for range 5 {
			d := f.reserve()
			if d.Number <= last {
				f.Fatalf("number %d after %d", d.Number, last)
			}
			last = d.Number
		}
	}},
	{"I19 a CRL has its event", func(f *fixture) {
		f.issuers()
		d := f.publish(f.now, true)
		events, _, err := f.store.Events(f.ctx, enroll.EventFilter{Action: "crl.publish"}, enroll.Page{Limit: 10})
		f.must(err)
		if len(events) != 1 || events[0].Actor != "server" || events[0].Subject != "issuer:devices" {
			f.Fatalf("events are %+v", events)
		}
		var detail struct {
			Number int64
			SHA256 string
		}
		f.must(json.Unmarshal(events[0].Detail, &detail))
		if sum := sha256.Sum256(f.crl(d.Number, f.now, true).DER); detail.Number != d.Number || detail.SHA256 != hex.EncodeToString(sum[:]) {
			f.Fatalf("the event says %+v", detail)
		}
	}},
	{"I11 a number has one CRL", func(f *fixture) {
		f.issuers()
		d := f.publish(f.now, false)
		f.wantKind(f.store.SaveCRL(f.ctx, f.crl(d.Number, f.now, true)), enroll.KindConflict)
		f.wantKind(f.store.SaveCRL(f.ctx, f.crl(d.Number+1, f.now, true)), enroll.KindConflict)
		latest, err := f.store.LatestCRL(f.ctx, ca.CRLScope{IssuerID: "devices"})
		f.must(err)
		f.sameJSON(latest, f.crl(d.Number, f.now, false))
		if string(latest.DER) != string(f.crl(d.Number, f.now, false).DER) {
			f.Fatal("another CRL's bytes")
		}
	}},
	{"I11 the latest CRL is the one with the highest number", func(f *fixture) {
		f.issuers()
		early, late := f.reserve(), f.reserve()
		f.must(f.store.SaveCRL(f.ctx, f.crl(late.Number, f.now, false)))
		f.must(f.store.SaveCRL(f.ctx, f.crl(early.Number, f.now, true)))
		latest, err := f.store.LatestCRL(f.ctx, ca.CRLScope{IssuerID: "devices"})
		f.must(err)
		if latest.Number != late.Number {
			f.Fatalf("number %d, want %d", latest.Number, late.Number)
		}
		if d := f.reserve(); d.Previous == nil || d.Previous.Number != late.Number {
			f.Fatalf("previous is %+v", d.Previous)
		}
	}},
	{"I10 revoked and held certificates are entries, sorted, and released ones are not", func(f *fixture) {
		f.issuers()
		revoked, held, released, good := f.enroll("d1"), f.enroll("d2"), f.enroll("d3"), f.enroll("d4")
		f.revoke("d1", ca.ReasonKeyCompromise)
		for _, id := range []string{"d2", "d3"} {
			f.must(f.store.HoldDevice(f.ctx, id, f.now, f.change("device.hold", "device:"+id)))
		}
		f.must(f.store.ReleaseDevice(f.ctx, "d3", f.now, f.change("device.release", "device:d3")))
		d := f.reserve()
		if len(d.Entries) != 2 || !has(d, revoked.SerialNumber) || !has(d, held.SerialNumber) || has(d, released.SerialNumber) || has(d, good.SerialNumber) {
			f.Fatalf("entries are %+v", d.Entries)
		}
		if d.Entries[0].SerialNumber > d.Entries[1].SerialNumber {
			f.Fatal("entries are not sorted")
		}
		for _, e := range d.Entries {
			want := ca.ReasonCertificateHold
			if e.SerialNumber == revoked.SerialNumber {
				want = ca.ReasonKeyCompromise
			}
			if e.Reason != want || !e.RevokedAt.Equal(f.now) || !e.NotAfter.Equal(revoked.NotAfter) {
				f.Fatalf("entry is %+v", e)
			}
		}
	}},
	{"I10 an entry stays until one scheduled CRL after its notAfter", func(f *fixture) {
		f.issuers()
		i := f.enrollment("d1")
		i.Certificate.NotAfter = f.now.Add(time.Hour)
		f.must(f.commit(i))
		serial := i.Certificate.SerialNumber
		f.revoke("d1", ca.ReasonSuperseded)
		steps := []struct {
			thisUpdate time.Time
			scheduled  bool
			carries    bool // the draft that becomes this CRL
		}{
			{f.now.Add(30 * time.Minute), true, true},  // before notAfter
			{f.now.Add(61 * time.Minute), false, true}, // after it, but not a scheduled one
			{f.now.Add(62 * time.Minute), true, true},  // the scheduled one after it
			{f.now.Add(63 * time.Minute), false, false},
			{f.now.Add(90 * time.Minute), true, false},
		}
		for n, s := range steps {
			if d := f.publish(s.thisUpdate, s.scheduled); has(d, serial) != s.carries {
				f.Fatalf("CRL %d: carries is %t, want %t", n, has(d, serial), s.carries)
			}
		}
	}},
	{"I10 a CRL carries its own issuer's certificates", func(f *fixture) {
		f.issuers()
		i := f.enrollment("d1")
		i.Certificate.IssuerID = "other"
		f.must(f.commit(i))
		f.revoke("d1", ca.ReasonSuperseded)
		if d := f.reserve(); len(d.Entries) != 0 {
			f.Fatalf("entries are %+v", d.Entries)
		}
	}},
	{"I10 after a position a draft holds what changed, released ones too", func(f *fixture) {
		f.issuers()
		before := f.enroll("d1")
		f.revoke("d1", ca.ReasonKeyCompromise)
		released := f.enroll("d2")
		f.must(f.store.HoldDevice(f.ctx, "d2", f.now, f.change("device.hold", "device:d2")))
		whole := f.reserve()
		if !whole.Whole || len(whole.Entries) != 2 || whole.Position <= 0 {
			f.Fatalf("draft %+v", whole)
		}
		held, fresh := f.enroll("d3"), f.enroll("d4")
		f.must(f.store.ReleaseDevice(f.ctx, "d2", f.now, f.change("device.release", "device:d2")))
		f.revoke("d4", ca.ReasonSuperseded)
		known := ca.CRLKnown{Position: whole.Position, Number: 1}
		later, err := f.store.ReserveCRL(f.ctx, ca.CRLScope{IssuerID: "devices"}, known)
		f.must(err)
		if later.Whole || !has(later, fresh.SerialNumber) || !has(later, released.SerialNumber) || has(later, held.SerialNumber) || later.Position < whole.Position {
			f.Fatalf("draft %+v", later)
		}
		// What was told before may be told again, as it is: while a transaction of
		// anybody on the cluster is under way, the position stays behind it.
		want := map[ca.SerialNumber]ca.Reason{before.SerialNumber: ca.ReasonKeyCompromise, released.SerialNumber: "", fresh.SerialNumber: ca.ReasonSuperseded}
		for _, e := range later.Entries {
			if reason, known := want[e.SerialNumber]; !known || e.Reason != reason {
				f.Fatalf("entry %+v", e)
			}
		}
		if later.Previous == nil || later.Previous.DER != nil || later.Previous.Number != 1 {
			f.Fatalf("the known CRL before is %+v", later.Previous)
		}
		again, err := f.store.ReserveCRL(f.ctx, ca.CRLScope{IssuerID: "devices"}, ca.CRLKnown{Position: later.Position})
		f.must(err)
		for _, e := range again.Entries {
			if !has(later, e.SerialNumber) { // they may be told again
				f.Fatalf("draft %+v", again)
			}
		}
		if len(again.Previous.DER) == 0 {
			f.Fatalf("the CRL before is %+v", again.Previous)
		}
	}},
	{"I10 I13 a position that was never reached is of another database: all is read again", func(f *fixture) {
		f.issuers()
		revoked := f.enroll("d1")
		f.revoke("d1", ca.ReasonKeyCompromise)
		whole := f.reserve()
		const ahead = int64(1) << 60
		draft, err := f.store.ReserveCRL(f.ctx, ca.CRLScope{IssuerID: "devices"}, ca.CRLKnown{Position: ahead, Number: 1})
		f.must(err)
		if !draft.Whole || len(draft.Entries) != 1 || !has(draft, revoked.SerialNumber) || draft.Position >= ahead || draft.Position < whole.Position || draft.Number != whole.Number+1 {
			f.Fatalf("draft %+v", draft)
		}
		changed, at, err := f.store.ChangedSince(f.ctx, ahead)
		f.must(err)
		if len(changed) != 0 || at >= ahead {
			f.Fatalf("changed %v, up to %d", changed, at)
		}
	}},
	{"I13 every change of a status is told, once it is committed", func(f *fixture) {
		f.issuers()
		_, start, err := f.store.ChangedSince(f.ctx, -1)
		f.must(err)
		d1, d2 := f.enroll("d1"), f.enroll("d2")
		changed, at, err := f.store.ChangedSince(f.ctx, start)
		f.must(err)
		if slices.Contains(changed, d1.SerialNumber) || slices.Contains(changed, d2.SerialNumber) {
			f.Fatalf("an issuance is told: %v", changed)
		}
		for _, do := range []func(){
			func() { f.must(f.store.HoldDevice(f.ctx, "d1", f.now, f.change("device.hold", "device:d1"))) },
			func() { f.must(f.store.ReleaseDevice(f.ctx, "d1", f.now, f.change("device.release", "device:d1"))) },
			func() { f.revoke("d1", ca.ReasonSuperseded) },
		} {
			do()
			if changed, at, err = f.store.ChangedSince(f.ctx, at); err != nil || !slices.Contains(changed, d1.SerialNumber) {
				f.Fatalf("changed %v, %v", changed, err)
			}
		}
		_, err = f.store.RevokeCertificate(f.ctx, d2.SerialNumber, ca.ReasonSuperseded, f.now, f.change("certificate.revoke", "certificate:2"))
		f.must(err)
		if changed, _, err = f.store.ChangedSince(f.ctx, at); err != nil || !slices.Contains(changed, d2.SerialNumber) {
			f.Fatalf("changed %v, %v", changed, err)
		}
	}},
	{"shards have CRLs of their own, under one row of numbers", func(f *fixture) {
		f.issuers()
		f.must(f.store.SetCRLShards(f.ctx, "devices", 3, f.change("issuer.crl-shards", "issuer:devices")))
		f.must(f.store.SetCRLShards(f.ctx, "devices", 2, f.change("issuer.crl-shards", "issuer:devices")))
		all, err := f.store.Issuers(f.ctx)
		f.must(err)
		if all[1].Shards() != 2 || all[1].ShardsEver() != 3 || len(all[1].CRLScopes()) != 3 {
			f.Fatalf("issuer %+v", all[1])
		}
		i := f.enrollment("d1")
		i.Certificate.CRLShard = 2
		f.must(f.commit(i))
		f.revoke("d1", ca.ReasonSuperseded)
		last := int64(1)
		for shard := range 3 {
			scope := ca.CRLScope{IssuerID: "devices", Shard: shard}
			d, err := f.store.ReserveCRL(f.ctx, scope, ca.CRLKnown{})
			f.must(err)
			if has(d, i.Certificate.SerialNumber) != (shard == 2) || d.Number <= last || (d.Previous == nil) != (shard > 0) {
				f.Fatalf("shard %d: draft %+v", shard, d)
			}
			last = d.Number
			crl := f.crl(d.Number, f.now, true)
			crl.Shard = shard
			f.must(f.store.SaveCRL(f.ctx, crl))
			latest, err := f.store.LatestCRL(f.ctx, scope)
			f.must(err)
			f.sameJSON(latest, crl)
		}
		newest, err := f.store.NewestCRLs(f.ctx)
		f.must(err)
		if len(newest) != 3 || newest[2].Shard != 2 || newest[2].Number != last {
			f.Fatalf("newest %+v", newest)
		}
		cert, err := f.store.Certificate(f.ctx, i.Certificate.SerialNumber)
		f.must(err)
		if cert.CRLShard != 2 {
			f.Fatalf("shard %d", cert.CRLShard)
		}
		f.unchanged(func() {
			f.wantKind(f.store.SetCRLShards(f.ctx, "none", 2, f.change("issuer.crl-shards", "issuer:none")), ca.KindNotFound)
		})
	}},
	{"a CRL of an unknown issuer is not found", func(f *fixture) {
		f.issuers()
		_, err := f.store.ReserveCRL(f.ctx, ca.CRLScope{IssuerID: "none"}, ca.CRLKnown{})
		f.wantKind(err, ca.KindNotFound)
		_, err = f.store.LatestCRL(f.ctx, ca.CRLScope{IssuerID: "none"})
		f.wantKind(err, ca.KindNotFound)
		_, err = f.store.LatestCRL(f.ctx, ca.CRLScope{IssuerID: "root"})
		f.wantKind(err, ca.KindNotFound)
		f.wantKind(f.store.SaveCRL(f.ctx, &ca.CRL{IssuerID: "none", Number: 1, DER: []byte("x")}), ca.KindNotFound)
	}},
}

var issuerTests = []test{
	{"issuers read back in their order, with their first CRL", func(f *fixture) {
		want := f.issuers()
		got, err := f.store.Issuers(f.ctx)
		f.must(err)
		if len(got) != len(want) {
			f.Fatalf("%d issuers", len(got))
		}
		for n := range want {
			g, w := got[n], want[n]
			if g.ID != w.ID || g.Purpose != w.Purpose || g.State != w.State || g.Parent != w.Parent || g.KeyURI != w.KeyURI ||
				!slices.Equal(g.StatusURLs, w.StatusURLs) || !g.Certificate.Equal(w.Certificate) {
				f.Fatalf("issuer %d is %+v, want %+v", n, g, w)
			}
		}
		crl, err := f.store.LatestCRL(f.ctx, ca.CRLScope{IssuerID: "devices"})
		f.must(err)
		f.sameJSON(crl, f.crl(1, f.now, true))
	}},
	{"a second authority is refused", func(f *fixture) {
		f.issuers()
		f.unchanged(func() {
			f.wantKind(f.store.CreateIssuers(f.ctx, []ca.Issuer{{ID: "x", Purpose: ca.PurposeRoot, State: ca.IssuerActive, Certificate: selfSigned(f.T)}}, nil,
				f.change("authority.create", "authority")), enroll.KindConflict)
		})
	}},
	{"status URLs are replaced", func(f *fixture) {
		f.issuers()
		urls := []string{"http://old.example", "http://new.example"}
		f.must(f.store.SetStatusURLs(f.ctx, "devices", urls, f.change("issuer.move", "issuer:devices")))
		all, err := f.store.Issuers(f.ctx)
		f.must(err)
		if !slices.Equal(all[1].StatusURLs, urls) {
			f.Fatalf("status URLs are %v", all[1].StatusURLs)
		}
		f.unchanged(func() {
			f.wantKind(f.store.SetStatusURLs(f.ctx, "none", urls, f.change("issuer.move", "issuer:none")), ca.KindNotFound)
		})
	}},
	{"I16 issuers are added, and go from state to state", func(f *fixture) {
		f.issuers()
		cert := selfSigned(f.T)
		add := func(id string, purpose ca.Purpose) error {
			i := ca.Issuer{ID: id, Purpose: purpose, State: ca.IssuerCreated, Certificate: cert, Parent: "root", Product: "pump", Site: "hall", Domain: "fleet.example"}
			if purpose == ca.PurposeRoot {
				i.Parent = id
			}
			crl := f.crl(7, f.now, true)
			crl.IssuerID = id
			return f.store.AddIssuers(f.ctx, []ca.Issuer{i}, []*ca.CRL{crl}, nil, f.change("issuer.create", "issuer:"+id))
		}
		f.must(add("pumps", ca.PurposeDevice))
		f.must(add("root-2", ca.PurposeRoot))
		f.must(add("middle", ca.PurposeIntermediate))
		f.unchanged(func() { f.wantKind(add("pumps", ca.PurposeDevice), enroll.KindConflict) })
		states := func() (text string) {
			all, err := f.store.Issuers(f.ctx)
			f.must(err)
			for _, i := range all {
				text += i.ID + " " + string(i.State) + "; "
			}
			return text
		}
		all, err := f.store.Issuers(f.ctx)
		f.must(err)
		if got := all[2]; got.ID != "pumps" || got.Product != "pump" || got.Site != "hall" || got.Domain != "fleet.example" || got.State != ca.IssuerCreated {
			f.Fatalf("%+v", got)
		}
		if d, err := f.store.ReserveCRL(f.ctx, ca.CRLScope{IssuerID: "pumps"}, ca.CRLKnown{}); err != nil || d.Number != 8 {
			f.Fatalf("CRL number %d, %v", d.Number, err)
		}
		move := func(id string, to ca.IssuerState, from ...ca.IssuerState) error {
			return f.store.SetIssuerState(f.ctx, id, from, to, f.change("issuer."+string(to), "issuer:"+id))
		}
		f.must(move("pumps", ca.IssuerPublished, ca.IssuerCreated))
		f.unchanged(func() {
			f.wantKind(move("pumps", ca.IssuerPublished, ca.IssuerCreated), enroll.KindConflict)
			f.wantKind(move("none", ca.IssuerPublished, ca.IssuerCreated), ca.KindNotFound)
		})
		f.must(move("pumps", ca.IssuerActive, ca.IssuerPublished, ca.IssuerRetired))
		if got := states(); got != "root active; devices active; pumps active; root-2 created; middle created; " {
			f.Fatal(got)
		}
		f.unchanged(func() { f.wantKind(move("root-2", ca.IssuerActive, ca.IssuerCreated), enroll.KindConflict) })
		f.must(f.store.SaveTrustGeneration(f.ctx, f.generation(2, "root", "root-2"), f.change("trust.add", "issuer:root-2")))
		if got := states(); got != "root active; devices active; pumps active; root-2 published; middle created; " {
			f.Fatal(got)
		}
		f.must(move("root-2", ca.IssuerActive, ca.IssuerPublished)) // one root is active
		if got := states(); got != "root retired; devices active; pumps active; root-2 active; middle created; " {
			f.Fatal(got)
		}
	}},
	{"a CRL that was signed elsewhere is taken when its number is higher", func(f *fixture) {
		f.issuers()
		take := func(number int64) error {
			return f.store.ImportCRL(f.ctx, f.crl(number, f.now, true), f.change("crl.publish", "issuer:devices"))
		}
		f.must(take(40))
		f.unchanged(func() {
			f.wantKind(take(40), enroll.KindConflict)
			f.wantKind(take(39), enroll.KindConflict)
		})
		if crl, err := f.store.LatestCRL(f.ctx, ca.CRLScope{IssuerID: "devices"}); err != nil || crl.Number != 40 {
			f.Fatalf("%+v, %v", crl, err)
		}
	}},
}
