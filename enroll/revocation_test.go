package enroll_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// revoke revokes a device for good.
func (s *site) revoke(id string) *enroll.Revocation {
	s.Helper()
	r, err := s.RevokeDevice(s.ctx, as("security", ""), id, enroll.RevokeRequest{Reason: "keyCompromise"})
	s.must(err)
	return r
}

// proven attempts a proof until it is one: on a busy machine that may take
// several attempts.
func (s *site) proven(service *enroll.Service, id string) *enroll.Revocation {
	s.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := service.AdvanceRevocation(s.ctx, id)
		if _, again := errors.AsType[*enroll.Again](err); !again {
			s.must(err)
		}
		if r := s.revocation(id); r.State == enroll.RevocationProven {
			return r
		} else if time.Now().After(deadline) {
			s.Fatalf("%+v", r)
		}
	}
}

func (s *site) revocation(id string) *enroll.Revocation {
	s.Helper()
	r, err := s.Revocation(s.ctx, id)
	s.must(err)
	return r
}

// A revoked device is on the CRL, its session is closed, it is refused, a good
// one is admitted, and the evidence of that can be checked.
func TestRevocationIsProvenAtTheBroker_I10_I19(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	e, key := s.enroll("bad")
	live := b.mustConnect("bad", e, key)
	other := b.fleet(1)[0]
	r := s.revoke("bad")
	made := s.newEvents(func() { s.must(s.AdvanceRevocation(s.ctx, r.ID)) })
	got := s.revocation(r.ID)
	if got.State != enroll.RevocationProven || got.Attempts != 1 || !slices.Equal(got.SerialNumbers, []ca.SerialNumber{e.Certificate.SerialNumber}) {
		t.Fatalf("%+v", got)
	}
	for _, st := range got.Steps {
		if st.State != enroll.StepDone || st.At == nil || st.ElapsedMs < 0 {
			t.Errorf("%+v", st)
		}
	}
	if _, err := b.connect("bad", e, key); err == nil || live.alive() || !other.alive() {
		t.Errorf("connects: %v, live: %v, other: %v", err, live.alive(), other.alive())
	}
	o := got.Evidence.Brokers[0]
	if !s.onCRL()[e.Certificate.SerialNumber] || !s.onCRL()[o.Canary] || s.onCRL()[o.Control] {
		t.Errorf("CRL: %v", s.onCRL())
	}
	if crl := must(s.CRL(s.ctx, "device")); got.Evidence.CRLNumbers["device"] != crl.Number {
		t.Errorf("CRL %d, evidence %v", crl.Number, got.Evidence.CRLNumbers)
	}
	if !o.Admitted || o.Refusal == nil || o.Refusal.Alert == 0 || !o.ControlPass || o.Closed != 1 || o.At.IsZero() {
		t.Errorf("%+v", o)
	}
	wantHash(t, got.Evidence)
	want := []string{"canary.issue", "canary.issue", "revocation.step", "canary.revoke", "crl.publish", "revocation.step", "revocation.step", "revocation.step", "revocation.step", "revocation.proven"}
	if !slices.Equal(made, want) {
		t.Errorf("events %v, want %v", made, want)
	}
	s.unchanged(func() { s.must(s.AdvanceRevocation(s.ctx, r.ID)) })
	s.unchanged(func() {
		_, err := s.RevokeDevice(s.ctx, as("security", ""), "bad", enroll.RevokeRequest{Reason: "superseded"})
		s.wantKind(err, ca.KindRevoked, "deviceId")
	})
}

// wantHash checks evidence as anybody can: SHA-256 of its JSON with the field
// for it empty.
func wantHash(t *testing.T, e *enroll.Evidence) {
	t.Helper()
	text := must(json.Marshal(e))
	text = []byte(strings.Replace(string(text), e.SHA256, "", 1))
	if sum := fmt.Sprintf("%x", sha256.Sum256(text)); sum != e.SHA256 {
		t.Errorf("the evidence hashes to %s, not %s:\n%s", sum, e.SHA256, text)
	}
}

