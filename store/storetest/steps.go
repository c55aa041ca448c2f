package storetest

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// rotation returns a new rotation of a broker.
func (f *fixture) rotation(broker string, state enroll.RotationState) enroll.Rotation {
	return enroll.Rotation{
		ID: uuid.Must(uuid.NewV7()).String(), Broker: broker, State: state, At: f.now,
		Steps: []enroll.Step{{Name: "stage", State: enroll.StepPending}},
	}
}

var stepsTests = []test{
	{"a revocation is saved under its version", func(f *fixture) {
		f.enroll("d1")
		r := f.revoke("d1", ca.ReasonKeyCompromise)
		stale := *r
		at := f.now.Add(time.Second)
		r.State, r.Attempts = enroll.RevocationProven, 2
		r.Steps = append(r.Steps, enroll.Step{Name: "refusal", Broker: "b1", State: enroll.StepDone, At: &at, ElapsedMs: 1000, Detail: "bad certificate"})
		r.Evidence = &enroll.Evidence{CRLNumbers: map[string]int64{"devices": 7}, Brokers: []enroll.Observation{{Broker: "b1", Admitted: true}}, SHA256: "x"}
		version := r.Version
		f.must(f.store.SaveRevocation(f.ctx, r, f.change("revocation.step", "revocation:"+r.ID)))
		if r.Version == version {
			f.Fatal("the version was not raised")
		}
		got, err := f.store.Revocation(f.ctx, r.ID)
		f.must(err)
		f.sameJSON(got, r)
		if got.Version != r.Version {
			f.Fatalf("version is %d, want %d", got.Version, r.Version)
		}
		f.unchanged(func() {
			f.wantKind(f.store.SaveRevocation(f.ctx, &stale, f.change("revocation.step", "revocation:"+r.ID)), enroll.KindConflict)
		})
		f.must(f.store.SaveRevocation(f.ctx, got, f.change("revocation.step", "revocation:"+r.ID)))
	}},
	{"one of racing saves takes effect", func(f *fixture) {
		f.enroll("d1")
		r := f.revoke("d1", ca.ReasonKeyCompromise)
		errs := race(8, func(int) error {
			mine := *r
			return f.store.SaveRevocation(f.ctx, &mine, f.change("revocation.step", "revocation:"+r.ID))
		})
		f.wantOne(errs, func(err error) { f.wantKind(err, enroll.KindConflict) })
	}},
	{"revocations are listed by device and together, newest first", func(f *fixture) {
		for n, id := range []string{"d1", "d2"} {
			f.enroll(id)
			r := f.revocation(id, ca.ReasonSuperseded)
			r.At = f.now.Add(time.Duration(n) * time.Second)
			_, err := f.store.RevokeDevice(f.ctx, r, f.change("device.revoke", "device:"+id))
			f.must(err)
		}
		for device, want := range map[string][]string{"": {"d2", "d1"}, "d1": {"d1"}, "none": nil} {
			var got []string
			for _, r := range every(f, func(p enroll.Page) ([]*enroll.Revocation, string, error) {
				return f.store.Revocations(f.ctx, device, p)
			}) {
				got = append(got, r.Device)
			}
			if !slices.Equal(got, want) {
				f.Errorf("revocations of %q are %v, want %v", device, got, want)
			}
		}
	}},
	{"a broker's certificate is the newest that its rotations kept, or that was seen since", func(f *fixture) {
		f.broker("b")
		at := f.now
		old := f.brokerCertificate("b")
		newest := old
		// end rotates to a new certificate that is seen once, and ends so.
		end := func(state enroll.RotationState) {
			f.Helper()
			r := f.rotation("b", enroll.RotationRunning)
			r.OldSerial = old.SerialNumber
			f.must(f.store.CreateRotation(f.ctx, r, f.change("rotation.start", "broker:b")))
			newest = f.brokerCertificate("b")
			at = at.Add(time.Second)
			f.look("b", mqtts.VerdictPass, newest.SHA256, at)
			r.State, r.NewSerial = state, newest.SerialNumber
			f.must(f.store.SaveRotation(f.ctx, &r, f.change("rotation.step", "rotation:"+r.ID)))
		}
		seen := func(served ca.Certificate) {
			f.Helper()
			at = at.Add(time.Second)
			f.look("b", mqtts.VerdictPass, served.SHA256, at)
		}
		end(enroll.RotationRolledBack)
		f.wantBrokerCertificate("b", old)
		if looks, err := f.store.BrokerLooks(f.ctx, 1); err != nil || looks[0].ServedSHA256 != old.SHA256 {
			f.Errorf("%+v, %v", looks, err)
		}
		seen(newest) // somebody installed it all the same
		f.wantBrokerCertificate("b", newest)
		seen(old)
		f.wantBrokerCertificate("b", old)
		end(enroll.RotationFailed) // there was no way back
		f.wantBrokerCertificate("b", newest)
		seen(old)
		f.wantBrokerCertificate("b", old)
		byHand := f.brokerCertificate("b")
		f.wantBrokerCertificate("b", byHand)
		end(enroll.RotationDone)
		seen(old)
		f.wantBrokerCertificate("b", newest)
	}},
	{"a broker has one running rotation", func(f *fixture) {
		f.broker("b1")
		f.broker("b2")
		first := f.rotation("b1", enroll.RotationRunning)
		f.must(f.store.CreateRotation(f.ctx, first, f.change("rotation.start", "broker:b1")))
		f.unchanged(func() {
			f.wantKind(f.store.CreateRotation(f.ctx, f.rotation("b1", enroll.RotationRunning), f.change("rotation.start", "broker:b1")), enroll.KindConflict)
			f.wantKind(f.store.CreateRotation(f.ctx, f.rotation("none", enroll.RotationRunning), f.change("rotation.start", "broker:none")), ca.KindNotFound)
		})
		f.must(f.store.CreateRotation(f.ctx, f.rotation("b1", enroll.RotationPlanned), f.change("rotation.plan", "broker:b1")))
		f.must(f.store.CreateRotation(f.ctx, f.rotation("b2", enroll.RotationRunning), f.change("rotation.start", "broker:b2")))
		r, err := f.store.Rotation(f.ctx, first.ID)
		f.must(err)
		r.State = enroll.RotationDone
		f.must(f.store.SaveRotation(f.ctx, r, f.change("rotation.step", "rotation:"+r.ID)))
		f.must(f.store.CreateRotation(f.ctx, f.rotation("b1", enroll.RotationRunning), f.change("rotation.start", "broker:b1")))
		if n := len(every(f, func(p enroll.Page) ([]*enroll.Rotation, string, error) { return f.store.Rotations(f.ctx, "b1", p) })); n != 3 {
			f.Fatalf("%d rotations of b1", n)
		}
	}},
	{"a rotation is saved under its version, with what a resumed step needs", func(f *fixture) {
		f.broker("b1")
		r := f.rotation("b1", enroll.RotationRunning)
		f.must(f.store.CreateRotation(f.ctx, r, f.change("rotation.start", "broker:b1")))
		stale := r
		r.CSR, r.SessionIDs, r.NewSerial, r.OldSerial = []byte("csr"), []string{"s1", "s2"}, "02", "01"
		r.SessionsBefore, r.SessionsAfter, r.SessionsDropped = 3, 2, 1
		f.must(f.store.SaveRotation(f.ctx, &r, f.change("rotation.step", "rotation:"+r.ID)))
		got, err := f.store.Rotation(f.ctx, r.ID)
		f.must(err)
		f.sameJSON(got, r)
		if string(got.CSR) != "csr" || !slices.Equal(got.SessionIDs, r.SessionIDs) || got.Version != r.Version {
			f.Fatalf("got %+v", got)
		}
		f.unchanged(func() {
			f.wantKind(f.store.SaveRotation(f.ctx, &stale, f.change("rotation.step", "rotation:"+r.ID)), enroll.KindConflict)
			stale.ID = "none"
			f.wantKind(f.store.SaveRotation(f.ctx, &stale, f.change("rotation.step", "rotation:none")), ca.KindNotFound)
		})
	}},
}

// wantBrokerCertificate checks the certificate of a broker wherever it is read.
func (f *fixture) wantBrokerCertificate(broker string, want ca.Certificate) {
	f.Helper()
	one, err := f.store.Broker(f.ctx, broker)
	f.must(err)
	all, _, err := f.store.Brokers(f.ctx, enroll.Page{Limit: 10})
	f.must(err)
	looks, err := f.store.BrokerLooks(f.ctx, 10)
	f.must(err)
	for _, got := range []ca.SerialNumber{one.Certificate.SerialNumber, all[0].Certificate.SerialNumber, looks[0].Newest.SerialNumber} {
		if got != want.SerialNumber {
			f.Errorf("the certificate of %s is %s, want %s", broker, got, want.SerialNumber)
		}
	}
}
