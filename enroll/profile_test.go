package enroll_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// apply makes a version of a profile the one in force, after its plan.
func (s *site) apply(form ca.ProfileForm) *enroll.ProfilePlan {
	s.Helper()
	plan := must(s.PlanProfile(s.ctx, form.Name, enroll.NewProfileVersion{Profile: form}))
	return must(s.ApplyProfile(s.ctx, as("security", ""), form.Name, enroll.NewProfileVersion{Profile: form, BaseVersion: &plan.BaseVersion}))
}

// A profile is planned, applied, used, and followed: what a certificate was
// issued under stays readable.
func TestProfileIsPlannedAppliedAndUsed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	old, _ := s.enroll("old")
	if old.Certificate.ProfileVersion != 1 {
		t.Errorf("the built-in version is %d", old.Certificate.ProfileVersion)
	}
	form := ca.ProfileForm{Name: "device", Validity: "200d", RenewBefore: "60d", Jitter: "10d", Keys: []ca.KeyAlgorithm{ca.KeyEd25519}}
	var plan *enroll.ProfilePlan
	s.unchanged(func() {
		plan = must(s.PlanProfile(s.ctx, "device", enroll.NewProfileVersion{Profile: form}))
	})
	var fields []string
	for _, c := range plan.Changes {
		fields = append(fields, c.Field)
	}
	if plan.BaseVersion != 1 || plan.Version != 2 || plan.Applied || plan.Widens || !slices.Equal(fields, []string{"validity", "jitter", "renewBefore", "keys"}) {
		t.Errorf("plan %+v", plan)
	}
	e := plan.Effect
	if e.Certificates != 1 || e.Holders != 1 || e.More || e.Tried != 1 || len(e.Refused) != 1 || e.Refused[0].Holders[0] != "old" || !strings.Contains(e.Refused[0].Reason, "P-256") || len(e.Admitted) != 0 {
		t.Errorf("effect %+v", e)
	}
	if !strings.Contains(plan.Before, "ECDSA") || !strings.Contains(plan.After, "Ed25519") {
		t.Errorf("before:\n%s\nafter:\n%s", plan.Before, plan.After)
	}

	made := s.newEvents(func() { plan = s.apply(form) })
	if !slices.Equal(made, []string{"profile.apply"}) || !plan.Applied {
		t.Errorf("events %v, plan %+v", made, plan)
	}
	_, err := s.EnrollDevice(s.ctx, as("operator", ""), enroll.EnrollRequest{DeviceID: "new", CSR: newCSR(t, newKey(t), "new")})
	s.wantKind(err, ca.KindWeakKey, "csr")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	s.must(err)
	got := must(s.EnrollDevice(s.ctx, as("operator", "k"), enroll.EnrollRequest{DeviceID: "new", CSR: newCSR(t, key, "new")}))
	c := got.Certificate
	if life := c.NotAfter.Sub(c.NotBefore); c.ProfileVersion != 2 || life > 200*24*time.Hour || life < 189*24*time.Hour || !got.Renewal.After.Equal(c.NotAfter.Add(-60*24*time.Hour)) {
		t.Errorf("version %d, valid for %v, renewed after %v", c.ProfileVersion, c.NotAfter.Sub(c.NotBefore), got.Renewal.After)
	}

	// Another version later: a replay answers as the first, byte by byte.
	form.Keys, form.Validity = nil, "100d"
	if plan = s.apply(form); plan.Version != 3 || !plan.Widens || len(plan.Effect.Admitted) != 1 {
		t.Errorf("plan %+v", plan)
	}
	again := must(s.EnrollDevice(s.ctx, as("operator", "k"), enroll.EnrollRequest{DeviceID: "new", CSR: newCSR(t, key, "new")}))
	if !again.Replayed || again.Chain != got.Chain || again.Certificate.ProfileVersion != 2 || !again.Renewal.After.Equal(got.Renewal.After) {
		t.Errorf("the replay is %+v", again)
	}
	versions := must(s.ProfileVersions(s.ctx, "device"))
	if len(versions) != 3 || !versions[0].Current || versions[0].Profile.Version != 3 || !versions[0].Widens || versions[1].Actor != "token:security" || versions[2].Profile.Version != 1 || versions[2].At != nil || len(versions[1].Changes) != 4 {
		t.Errorf("versions %+v", versions)
	}
	if p := must(s.Profile(s.ctx, "device")); p.Version != 3 || p.Validity != 100*24*time.Hour {
		t.Errorf("in force %+v", p.Form())
	}
	all := must(s.Profiles(s.ctx))
	if n := slices.IndexFunc(all, func(p *ca.Profile) bool { return p.Name == "device" }); n < 0 || all[n].Version != 3 || len(all) != len(ca.Profiles())-1 {
		t.Errorf("%d profiles", len(all))
	}
}

func TestProfileIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.apply(ca.ProfileForm{Name: "device", Validity: "200d"})
	version := func(n int64) *int64 { return &n }
	good := ca.ProfileForm{Name: "device", Validity: "100d"}
	for what, c := range map[string]struct {
		name  string
		n     enroll.NewProfileVersion
		kind  ca.Kind
		field string
	}{
		"no base version":        {"device", enroll.NewProfileVersion{Profile: good}, ca.KindMalformed, "baseVersion"},
		"changed meanwhile":      {"device", enroll.NewProfileVersion{Profile: good, BaseVersion: version(1)}, enroll.KindConflict, "baseVersion"},
		"not yet":                {"device", enroll.NewProfileVersion{Profile: good, BaseVersion: version(3)}, enroll.KindConflict, "baseVersion"},
		"by the file's version":  {"device", enroll.NewProfileVersion{Profile: ca.ProfileForm{Version: 1, Validity: "100d"}}, enroll.KindConflict, "baseVersion"},
		"nothing new":            {"device", enroll.NewProfileVersion{Profile: ca.ProfileForm{Validity: "4800h"}, BaseVersion: version(2)}, enroll.KindConflict, "profile"},
		"another name":           {"device", enroll.NewProfileVersion{Profile: ca.ProfileForm{Name: "broker", Validity: "100d"}, BaseVersion: version(2)}, ca.KindMalformed, "profile.name"},
		"no profile":             {"device", enroll.NewProfileVersion{Profile: ca.ProfileForm{Validity: "x"}, BaseVersion: version(2)}, ca.KindMalformed, "profile.validity"},
		"another holder":         {"device", enroll.NewProfileVersion{Profile: ca.ProfileForm{Holder: ca.HolderBroker, Validity: "100d"}, BaseVersion: version(2)}, ca.KindMalformed, "profile.holder"},
		"a second one of broker": {"edge", enroll.NewProfileVersion{Profile: ca.ProfileForm{Holder: ca.HolderBroker, Validity: "100d"}, BaseVersion: version(0)}, ca.KindMalformed, "profile.holder"},
		"the program's own":      {"canary", enroll.NewProfileVersion{Profile: ca.ProfileForm{Validity: "100d"}, BaseVersion: version(1)}, ca.KindProfile, "profile.name"},
		"the linter's error":     {"device", enroll.NewProfileVersion{Profile: ca.ProfileForm{Validity: "100d", IssuerID: "broker"}, BaseVersion: version(2)}, enroll.KindRefusedProfile, "profile.issuer"},
		"a profile that is not":  {"none", enroll.NewProfileVersion{Profile: ca.ProfileForm{Validity: "100d"}, BaseVersion: version(1)}, enroll.KindConflict, "baseVersion"},
	} {
		t.Run(what, func(t *testing.T) {
			s.unchanged(func() {
				_, err := s.ApplyProfile(s.ctx, as("security", ""), c.name, c.n)
				s.wantKind(err, c.kind, c.field)
			})
		})
	}
	// Of two that began with the same version one is too late.
	_, errs := race(8, func(i int) (*enroll.ProfilePlan, error) {
		return s.ApplyProfile(s.ctx, as("security", ""), "device", enroll.NewProfileVersion{Profile: ca.ProfileForm{Validity: fmt.Sprintf("%dd", 100+i)}, BaseVersion: version(2)})
	})
	s.wantKinds(errs, map[ca.Kind]int{"": 1, enroll.KindConflict: 7})

	// A repeated call is answered as the first, though the version moved on.
	n := enroll.NewProfileVersion{Profile: ca.ProfileForm{Validity: "90d"}, BaseVersion: version(3)}
	must(s.ApplyProfile(s.ctx, as("security", "k"), "device", n))
	_, err := s.ApplyProfile(s.ctx, as("security", "k"), "device", n)
	if replay := s.wantReplay(err); !strings.Contains(string(replay.Answer), `"version":4`) {
		t.Errorf("the first answer is %s", replay.Answer)
	}
}