// Without a broker there is nothing to prove it at: it is recorded, and on the CRL.
func TestRevocationWithoutBrokersIsRecorded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	e, _ := s.enroll("d")
	_, err := s.CreateDevice(s.ctx, as("op", ""), enroll.NewDevice{ID: "registered"})
	s.must(err)
	for _, id := range []string{"d", "registered"} {
		r := s.revoke(id)
		s.must(s.AdvanceRevocation(s.ctx, r.ID))
		got := s.revocation(r.ID)
		if got.State != enroll.RevocationRecorded || len(got.Evidence.Brokers) != 0 {
			t.Errorf("%+v", got)
		}
		wantHash(t, got.Evidence)
	}
	if !s.onCRL()[e.Certificate.SerialNumber] {
		t.Error("not on the CRL")
	}
}

// A broker that nothing here drives fetches CRLs by itself; what is seen of it
// decides.
func TestProofAloneDecidesWithoutADriver(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	delete(s.drivers, "b")
	s.enroll("d")
	r := s.revoke("d")
	if _, ok := errors.AsType[*enroll.Again](s.AdvanceRevocation(s.ctx, r.ID)); !ok {
		t.Fatal("proven by a broker that knows nothing of it")
	}
	fetched := s.server(s.store)
	s.drivers = nil
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { // the broker fetches CRLs, first in the middle of the attempt
		for {
			select {
			case <-stop:
				done <- nil
				return
			case <-time.After(700 * time.Millisecond):
			}
			if err := b.LoadCRL(s.ctx, s.bundle()); err != nil {
				done <- err
				return
			}
		}
	}()
	got := s.proven(fetched, r.ID)
	close(stop)
	s.must(<-done)
	for _, name := range []string{"crl_loaded", "session_closed"} {
		if st := step(t, got.Steps, name, "b"); st.State != enroll.StepSkipped {
			t.Errorf("%+v", st)
		}
	}
}

// A broker that does not load the CRL leaves the revocation unproven; the
// attempts grow rarer, up to a bound; it is proven once the broker recovers. The
// clock of what was reached in the first attempt stays.
func TestUnprovenRevocationIsProvenWhenTheBrokerRecovers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	e, key := s.enroll("d")
	live := b.mustConnect("d", e, key)
	r := s.revoke("d")
	b.on("LoadCRL", func(context.Context) error { return errors.New("the disk is full") })
	again, ok := errors.AsType[*enroll.Again](s.AdvanceRevocation(s.ctx, r.ID))
	first := s.revocation(r.ID)
	if !ok || first.State != enroll.RevocationUnproven || again.After != 2*time.Second || live.alive() {
		t.Fatalf("%v, %+v, alive: %v", again, first, live.alive())
	}
	if st := step(t, first.Steps, "crl_loaded", "b"); st.State != enroll.StepFailed || !strings.Contains(st.Detail, "the disk is full") {
		t.Errorf("%+v", st)
	}
	if st := step(t, first.Steps, "refusal_seen", "b"); st.State != enroll.StepFailed || !strings.Contains(st.Detail, "still gets its CONNACK") {
		t.Errorf("%+v", st)
	}
	wantHash(t, first.Evidence)
	b.on("LoadCRL", nil)
	s.must(s.server(s.openStore()).AdvanceRevocation(s.ctx, r.ID))
	got := s.revocation(r.ID)
	if got.State != enroll.RevocationProven || got.Attempts != 2 || got.Evidence.Brokers[0].Closed != 1 {
		t.Fatalf("%+v", got)
	}
	for _, st := range got.Steps {
		before := step(t, first.Steps, st.Name, st.Broker)
		if same := st.At.Equal(*before.At); same != (before.State == enroll.StepDone) || st.State != enroll.StepDone {
			t.Errorf("%+v was %+v", st, before)
		}
	}
	wantHash(t, got.Evidence)
}

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

