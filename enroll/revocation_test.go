package enroll_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	s.eventually(20*time.Second, "on the CRL", func() bool { return s.onCRL()[e.Certificate.SerialNumber] })
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
	s.eventually(20*time.Second, "the first CRL", func() bool { return len(s.onCRL()) >= 40 })
	time.Sleep(500 * time.Millisecond) // until all have signed theirs, and watch the broker
	s.revoke("last")
	s.eventually(20*time.Second, "the last is on the CRL", func() bool { return s.onCRL()[last.Certificate.SerialNumber] })
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
			s.eventually(10*time.Second, "the session is closed", func() bool { return !live.alive() })
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
	published := must(s.authority.PublishCRL(s.ctx, ca.CRLScope{IssuerID: "device"}, false))
	s.must(s.PushCRLs(s.ctx))
	after := numbers()
	if after["device"] != published.Number || before["device"] >= published.Number || after["broker"] != before["broker"] || before["broker"] == 0 {
		t.Errorf("before %v, after %v, published %d", before, after, published.Number)
	}
	b.on("LoadCRL", func(context.Context) error { return errors.New("no space left on device") })
	must(s.authority.PublishCRL(s.ctx, ca.CRLScope{IssuerID: "device"}, false))
	if err := s.PushCRLs(s.ctx); err == nil {
		t.Fatal("the fault was not seen")
	}
	if now := numbers(); now["device"] != published.Number {
		t.Errorf("what it did not take is shown as loaded: %v", now)
	}
}