// A profile of templates names devices by what is known of them, at their
// enrollment and at each renewal.
func TestProfileNamesDevices(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.apply(ca.ProfileForm{Name: "pump", Validity: "200d", Subject: ca.SubjectTemplate{OrganizationalUnit: "{{ .Product }}", SerialNumber: "{{ .Attributes.unit }}"},
		DNSNames: []string{"{{ .ID }}.{{ .Product }}.{{ .Attributes.site }}.fleet.example"}, Domains: []string{"fleet.example"}})
	_, err := s.CreateWorkOrder(s.ctx, as("operator", ""), enroll.NewWorkOrder{ID: "WO-1", Product: "sensor", Quantity: 5, Profile: "pump"})
	s.must(err)
	names := func(e *enroll.Enrollment) string {
		return fmt.Sprint(e.Certificate.Subject, " ", e.Certificate.Names, " ", e.Certificate.ProfileVersion)
	}
	const want = "SERIALNUMBER=SN-1,CN=d1,OU=sensor [d1.sensor.muc.fleet.example] 1"
	r := enroll.EnrollRequest{WorkOrder: "WO-1", DeviceID: "d1", CSR: newCSR(t, newKey(t), "d1"), Attributes: map[string]string{"unit": "SN-1", "site": "muc"}}
	first := must(s.EnrollDevice(s.ctx, as("operator", ""), r))
	if got := names(first); got != want {
		t.Errorf("enrolled as %s", got)
	}
	if got := names(must(s.RenewDevice(s.ctx, device(s.current(first), ""), ""))); got != want {
		t.Errorf("renewed as %s", got)
	}
	// What it was registered with serves as well.
	_, err = s.CreateDevice(s.ctx, as("operator", ""), enroll.NewDevice{ID: "d2", WorkOrder: "WO-1", Attributes: map[string]string{"unit": "SN-2", "site": "ber"}})
	s.must(err)
	got := names(must(s.EnrollDevice(s.ctx, as("operator", ""), enroll.EnrollRequest{WorkOrder: "WO-1", DeviceID: "d2", CSR: newCSR(t, newKey(t), "d2")})))
	if got != "SERIALNUMBER=SN-2,CN=d2,OU=sensor [d2.sensor.ber.fleet.example] 1" {
		t.Errorf("the registered one is %s", got)
	}
	s.unchanged(func() {
		_, err = s.EnrollDevice(s.ctx, as("operator", ""), enroll.EnrollRequest{WorkOrder: "WO-1", DeviceID: "d3", CSR: newCSR(t, newKey(t), "d3")})
		s.wantKind(err, ca.KindNameNotAllowed, "subject.serialNumber")
	})
	if o := must(s.WorkOrder(s.ctx, "WO-1")); o.Issued != 2 {
		t.Errorf("%d of the quota are taken", o.Issued)
	}
	// A plan tries the names of those that there are.
	plan := must(s.PlanProfile(s.ctx, "pump", enroll.NewProfileVersion{Profile: ca.ProfileForm{Validity: "200d", DNSNames: []string{"{{ .ID }}.{{ .Attributes.line }}.fleet.example"}}}))
	if r := plan.Effect.Refused; len(r) != 1 || r[0].Count != 3 || !slices.Contains(r[0].Holders, "d2") || plan.Effect.WorkOrders != 1 {
		t.Errorf("effect %+v", plan.Effect)
	}
}