// One broker accepts connections and stays silent, another's driver hangs: the
// CRL is out within 5 s, and the third broker refuses at once.
func TestDeadBrokersHoldNobodyUp_I13(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.deadBroker("a-dead")
	hung, b := s.broker("b-hung"), s.broker("c")
	hung.on("LoadCRL", hang)
	e, key := s.enroll("d")
	live := b.mustConnect("d", e, key)
	s.startJobs(nil)
	start := time.Now()
	r := s.revoke("d")
	s.eventually(5*time.Second, "on the CRL", func() bool { return s.onCRL()[e.Certificate.SerialNumber] })
	s.eventually(time.Until(start.Add(5*time.Second)), "refused, and its session closed", func() bool {
		_, err := b.connect("d", e, key)
		return err != nil && !live.alive()
	})
	s.eventually(15*time.Second, "the attempt ends", func() bool { return s.revocation(r.ID).State == enroll.RevocationUnproven })
	got := s.revocation(r.ID)
	for broker, want := range map[string]enroll.StepState{"a-dead": enroll.StepFailed, "b-hung": enroll.StepFailed, "c": enroll.StepDone} {
		if st := step(t, got.Steps, "refusal_seen", broker); st.State != want {
			t.Errorf("%+v", st)
		}
	}
}

// Many proofs wait for a dead broker: there are workers left, so what is revoked
// meanwhile is on the CRL in time.
func TestManyProofsDoNotDelayTheCRL_I13(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.deadBroker("dead")
	for i := range 40 {
		s.enroll(fmt.Sprintf("d%d", i))
	}
	last, _ := s.enroll("last")
	s.proofTimeout = 3 * time.Second
	s.Service = s.server(s.store)
	s.startJobs(nil)
	for i := range 40 {
		s.revoke(fmt.Sprintf("d%d", i))
	}
	s.eventually(5*time.Second, "the first CRL", func() bool { return len(s.onCRL()) >= 40 })
	time.Sleep(500 * time.Millisecond) // until all have signed theirs, and watch the broker
	s.revoke("last")
	s.eventually(5*time.Second, "the last is on the CRL", func() bool { return s.onCRL()[last.Certificate.SerialNumber] })
}

// A server that dies at any change of a revocation, before or after its commit,
// leaves a row that the next one takes up and proves. No change is made twice,
// and each has its event.
func TestRevocationResumesAfterACrashAnywhere_I2(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	crashes := 0
	for _, committed := range []bool{false, true} {
		for n := int64(1); ; n++ {
			id := fmt.Sprintf("d-%v-%d", committed, n)
			e, key := s.enroll(id)
			live := b.mustConnect(id, e, key)
			r := s.revoke(id)
			db := &dying{Store: s.store, n: n, committed: committed}
			err := s.server(db).AdvanceRevocation(s.ctx, r.ID)
			if !db.dead.Load() {
				s.must(err)
				break
			}
			crashes++
			if n%4 == 0 {
				b.restart() // an embedded broker dies with its server
			}
			if err := s.server(s.store).AdvanceRevocation(s.ctx, r.ID); err != nil {
				t.Fatalf("after change %d: %v", n, err)
			}
			got := s.revocation(r.ID)
			if _, err := b.connect(id, e, key); err == nil || got.State != enroll.RevocationProven {
				t.Fatalf("after change %d: %v, %+v", n, err, got)
			}
			wantHash(t, got.Evidence)
			s.wantEventEach("revocation:"+r.ID, got.Version)
			s.eventually(time.Second, "the session is closed", func() bool { return !live.alive() })
		}
	}
	if crashes < 20 {
		t.Errorf("only %d crashes", crashes)
	}
}

