package storetest

import (
	"fmt"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

var overviewTests = []test{
	{"a broker's look is its newest certificate, rotation and verification", func(f *fixture) {
		f.broker("b")
		f.broker("c")
		looks, err := f.store.BrokerLooks(f.ctx, 10)
		f.must(err)
		if len(looks) != 2 || looks[0].Broker != "b" || looks[0].Newest != nil || looks[0].LastRotation != nil || looks[0].ServedSHA256 != "" || !looks[0].StatusAt.Equal(f.now) {
			f.Fatalf("%+v", looks)
		}
		for range 2 {
			f.brokerCertificate("b")
		}
		newest := f.brokerCertificate("b")
		f.rotated("b", "r1", enroll.RotationRolledBack, f.now)
		f.rotated("b", "r2", enroll.RotationPlanned, f.now.Add(time.Second))
		f.look("b", mqtts.VerdictPass, "ab12", f.now.Add(time.Second))
		f.look("b", mqtts.VerdictFail, "", f.now.Add(2*time.Second))
		f.look("b", mqtts.VerdictFail, "", f.now.Add(3*time.Second))
		f.look("b", mqtts.VerdictInconclusive, "", f.now.Add(4*time.Second))
		looks, err = f.store.BrokerLooks(f.ctx, 1)
		f.must(err)
		b := looks[0]
		if len(looks) != 1 || b.Newest.SerialNumber != newest.SerialNumber || b.Newest.SHA256 != newest.SHA256 || !b.Newest.NotAfter.Equal(newest.NotAfter) || b.Newest.Status != ca.StatusGood {
			f.Errorf("newest is %+v", b.Newest)
		}
		if b.LastRotation == nil || b.LastRotation.ID != "r1" || b.LastRotation.State != enroll.RotationRolledBack {
			f.Errorf("rotation is %+v", b.LastRotation)
		}
		if b.Status != enroll.BrokerFailing || !b.StatusAt.Equal(f.now.Add(2*time.Second)) || b.ServedSHA256 != "ab12" || !b.ServedAt.Equal(f.now.Add(time.Second)) {
			f.Errorf("%+v", b)
		}
	}},
	{"the newest CRLs come without their bytes", func(f *fixture) {
		f.issuers()
		draft, err := f.store.ReserveCRL(f.ctx, ca.CRLScope{IssuerID: "devices"}, ca.CRLKnown{})
		f.must(err)
		f.must(f.store.SaveCRL(f.ctx, f.crl(draft.Number, f.now.Add(time.Minute), false)))
		crls, err := f.store.NewestCRLs(f.ctx)
		f.must(err)
		if len(crls) != 1 || crls[0].IssuerID != "devices" || crls[0].Number != 2 || crls[0].DER != nil || !crls[0].NextUpdate.Equal(f.now.Add(61*time.Minute)) {
			f.Fatalf("%+v", crls)
		}
	}},
	{"open revocations and full work orders, longest since first", func(f *fixture) {
		for n, state := range []enroll.RevocationState{enroll.RevocationProven, enroll.RevocationUnproven, enroll.RevocationRunning, enroll.RevocationRecorded} {
			id := fmt.Sprint("d", n)
			f.enroll(id)
			r := f.revocation(id, ca.ReasonSuperseded)
			r.State, r.At = state, f.now.Add(-time.Duration(n)*time.Minute)
			_, err := f.store.RevokeDevice(f.ctx, r, f.change("device.revoke", "device:"+id))
			f.must(err)
		}
		open, err := f.store.OpenRevocations(f.ctx, 10)
		f.must(err)
		if len(open) != 2 || open[0].Device != "d2" || open[1].Device != "d1" {
			f.Errorf("%+v", open)
		}
		for _, id := range []string{"o1", "o2", "o3", "o4"} {
			f.order(id, 1)
		}
		for _, id := range []string{"o3", "o1", "o4"} {
			i := f.enrollment("of-" + id)
			claimOf(i).Order = id
			f.must(f.commit(i))
		}
		closed := enroll.OrderClosed
		f.update("o4", enroll.WorkOrderUpdate{State: &closed})
		full, err := f.store.FullWorkOrders(f.ctx, 10)
		f.must(err)
		if len(full) != 2 || full[0].ID != "o3" || full[1].ID != "o1" {
			f.Errorf("%+v", full)
		}
	}},
	{"devices that expire are counted up to a limit", func(f *fixture) {
		for n := range 5 {
			f.expiring(fmt.Sprint("d", n), time.Duration(n)*time.Hour+time.Minute)
		}
		for limit, want := range map[int]int{10: 3, 2: 2} {
			n, err := f.store.ExpiringDevices(f.ctx, f.now, f.now.Add(3*time.Hour), limit)
			f.must(err)
			if n != want {
				f.Errorf("%d of at most %d", n, limit)
			}
		}
	}},
	{"figures count what there is", func(f *fixture) {
		figures, err := f.store.Figures(f.ctx)
		f.must(err)
		if !figures.AsOf.IsZero() || len(figures.Devices) != 5 {
			f.Fatalf("before any count: %+v", figures)
		}
		f.broker("b")
		f.brokerCertificate("b")
		for n := range 6 {
			f.enroll(fmt.Sprint("d", n))
		}
		f.revoke("d0", ca.ReasonSuperseded)
		f.revoke("d1", ca.ReasonCertificateHold)
		f.must(f.store.CreateDevice(f.ctx, enroll.Device{ID: "new", Status: enroll.DeviceRegistered, CreatedAt: f.now}, f.change("device.register", "device:new")))
		canary := ca.Issuance{Certificate: f.certificate(ca.Holder{Kind: ca.HolderCanary, ID: enroll.CanaryID}), Claim: &enroll.Claim{Change: f.change("canary.issue", "canary:c")}}
		f.must(f.commit(canary))
		want := enroll.Figures{
			Devices:      map[enroll.DeviceStatus]int64{enroll.DeviceActive: 4, enroll.DeviceRevoked: 1, enroll.DeviceHeld: 1, enroll.DeviceRegistered: 1, enroll.DeviceRetired: 0},
			Certificates: map[ca.Status]int64{ca.StatusGood: 5, ca.StatusRevoked: 1, ca.StatusHeld: 1},
			Brokers:      map[enroll.BrokerStatus]int64{enroll.BrokerRegistered: 1, enroll.BrokerVerified: 0, enroll.BrokerFailing: 0},
			IssuedToday:  7,
		}
		if yesterday := f.now.Truncate(24 * time.Hour); time.Since(yesterday) < time.Minute {
			f.Skip("midnight")
		}
		f.wantFigures(want, f.now.Add(time.Second))
		f.revokeCertificate(canary.Certificate.SerialNumber, ca.ReasonSuperseded)
		f.wantFigures(want, f.now.Add(time.Hour)) // by now all are counted once and for all
		f.revoke("d2", ca.ReasonSuperseded)
		want.Devices[enroll.DeviceRevoked]++
		want.Devices[enroll.DeviceActive]--
		want.Certificates[ca.StatusRevoked]++
		want.Certificates[ca.StatusGood]--
		f.wantFigures(want, f.now.Add(2*time.Hour))
	}},
	{"a count rests for longer than it took", func(f *fixture) {
		f.must(f.store.CountFleet(f.ctx, f.now))
		f.enroll("d")
		f.must(f.store.CountFleet(f.ctx, f.now.Add(time.Microsecond)))
		figures, err := f.store.Figures(f.ctx)
		f.must(err)
		if !figures.AsOf.Equal(f.now) {
			f.Fatalf("counted again at %v", figures.AsOf)
		}
	}},
	{"a forecast counts each holder's last certificate in its week", func(f *fixture) {
		empty, err := f.store.Forecast(f.ctx)
		f.must(err)
		if !empty.AsOf.IsZero() || len(empty.Weeks) != enroll.ForecastWeeks {
			f.Fatalf("before any: %v, %d weeks", empty.AsOf, len(empty.Weeks))
		}
		week := 7 * 24 * time.Hour
		f.broker("b")
		f.brokerCertificate("b")
		f.brokerCertificate("b") // a day each
		first := f.expiring("renewed", week)
		i := f.renewal(first)
		i.Certificate.NotAfter = f.now.Add(10 * week)
		f.must(f.commit(i))
		f.expiring("late", -5*week)
		f.expiring("far", 200*week)
		f.expiring("soon", 10*week)
		f.must(f.store.CountFleet(f.ctx, f.now))
		got, err := f.store.Forecast(f.ctx)
		f.must(err)
		want := enroll.NewForecast(f.now)
		want.Add(ca.HolderDevice, f.now.Add(10*week), 2)
		want.Add(ca.HolderDevice, f.now.Add(-5*week), 1)
		want.Add(ca.HolderDevice, f.now.Add(200*week), 1)
		want.Add(ca.HolderBroker, f.now.Add(24*time.Hour), 1)
		f.sameJSON(got, want)
		if want.Weeks[10].Expiring["device"] != 2 || want.Overdue["device"] != 1 || want.Later["device"] != 1 {
			f.Errorf("%+v", want)
		}
	}},
}

// wantFigures counts as of a time, and ends the test unless that is the count.
func (f *fixture) wantFigures(want enroll.Figures, at time.Time) {
	f.Helper()
	f.must(f.store.CountFleet(f.ctx, at))
	got, err := f.store.Figures(f.ctx)
	f.must(err)
	if at.Truncate(24*time.Hour) != f.now.Truncate(24*time.Hour) {
		want.IssuedToday = got.IssuedToday
	}
	want.AsOf = at
	f.sameJSON(got, want)
}

// brokerCertificate records a broker's certificate.
func (f *fixture) brokerCertificate(broker string) ca.Certificate {
	f.Helper()
	i := ca.Issuance{Certificate: f.certificate(ca.Holder{Kind: ca.HolderBroker, ID: broker}), Claim: &enroll.Claim{Change: f.change("broker.issue", "broker:"+broker)}}
	f.must(f.commit(i))
	return i.Certificate
}

// rotated records a rotation.
func (f *fixture) rotated(broker, id string, state enroll.RotationState, at time.Time) {
	f.Helper()
	f.must(f.store.CreateRotation(f.ctx, enroll.Rotation{ID: id, Broker: broker, State: state, Steps: []enroll.Step{}, At: at, Version: 1}, f.change("broker.rotate", "broker:"+broker)))
}

// look records a verification.
func (f *fixture) look(broker string, verdict mqtts.Verdict, served string, at time.Time) {
	f.Helper()
	change := f.change("broker.verify", "broker:"+broker)
	v := enroll.Verification{ID: change.Event.ID, Broker: broker, At: at, Report: &mqtts.Report{Verdict: verdict}}
	if served != "" {
		v.Report.ServerCertificate = &mqtts.ServerCertificate{SHA256: served}
	}
	f.must(f.store.SaveVerification(f.ctx, v, change))
}
