package storetest

import (
	"fmt"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// keepAnswers is what these tests call Tidy with.
const keepAnswers = 30 * 24 * time.Hour

// tidy calls Tidy, and checks what it says it deleted.
func (f *fixture) tidy(now time.Time, want enroll.Tidied) {
	f.Helper()
	got, err := f.store.Tidy(f.ctx, now, keepAnswers)
	f.must(err)
	if got != want {
		f.Fatalf("deleted %+v, want %+v", got, want)
	}
}

// replayed returns what a key gives; nil when it is free.
func (f *fixture) replayed(i *enroll.Idempotency) *enroll.Replay {
	f.Helper()
	replay, err := f.store.Replayed(f.ctx, i)
	f.must(err)
	return replay
}

var tidyTests = []test{
	{"I10 I11 CRLs before the newest scheduled one go, and numbers and entries stay", func(f *fixture) {
		f.issuers() // with CRL 1
		cert := f.enroll("d1")
		f.revoke("d1", ca.ReasonSuperseded)
		f.publish(f.now, true)
		scheduled := f.publish(f.now.Add(time.Minute), true)
		late := f.publish(f.now.Add(2*time.Minute), false)
		f.tidy(f.now, enroll.Tidied{CRLs: 2})
		f.tidy(f.now, enroll.Tidied{})
		latest, err := f.store.LatestCRL(f.ctx, ca.CRLScope{IssuerID: "devices"})
		f.must(err)
		if latest.Number != late.Number {
			f.Fatalf("the latest is %d, not %d", latest.Number, late.Number)
		}
		if d := f.reserve(); d.Number != late.Number+1 || d.Previous.Number != late.Number || !has(d, cert.SerialNumber) {
			f.Fatalf("the draft is %+v", d)
		}
		for _, number := range []int64{scheduled.Number, late.Number} {
			f.wantKind(f.store.SaveCRL(f.ctx, f.crl(number, f.now, true)), enroll.KindConflict)
		}
	}},
	{"I5 a key is kept for its certificate's lifetime", func(f *fixture) {
		i := f.enrollment("d1")
		key := &enroll.Idempotency{Scope: "s", Key: "k", RequestHash: sum("request")}
		claimOf(i).Idempotency = key
		f.must(f.commit(i))
		f.tidy(i.Certificate.NotAfter, enroll.Tidied{}) // its last moment
		f.wantReplay(f.replayed(key), i.Certificate.SerialNumber)
		f.tidy(i.Certificate.NotAfter.Add(time.Second), enroll.Tidied{IdempotencyKeys: 1})
		if replay := f.replayed(key); replay != nil {
			f.Fatalf("an expired certificate's key gives %+v", replay)
		}
	}},
	{"a key without a certificate is kept for a time", func(f *fixture) {
		const many = 1100 // chunks
		key := func(n int) *enroll.Idempotency {
			return &enroll.Idempotency{Scope: fmt.Sprint("scope", n%3), Key: fmt.Sprint(n), RequestHash: sum("r"), Answer: []byte("{}")}
		}
		errs := race(many, func(n int) error {
			c := f.change("a", "b")
			c.Idempotency = key(n)
			return f.store.RecordEvent(f.ctx, c)
		})
		for _, err := range errs {
			f.must(err)
		}
		i := f.enrollment("d1")
		claimOf(i).Idempotency = &enroll.Idempotency{Scope: "scope1", Key: "certificate", RequestHash: sum("r")}
		i.Certificate.NotAfter = f.now.AddDate(10, 0, 0)
		f.must(f.commit(i))
		f.tidy(time.Now().Add(keepAnswers-time.Hour), enroll.Tidied{})
		if f.replayed(key(7)) == nil {
			f.Fatal("a young answer is gone")
		}
		f.tidy(time.Now().Add(keepAnswers+time.Hour), enroll.Tidied{IdempotencyKeys: many})
		f.wantReplay(f.replayed(claimOf(i).Idempotency), i.Certificate.SerialNumber)
	}},
	{"sessions and failures go when they expire", func(f *fixture) {
		f.must(f.login(f.signInOf(f.user("eve", enroll.RoleAdmin), "s1")))
		_, err := f.store.ChargeFailure(f.ctx, "bearer:a", f.now, time.Minute)
		f.must(err)
		f.tidy(f.now.Add(time.Minute-time.Microsecond), enroll.Tidied{})
		f.tidy(f.now.Add(time.Minute), enroll.Tidied{Failures: 1})
		f.tidy(f.now.Add(time1h-time.Microsecond), enroll.Tidied{})
		f.tidy(f.now.Add(time1h), enroll.Tidied{Sessions: 1})
		if f.hasSession("s1") {
			f.Fatal("the session is there")
		}
	}},
	{"API tokens go long after they expired", func(f *fixture) {
		for n, id := range []string{"t1", "t2"} {
			f.must(f.store.CreateAPIToken(f.ctx, enroll.APIToken{ID: id, Role: enroll.RoleAdmin, Hash: sum(id), CreatedAt: f.now,
				ExpiresAt: f.now.Add(time.Duration(n+1) * time1h)}, f.change("token.create", "token:"+id)))
		}
		f.tidy(f.now.Add(keepAnswers+time1h-time.Microsecond), enroll.Tidied{})
		f.tidy(f.now.Add(keepAnswers+time1h), enroll.Tidied{APITokens: 1})
		_, err := f.store.APIToken(f.ctx, "t1")
		f.wantKind(err, ca.KindNotFound)
		_, err = f.store.APIToken(f.ctx, "t2")
		f.must(err)
	}},
	{"I5 an enrollment token is kept as long as its certificates live", func(f *fixture) {
		const unused = 1100 // chunks
		for n := range unused {
			f.token(enroll.EnrollmentToken{ID: fmt.Sprint("unused", n)})
		}
		f.token(enroll.EnrollmentToken{ID: "t1"})
		i := f.enrollment("d1")
		claimOf(i).Token = &enroll.TokenClaim{ID: "t1", DeviceID: "d1", RequestHash: sum("r")}
		i.Certificate.NotAfter = f.now.AddDate(1, 0, 0)
		f.must(f.commit(i))
		f.tidy(f.now.Add(keepAnswers), enroll.Tidied{})
		f.tidy(i.Certificate.NotAfter, enroll.Tidied{EnrollmentTokens: unused})
		f.wantReplay(f.spentBy(claimOf(i).Token), i.Certificate.SerialNumber)
		f.tidy(i.Certificate.NotAfter.Add(time.Second), enroll.Tidied{EnrollmentTokens: 1})
		_, err := f.store.EnrollmentTokenByHash(f.ctx, sum("t1"))
		f.wantKind(err, ca.KindNotFound)
	}},
	{"bulk changes go long after they ended, with their devices", func(f *fixture) {
		var devices []string
		for n := range 1203 { // chunks
			devices = append(devices, fmt.Sprintf("d%04d", n))
		}
		for _, id := range []string{"ends", "runs"} {
			f.must(f.store.CreateBulk(f.ctx, enroll.BulkResult{ID: id, Action: enroll.BulkHold, State: enroll.BulkRunning, Total: len(devices), At: f.now, Version: 1},
				devices, f.change("bulk.start", "bulk:"+id)))
		}
		outcomes := map[string]string{}
		for _, id := range devices {
			outcomes[id] = "it is gone"
		}
		f.must(f.store.SaveBulk(f.ctx, "ends", outcomes, f.now.Add(time1h), f.change("bulk.progress", "bulk:ends")))
		f.tidy(f.now.Add(keepAnswers+time1h-time.Microsecond), enroll.Tidied{})
		f.tidy(f.now.Add(keepAnswers+time1h), enroll.Tidied{Bulks: 1})
		_, err := f.store.Bulk(f.ctx, "ends")
		f.wantKind(err, ca.KindNotFound)
		f.must(f.store.CreateBulk(f.ctx, enroll.BulkResult{ID: "ends", Action: enroll.BulkHold, State: enroll.BulkRunning, At: f.now, Version: 1}, nil, f.change("a", "b")))
		again, err := f.store.Bulk(f.ctx, "ends")
		f.must(err)
		waiting, err := f.store.BulkWaiting(f.ctx, "runs", 2000)
		f.must(err)
		if len(again.Failures) != 0 || len(waiting) != len(devices) {
			f.Fatalf("%d devices of a bulk change that is gone are there, and %d of one that runs", len(again.Failures), len(waiting))
		}
	}},
	{"plans of rotations go after a time, and rotations stay", func(f *fixture) {
		f.broker("b")
		for id, state := range map[string]enroll.RotationState{"plan": enroll.RotationPlanned, "done": enroll.RotationDone, "failed": enroll.RotationFailed} {
			f.rotated("b", id, state, f.now)
		}
		f.rotated("b", "later", enroll.RotationPlanned, f.now.Add(time1h))
		f.tidy(f.now.Add(keepAnswers-time.Microsecond), enroll.Tidied{})
		f.tidy(f.now.Add(keepAnswers), enroll.Tidied{Rotations: 1})
		_, err := f.store.Rotation(f.ctx, "plan")
		f.wantKind(err, ca.KindNotFound)
		for _, id := range []string{"done", "failed", "later"} {
			_, err := f.store.Rotation(f.ctx, id)
			f.must(err)
		}
	}},
	{"refusals of enrollments go after a time", func(f *fixture) {
		f.order("w1", 10)
		refused := func(kind ca.Kind, id string, at time.Time) {
			f.must(f.store.SaveRefusals(f.ctx, []enroll.OrderRefusals{{WorkOrder: "w1", Counts: []enroll.RefusalCount{{Kind: kind, Count: 1, LastAt: at}},
				Last: []enroll.RefusedUnit{{ID: id, Device: "d", Kind: kind, At: at}}}}))
		}
		refused(enroll.KindQuotaReached, "r1", f.now)
		refused(ca.KindWeakKey, "r2", f.now.Add(time1h))
		f.tidy(f.now.Add(keepAnswers-time.Microsecond), enroll.Tidied{})
		f.tidy(f.now.Add(keepAnswers), enroll.Tidied{Refusals: 1})
		p, err := f.store.OrderProgress(f.ctx, "w1", f.now, 1, 10)
		f.must(err)
		if len(p.Refusals) != 1 || p.Refusals[0].Kind != ca.KindWeakKey || len(p.LastRefused) != 1 || p.LastRefused[0].ID != "r2" {
			f.Fatalf("%+v, %+v", p.Refusals, p.LastRefused)
		}
	}},
}
