package storetest

import (
	"time"

	"github.com/google/uuid"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// verify saves a verification of a broker.
func (f *fixture) verify(broker string, at time.Time, verdict mqtts.Verdict) enroll.Verification {
	f.Helper()
	v := enroll.Verification{ID: uuid.Must(uuid.NewV7()).String(), Broker: broker, At: at, Since: at, Looks: 1, Outcome: string(verdict),
		Report: &mqtts.Report{Verdict: verdict, StartedAt: at, Steps: []mqtts.Step{{Name: mqtts.StepTCP, Detail: "connected"}}}}
	f.must(f.store.SaveVerification(f.ctx, v, f.change("broker.verify", "broker:"+broker)))
	return v
}

var brokerTests = []test{
	{"a broker reads back, with newest certificate and verification", func(f *fixture) {
		f.broker("b1")
		b, err := f.store.Broker(f.ctx, "b1")
		f.must(err)
		f.sameJSON(b, enroll.Broker{ID: "b1", URL: "mqtts://b1.example:8883", Names: []string{"b1.example"}, Kind: "embedded", Status: enroll.BrokerRegistered, CreatedAt: f.now})

		var newest ca.Certificate
		for range 2 {
			newest = f.certificate(ca.Holder{Kind: ca.HolderBroker, ID: "b1"})
			f.must(f.commit(ca.Issuance{Certificate: newest, Claim: &enroll.Claim{Change: f.change("broker.issue", "broker:b1")}}))
		}
		f.verify("b1", f.now, mqtts.VerdictFail)
		last := f.verify("b1", f.now.Add(time.Second), mqtts.VerdictPass)
		b, err = f.store.Broker(f.ctx, "b1")
		f.must(err)
		f.sameJSON(b.Certificate, &newest)
		f.sameJSON(b.LastVerification, last)
		if b.Status != enroll.BrokerVerified {
			f.Fatalf("status is %s", b.Status)
		}
		all, _, err := f.store.Brokers(f.ctx, enroll.Page{Limit: 10})
		f.must(err)
		f.sameJSON(all, []*enroll.Broker{b})
	}},
	{"who drives a broker is who said so last", func(f *fixture) {
		for _, id := range []string{"b1", "b2"} {
			f.broker(id)
		}
		drivers := func(want ...enroll.BrokerDriver) {
			f.Helper()
			all, err := f.store.BrokerDrivers(f.ctx)
			f.must(err)
			f.sameJSON(all, append([]enroll.BrokerDriver(nil), want...))
			for i := range all {
				if all[i].Broker != want[i].Broker {
					f.Fatalf("%s stands for %s", all[i].Broker, want[i].Broker)
				}
			}
		}
		drivers()
		f.must(f.store.AnnounceDrivers(f.ctx, "one", []string{"b1", "b2"}, f.now))
		later := f.now.Add(time.Second)
		f.must(f.store.AnnounceDrivers(f.ctx, "two", []string{"b2"}, later))
		drivers(enroll.BrokerDriver{Broker: "b1", Server: "one", SeenAt: f.now}, enroll.BrokerDriver{Broker: "b2", Server: "two", SeenAt: later})
		f.must(f.store.AnnounceDrivers(f.ctx, "one", nil, later)) // b2 is not its any more
		drivers(enroll.BrokerDriver{Broker: "b2", Server: "two", SeenAt: later})
	}},
	{"a broker's status follows the last verdict", func(f *fixture) {
		f.broker("b1")
		for n, c := range []struct {
			verdict mqtts.Verdict
			want    enroll.BrokerStatus
		}{
			{mqtts.VerdictPass, enroll.BrokerVerified}, {mqtts.VerdictFail, enroll.BrokerFailing},
			{mqtts.VerdictInconclusive, enroll.BrokerFailing}, {mqtts.VerdictPass, enroll.BrokerVerified},
		} {
			f.verify("b1", f.now.Add(time.Duration(n)*time.Second), c.verdict)
			b, err := f.store.Broker(f.ctx, "b1")
			f.must(err)
			if b.Status != c.want {
				f.Fatalf("status after %s is %s, want %s", c.verdict, b.Status, c.want)
			}
		}
		all, _, err := f.store.Verifications(f.ctx, "b1", enroll.Page{Limit: 10})
		f.must(err)
		if len(all) != 4 || all[0].At.Before(all[3].At) {
			f.Fatalf("verifications are %+v", all)
		}
	}},
	{"a history of verdicts is that of the reports", func(f *fixture) {
		f.broker("b1")
		f.broker("b2")
		f.verify("b2", f.now, mqtts.VerdictPass)
		want := []enroll.VerificationMark{}
		for n, steps := range [][]mqtts.Step{
			{{Name: mqtts.StepTCP, Result: mqtts.ResultPass}, {Name: mqtts.StepVerify, Result: mqtts.ResultFail}, {Name: mqtts.StepConnack, Result: mqtts.ResultFail}},
			{{Name: mqtts.StepTCP, Result: mqtts.ResultWarn}}, nil,
		} {
			m := enroll.VerificationMark{ID: uuid.Must(uuid.NewV7()).String(), At: f.now.Add(time.Duration(n) * time.Second), Verdict: mqtts.VerdictPass}
			if n == 0 {
				m.Verdict, m.Failed = mqtts.VerdictFail, mqtts.StepVerify
			}
			f.must(f.store.SaveVerification(f.ctx, enroll.Verification{ID: m.ID, Broker: "b1", At: m.At, Report: &mqtts.Report{Verdict: m.Verdict, Steps: steps}},
				f.change("broker.verify", "broker:b1")))
			want = append([]enroll.VerificationMark{m}, want...)
		}
		f.sameJSON(every(f, func(p enroll.Page) ([]enroll.VerificationMark, string, error) {
			p.Limit = 2
			return f.store.VerificationMarks(f.ctx, "b1", p)
		}), want)
	}},
	{"a verification is found by its broker and id", func(f *fixture) {
		f.broker("b1")
		f.broker("b2")
		want := f.verify("b1", f.now, mqtts.VerdictPass)
		f.verify("b1", f.now.Add(time.Second), mqtts.VerdictFail)
		got, err := f.store.Verification(f.ctx, "b1", want.ID)
		f.must(err)
		f.sameJSON(got, want)
		_, err = f.store.Verification(f.ctx, "b2", want.ID)
		f.wantKind(err, ca.KindNotFound)
		_, err = f.store.Verification(f.ctx, "b1", "none")
		f.wantKind(err, ca.KindNotFound)
	}},
	{"a look that shows what the schedule saw last is counted, another is not", func(f *fixture) {
		f.broker("b1")
		f.broker("b2")
		look := func(broker string, at time.Time, outcome string) enroll.Verification {
			return enroll.Verification{ID: uuid.Must(uuid.NewV7()).String(), Broker: broker, At: at, Since: at, Looks: 1, Outcome: outcome,
				Negative: true, Scheduled: true, Report: &mqtts.Report{Verdict: mqtts.VerdictPass, StartedAt: at}}
		}
		confirm := func(vs ...enroll.Verification) []enroll.Verification {
			others, err := f.store.ConfirmVerifications(f.ctx, vs)
			f.must(err)
			return others
		}
		first := look("b1", f.now, "pass")
		if others := confirm(first); len(others) != 1 {
			f.Fatalf("%d looks at a new broker are news, want 1", len(others))
		}
		f.must(f.store.SaveVerification(f.ctx, first, f.change("broker.verify", "broker:b1")))
		again, news, none := look("b1", f.now.Add(time.Minute), "pass"), look("b1", f.now.Add(2*time.Minute), "fail"), look("none", f.now, "pass")
		unscheduled := f.verify("b2", f.now, mqtts.VerdictPass)
		asked := look("b2", f.now.Add(time.Minute), unscheduled.Outcome)
		asked.Negative = false
		positive := look("b1", f.now.Add(3*time.Minute), "pass")
		positive.Negative = false
		f.sameJSON(confirm(again, news, none, asked, positive), []enroll.Verification{news, none, asked, positive})
		if old := confirm(look("b1", f.now.Add(-time.Minute), "pass")); len(old) != 1 {
			f.Fatalf("a look from before was counted")
		}
		all, _, err := f.store.Verifications(f.ctx, "b1", enroll.Page{Limit: 10})
		f.must(err)
		first.At, first.Looks, first.Report = again.At, 2, again.Report
		f.sameJSON(all, []*enroll.Verification{&first})
	}},
	{"the newest negative verification of each broker is known", func(f *fixture) {
		for _, id := range []string{"b1", "b2", "b3"} {
			f.broker(id)
		}
		negative := func(broker string, at time.Time) *enroll.Verification {
			v := enroll.Verification{ID: uuid.Must(uuid.NewV7()).String(), Broker: broker, At: at, Since: at, Looks: 1, Negative: true, Report: &mqtts.Report{StartedAt: at,
				Checks: []mqtts.Check{{Name: mqtts.CheckRevoked, Result: mqtts.CheckPass, Diagnosis: []mqtts.Diagnosis{}}}}}
			f.must(f.store.SaveVerification(f.ctx, v, f.change("broker.verify", "broker:"+broker)))
			return &v
		}
		negative("b1", f.now)
		newest := negative("b1", f.now.Add(time.Second))
		f.verify("b1", f.now.Add(time.Minute), mqtts.VerdictFail)
		f.verify("b2", f.now, mqtts.VerdictPass)
		other := negative("b3", f.now)
		got, err := f.store.NegativeVerifications(f.ctx)
		f.must(err)
		f.sameJSON(got, []*enroll.Verification{newest, other})
	}},
	{"old verifications are forgotten, the newest of each sort are not", func(f *fixture) {
		f.broker("b1")
		f.broker("b2")
		save := func(broker string, at time.Time, negative bool) string {
			v := enroll.Verification{ID: uuid.Must(uuid.NewV7()).String(), Broker: broker, At: at, Since: at, Looks: 1, Negative: negative, Report: &mqtts.Report{}}
			f.must(f.store.SaveVerification(f.ctx, v, f.change("broker.verify", "broker:"+broker)))
			return v.ID
		}
		day := func(n int) time.Time { return f.now.Add(time.Duration(n) * 24 * time.Hour) }
		save("b1", day(0), true)
		negative := save("b1", day(1), true)
		save("b1", day(2), false)
		recent := save("b1", day(9), false)
		only := save("b2", day(0), false)
		before := day(5)
		forget := func(want int64) {
			n, err := f.store.ForgetVerifications(f.ctx, before)
			f.must(err)
			if n != want {
				f.Fatalf("%d forgotten, want %d", n, want)
			}
		}
		forget(2)
		for broker, want := range map[string][]string{"b1": {recent, negative}, "b2": {only}} {
			all, _, err := f.store.Verifications(f.ctx, broker, enroll.Page{Limit: 10})
			f.must(err)
			var got []string
			for _, v := range all {
				got = append(got, v.ID)
			}
			f.sameJSON(got, want)
		}
		f.unchanged(func() { forget(0) })
	}},
	{"a broker is changed, not doubled", func(f *fixture) {
		f.broker("b1")
		b, err := f.store.Broker(f.ctx, "b1")
		f.must(err)
		f.unchanged(func() {
			f.wantKind(f.store.CreateBroker(f.ctx, *b, f.change("broker.create", "broker:b1")), enroll.KindConflict)
		})
		b.URL, b.Kind, b.Names = "mqtts://other.example:8883", "mosquitto", []string{"other.example", "192.0.2.1"}
		f.must(f.store.UpdateBroker(f.ctx, *b, f.change("broker.update", "broker:b1")))
		got, err := f.store.Broker(f.ctx, "b1")
		f.must(err)
		f.sameJSON(got, b)
		b.ID = "none"
		f.unchanged(func() {
			f.wantKind(f.store.UpdateBroker(f.ctx, *b, f.change("broker.update", "broker:none")), ca.KindNotFound)
			f.wantKind(f.store.SaveVerification(f.ctx, enroll.Verification{ID: "v", Broker: "none", At: f.now, Report: &mqtts.Report{}},
				f.change("broker.verify", "broker:none")), ca.KindNotFound)
		})
	}},
	{"work orders read back, newest first", func(f *fixture) {
		f.order("o1", 5)
		f.must(f.store.CreateWorkOrder(f.ctx, enroll.WorkOrder{ID: "o0", Product: "p", Quantity: 1, Profile: "device", State: enroll.OrderOpen,
			CreatedAt: f.now.Add(time.Second)}, f.change("order.create", "order:o0")))
		all, _, err := f.store.WorkOrders(f.ctx, enroll.Page{Limit: 10})
		f.must(err)
		one, err := f.store.WorkOrder(f.ctx, "o1")
		f.must(err)
		if len(all) != 2 || all[0].ID != "o0" {
			f.Fatalf("orders are %+v", all)
		}
		f.sameJSON(all[1], one)
		f.sameJSON(one, enroll.WorkOrder{ID: "o1", Product: "sensor", Quantity: 5, Profile: "device", State: enroll.OrderOpen, CreatedAt: f.now})
		f.unchanged(func() {
			f.wantKind(f.store.CreateWorkOrder(f.ctx, *one, f.change("order.create", "order:o1")), enroll.KindConflict)
		})
	}},
	{"the tokens of a work order are listed, newest first", func(f *fixture) {
		f.order("o1", 9)
		f.order("o2", 9)
		for _, t := range []enroll.EnrollmentToken{{ID: "t1", WorkOrder: "o1", Uses: 3}, {ID: "t2", WorkOrder: "o2"}, {ID: "t3", WorkOrder: "o1", DeviceID: "d1"}} {
			f.token(t)
		}
		f.must(f.commit(f.spending("d9", "t1")))
		first, next, err := f.store.EnrollmentTokens(f.ctx, "o1", enroll.Page{Limit: 1})
		f.must(err)
		second, end, err := f.store.EnrollmentTokens(f.ctx, "o1", enroll.Page{Limit: 1, Cursor: next})
		f.must(err)
		if end != "" || len(first) != 1 || len(second) != 1 {
			f.Fatalf("pages are %v and %v, then %q", first, second, end)
		}
		f.sameJSON([]*enroll.EnrollmentToken{first[0], second[0]}, []enroll.EnrollmentToken{
			{ID: "t3", WorkOrder: "o1", DeviceID: "d1", Uses: 1, ExpiresAt: f.now.Add(time.Hour), CreatedAt: f.now},
			{ID: "t1", WorkOrder: "o1", Uses: 3, Used: 1, ExpiresAt: f.now.Add(time.Hour), CreatedAt: f.now},
		})
	}},
	{"I6 a token that was ended enrolls nothing", func(f *fixture) {
		f.order("o1", 9)
		f.token(enroll.EnrollmentToken{ID: "t1", WorkOrder: "o1", Uses: 3})
		f.token(enroll.EnrollmentToken{ID: "spent", WorkOrder: "o1"})
		f.must(f.commit(f.spending("d1", "t1")))
		f.must(f.commit(f.spending("d2", "spent")))
		end := func(order, id string) (*enroll.EnrollmentToken, error) {
			return f.store.EndEnrollmentToken(f.ctx, order, id, f.now, f.change("enrollment-token.end", "enrollment-token:"+id))
		}
		for _, c := range []struct {
			order, id string
			kind      ca.Kind
		}{{"o2", "t1", ca.KindNotFound}, {"o1", "none", ca.KindNotFound}, {"o1", "spent", enroll.KindConflict}} {
			f.unchanged(func() {
				_, err := end(c.order, c.id)
				f.wantKind(err, c.kind)
			})
		}
		got, err := end("o1", "t1")
		f.must(err)
		f.sameJSON(got, enroll.EnrollmentToken{ID: "t1", WorkOrder: "o1", Uses: 3, Used: 1, ExpiresAt: f.now, CreatedAt: f.now})
		f.refusal(f.spending("d3", "t1"), enroll.KindTokenExpired)
		f.unchanged(func() {
			_, err := end("o1", "t1")
			f.wantKind(err, enroll.KindConflict)
		})
	}},
}
