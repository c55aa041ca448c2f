package enroll_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func (s *site) rotate(broker string) *enroll.Rotation {
	s.Helper()
	r, err := s.RotateBroker(s.ctx, as("op", ""), broker, false)
	s.must(err)
	return r
}

func (s *site) rotation(id string) *enroll.Rotation {
	s.Helper()
	r, err := s.Rotation(s.ctx, id)
	s.must(err)
	return r
}

// wantRotation checks how a rotation ended, and that it has its events.
func (s *site) wantRotation(id string, state enroll.RotationState) *enroll.Rotation {
	s.Helper()
	r := s.rotation(id)
	if r.State != state {
		s.Fatalf("the rotation is %s, not %s: %+v", r.State, state, r.Steps)
	}
	s.wantEventEach("rotation:"+id, r.Version)
	return r
}

// A rotation replaces the certificate under live sessions, once, however often
// its job runs.
func TestRotationKeepsSessions_I19(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	fleet := b.fleet(5)
	old := b.serves()
	r := s.rotate("b")
	s.unchanged(func() {
		_, err := s.RotateBroker(s.ctx, as("op", ""), "b", false)
		s.wantKind(err, enroll.KindConflict, "broker")
	})
	s.must(s.AdvanceRotation(s.ctx, r.ID))
	got := s.wantRotation(r.ID, enroll.RotationDone)
	if got.OldSerial != old || got.NewSerial != b.serves() || old == b.serves() || alive(fleet) != 5 {
		t.Errorf("%+v, serves %s, alive %d", got, b.serves(), alive(fleet))
	}
	if got.SessionsBefore != 5 || got.SessionsAfter != 5 || got.SessionsDropped != 0 {
		t.Errorf("sessions %d, %d, %d", got.SessionsBefore, got.SessionsAfter, got.SessionsDropped)
	}
	for _, st := range got.Steps {
		if st.State != enroll.StepDone {
			t.Errorf("%+v", st)
		}
	}
	s.unchanged(func() { s.must(s.AdvanceRotation(s.ctx, r.ID)) })
	next := s.rotate("b") // the way is free again
	if next.OldSerial != got.NewSerial {
		t.Errorf("%+v", next)
	}
}

// A dry run plans and touches nothing; a plan that would lose a name is refused.
func TestRotationPlan(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	before := b.serves()
	s.unchanged(func() {
		p := must(s.PlanRotation(s.ctx, "b"))
		if p.State != enroll.RotationPlanned || p.ID != "" || p.OldSerial != before || len(p.Steps) != 6 || step(t, p.Steps, "plan", "b").State != enroll.StepDone {
			t.Errorf("%+v", p)
		}
		_, err := s.PlanRotation(s.ctx, "none")
		s.wantKind(err, ca.KindNotFound, "broker")
	})
	call := as("op", "key")
	plan, err := s.RotateBroker(s.ctx, call, "b", true)
	s.must(err)
	if plan.State != enroll.RotationPlanned || step(t, plan.Steps, "plan", "b").State != enroll.StepDone {
		t.Errorf("%+v", plan)
	}
	s.unchanged(func() {
		s.must(s.AdvanceRotation(s.ctx, plan.ID))
		_, err := s.RotateBroker(s.ctx, call, "b", true)
		s.wantReplay(err)
		_, err = s.RotateBroker(s.ctx, call, "b", false)
		s.wantKind(err, enroll.KindIdempotency, "")
	})
	if b.serves() != before {
		t.Error("a dry run installed a certificate")
	}
	s.must(s.MoveBroker(s.ctx, "server", enroll.NewBroker{ID: "b", URL: "mqtts://" + b.addr, Names: []string{"127.0.0.1"}}))
	s.unchanged(func() {
		_, err := s.RotateBroker(s.ctx, as("op", ""), "b", false)
		s.wantKind(err, enroll.KindConflict, "names")
		_, err = s.PlanRotation(s.ctx, "b")
		s.wantKind(err, enroll.KindConflict, "names")
		b.on("Active", func(context.Context) error { return errors.New("no route to host") })
		_, err = s.RotateBroker(s.ctx, as("op", ""), "b", false)
		s.wantKind(err, enroll.KindConflict, "")
	})
}

