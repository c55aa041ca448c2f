package storetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

var bulkTests = []test{
	{"a bulk change is done when every device is", func(f *fixture) {
		var devices []string
		for n := range 1203 {
			devices = append(devices, fmt.Sprintf("d%04d", n))
		}
		b := enroll.BulkResult{ID: "b1", Action: enroll.BulkRevoke, Reason: "superseded", Comment: "c", Query: "group:g", Actor: "user:eve",
			State: enroll.BulkRunning, Total: len(devices), Failures: []enroll.BulkFailure{}, At: f.now, Version: 1}
		f.must(f.store.CreateBulk(f.ctx, b, devices, f.change("bulk.start", "bulk:b1")))
		got, err := f.store.Bulk(f.ctx, "b1")
		f.must(err)
		f.sameJSON(got, b)
		for seen := 0; seen < len(devices); {
			waiting, err := f.store.BulkWaiting(f.ctx, "b1", 500)
			f.must(err)
			if len(waiting) != min(500, len(devices)-seen) || waiting[0] != devices[seen] {
				f.Fatalf("after %d wait %d, the first %s", seen, len(waiting), waiting[0])
			}
			outcomes := map[string]string{}
			for n, id := range waiting {
				outcomes[id] = []string{"", "it is gone"}[(seen+n)%100/99]
			}
			seen += len(waiting)
			for range 2 { // said twice, counted once
				f.must(f.store.SaveBulk(f.ctx, "b1", outcomes, f.now.Add(time.Minute), f.change("bulk.progress", "bulk:b1")))
			}
			got, err = f.store.Bulk(f.ctx, "b1")
			f.must(err)
			if done := seen == len(devices); got.Done+got.Failed != seen || (got.State == enroll.BulkDone) != done || (got.EndedAt != nil) != done {
				f.Fatalf("after %d: %+v", seen, got)
			}
		}
		if got.Failed != 12 || len(got.Failures) != 12 || got.Failures[0] != (enroll.BulkFailure{Device: "d0099", Message: "it is gone"}) {
			f.Fatalf("%+v", got)
		}
		_, err = f.store.Bulk(f.ctx, "none")
		f.wantKind(err, ca.KindNotFound)
		f.wantKind(f.store.SaveBulk(f.ctx, "none", nil, f.now, f.change("bulk.progress", "bulk:none")), ca.KindNotFound)
		all := every(f, func(p enroll.Page) ([]*enroll.BulkResult, string, error) { return f.store.Bulks(f.ctx, p) })
		if len(all) != 1 || all[0].ID != "b1" {
			f.Fatalf("%+v", all)
		}
	}},
	{"statuses of many devices are looked up at once", func(f *fixture) {
		for n := range 3 {
			f.enroll(fmt.Sprint("d", n))
		}
		f.revoke("d1", ca.ReasonSuperseded)
		ids := []string{"d0", "d1", "none"}
		for n := range 300 {
			ids = append(ids, fmt.Sprint("x", n))
		}
		got, err := f.store.DeviceStatuses(f.ctx, append(ids, "d2"))
		f.must(err)
		if len(got) != 3 || got["d0"] != enroll.DeviceActive || got["d1"] != enroll.DeviceRevoked || got["d2"] != enroll.DeviceActive {
			f.Fatalf("%v", got)
		}
	}},
	{"a work order's progress by minute, with its last units and refusals", func(f *fixture) {
		f.order("o", 100)
		f.order("other", 100)
		for n := range 25 {
			i := f.enrollment(fmt.Sprintf("d%02d", n))
			claimOf(i).Order = []string{"o", "other"}[n/24]
			f.must(f.commit(i))
		}
		f.revoke("d23", ca.ReasonSuperseded)
		from := time.Now().UTC().Truncate(time.Minute).Add(-58 * time.Minute)
		p, err := f.store.OrderProgress(f.ctx, "o", from, 60, 20)
		f.must(err)
		var issued int64
		for n, m := range p.PerMinute {
			issued += m.Issued
			if !m.At.Equal(from.Add(time.Duration(n)*time.Minute)) || n < 57 && m.Issued != 0 {
				f.Fatalf("minute %d: %+v", n, m)
			}
		}
		if len(p.PerMinute) != 60 || issued != 24 {
			f.Errorf("%d minutes, %d issued", len(p.PerMinute), issued)
		}
		if len(p.LastUnits) != 20 || p.LastUnits[0].Device != "d23" || p.LastUnits[0].Status != enroll.DeviceRevoked || p.LastUnits[19].Device != "d04" {
			f.Errorf("%+v", p.LastUnits)
		}
		if len(p.Refusals) != 0 || len(p.LastRefused) != 0 {
			f.Errorf("refusals out of nowhere: %+v", p)
		}
	}},
	{"refusals are counted, and the last few of each order kept", func(f *fixture) {
		var last []enroll.RefusedUnit
		for n := range 15 {
			last = append(last, enroll.RefusedUnit{ID: uuid.Must(uuid.NewV7()).String(), Device: fmt.Sprint("d", n), Kind: enroll.KindQuotaReached, Message: "m", At: f.now})
		}
		count := enroll.RefusalCount{Kind: enroll.KindQuotaReached, Count: 40, LastAt: f.now.Add(time.Minute)}
		f.must(f.store.SaveRefusals(f.ctx, []enroll.OrderRefusals{
			{WorkOrder: "o", Counts: []enroll.RefusalCount{count}, Last: last},
			{WorkOrder: "p", Counts: []enroll.RefusalCount{count}, Last: last[:1]},
		}))
		later := slices.Clone(last)
		for n := range later {
			later[n].ID, later[n].Device = uuid.Must(uuid.NewV7()).String(), strings.Replace(later[n].Device, "d", "e", 1)
		}
		count.LastAt = f.now
		other := enroll.RefusalCount{Kind: enroll.KindTokenUsed, Count: 1, LastAt: f.now}
		f.must(f.store.SaveRefusals(f.ctx, []enroll.OrderRefusals{{WorkOrder: "o", Counts: []enroll.RefusalCount{count, other}, Last: later}}))
		p, err := f.store.OrderProgress(f.ctx, "o", f.now, 1, 50)
		f.must(err)
		if len(p.Refusals) != 2 || p.Refusals[0] != (enroll.RefusalCount{Kind: enroll.KindQuotaReached, Count: 80, LastAt: f.now.Add(time.Minute)}) || p.Refusals[1] != other {
			f.Errorf("%+v", p.Refusals)
		}
		if len(p.LastRefused) != 20 || p.LastRefused[0].Device != "e14" || p.LastRefused[19].Device != "d10" {
			f.Errorf("%d, %+v", len(p.LastRefused), p.LastRefused)
		}
		if p, err = f.store.OrderProgress(f.ctx, "p", f.now, 1, 50); err != nil || len(p.LastRefused) != 1 {
			f.Errorf("%+v, %v", p, err)
		}
	}},
}

