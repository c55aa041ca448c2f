package storetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

var eventTests = []test{
	{"I19 every change has exactly one event", func(f *fixture) {
		var want []string
		did := func(action string, err error) {
			f.Helper()
			f.must(err)
			want = append(want, action)
			got := f.events(enroll.EventFilter{})
			if len(got) != len(want) || !slices.ContainsFunc(got, func(e *enroll.Event) bool { return e.Action == action }) {
				f.Fatalf("%d events after %d changes, the last was %s", len(got), len(want), action)
			}
		}
		cert := selfSigned(f.T)
		did("a01", f.store.CreateIssuers(f.ctx, []ca.Issuer{{ID: "devices", Purpose: ca.PurposeDevice, State: ca.IssuerActive, Certificate: cert}}, nil, f.change("a01", "x")))
		did("a02", f.store.SetStatusURLs(f.ctx, "devices", nil, f.change("a02", "x")))
		did("a03", f.store.CreateWorkOrder(f.ctx, enroll.WorkOrder{ID: "o", Quantity: 1, State: enroll.OrderOpen, CreatedAt: f.now}, f.change("a03", "x")))
		did("a04", f.store.CreateEnrollmentToken(f.ctx, enroll.EnrollmentToken{ID: "t", Hash: sum("t"), Uses: 1, ExpiresAt: f.now, CreatedAt: f.now}, f.change("a04", "x")))
		did("a05", f.store.CreateAPIToken(f.ctx, enroll.APIToken{ID: "t", Hash: sum("t"), Role: enroll.RoleAdmin, ExpiresAt: f.now, CreatedAt: f.now}, f.change("a05", "x")))
		did("a06", f.store.CreateDevice(f.ctx, enroll.Device{ID: "d1", Status: enroll.DeviceRegistered, CreatedAt: f.now}, f.change("a06", "x")))
		i := f.enrollment("d1")
		claimOf(i).Change = f.change("a07", "x")
		did("a07", f.commit(i))
		did("a08", f.store.HoldDevice(f.ctx, "d1", f.now, f.change("a08", "x")))
		did("a09", f.store.ReleaseDevice(f.ctx, "d1", f.now, f.change("a09", "x")))
		_, err := f.store.RevokeCertificate(f.ctx, i.Certificate.SerialNumber, ca.ReasonSuperseded, f.now, f.change("a10", "x"))
		did("a10", err)
		r, err := f.store.RevokeDevice(f.ctx, f.revocation("d1", ca.ReasonSuperseded), f.change("a11", "x"))
		did("a11", err)
		did("a12", f.store.SaveRevocation(f.ctx, r, f.change("a12", "x")))
		did("a13", f.store.CreateBroker(f.ctx, enroll.Broker{ID: "b1", Status: enroll.BrokerRegistered, CreatedAt: f.now}, f.change("a13", "x")))
		did("a14", f.store.UpdateBroker(f.ctx, enroll.Broker{ID: "b1"}, f.change("a14", "x")))
		did("a15", f.store.SaveVerification(f.ctx, enroll.Verification{ID: "v", Broker: "b1", At: f.now, Report: &mqtts.Report{}}, f.change("a15", "x")))
		rotation := f.rotation("b1", enroll.RotationRunning)
		did("a16", f.store.CreateRotation(f.ctx, rotation, f.change("a16", "x")))
		did("a17", f.store.SaveRotation(f.ctx, &rotation, f.change("a17", "x")))
		did("a18", f.store.RecordEvent(f.ctx, f.change("a18", "x")))
		did("a19", f.store.DisableAPIToken(f.ctx, "t", f.change("a19", "x")))
		eve := enroll.User{Name: "eve", Role: enroll.RoleAdmin, CreatedAt: f.now, ChangedAt: f.now}
		did("a20", f.store.CreateUser(f.ctx, eve, f.change("a20", "x")))
		did("a21", f.store.Login(f.ctx, f.loginOf(eve, "t-eve"), f.change("a21", "x")))
		did("a22", f.store.SetPassword(f.ctx, enroll.NewPassword{User: "eve", Hash: "h", At: f.now}, f.change("a22", "x")))
		did("a23", f.store.SetUserDisabled(f.ctx, "eve", true, f.now, f.change("a23", "x")))
	}},
	{"I19 an event reads back with the bytes its leaf hash covers", func(f *fixture) {
		c := f.change("server.start", "server")
		c.Event.Detail = json.RawMessage(`{"text":"<&> ü \u2028","n":12345678901234567890,"nested":{"b":1,"a":[null,true]}}`)
		c.Event.At = time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.FixedZone("X", 3600))
		f.must(f.store.RecordEvent(f.ctx, c))
		got := f.events(enroll.EventFilter{})
		if len(got) != 1 || !bytes.Equal(got[0].Canonical(), c.Event.Canonical()) {
			f.Fatalf("got  %s\nwant %s", got[0].Canonical(), c.Event.Canonical())
		}
		if enroll.LeafHash(got[0].Canonical()) != enroll.LeafHash(c.Event.Canonical()) {
			f.Fatal("leaf hashes differ")
		}
	}},
	{"I19 an event is recorded once", func(f *fixture) {
		c := f.change("server.start", "server")
		f.must(f.store.RecordEvent(f.ctx, c))
		f.unchanged(func() {
			if f.store.RecordEvent(f.ctx, c) == nil {
				f.Fatal("the same event was recorded twice")
			}
		})
	}},
	{"events are listed newest first and filtered", func(f *fixture) {
		for n := range 12 {
			c := f.change([]string{"even", "odd"}[n%2], fmt.Sprint("s", n%3))
			c.Event.At = f.now.Add(time.Duration(n%6) * time.Second) // two of each time
			c.Event.Actor = []string{"alice", "bob"}[n/6]
			f.must(f.store.RecordEvent(f.ctx, c))
		}
		for _, c := range []struct {
			filter enroll.EventFilter
			want   int
		}{
			{enroll.EventFilter{}, 12}, {enroll.EventFilter{Action: "odd"}, 6}, {enroll.EventFilter{Subject: "s1"}, 4},
			{enroll.EventFilter{Actor: "bob"}, 6}, {enroll.EventFilter{Actor: "bob", Action: "even", Subject: "s0"}, 1}, {enroll.EventFilter{Actor: "eve"}, 0},
		} {
			got := every(f, func(p enroll.Page) ([]*enroll.Event, string, error) {
				p.Limit = 5
				return f.store.Events(f.ctx, c.filter, p)
			})
			sorted := slices.IsSortedFunc(got, func(a, b *enroll.Event) int { return b.At.Compare(a.At) })
			if len(got) != c.want || !sorted {
				f.Errorf("filter %+v gives %d events (sorted %t), want %d", c.filter, len(got), sorted, c.want)
			}
		}
	}},
	{"I7 the time of the newest event is known", func(f *fixture) {
		at, err := f.store.LastEventAt(f.ctx)
		f.must(err)
		if !at.IsZero() {
			f.Fatalf("time of no event is %v", at)
		}
		for _, n := range []int{5, 9, 2} {
			c := f.change("x", "x")
			c.Event.At = f.now.Add(time.Duration(n) * time.Second)
			f.must(f.store.RecordEvent(f.ctx, c))
		}
		at, err = f.store.LastEventAt(f.ctx)
		f.must(err)
		if !at.Equal(f.now.Add(9 * time.Second)) {
			f.Fatalf("time is %v", at)
		}
	}},
}