// A broker's certificate, and the server's own, follow their profiles.
func TestProfileOfBrokersAndServers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := s.CreateBroker(s.ctx, as("operator", ""), enroll.NewBroker{ID: "hall", URL: "mqtts://hall.a.example:8883", Names: []string{"hall.a.example"}})
	s.must(err)
	s.apply(ca.ProfileForm{Name: "broker", Holder: ca.HolderBroker, Validity: "30d", Domains: []string{"a.example"}})
	e := must(s.IssueBroker(s.ctx, as("operator", ""), "hall", newCSR(t, newKey(t), "hall.a.example")))
	if life := e.Certificate.NotAfter.Sub(e.Certificate.NotBefore); life != 30*24*time.Hour-time.Second || e.Certificate.ProfileVersion != 2 {
		t.Errorf("valid for %v under version %d", life, e.Certificate.ProfileVersion)
	}
	plan := must(s.PlanProfile(s.ctx, "broker", enroll.NewProfileVersion{Profile: ca.ProfileForm{Holder: ca.HolderBroker, Validity: "30d", Domains: []string{"b.example"}}}))
	if r := plan.Effect.Refused; len(r) != 1 || r[0].Holders[0] != "hall" {
		t.Errorf("effect %+v", plan.Effect)
	}
	s.apply(ca.ProfileForm{Name: "broker", Holder: ca.HolderBroker, Validity: "30d", Domains: []string{"b.example"}})
	_, err = s.IssueBroker(s.ctx, as("operator", ""), "hall", newCSR(t, newKey(t), "hall.a.example"))
	s.wantKind(err, ca.KindNameNotAllowed, "names")

	s.apply(ca.ProfileForm{Name: "server", Holder: ca.HolderServer, Validity: "10d"})
	block, _ := pem.Decode([]byte(newCSR(t, newKey(t), "")))
	own := must(s.IssueServer(s.ctx, []string{"ca.example"}, block.Bytes))
	if life := own.Certificate.NotAfter.Sub(own.Certificate.NotBefore); life != 10*24*time.Hour-time.Second {
		t.Errorf("the server's own is valid for %v", life)
	}
}

// Two servers on one database: what one applies the other enrolls by at once.
func TestProfileReachesEveryServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.server(s.openStore())
	for n := range 5 {
		s.apply(ca.ProfileForm{Name: "device", Validity: fmt.Sprintf("%dd", 100+n)})
		id := fmt.Sprintf("d%d", n)
		e := must(other.EnrollDevice(s.ctx, as("operator", ""), enroll.EnrollRequest{DeviceID: id, CSR: newCSR(t, newKey(t), id)}))
		if e.Certificate.ProfileVersion != int64(n+2) {
			t.Errorf("version %d, want %d", e.Certificate.ProfileVersion, n+2)
		}
	}
}

// Racing renewals with new keys never leave a device with more certificates
// than its profile allows, and a device is never stranded by that.
func TestMaxActiveUnderRaces(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.apply(ca.ProfileForm{Name: "device", Validity: "100d", MaxActive: 3})
	first, _ := s.enroll("d")
	current := s.current(first)
	renew := func(int) (*enroll.Enrollment, error) {
		return s.RenewDevice(s.ctx, device(current, ""), newCSR(t, newKey(t), "d"))
	}
	_, errs := race(12, renew)
	s.wantKinds(errs, map[ca.Kind]int{"": 2, enroll.KindCertificateLimit: 10})
	if good := s.certificates("d")[ca.StatusGood]; len(good) != 3 {
		t.Errorf("%d good certificates", len(good))
	}
	s.unchanged(func() {
		_, err := renew(0)
		s.wantKind(err, enroll.KindCertificateLimit, "deviceId")
	})
	// Once the oldest has expired, one of the others renews.
	newest := must(s.Device(s.ctx, "d")).Certificates[0]
	s.clock.forward(newest.NotAfter.Sub(s.clock.now()) - time.Minute)
	s.clock.forward(2 * time.Minute)
	if _, err := s.RenewDevice(s.ctx, device(newest, ""), ""); err == nil {
		t.Error("an expired certificate renews")
	}
	_, err := s.EnrollDevice(s.ctx, as("operator", ""), enroll.EnrollRequest{DeviceID: "d", CSR: newCSR(t, newKey(t), "d")})
	s.must(err) // as every device whose certificates all expired
}

