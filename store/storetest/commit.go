package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

var commitTests = []test{
	{"I1 a certificate reads back as committed, with device and event", func(f *fixture) {
		i := f.enrollment("d1")
		claimOf(i).Device.Group, claimOf(i).Device.Attributes = "line 4", map[string]string{"color": "red"}
		f.must(f.commit(i))

		got, err := f.store.Certificate(f.ctx, i.Certificate.SerialNumber)
		f.must(err)
		if !reflect.DeepEqual(got, &i.Certificate) {
			f.Fatalf("got  %+v\nwant %+v", got, &i.Certificate)
		}
		d, err := f.store.Device(f.ctx, "d1")
		f.must(err)
		if d.Status != enroll.DeviceActive || d.Group != "line 4" || d.Attributes["color"] != "red" || d.TrustGeneration != 1 || d.LastSeenAt == nil || d.CreatedAt.IsZero() {
			f.Fatalf("device is %+v", d)
		}
		f.sameJSON(d.Certificates, []*ca.Certificate{&i.Certificate})
		f.sameJSON(f.events(enroll.EventFilter{Action: "device.enroll"}), []enroll.Event{utc(claimOf(i).Event)})
	}},
	{"I1 what carries no claim or no event is refused", func(f *fixture) {
		bare := f.enrollment("d1")
		bare.Claim = nil
		typed := f.enrollment("d1")
		typed.Claim = (*enroll.Claim)(nil)
		silent := f.enrollment("d1")
		claimOf(silent).Event = enroll.Event{}
		f.unchanged(func() {
			for n, err := range f.store.Commit(f.ctx, []ca.Issuance{bare, typed, silent}) {
				if err == nil {
					f.Errorf("issuance %d was recorded", n)
				}
			}
			if f.store.RecordEvent(f.ctx, enroll.Change{}) == nil {
				f.Error("a change without an event was recorded")
			}
		})
	}},
	{"I1 one bad item of a batch fails alone", func(f *fixture) {
		f.enroll("taken")
		var batch []ca.Issuance
		for n := range 20 {
			device := fmt.Sprintf("d%02d", n)
			if n == 7 {
				device = "taken"
			}
			batch = append(batch, f.enrollment(device))
		}
		for n, err := range f.store.Commit(f.ctx, batch) {
			if n == 7 {
				f.wantKind(err, enroll.KindDuplicateDevice)
				continue
			}
			f.must(err)
		}
		for n, i := range batch {
			_, err := f.store.Certificate(f.ctx, i.Certificate.SerialNumber)
			if n == 7 {
				f.wantKind(err, ca.KindNotFound)
				continue
			}
			f.must(err)
		}
		if n := len(f.events(enroll.EventFilter{Action: "device.enroll"})); n != 20 {
			f.Fatalf("%d events for 20 enrollments", n)
		}
	}},
	{"I1 what is recorded together reads back as what is recorded alone", func(f *fixture) {
		f.order("o1", 100)
		item := func(device string, n int) ca.Issuance {
			token := fmt.Sprint("token of ", device)
			f.token(enroll.EnrollmentToken{ID: token, WorkOrder: "o1", Uses: 2})
			i := f.spending(device, token)
			c := claimOf(i)
			i.Certificate.CRLShard = n
			c.Order, c.Device.Group, c.Device.Attributes = "o1", "line 4", map[string]string{"n": fmt.Sprint(n)}
			c.Idempotency = &enroll.Idempotency{Scope: "s", Key: device, RequestHash: sum(device)}
			if n%2 == 0 { // its registration is kept where the claim says nothing
				c.Device.Group = ""
				f.must(f.store.CreateDevice(f.ctx, enroll.Device{ID: device, Status: enroll.DeviceRegistered, Group: "kept", CreatedAt: f.now}, f.change("device.register", "device:"+device)))
			}
			return i
		}
		var alone, together []ca.Issuance
		for n := range 6 {
			alone, together = append(alone, item(fmt.Sprint("a", n), n)), append(together, item(fmt.Sprint("t", n), n))
		}
		for _, i := range alone {
			f.must(f.commit(i))
		}
		f.must(errors.Join(f.store.Commit(f.ctx, together)...))
		for n, i := range together {
			one, two := alone[n], i
			got, err := f.store.Certificate(f.ctx, two.Certificate.SerialNumber)
			f.must(err)
			if !reflect.DeepEqual(got, &two.Certificate) {
				f.Fatalf("got  %+v\nwant %+v", got, &two.Certificate)
			}
			a, err := f.store.Device(f.ctx, one.Certificate.Holder.ID)
			f.must(err)
			b, err := f.store.Device(f.ctx, two.Certificate.Holder.ID)
			f.must(err)
			if a.Status != b.Status || a.Group != b.Group || !reflect.DeepEqual(a.Attributes, b.Attributes) || a.WorkOrder != b.WorkOrder ||
				a.TrustGeneration != b.TrustGeneration || len(b.Certificates) != 1 || b.LastSeenAt == nil || b.CreatedAt.IsZero() {
				f.Fatalf("alone    %+v\ntogether %+v", a, b)
			}
			f.wantReplay(f.replayed(claimOf(two).Idempotency), two.Certificate.SerialNumber)
			f.wantReplay(f.spentBy(claimOf(two).Token), two.Certificate.SerialNumber)
			if used := f.tokenUsed(claimOf(two).Token.ID); used != 1 {
				f.Fatalf("the token was used %d times", used)
			}
			f.sameJSON(f.events(enroll.EventFilter{Subject: "device:" + two.Certificate.Holder.ID, Action: "device.enroll"}), []enroll.Event{utc(claimOf(two).Event)})
		}
		o, err := f.store.WorkOrder(f.ctx, "o1")
		f.must(err)
		if o.Issued != 12 {
			f.Fatalf("the order counts %d of 12", o.Issued)
		}
	}},
	{"I6 two items of one batch cannot both take the same", func(f *fixture) {
		errs := f.store.Commit(f.ctx, []ca.Issuance{f.enrollment("d1"), f.enrollment("d1")})
		f.must(errs[0])
		f.wantKind(errs[1], enroll.KindDuplicateDevice)
	}},
	{"I4 a serial number is recorded once", func(f *fixture) {
		first := f.enroll("d1")
		again := f.enrollment("d2")
		again.Certificate.SerialNumber = first.SerialNumber
		f.unchanged(func() { f.wantKind(f.commit(again), enroll.KindConflict) })
	}},
	{"a call that was cancelled before leaves nothing", func(f *fixture) {
		ctx, cancel := context.WithCancel(f.ctx)
		cancel()
		f.unchanged(func() {
			if err := f.store.Commit(ctx, []ca.Issuance{f.enrollment("d1")})[0]; !errors.Is(err, context.Canceled) {
				f.Fatalf("error is %v", err)
			}
		})
	}},
	{"many callers at once are all recorded", func(f *fixture) {
		errs := race(64, func(n int) error {
			return f.store.Commit(f.ctx, []ca.Issuance{f.enrollment(fmt.Sprintf("d%03d", n))})[0]
		})
		f.must(errors.Join(errs...))
		if n := len(every(f, func(p enroll.Page) ([]*ca.Certificate, string, error) {
			return f.store.Certificates(f.ctx, enroll.CertificateFilter{}, p)
		})); n != 64 {
			f.Fatalf("%d certificates of 64", n)
		}
	}},
}

// utc returns the event as it is read back.
func utc(e enroll.Event) enroll.Event {
	e.At = e.At.UTC().Truncate(1000)
	return e
}
