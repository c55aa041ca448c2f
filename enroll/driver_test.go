package enroll_test

import (
	"context"
	"crypto/x509"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/embedded"
	"github.com/fleetca/fleetca/store"
)

// A drivingReplica is a server of a cluster with the brokers that it drives.
type drivingReplica struct {
	*enroll.Service
	*cluster
	name    string
	db      *store.Store
	drivers map[string]brokers.Driver
	jobs    *store.Jobs
}

// driving starts a server that drives a broker; none when id is empty.
func (c *cluster) driving(name, id string) *drivingReplica {
	c.Helper()
	db, err := store.Open(c.Context(), store.Config{URL: c.url})
	c.must(err)
	c.Cleanup(func() { _ = db.Close() })
	a, err := openAuthority(c.Context(), db, c.dir)
	c.must(err)
	r := &drivingReplica{cluster: c, name: name, db: db, drivers: map[string]brokers.Driver{}}
	r.Service = enroll.New(enroll.Config{Authority: a, Store: db, Server: name, Drivers: r.drivers, ProofTimeout: 10 * time.Second})
	if id == "" {
		return r
	}
	var issuers []*x509.Certificate
	for _, i := range a.Issuers() {
		if i.Purpose == ca.PurposeDevice {
			issuers = append(issuers, i.Certificate)
		}
	}
	b, err := embedded.New(embedded.Config{Addr: "127.0.0.1:0", Dir: c.TempDir(), ClientCAs: issuers, Log: slog.New(slog.DiscardHandler)})
	c.must(err)
	c.must(b.Start())
	c.Cleanup(func() { _ = b.Close() })
	names := []string{"127.0.0.1", "localhost"}
	_, err = r.CreateBroker(c.Context(), as("operator", ""), enroll.NewBroker{ID: id, URL: "mqtts://" + b.Addr().String(), Names: names, Kind: "embedded"})
	c.must(err)
	csr, err := b.CertificateRequest(c.Context(), names)
	c.must(err)
	e, err := r.IssueBroker(c.Context(), as("operator", ""), id, string(csr))
	c.must(err)
	c.must(b.Install(c.Context(), chainOf(e.Chain)))
	r.drivers[id] = b
	c.must(r.PushCRLs(c.Context()))
	return r
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// work starts the server's jobs.
func (r *drivingReplica) work() {
	r.Helper()
	var own []string
	for id := range r.drivers {
		own = append(own, id)
	}
	var err error
	r.jobs, err = r.db.StartJobs(r.Context(), store.JobWorkers{Handlers: r.Jobs(), Brokers: own, Log: slog.New(slog.DiscardHandler)})
	r.must(err)
	r.Cleanup(r.rest)
}

// rest stops them.
func (r *drivingReplica) rest() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = r.jobs.Stop(ctx)
}

// until asks until something is so.
func (c *cluster) until(what string, is func() bool) {
	c.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.Fatalf("after a minute: not %s", what)
		}
	}
}

// revoked enrolls a device and revokes it.
func (r *drivingReplica) revoked(device string) string {
	r.Helper()
	_, err := r.EnrollDevice(r.Context(), as("op", ""), enroll.EnrollRequest{DeviceID: device, CSR: newCSR(r.T, newKey(r.T), device)})
	r.must(err)
	revocation, err := r.RevokeDevice(r.Context(), as("op", ""), device, enroll.RevokeRequest{Reason: "keyCompromise"})
	r.must(err)
	return revocation.ID
}

// wantAllDone checks that no step was left out.
func wantAllDone(t *testing.T, steps []enroll.Step) {
	t.Helper()
	for _, st := range steps {
		if st.State != enroll.StepDone {
			t.Errorf("step %s of %q is %s: %s", st.Name, st.Broker, st.State, st.Detail)
		}
	}
}