// Whatever goes wrong at the broker leads back to the certificate that it
// served before.
func TestFailedRotationRollsBack(t *testing.T) {
	t.Parallel()
	full := errors.New("the disk is full")
	for _, c := range []struct {
		name   string
		fault  func(*broker)
		step   string
		detail string
	}{
		{"no key", func(b *broker) {
			b.on("CertificateRequest", func(context.Context) error { return full })
		}, "issue", "the disk is full"},
		{"not installed", func(b *broker) { b.on("Install", func(context.Context) error { return full }) }, "install", "the disk is full"},
		{"a session dropped", func(b *broker) {
			b.on("Install", func(ctx context.Context) error { _, err := b.real.Disconnect(ctx, "b-fleet-1"); return err })
		}, "soak", "1 of 3 sessions were dropped"},
		{"every session dropped", func(b *broker) {
			b.on("Install", func(context.Context) error { b.restart(); return nil })
		}, "soak", "3 of 3 sessions were dropped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			b := s.broker("b")
			b.fleet(3)
			old := b.serves()
			c.fault(b)
			r := s.rotate("b")
			s.must(s.AdvanceRotation(s.ctx, r.ID))
			got := s.wantRotation(r.ID, enroll.RotationRolledBack)
			if st := step(t, got.Steps, c.step, "b"); st.State != enroll.StepFailed || !strings.Contains(st.Detail, c.detail) {
				t.Errorf("%+v", st)
			}
			if st := step(t, got.Steps, "rollback", "b"); st.State != enroll.StepDone || !strings.Contains(st.Detail, string(old)) {
				t.Errorf("%+v", st)
			}
			if b.serves() != old {
				t.Errorf("serves %s, before %s", b.serves(), old)
			}
			if report := must(s.VerifyBroker(s.ctx, as("op", ""), "b", false)); report.Verdict != "pass" {
				t.Errorf("%+v", report.Diagnosis)
			}
		})
	}
}

// A broker that goes on serving the old certificate, whatever it says, is found
// out.
func TestWrongCertificateIsFoundOut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	old := b.serves()
	b.on("Install", func(context.Context) error { return errPretend })
	r := s.rotate("b")
	s.must(s.AdvanceRotation(s.ctx, r.ID))
	got := s.wantRotation(r.ID, enroll.RotationRolledBack)
	if st := step(t, got.Steps, "probe", "b"); st.State != enroll.StepFailed || !strings.Contains(st.Detail, string(old)) || b.serves() != old {
		t.Errorf("%+v, serves %s", st, b.serves())
	}
}

// A certificate that was rolled back is not the broker's: the one that it serves
// is, and its end is told. One that was issued later is the broker's again.
func TestRolledBackCertificateIsNotTheBrokers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	b.fleet(1)
	of := func() ca.SerialNumber {
		s.Helper()
		all, _, err := s.Brokers(s.ctx, enroll.Page{})
		s.must(err)
		one := must(s.Broker(s.ctx, "b"))
		if one.Certificate.SerialNumber != all[0].Certificate.SerialNumber {
			s.Errorf("%s alone, %s in the list", one.Certificate.SerialNumber, all[0].Certificate.SerialNumber)
		}
		return one.Certificate.SerialNumber
	}
	old := must(s.Broker(s.ctx, "b")).Certificate
	s.clock.forward(old.NotAfter.Sub(old.NotBefore)*2/3 + time.Hour)
	s.must(s.PublishScheduledCRLs(s.ctx))
	expiring := "broker-cert-expiring warning broker:b rotate"
	s.wantAttention(expiring)
	for _, fault := range []func(ctx context.Context) error{
		func(context.Context) error { return errPretend },                                             // never served
		func(ctx context.Context) error { _, err := b.real.Disconnect(ctx, "b-fleet-0"); return err }, // served, and seen
	} {
		b.on("Install", fault)
		r := s.rotate("b")
		s.must(s.AdvanceRotation(s.ctx, r.ID))
		if got := s.wantRotation(r.ID, enroll.RotationRolledBack); got.NewSerial == "" || of() != old.SerialNumber {
			t.Errorf("the certificate is %s, and %s is served: %+v", of(), old.SerialNumber, got.Steps)
		}
		s.wantAttention(expiring, "rotation-rolled-back warning broker:b rotate")
		if plan := must(s.PlanRotation(s.ctx, "b")); plan.OldSerial != old.SerialNumber {
			t.Errorf("%+v", plan)
		}
	}
	b.on("Install", nil)
	byHand := must(s.IssueBroker(s.ctx, as("op", ""), "b", newCSR(t, newKey(t), "")))
	if of() != byHand.Certificate.SerialNumber {
		t.Errorf("the certificate is %s, and %s was issued since", of(), byHand.Certificate.SerialNumber)
	}
	r := s.rotate("b")
	s.must(s.AdvanceRotation(s.ctx, r.ID))
	if got := s.wantRotation(r.ID, enroll.RotationDone); of() != got.NewSerial || b.serves() != got.NewSerial {
		t.Errorf("the certificate is %s, served is %s: %+v", of(), b.serves(), got)
	}
	s.wantAttention()
}