// Certificates that may die on the shelf are told of where it can be mended.
func TestShelfLifeIsTold(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	plan := s.apply(ca.ProfileForm{Name: "brief", Validity: "60d"})
	if len(plan.Findings) != 1 || plan.Findings[0].Severity != ca.SeverityWarning || plan.Findings[0].Field != "validity" {
		t.Errorf("findings %+v", plan.Findings)
	}
	o := must(s.CreateWorkOrder(s.ctx, as("operator", "o"), enroll.NewWorkOrder{ID: "WO-1", Product: "pump", Quantity: 5, Profile: "brief"}))
	e := must(s.EnrollDevice(s.ctx, as("operator", "e"), enroll.EnrollRequest{DeviceID: "d", WorkOrder: "WO-1", CSR: newCSR(t, newKey(t), "d")}))
	for _, warnings := range [][]string{o.Warnings, e.Warnings} {
		if len(warnings) != 1 || !strings.Contains(warnings[0], "90 days before its first power-up") {
			t.Errorf("warnings %v", warnings)
		}
	}
	if o := must(s.WorkOrder(s.ctx, "WO-1")); len(o.Warnings) != 1 {
		t.Errorf("the open order: %v", o.Warnings)
	}
	closed := enroll.OrderClosed
	must(s.UpdateWorkOrder(s.ctx, as("operator", ""), "WO-1", enroll.WorkOrderUpdate{State: &closed}))
	if o := must(s.WorkOrder(s.ctx, "WO-1")); len(o.Warnings) != 0 {
		t.Errorf("the closed order: %v", o.Warnings)
	}
	if r := must(s.RenewDevice(s.ctx, device(s.current(e), ""), newCSR(t, newKey(t), "d"))); len(r.Warnings) != 0 {
		t.Errorf("a device in the field is told %v", r.Warnings)
	}
	if o := must(s.CreateWorkOrder(s.ctx, as("operator", ""), enroll.NewWorkOrder{ID: "WO-2", Product: "pump", Quantity: 5})); len(o.Warnings) != 0 {
		t.Errorf("the built-in profile: %v", o.Warnings)
	}
}

// A countingStore counts the reads that an enrollment waits for.
type countingStore struct {
	enroll.Store
	profiles, orders, plain, devices atomic.Int64
}

func (c *countingStore) Profile(ctx context.Context, name string) (*enroll.StoredProfile, error) {
	c.profiles.Add(1)
	return c.Store.Profile(ctx, name)
}

func (c *countingStore) ProfileVersion(ctx context.Context, name string, version int64) (*enroll.StoredProfile, error) {
	c.profiles.Add(1)
	return c.Store.ProfileVersion(ctx, name, version)
}

func (c *countingStore) ProfiledOrder(ctx context.Context, id string) (*enroll.WorkOrder, *enroll.StoredProfile, error) {
	c.orders.Add(1)
	return c.Store.ProfiledOrder(ctx, id)
}

func (c *countingStore) WorkOrder(ctx context.Context, id string) (*enroll.WorkOrder, error) {
	c.plain.Add(1)
	return c.Store.WorkOrder(ctx, id)
}

func (c *countingStore) Device(ctx context.Context, id string) (*enroll.Device, error) {
	c.devices.Add(1)
	return c.Store.Device(ctx, id)
}

// A work order's enrollment reads its profile with the order: no read more than
// before there were versions, and none after the signature.
func TestProfileCostsNoRead(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("WO-1", 10, enroll.NewToken{Uses: 5})
	counted := &countingStore{Store: s.store}
	server := s.server(counted)
	for n, form := range []*ca.ProfileForm{nil, {Name: "device", Validity: "60d"}} {
		if form != nil {
			s.apply(*form)
		}
		id := fmt.Sprintf("d%d", n)
		_, err := server.EnrollDevice(s.ctx, as("operator", id), enroll.EnrollRequest{DeviceID: id, WorkOrder: "WO-1", CSR: newCSR(t, newKey(t), id)})
		s.must(err)
		if got := fmt.Sprint(counted.orders.Swap(0), counted.profiles.Swap(0), counted.plain.Swap(0), counted.devices.Swap(0)); got != "1 0 0 0" {
			t.Errorf("reads of order, profile, order alone, device: %s", got)
		}
	}
}
