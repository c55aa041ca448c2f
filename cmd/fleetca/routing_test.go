package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// Three servers share a database, and one of them has the folder of a Mosquitto.
// Rotations and revocations that are asked for at the others end done and proven,
// with every step seen. While the broker's server is dead the state says so, and
// what it was at goes on when it is back (I2).
func TestBrokerOfOneReplica_I2(t *testing.T) {
	t.Parallel()
	servers := newReplicas(t, 3)
	folder, addr := configureMosquitto(t)
	driver := servers[2]
	driver.stop(t)
	driver.args = append(driver.args, "--mosquitto", folder)
	driver.start(t)
	runMosquitto(t, folder, addr)
	admin := servers[0].rest(t, "admin")
	until := func(what string, is func() bool) {
		t.Helper()
		began := time.Now()
		for ; !is(); time.Sleep(100 * time.Millisecond) {
			if time.Since(began) > 2*time.Minute {
				t.Fatalf("not %s in two minutes", what)
			}
		}
		t.Logf("%s after %v", what, time.Since(began).Round(time.Millisecond))
	}
	rotation := func(id string) (r enroll.Rotation) {
		t.Helper()
		admin.at(servers[1]).send(t, "GET", "/rotations/"+id, nil).into(t, 200, &r)
		return r
	}
	revocation := func(id string) (r enroll.Revocation) {
		t.Helper()
		admin.at(servers[1]).send(t, "GET", "/revocations/"+id, nil).into(t, 200, &r)
		return r
	}
	rotate := func(s *testServer) string {
		t.Helper()
		var r enroll.Rotation
		admin.at(s).send(t, "POST", "/brokers/mosq/rotations", map[string]any{}).into(t, 202, &r)
		return r.ID
	}
	revoke := func(s *testServer, id string) string {
		t.Helper()
		_, csr := newCSR(t, id)
		admin.at(s).send(t, "POST", "/enrollments", map[string]any{"deviceId": id, "csr": csr}).into(t, 201, new(any))
		var r enroll.Revocation
		admin.at(s).send(t, "POST", "/devices/"+id+"/revocation", map[string]any{"reason": "keyCompromise"}).into(t, 202, &r)
		return r.ID
	}
	done := func(steps []enroll.Step) {
		t.Helper()
		for _, st := range steps {
			if st.State != enroll.StepDone {
				t.Errorf("step %s of %q is %s: %s", st.Name, st.Broker, st.State, st.Detail)
			}
		}
	}

	r1 := rotate(servers[0])
	until("rotated", func() bool { return rotation(r1).State != enroll.RotationRunning })
	if r := rotation(r1); r.State != enroll.RotationDone {
		t.Fatalf("the rotation is %s: %+v", r.State, r.Steps)
	}
	done(rotation(r1).Steps)
	d1 := revoke(servers[1], "dev-1")
	until("proven", func() bool { return revocation(d1).State == enroll.RevocationProven })
	done(revocation(d1).Steps)

	r2 := rotate(servers[1])
	until("at its second step or further", func() bool {
		r := rotation(r2)
		return r.State != enroll.RotationRunning || slices.ContainsFunc(r.Steps, func(st enroll.Step) bool { return st.Name == "issue" && st.State != enroll.StepPending })
	})
	driver.kill()
	if r := rotation(r2); r.State != enroll.RotationRunning {
		t.Fatalf("the rotation ended as %s before the server was killed", r.State)
	}
	d2 := revoke(servers[0], "dev-2") // the server counts as live for some seconds yet
	until("known to wait for the dead server", func() bool {
		r := rotation(r2)
		return r.State == enroll.RotationRunning && r.Driver != nil && !r.Driver.Live && strings.HasSuffix(r.Driver.Server, driver.dir)
	})
	d3 := revoke(servers[0], "dev-3")
	for _, id := range []string{d2, d3} {
		until("unproven for want of the dead server", func() bool {
			r := revocation(id)
			return r.State == enroll.RevocationUnproven && strings.Contains(r.Steps[len(r.Steps)-1].Detail, "waits for server")
		})
	}
	driver.start(t)
	until("rotated once the server is back", func() bool { return rotation(r2).State != enroll.RotationRunning })
	if r := rotation(r2); r.State != enroll.RotationDone {
		t.Fatalf("the rotation is %s: %+v", r.State, r.Steps)
	}
	done(rotation(r2).Steps)
	for _, id := range []string{d2, d3} {
		until("proven once the server is back", func() bool { return revocation(id).State == enroll.RevocationProven })
		done(revocation(id).Steps)
	}
}