// wantEventEach checks that every version of a row has its event (I19).
func (s *site) wantEventEach(subject string, version int64) {
	s.Helper()
	events, _, err := s.Events(s.ctx, enroll.EventFilter{Subject: subject}, enroll.Page{Limit: 500})
	s.must(err)
	if int64(len(events)) != version {
		s.Errorf("%s has %d events and version %d", subject, len(events), version)
	}
}

// A server that is stopped in the middle says nothing that it did not see.
func TestStoppedServerConcludesNothing_I2_I28(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	for _, method := range []string{"LoadCRL", "Disconnect"} {
		s.enroll("d-" + method)
		r := s.revoke("d-" + method)
		ctx, cancel := context.WithCancel(s.ctx)
		b.on(method, func(context.Context) error { cancel(); return nil })
		if err := s.AdvanceRevocation(ctx, r.ID); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", method, err)
		}
		b.on(method, nil)
		got := s.revocation(r.ID)
		for _, st := range got.Steps {
			if got.State != enroll.RevocationRunning || st.State == enroll.StepFailed {
				t.Errorf("%s: %s, %+v", method, got.State, st)
			}
		}
		s.must(s.AdvanceRevocation(s.ctx, r.ID))
	}
}

// Two servers that work on one revocation do not make two ends of it.
func TestTwoServersProveOneRevocation_I2(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("b")
	s.enroll("d")
	r := s.revoke("d")
	servers := []*enroll.Service{s.server(s.openStore()), s.server(s.openStore())}
	_, errs := race(2, func(i int) (any, error) { return nil, servers[i].AdvanceRevocation(s.ctx, r.ID) })
	for _, err := range errs {
		if err != nil && !errors.Is(err, ca.IsKind(enroll.KindConflict)) {
			t.Error(err)
		}
	}
	s.must(s.AdvanceRevocation(s.ctx, r.ID))
	got := s.revocation(r.ID)
	if got.State != enroll.RevocationProven {
		t.Errorf("%+v", got)
	}
	s.wantEventEach("revocation:"+r.ID, got.Version)
}

// Old CRLs are deleted by a job of the server's own.
func TestOldCRLsAreDeleted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for range 5 {
		must(s.authority.PublishCRL(s.ctx, "device", true))
	}
	newest := must(s.CRL(s.ctx, "device"))
	s.startJobs(s.Every())
	s.eventually(10*time.Second, "one CRL an issuer", func() bool {
		db := s.readOnly()
		defer db.Close()
		return slices.Equal(s.column(db, `SELECT number FROM crls WHERE issuer_id = 'device'`), []string{fmt.Sprint(newest.Number)})
	})
}

// What a broker took last is known, by issuer, from when it took it.
func TestLoadedCRLs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if all := s.LoadedCRLs("b"); len(all) != 0 {
		t.Fatalf("an unknown broker has loaded %+v", all)
	}
	b := s.broker("b")
	numbers := func() map[string]int64 {
		all := map[string]int64{}
		for _, c := range s.LoadedCRLs("b") {
			all[c.Issuer] = c.Number
			if c.LoadedAt.Before(c.ThisUpdate) || !c.NextUpdate.After(c.ThisUpdate) {
				t.Errorf("%+v", c)
			}
		}
		return all
	}
	before := numbers()
	published := must(s.authority.PublishCRL(s.ctx, "device", false))
	s.must(s.PushCRLs(s.ctx))
	after := numbers()
	if after["device"] != published.Number || before["device"] >= published.Number || after["broker"] != before["broker"] || before["broker"] == 0 {
		t.Errorf("before %v, after %v, published %d", before, after, published.Number)
	}
	b.on("LoadCRL", func(context.Context) error { return errors.New("no space left on device") })
	must(s.authority.PublishCRL(s.ctx, "device", false))
	if err := s.PushCRLs(s.ctx); err == nil {
		t.Fatal("the fault was not seen")
	}
	if now := numbers(); now["device"] != published.Number {
		t.Errorf("what it did not take is shown as loaded: %v", now)
	}
}
