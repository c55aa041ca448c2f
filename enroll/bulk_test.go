package enroll_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// with returns a call of a role.
func with(role enroll.Role, key string) enroll.Call {
	c := as("person", key)
	c.Principal.Role = role
	return c
}

// group registers devices in a group, so that they need no certificate.
func (s *site) group(group string, n int) []string {
	s.Helper()
	var ids []string
	for i := range n {
		id := fmt.Sprintf("%s-%04d", group, i)
		must(s.CreateDevice(s.ctx, as("op", ""), enroll.NewDevice{ID: id, Group: group}))
		ids = append(ids, id)
	}
	return ids
}

// A plan says what will become of each device, and changes nothing.
func TestPlanBulk(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, id := range []string{"a1", "a2", "held", "gone"} {
		s.enroll(id)
	}
	s.group("new", 1)
	must(s.HoldDevice(s.ctx, as("op", ""), "held"))
	must(s.RevokeDevice(s.ctx, as("op", ""), "gone", enroll.RevokeRequest{Reason: "superseded"}))
	s.deadBroker("b")
	all := []string{"held", "a2", "a1", "gone", "new-0000", "none", "a1"}
	s.unchanged(func() {
		for _, c := range []struct {
			bulk    enroll.Bulk
			changes map[string]int // from and to
			refused map[string]int
		}{
			{enroll.Bulk{Action: enroll.BulkHold, Devices: all}, map[string]int{"active held": 2},
				map[string]int{"it is on hold already": 1, "it is revoked, which is final": 1, "it holds no certificate yet": 1, "there is no such device": 1}},
			{enroll.Bulk{Action: enroll.BulkRelease, Devices: all}, map[string]int{"held active": 1},
				map[string]int{"it is not on hold": 2, "it is revoked, which is final": 1, "it holds no certificate yet": 1, "there is no such device": 1}},
			{enroll.Bulk{Action: enroll.BulkRevoke, Reason: "keyCompromise", Devices: all}, map[string]int{"active revoked": 2, "held revoked": 1, "registered revoked": 1},
				map[string]int{"it is revoked, which is final": 1, "there is no such device": 1}},
			{enroll.Bulk{Action: enroll.BulkRevoke, Reason: "certificateHold", Devices: all}, map[string]int{"active held": 2},
				map[string]int{"it is on hold already": 1, "it is revoked, which is final": 1, "it holds no certificate yet": 1, "there is no such device": 1}},
			{enroll.Bulk{Action: enroll.BulkRetire, Query: "*a*"}, map[string]int{"active retired": 2}, map[string]int{}},
			{enroll.Bulk{Action: enroll.BulkRetire, Query: "group:new"}, map[string]int{"registered retired": 1}, map[string]int{}},
		} {
			p := must(s.PlanBulk(s.ctx, c.bulk))
			changes, refused, n := map[string]int{}, map[string]int{}, 0
			for _, e := range p.Effects {
				changes[string(e.From+" "+e.To)] = e.Count
				n += e.Count
			}
			for _, r := range p.Refused {
				refused[r.Reason] = r.Count
				if len(r.First) != r.Count {
					t.Errorf("%+v", r)
				}
			}
			if fmt.Sprint(changes) != fmt.Sprint(c.changes) || fmt.Sprint(refused) != fmt.Sprint(c.refused) || p.Changes != n || len(p.First) != n {
				t.Errorf("%+v: %v, refused %v, first %v", c.bulk, changes, refused, p.First)
			}
			if len(p.Brokers) != 1 || p.Brokers[0].Broker != "b" || p.Brokers[0].Enforcement != enroll.EnforceNone || p.Fingerprint == "" {
				t.Errorf("%+v", p)
			}
		}
	})
}

func TestBulkRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.group("g", 2)
	good := enroll.Bulk{Action: enroll.BulkRetire, Query: "group:g"}
	plan := must(s.PlanBulk(s.ctx, good))
	s.unchanged(func() {
		for field, b := range map[string]enroll.Bulk{
			"action":  {Action: "explode", Query: "group:g"},
			"devices": {Action: enroll.BulkHold},
			"query":   {Action: enroll.BulkHold, Query: "group:none"},
			"q":       {Action: enroll.BulkHold, Query: "colour:red"},
			"reason":  {Action: enroll.BulkHold, Query: "group:g", Reason: "keyCompromise"},
			"comment": {Action: enroll.BulkRetire, Query: "group:g", Comment: "a\x00"},
		} {
			_, err := s.PlanBulk(s.ctx, b)
			s.wantKind(err, ca.KindMalformed, field)
		}
		_, err := s.PlanBulk(s.ctx, enroll.Bulk{Action: enroll.BulkRevoke, Query: "group:g", Reason: "boredom"})
		s.wantKind(err, ca.KindReason, "reason")
		_, err = s.PlanBulk(s.ctx, enroll.Bulk{Action: enroll.BulkHold, Devices: slices.Repeat([]string{"d"}, 501)})
		s.wantKind(err, ca.KindMalformed, "devices")
		_, err = s.PlanBulk(s.ctx, enroll.Bulk{Action: enroll.BulkHold, Query: " "})
		s.wantKind(err, ca.KindMalformed, "query")
		_, err = s.RunBulk(s.ctx, with(enroll.RoleOperator, ""), good)
		s.wantKind(err, ca.KindMalformed, "fingerprint")
		for role, b := range map[enroll.Role]enroll.Bulk{enroll.RoleFactory: good, enroll.RoleAuditor: good, enroll.RoleOperator: {Action: enroll.BulkRevoke, Query: "group:g", Reason: "superseded"}} {
			b.Fingerprint = plan.Fingerprint
			_, err := s.RunBulk(s.ctx, with(role, ""), b)
			s.wantKind(err, enroll.KindForbidden, "action")
		}
		good.Fingerprint, good.Comment = plan.Fingerprint, "another comment"
		_, err = s.RunBulk(s.ctx, with(enroll.RoleOperator, ""), good)
		s.wantKind(err, enroll.KindConflict, "fingerprint")
	})
	good.Comment = ""
	must(s.RetireDevice(s.ctx, as("op", ""), "g-0000", enroll.RetireRequest{}))
	_, err := s.RunBulk(s.ctx, with(enroll.RoleOperator, ""), good)
	s.wantKind(err, enroll.KindConflict, "fingerprint")
}