// A rotation that can not go back tries again until it can, for an hour; one that finds a certificate that is
// not its own leaves it alone.
func TestRollbackThatCannot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		fault  func(*broker)
		detail string
	}{
		{"refused", func(b *broker) { b.on("Rollback", func(context.Context) error { return errors.New("no way back") }) }, "no way back"},
		{"somebody installed another", func(b *broker) {
			csr := must(b.real.CertificateRequest(b.s.ctx, []string{"127.0.0.1"}))
			e := must(b.s.IssueBroker(b.s.ctx, as("op", ""), "b", string(csr)))
			b.s.must(b.real.Install(b.s.ctx, chainOf(e.Chain)))
		}, "left alone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			b := s.broker("b")
			fleet := b.fleet(1)
			installed := false
			b.on("Sessions", func(ctx context.Context) error {
				if st := s.rotationSteps("b"); st != "" && !installed && strings.Contains(st, "probe:done") {
					installed = true
					c.fault(b)
					_, err := b.real.Disconnect(ctx, "b-fleet-0")
					return err
				}
				return nil
			})
			r := s.rotate("b")
			err := s.AdvanceRotation(s.ctx, r.ID)
			if again, ok := errors.AsType[*enroll.Again](err); ok && c.name == "refused" {
				waiting := s.wantRotation(r.ID, enroll.RotationRunning)
				if st := step(t, waiting.Steps, "rollback", "b"); st.State != enroll.StepRunning || !strings.Contains(st.Detail, c.detail) || again.After != time.Second {
					t.Errorf("again after %v: %+v", again.After, st)
				}
				s.clock.forward(30 * time.Minute)
				if again, ok := errors.AsType[*enroll.Again](s.AdvanceRotation(s.ctx, r.ID)); !ok || again.After != 30*time.Second {
					t.Errorf("again after %v", again)
				}
				if now := s.wantRotation(r.ID, enroll.RotationRunning); now.Version != waiting.Version {
					t.Error("an attempt that ended as the last was recorded")
				}
				s.clock.forward(31 * time.Minute)
				err = s.AdvanceRotation(s.ctx, r.ID)
			}
			s.must(err)
			got := s.wantRotation(r.ID, enroll.RotationFailed)
			if st := step(t, got.Steps, "rollback", "b"); st.State != enroll.StepFailed || !strings.Contains(st.Detail, c.detail) {
				t.Errorf("%+v; alive %d", st, alive(fleet))
			}
		})
	}
}

// rotationSteps returns the steps of the newest rotation, name:state.
func (s *site) rotationSteps(broker string) string {
	all, _, err := s.Rotations(s.ctx, broker, enroll.Page{Limit: 1})
	if err != nil || len(all) == 0 {
		return ""
	}
	var text []string
	for _, st := range all[0].Steps {
		text = append(text, st.Name+":"+string(st.State))
	}
	return strings.Join(text, " ")
}