// Three servers share a database, and two of them drive a broker each. What is
// asked for at the third is done by them, every step of it; what waits for one
// that is down says so, and is done when it is back (I2).
func TestBrokersAreDrivenWhereTheirServerIs_I2(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	one, two, three := c.driving("one", "a"), c.driving("two", "b"), c.driving("three", "")
	ctx := t.Context()
	if _, err := three.RotateBroker(ctx, as("op", ""), "a", false); kinds([]error{err})[enroll.KindNoDriver] != 1 {
		t.Fatalf("a broker that no server drives: %v", err)
	}
	for _, r := range []*drivingReplica{one, two, three} {
		c.must(r.AnnounceDrivers(ctx))
		r.work()
	}
	if b := must(three.Broker(ctx, "a")); b.Driver == nil || b.Driver.Server != "one" || !b.Driver.Live {
		t.Fatalf("the broker's driver is %+v", b.Driver)
	}

	plan := must(three.RotateBroker(ctx, as("op", ""), "a", true))
	if plan.State != enroll.RotationPlanned || plan.Driver == nil || plan.Driver.Server != "one" {
		t.Errorf("the plan is %+v", plan)
	}
	rotation := must(three.RotateBroker(ctx, as("op", ""), "a", false))
	c.until("rotated", func() bool { return must(three.Rotation(ctx, rotation.ID)).State != enroll.RotationRunning })
	got := must(three.Rotation(ctx, rotation.ID))
	wantAllDone(t, got.Steps)
	if served := must(one.drivers["a"].Active(ctx)); got.State != enroll.RotationDone || got.NewSerial != ca.SerialNumberOf(served.SerialNumber) || got.OldSerial == "" || got.OldSerial == got.NewSerial {
		t.Errorf("the rotation ended as %+v, and %s is served", got, ca.SerialNumberOf(served.SerialNumber))
	}

	revocation := three.revoked("d1")
	c.until("proven", func() bool { return must(three.Revocation(ctx, revocation)).State == enroll.RevocationProven })
	seen := must(three.Revocation(ctx, revocation))
	wantAllDone(t, seen.Steps)
	if len(seen.Evidence.Brokers) != 2 {
		t.Errorf("the evidence is %+v", seen.Evidence)
	}

	one.rest()
	c.must(one.db.AnnounceDrivers(ctx, "one", []string{"a"}, time.Now().Add(-time.Minute)))
	revocation = three.revoked("d2")
	c.until("unproven for want of server one", func() bool {
		r := must(three.Revocation(ctx, revocation))
		return r.State == enroll.RevocationUnproven && strings.Contains(stepDetail(r.Steps, "evidence", ""), "broker a waits for server one") &&
			stepDetail(r.Steps, "refusal_seen", "b") != ""
	})
	rotation = must(three.RotateBroker(ctx, as("op", ""), "a", false))
	if r := must(three.Rotation(ctx, rotation.ID)); r.Driver == nil || r.Driver.Live || r.State != enroll.RotationRunning {
		t.Errorf("the rotation that waits is %+v, its driver %+v", r, r.Driver)
	}
	one.work()
	c.must(one.AnnounceDrivers(ctx))
	c.until("rotated once the server is back", func() bool { return must(three.Rotation(ctx, rotation.ID)).State == enroll.RotationDone })
	c.until("proven once the server is back", func() bool { return must(three.Revocation(ctx, revocation)).State == enroll.RevocationProven })
	wantAllDone(t, must(three.Revocation(ctx, revocation)).Steps)
	wantAllDone(t, must(three.Rotation(ctx, rotation.ID)).Steps)
}

func stepDetail(steps []enroll.Step, name, broker string) string {
	for _, st := range steps {
		if st.Name == name && st.Broker == broker {
			return st.Detail
		}
	}
	return ""
}

// What waits for a server that comes back without a broker is left to any other,
// as with a broker that no server drives.
func TestWhatADriverLeavesIsLeftToAll_I2(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	one, two := c.driving("one", "a"), c.driving("two", "")
	ctx := t.Context()
	c.must(one.AnnounceDrivers(ctx))
	two.work()
	revocation := two.revoked("d1") // left to server one, which does not work
	time.Sleep(time.Second)
	delete(one.drivers, "a")
	c.must(one.AnnounceDrivers(ctx))
	if b := must(two.Broker(ctx, "a")); b.Driver != nil {
		t.Fatalf("the broker's driver is %+v", b.Driver)
	}
	c.until("looked at without a driver", func() bool {
		return stepDetail(must(two.Revocation(ctx, revocation)).Steps, "crl_loaded", "a") == "no driver for this broker: it fetches CRLs by itself"
	})
}
