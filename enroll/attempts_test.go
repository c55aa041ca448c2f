package enroll_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Attempts without proof take no more canaries than they need, nor CRLs: none
// while a broker is down, none where the last was admitted. A broker that was
// seen to refuse is left alone.
func TestAttemptsShareTheirCanary(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("a")
	b := s.broker("b")
	s.enroll("d")
	s.must(b.real.Close())
	r := s.revoke("d")
	attempt := func() []string {
		t.Helper()
		return s.newEvents(func() {
			if _, ok := errors.AsType[*enroll.Again](s.AdvanceRevocation(s.ctx, r.ID)); !ok {
				t.Errorf("%+v", s.revocation(r.ID))
			}
		})
	}
	count := func(events []string, action string) int {
		return len(events) - len(slices.DeleteFunc(slices.Clone(events), func(e string) bool { return e == action }))
	}
	spent := func(events []string) [3]int {
		return [3]int{count(events, "canary.issue"), count(events, "canary.revoke"), count(events, "crl.publish")}
	}
	if got := spent(attempt()); got != [3]int{2, 1, 1} { // the good one, too; a admits the other
		t.Errorf("first attempt: %v", got)
	}
	proven := step(t, s.revocation(r.ID).Steps, "refusal_seen", "a")
	if got := spent(attempt()); got != [3]int{1, 0, 0} { // b, being down, saw none yet
		t.Errorf("second attempt: %v", got)
	}
	for range 3 {
		if got := spent(attempt()); got != [3]int{} {
			t.Errorf("another attempt: %v", got)
		}
	}
	b.start()
	b.on("LoadCRL", func(context.Context) error { return errPretend })
	if got := spent(attempt()); got != [3]int{0, 1, 1} {
		t.Errorf("an attempt at a broker that is back, and deaf: %v", got)
	}
	if got := spent(attempt()); got != [3]int{} {
		t.Errorf("another: %v", got)
	}
	b.on("LoadCRL", nil)
	made := s.newEvents(func() { s.must(s.AdvanceRevocation(s.ctx, r.ID)) })
	got := s.revocation(r.ID)
	if spent(made) != [3]int{} || got.State != enroll.RevocationProven || len(got.Evidence.Brokers) != 2 {
		t.Fatalf("%v, %+v", made, got)
	}
	if again := step(t, got.Steps, "refusal_seen", "a"); !again.At.Equal(*proven.At) {
		t.Errorf("a was looked at again: %+v, before %+v", again, proven)
	}
	first, second := got.Evidence.Brokers[0], got.Evidence.Brokers[1]
	if first.Broker != "a" || first.Canary == second.Canary || first.CRLNumber >= second.CRLNumber || second.CRLNumber != got.Evidence.CRLNumbers["device"] || !second.Admitted || second.Refusal == nil {
		t.Errorf("evidence %+v", got.Evidence)
	}
	wantHash(t, got.Evidence)
}

// A canary that is about to expire proves nothing: another attempt takes a new
// one.
func TestAnAttemptTakesNoExpiringCanary(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	s.enroll("d")
	r := s.revoke("d")
	b.on("LoadCRL", func(context.Context) error { return errPretend })
	if _, ok := errors.AsType[*enroll.Again](s.AdvanceRevocation(s.ctx, r.ID)); !ok {
		t.Fatalf("%+v", s.revocation(r.ID))
	}
	first := s.revocation(r.ID).Evidence.Brokers[0].Canary
	s.clock.forward(51 * time.Minute) // of 55
	b.on("LoadCRL", nil)
	if got := s.proven(s.Service, r.ID); got.Evidence.Brokers[0].Canary == first {
		t.Errorf("%+v", got)
	}
}

// A broker that fails for a moment gets its orders again within the attempt.
// One that refuses but does not close the device's sessions leaves the
// revocation unproven, until it does.
func TestSessionsMustBeClosed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.proofTimeout = 4 * time.Second // for three orders
	s.Service = s.server(s.store)
	b := s.broker("b")
	e, key := s.enroll("d")
	live := b.mustConnect("d", e, key)
	r := s.revoke("d")
	var loads atomic.Int64
	b.on("LoadCRL", func(context.Context) error {
		if loads.Add(1) <= 2 {
			return errors.New("just restarting")
		}
		return nil
	})
	b.on("Disconnect", func(context.Context) error { return errors.New("not now") })
	if _, ok := errors.AsType[*enroll.Again](s.AdvanceRevocation(s.ctx, r.ID)); !ok || !live.alive() {
		t.Fatalf("%+v, alive: %v", s.revocation(r.ID), live.alive())
	}
	first := s.revocation(r.ID)
	for name, want := range map[string]enroll.StepState{"crl_loaded": enroll.StepDone, "session_closed": enroll.StepFailed, "refusal_seen": enroll.StepDone, "evidence": enroll.StepFailed} {
		for _, st := range first.Steps {
			if st.Name == name && st.State != want {
				t.Errorf("%+v", st)
			}
		}
	}
	if first.State != enroll.RevocationUnproven {
		t.Errorf("the revocation is %s", first.State)
	}
	b.on("Disconnect", nil)
	if got := s.proven(s.Service, r.ID); live.alive() {
		t.Errorf("%+v, and the session is alive", got)
	}
}

// The pause between attempts doubles and ends at a quarter of an hour.
func TestAttemptsGrowRarerUpToABound(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("b").on("LoadCRL", func(context.Context) error { return errPretend })
	s.enroll("d")
	r := s.revoke("d")
	last := time.Duration(0)
	for _, attempts := range []int{0, 1, 6, 1 << 20} {
		row := s.revocation(r.ID)
		row.Attempts = attempts
		s.must(s.store.SaveRevocation(s.ctx, row, enroll.Change{Event: enroll.InitEvent("test")}))
		again, ok := errors.AsType[*enroll.Again](s.AdvanceRevocation(s.ctx, r.ID))
		if !ok || again.After < 2*time.Second || again.After < last || again.After > 15*time.Minute {
			t.Fatalf("attempt %d: again after %v, before that %v", attempts+1, again, last)
		}
		last = again.After
	}
	if last != 15*time.Minute {
		t.Errorf("the longest pause is %v", last)
	}
}

// Old CRLs are deleted by a job of the server's own.
func TestOldCRLsAreDeleted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for range 5 {
		must(s.authority.PublishCRL(s.ctx, ca.CRLScope{IssuerID: "device"}, true))
	}
	newest := must(s.CRL(s.ctx, "device"))
	s.startJobs(s.Every())
	s.eventually(10*time.Second, "one CRL an issuer", func() bool {
		db := s.readOnly()
		defer db.Close()
		return slices.Equal(s.column(db, `SELECT number FROM crls WHERE issuer_id = 'device'`), []string{fmt.Sprint(newest.Number)})
	})
}