// Devices that come and go are no drop of the rotation's: where two left while
// the sessions were counted, five more may leave.
func TestChurnIsTolerated(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	b.fleet(9)
	listed := 0
	b.on("Sessions", func(ctx context.Context) error {
		listed++
		leave := map[int][]int{3: {0, 1}, 4: {2, 3, 4, 5, 6}}[listed] // by the plan, twice before, after
		for _, i := range leave {
			if _, err := b.real.Disconnect(ctx, fmt.Sprintf("b-fleet-%d", i)); err != nil {
				return err
			}
		}
		return nil
	})
	r := s.rotate("b")
	s.must(s.AdvanceRotation(s.ctx, r.ID))
	got := s.wantRotation(r.ID, enroll.RotationDone)
	if got.SessionsBefore != 7 || got.SessionsAfter != 2 || got.SessionsDropped != 5 {
		t.Errorf("sessions %d, %d, %d", got.SessionsBefore, got.SessionsAfter, got.SessionsDropped)
	}
	if st := step(t, got.Steps, "soak", "b"); !strings.Contains(st.Detail, "no more than before") {
		t.Errorf("%+v", st)
	}
}

// A server that dies at any change of a rotation, before or after its commit,
// with its embedded broker and so with every session, leaves a rotation that the
// next one finishes: its own restart speaks against no certificate. One
// certificate is issued.
func TestRotationResumesAfterACrashAnywhere_I2_I27(t *testing.T) {
	t.Parallel()
	for _, committed := range []bool{false, true} {
		for n := int64(1); n <= 10; n++ {
			t.Run(fmt.Sprintf("change %d committed %v", n, committed), func(t *testing.T) {
				t.Parallel()
				s := newSite(t)
				s.proofTimeout = 10 * time.Second // no step is to fail by itself
				b := s.broker("b")
				b.fleet(2)
				old, r := b.serves(), s.rotate("b")
				db := &dying{Store: s.store, n: n, committed: committed}
				err := s.server(db).AdvanceRotation(s.ctx, r.ID)
				if n == 10 { // past the last change: it says that all were tried
					s.must(err)
				} else if !db.dead.Load() || err == nil {
					t.Fatalf("%d changes, %v", db.count.Load(), err)
				} else {
					b.restart()
				}
				s.must(s.server(s.store).AdvanceRotation(s.ctx, r.ID))
				got := s.wantRotation(r.ID, enroll.RotationDone)
				if got.NewSerial != b.serves() || got.OldSerial != old || b.serves() == old {
					t.Errorf("%+v, serves %s", got, b.serves())
				}
				certs, _, err := s.Certificates(s.ctx, enroll.CertificateFilter{Broker: "b"}, enroll.Page{Limit: 10})
				s.must(err)
				if len(certs) != 2 {
					t.Errorf("%d certificates", len(certs))
				}
			})
		}
	}
}

// A server that dies while it rolls back goes on rolling back: the step that
// failed is not given a second chance.
func TestRollbackResumesAfterACrashAnywhere_I2(t *testing.T) {
	t.Parallel()
	for _, committed := range []bool{false, true} {
		for n := int64(8); n <= 9; n++ { // the soak that failed, the rollback
			t.Run(fmt.Sprintf("change %d committed %v", n, committed), func(t *testing.T) {
				t.Parallel()
				s := newSite(t)
				s.proofTimeout = 10 * time.Second // no step is to fail by itself
				b := s.broker("b")
				b.fleet(2)
				old, r := b.serves(), s.rotate("b")
				b.on("Install", func(ctx context.Context) error { _, err := b.real.Disconnect(ctx, "b-fleet-0"); return err })
				db := &dying{Store: s.store, n: n, committed: committed}
				if err := s.server(db).AdvanceRotation(s.ctx, r.ID); err == nil || !db.dead.Load() {
					t.Fatalf("%v", err)
				}
				b.on("Install", nil)
				failed := strings.Contains(s.rotationSteps("b"), "soak:failed")
				s.must(s.server(s.store).AdvanceRotation(s.ctx, r.ID))
				if !failed { // nobody recorded that it failed, and the sessions that were lost are gone with the server
					s.wantRotation(r.ID, enroll.RotationDone)
					return
				}
				s.wantRotation(r.ID, enroll.RotationRolledBack)
				if b.serves() != old {
					t.Errorf("serves %s", b.serves())
				}
			})
		}
	}
}