var timelineTests = []test{
	{"events are filtered by time and by the beginning of their action", func(f *fixture) {
		var all []enroll.Event
		for n := range 60 {
			c := f.change([]string{"device.enroll", "device.revoke", "devices.x", "broker.verify"}[n%4], fmt.Sprint("device:d", n%3))
			c.Event.At = f.now.Add(time.Duration(n) * time.Second)
			c.Event.Actor = []string{"user:a", "user:b"}[n/2%2]
			f.must(f.store.RecordEvent(f.ctx, c))
			all = append(all, c.Event)
		}
		slices.Reverse(all)
		for _, filter := range []enroll.EventFilter{
			{ActionPrefix: "device."}, {ActionPrefix: "device"}, {ActionPrefix: "device.r"}, {ActionPrefix: "none"},
			{From: f.now.Add(20 * time.Second)}, {To: f.now.Add(20 * time.Second)},
			{From: f.now.Add(10 * time.Second), To: f.now.Add(30 * time.Second), ActionPrefix: "device."},
			{Subject: "device:d1", ActionPrefix: "device."}, {Actor: "user:a", ActionPrefix: "broker"},
			{Actor: "user:b", Action: "device.enroll"}, {Subject: "device:d2", Actor: "user:a", Action: "devices.x"},
			{Action: "device.enroll", ActionPrefix: "broker"}, {Subject: "device:d0", From: f.now.Add(30 * time.Second)},
		} {
			var want, got []string
			for _, e := range all {
				if strings.HasPrefix(e.Action, filter.ActionPrefix) && (filter.Action == "" || e.Action == filter.Action) && (filter.Actor == "" || e.Actor == filter.Actor) &&
					(filter.Subject == "" || e.Subject == filter.Subject) && !e.At.Before(filter.From) && (filter.To.IsZero() || e.At.Before(filter.To)) {
					want = append(want, e.ID)
				}
			}
			for cursor := ""; ; {
				page, next, err := f.store.Events(f.ctx, filter, enroll.Page{Limit: 7, Cursor: cursor})
				f.must(err)
				for _, e := range page {
					got = append(got, e.ID)
				}
				if cursor = next; cursor == "" {
					break
				}
			}
			if !slices.Equal(got, want) {
				f.Errorf("%+v gives %d events, want %d", filter, len(got), len(want))
			}
		}
	}},
	{"a device's events are its own, its certificates' and its revocations'", func(f *fixture) {
		cert := f.enroll("d")
		f.enroll("other")
		f.revokeCertificate(cert.SerialNumber, ca.ReasonCertificateHold)
		r := f.revoke("d", ca.ReasonSuperseded)
		for n := range 20 {
			c := f.change("revocation.step", "revocation:"+r.ID)
			c.Event.At = time.Now().Add(time.Duration(n) * time.Millisecond)
			r.State = enroll.RevocationUnproven
			f.must(f.store.SaveRevocation(f.ctx, r, c))
		}
		var actions []string
		var last *enroll.Event
		for cursor := ""; ; {
			page, next, err := f.store.DeviceEvents(f.ctx, "d", enroll.Page{Limit: 6, Cursor: cursor})
			f.must(err)
			for _, e := range page {
				if last != nil && e.At.After(last.At) {
					f.Fatalf("%v comes after %v", e.At, last.At)
				}
				last = e
				actions = append(actions, e.Action)
			}
			if cursor = next; cursor == "" {
				break
			}
		}
		want := append(slices.Repeat([]string{"revocation.step"}, 20), "device.revoke", "certificate.revoke", "device.enroll")
		if !slices.Equal(actions, want) {
			f.Fatalf("%v", actions)
		}
	}},
	{"the newest events of a subject change with every one", func(f *fixture) {
		mark := func() map[string]string {
			f.Helper()
			m, err := f.store.NewestEvents(f.ctx, []string{"device:d", "device:e", "*"})
			f.must(err)
			return m
		}
		first := mark()
		f.enroll("d")
		second := mark()
		late := f.change("device.note", "device:d")
		late.Event.At = time.Now().Add(-time.Second) // of a replica whose clock is behind
		f.must(f.store.RecordEvent(f.ctx, late))
		third := mark()
		for _, topic := range []string{"device:d", "*"} {
			if first[topic] == second[topic] || second[topic] == third[topic] {
				f.Errorf("%s: %q, %q, %q", topic, first[topic], second[topic], third[topic])
			}
		}
		if first["device:e"] != third["device:e"] || len(third) != 3 {
			f.Errorf("%v", third)
		}
	}},
}