// I2: a bulk change that died in the middle goes on, and changes nothing twice.
// What runs is what was shown.
func TestRunBulk_I2(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ids := s.group("g", 250)
	b := enroll.Bulk{Action: enroll.BulkRetire, Query: "group:g", Comment: "scrapped"}
	b.Fingerprint = must(s.PlanBulk(s.ctx, b)).Fingerprint
	r := must(s.RunBulk(s.ctx, with(enroll.RoleOperator, "k"), b))
	_, err := s.RunBulk(s.ctx, with(enroll.RoleOperator, "k"), b)
	s.wantReplay(err)
	must(s.RetireDevice(s.ctx, as("op", ""), ids[0], enroll.RetireRequest{})) // meanwhile, by another
	for range 4 {
		ctx, cancel := context.WithCancel(s.ctx)
		dying := &dyingStore{Store: s.store, left: 30, die: cancel}
		if err := s.server(dying).Jobs()[enroll.JobBulk](ctx, r.ID); err == nil {
			t.Fatal("it did not die")
		}
		cancel()
		if got := must(s.BulkResult(s.ctx, r.ID)); got.State != enroll.BulkRunning || got.Done+got.Failed >= 250 {
			t.Fatalf("%+v", got)
		}
	}
	s.must(s.Jobs()[enroll.JobBulk](s.ctx, r.ID))
	s.must(s.Jobs()[enroll.JobBulk](s.ctx, r.ID))
	got := must(s.BulkResult(s.ctx, r.ID))
	if got.State != enroll.BulkDone || got.Done != 249 || got.Failed != 1 || got.Failures[0].Device != ids[0] || got.EndedAt == nil {
		t.Errorf("%+v", got)
	}
	for _, id := range ids {
		events, _, err := s.DeviceTimeline(s.ctx, id, enroll.Page{})
		s.must(err)
		var actions []string
		for _, e := range events {
			actions = append(actions, e.Action)
		}
		if !slices.Equal(actions, []string{"device.retire", "device.register"}) {
			t.Fatalf("%s: %v", id, actions)
		}
		if id != ids[0] && events[0].Actor != "token:person" {
			t.Errorf("%s was retired by %s", id, events[0].Actor)
		}
	}
	if all, _, err := s.BulkResults(s.ctx, enroll.Page{}); err != nil || len(all) != 1 || all[0].ID != r.ID {
		t.Errorf("%+v, %v", all, err)
	}
}

// Each action of a bulk change does what the call for one device does.
func TestRunBulkActions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startJobs(nil)
	ids := []string{"d0", "d1", "d2"}
	for _, id := range ids {
		s.enroll(id)
	}
	for _, c := range []struct {
		bulk enroll.Bulk
		want enroll.DeviceStatus
	}{
		{enroll.Bulk{Action: enroll.BulkHold, Devices: ids}, enroll.DeviceHeld},
		{enroll.Bulk{Action: enroll.BulkRelease, Devices: ids}, enroll.DeviceActive},
		{enroll.Bulk{Action: enroll.BulkRevoke, Reason: "certificateHold", Devices: ids[:1]}, enroll.DeviceHeld},
		{enroll.Bulk{Action: enroll.BulkRevoke, Reason: "keyCompromise", Query: "d"}, enroll.DeviceRevoked},
	} {
		c.bulk.Fingerprint = must(s.PlanBulk(s.ctx, c.bulk)).Fingerprint
		r := must(s.RunBulk(s.ctx, with(enroll.RoleAdmin, ""), c.bulk))
		s.eventually(20*time.Second, "bulk change done", func() bool { return must(s.BulkResult(s.ctx, r.ID)).State == enroll.BulkDone })
		for i, id := range ids[:r.Total] {
			if d := must(s.Device(s.ctx, id)); d.Status != c.want {
				t.Errorf("%+v: %d, %s is %s", c.bulk, i, id, d.Status)
			}
		}
	}
}

// A dyingStore dies after some changes of devices: all that comes later fails.
type dyingStore struct {
	enroll.Store
	mu   sync.Mutex
	left int
	die  context.CancelFunc
}

// dead counts a change, and reports whether that was one too many.
func (d *dyingStore) dead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left--; d.left < 0 {
		d.die()
	}
	return d.left < 0
}

func (d *dyingStore) RetireDevice(ctx context.Context, r enroll.Revocation, c enroll.Change) (*enroll.Revocation, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	out, err := d.Store.RetireDevice(ctx, r, c)
	if d.dead() {
		return nil, errors.New("died after the commit")
	}
	return out, err
}

func (d *dyingStore) SaveBulk(ctx context.Context, id string, outcomes map[string]string, at time.Time, c enroll.Change) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return d.Store.SaveBulk(ctx, id, outcomes, at, c)
}