// A store that does not answer for a while, or a server that is stopped, is no
// reason to roll back.
func TestOnlyTheBrokerFailsARotation_I2_I28(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	b.fleet(2)
	r := s.rotate("b")
	server := s.server(s.store)
	for _, method := range []string{"CertificateRequest", "Install", "Sessions"} {
		ctx, cancel := context.WithCancel(s.ctx)
		b.on(method, func(context.Context) error { cancel(); return ctx.Err() })
		if err := server.AdvanceRotation(ctx, r.ID); !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: %v", method, err)
		}
		b.on(method, nil)
		if got := s.rotation(r.ID); got.State != enroll.RotationRunning || strings.Contains(s.rotationSteps("b"), "failed") {
			t.Fatalf("%s: %+v", method, got)
		}
		if method == "Sessions" {
			continue // what is left to do reads no certificate
		}
		away := s.server(&unavailable{Store: s.store})
		if err := away.AdvanceRotation(s.ctx, r.ID); !errors.Is(err, ca.IsKind(enroll.KindUnavailable)) {
			t.Fatalf("%s: %v", method, err)
		}
	}
	s.must(server.AdvanceRotation(s.ctx, r.ID))
	if got := s.wantRotation(r.ID, enroll.RotationDone); got.SessionsDropped != 0 {
		t.Errorf("%+v", got)
	}
}

// An unavailable store reads rotations, and does no more.
type unavailable struct{ enroll.Store }

func (*unavailable) Certificate(context.Context, ca.SerialNumber) (*ca.Certificate, error) {
	return nil, ca.Errorf(enroll.KindUnavailable, "", "", "the database is busy")
}

func (*unavailable) Commit(_ context.Context, batch []ca.Issuance) []error {
	return slices.Repeat([]error{ca.Errorf(enroll.KindUnavailable, "", "", "the database is busy")}, len(batch))
}

// A look at a broker is kept, and answered again under its key.
func TestVerification_I5_I19(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	made := s.newEvents(func() {
		if report := must(s.VerifyBroker(s.ctx, as("op", "k"), "b", false)); report.Verdict != "pass" {
			t.Fatalf("%+v", report.Diagnosis)
		}
	})
	if !slices.Equal(made, []string{"canary.issue", "broker.verify"}) {
		t.Errorf("events %v", made)
	}
	s.unchanged(func() {
		_, err := s.server(s.store).VerifyBroker(s.ctx, as("op", "k"), "b", false)
		s.wantReplay(err)
	})
	s.must(b.real.Close())
	if report := must(s.VerifyBroker(s.ctx, as("op", ""), "b", false)); report.Verdict == "pass" {
		t.Error("a closed broker passed")
	}
	got := must(s.Broker(s.ctx, "b"))
	if got.Status != enroll.BrokerFailing || got.LastVerification == nil {
		t.Errorf("%+v", got)
	}
	all, _, err := s.Verifications(s.ctx, "b", enroll.Page{Limit: 10})
	if err != nil || len(all) != 2 {
		t.Errorf("%d, %v", len(all), err)
	}
	if one := must(s.Verification(s.ctx, "b", all[1].ID)); one.Report.Verdict != "pass" || !one.At.Equal(all[1].At) {
		t.Errorf("%+v", one)
	}
}

// The verifier dials no address where no broker can be.
func TestVerifierDialsOnlyBrokers_I26(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for i, host := range []string{"169.254.169.254", "[fe80::1]", "0.0.0.0", "224.0.0.1"} {
		id := fmt.Sprintf("b%d", i)
		_, err := s.CreateBroker(s.ctx, as("op", ""), enroll.NewBroker{ID: id, URL: "mqtts://" + host})
		s.must(err)
		report := must(s.VerifyBroker(s.ctx, as("op", ""), id, false))
		if report.Verdict != "fail" || report.DurationMs > 1000 || !strings.Contains(fmt.Sprint(report.Step("tcp").Detail, report.Diagnosis), "where no broker may be") {
			t.Errorf("%s: %+v", host, report)
		}
	}
}
