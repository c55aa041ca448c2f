package enroll

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// Times of a rotation.
const (
	churnTime = 300 * time.Millisecond // how long sessions are watched before it
	soakTime  = time.Second            // and after it

	rollbackPause    = time.Second      // before another try to go back, at a broker that does not answer; a quarter of the time since, up to
	lastRollback     = 30 * time.Second // this
	rollbackPatience = time.Hour        // after which it is left to a person
)

// RotateBroker starts the rotation of a broker's certificate; Rotation shows
// how far it is. A dry run only returns the plan. The steps are taken by the
// server that drives the broker, and where that is another one it makes the
// plan, too. KindNoDriver when none can install a certificate at the broker,
// KindConflict while another rotation of it runs.
func (s *Service) RotateBroker(ctx context.Context, c Call, id string, dryRun bool) (*Rotation, error) {
	b, err := s.store.Broker(ctx, id)
	if err != nil {
		return nil, err
	}
	request := map[string]any{"broker": id, "dryRun": dryRun}
	before, err := c.idempotency("broker.rotate", request, nil)
	if err == nil {
		err = s.replayed(ctx, before)
	}
	if err != nil {
		return nil, err
	}
	r, err := s.planned(ctx, b)
	if err != nil {
		return nil, err
	}
	r.ID = newID()
	change := Change{Event: newEvent(r.At, c.Principal.Name, "broker.rotate", "broker:"+id, map[string]any{"rotation": r.ID, "dryRun": dryRun, "names": b.Names})}
	if !dryRun {
		r.State, change.Jobs = RotationRunning, []Job{{Kind: JobRotation, Subject: r.ID, Broker: b.ID}}
	}
	err = s.repeatable(ctx, c, "broker.rotate", request, r, func(i *Idempotency) error {
		change.Idempotency = i
		return s.store.CreateRotation(ctx, *r, change)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// PlanRotation returns the rotation that RotateBroker would begin now, without
// an ID: nothing is stored.
func (s *Service) PlanRotation(ctx context.Context, id string) (*Rotation, error) {
	b, err := s.store.Broker(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.planned(ctx, b)
}

// planned returns a rotation whose plan is made, or left to the server that
// drives the broker.
func (s *Service) planned(ctx context.Context, b *Broker) (*Rotation, error) {
	r := &Rotation{Broker: b.ID, State: RotationPlanned, At: s.now()}
	for _, name := range []string{stepPlan, stepIssue, stepInstall, stepProbe, stepSoak, stepCommit} {
		r.Steps = append(r.Steps, Step{Name: name, Broker: b.ID, State: StepPending})
	}
	driver := s.cfg.Drivers[b.ID]
	if driver == nil {
		elsewhere, err := s.driversElsewhere(ctx)
		if err != nil {
			return nil, err
		}
		if r.Driver = elsewhere[b.ID]; r.Driver == nil {
			return nil, ca.Errorf(KindNoDriver, "", "install a certificate from POST /api/v1/brokers/ID/certificates by hand", "no server can install a certificate at broker %s", b.ID)
		}
	}
	if err := s.mayIssueFor(ctx, b); err != nil {
		return nil, err
	}
	if driver != nil {
		return r, s.plan(ctx, r, b, driver)
	}
	if b.Certificate != nil {
		r.OldSerial = b.Certificate.SerialNumber // until the plan tells what is served
	}
	detail := fmt.Sprintf("made by server %s, which drives this broker; names %s", r.Driver.Server, strings.Join(b.Names, ", "))
	if !r.Driver.Live {
		detail = r.Driver.waiting()
	}
	setStep(r.Steps, stepPlan, b.ID, r.At, s.now(), StepPending, detail)
	return r, nil
}

// plan looks at what is served now, and refuses a rotation that would lose a
// name devices may dial.
func (s *Service) plan(ctx context.Context, r *Rotation, b *Broker, driver brokers.Driver) error {
	leaf, err := driver.Active(ctx)
	switch {
	case errors.Is(err, brokers.ErrNoGeneration):
		return ca.Errorf(KindConflict, "", "issue and install its first certificate", "broker %s has no certificate to rotate: %w", b.ID, err)
	case err != nil:
		return ca.Errorf(KindConflict, "", "see that the broker runs and answers, and try again", "broker %s does not say which certificate it serves: %w", b.ID, err)
	}
	r.OldSerial = ca.SerialNumberOf(leaf.SerialNumber)
	served := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		served = append(served, ip.String())
	}
	for _, name := range served {
		if !slices.Contains(b.Names, name) {
			return ca.Errorf(KindConflict, "names", "register the broker with every name that devices dial", "the new certificate would lose the name %s", name)
		}
	}
	sessions, err := deviceSessions(ctx, driver)
	if err != nil {
		return fmt.Errorf("the sessions of broker %s: %w", b.ID, err)
	}
	r.SessionsBefore, r.SessionsAfter = len(sessions), len(sessions)
	setStep(r.Steps, stepPlan, b.ID, r.At, s.now(), StepDone, fmt.Sprintf("replaces %s; names %s; %d sessions", r.OldSerial, strings.Join(b.Names, ", "), len(sessions)))
	return nil
}

// Rotation returns a rotation.
func (s *Service) Rotation(ctx context.Context, id string) (*Rotation, error) {
	r, err := s.store.Rotation(ctx, id)
	if err != nil {
		return nil, err
	}
	return r, s.showRotationDrivers(ctx, r)
}

// Rotations lists rotations, of one broker or (empty) of all.
func (s *Service) Rotations(ctx context.Context, broker string, p Page) ([]*Rotation, string, error) {
	all, next, err := s.store.Rotations(ctx, broker, p)
	if err != nil {
		return nil, "", err
	}
	return all, next, s.showRotationDrivers(ctx, all...)
}

// showRotationDrivers adds to those that run which server takes their steps,
// where that is not this one.
func (s *Service) showRotationDrivers(ctx context.Context, all ...*Rotation) error {
	if !slices.ContainsFunc(all, func(r *Rotation) bool { return r.State == RotationRunning }) {
		return nil
	}
	elsewhere, err := s.driversElsewhere(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.State == RotationRunning {
			r.Driver = elsewhere[r.Broker]
		}
	}
	return nil
}

// AdvanceRotation handles JobRotation: it takes the steps that are not done,
// each of which can be repeated, and rolls back when one fails. A step that
// only the store held up is taken again.
func (s *Service) AdvanceRotation(ctx context.Context, id string) error {
	r, err := s.store.Rotation(ctx, id)
	if err != nil || r.State != RotationRunning {
		return err
	}
	b, err := s.store.Broker(ctx, r.Broker)
	if err != nil {
		return err
	}
	driver := s.cfg.Drivers[r.Broker]
	if driver == nil {
		return s.leaveRotation(ctx, r)
	}
	t := &rotating{Service: s, r: r, b: b, driver: driver}
	if stepState(r.Steps, stepPlan, r.Broker) == StepPending { // asked for at another server
		if planned, err := t.makePlan(ctx); err != nil || !planned {
			return err
		}
	}
	if stepState(r.Steps, stepRollback, r.Broker) != StepSkipped {
		return t.rollBack(ctx) // it was begun before a crash
	}
	for _, step := range []struct {
		name string
		take func(context.Context) (detail string, err error)
	}{
		{stepIssue, t.issue}, {stepInstall, t.install}, {stepProbe, t.probeNew}, {stepSoak, t.soak}, {stepCommit, t.commit},
	} {
		if stepState(r.Steps, step.name, r.Broker) == StepDone {
			continue
		}
		detail, err := step.take(ctx)
		if ctx.Err() != nil {
			return ctx.Err() // the server stops: resumed at its next start
		}
		if isKind(err, KindUnavailable) || isKind(err, KindConflict) {
			return fmt.Errorf("rotation %s, step %s: %w", id, step.name, err) // ours, and no fault of the certificate
		}
		if err != nil {
			if err := t.fail(ctx, step.name, err); err != nil {
				return err
			}
			return t.rollBack(ctx)
		}
		if step.name == stepCommit {
			r.State = RotationDone
		}
		if err := t.mark(ctx, step.name, StepDone, detail); err != nil {
			return err
		}
	}
	s.counts.forget(id)
	return nil
}

// leaveRotation leaves a rotation to the server that drives its broker.
func (s *Service) leaveRotation(ctx context.Context, r *Rotation) error {
	elsewhere, err := s.driversElsewhere(ctx)
	if err != nil {
		return err
	}
	if elsewhere[r.Broker] == nil {
		return fmt.Errorf("rotation %s: no server drives broker %s", r.ID, r.Broker)
	}
	return s.store.HandOver(ctx, []Job{{Kind: JobRotation, Subject: r.ID, Broker: r.Broker}})
}

// A rotating is a rotation under way.
type rotating struct {
	*Service
	r      *Rotation
	b      *Broker
	driver brokers.Driver
}

// makePlan makes the plan that the server which was asked could not make, and
// ends the rotation where that refuses it: nothing was touched yet.
func (t *rotating) makePlan(ctx context.Context) (planned bool, err error) {
	err = t.plan(ctx, t.r, t.b, t.driver)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err() // the server stops: resumed at its next start
	case isKind(err, KindUnavailable):
		return false, err
	case err != nil:
		t.r.State = RotationFailed
		return false, t.mark(ctx, stepPlan, StepFailed, err.Error())
	}
	return true, t.save(ctx, stepPlan, StepDone, "replaces "+string(t.r.OldSerial))
}

// mark moves a step, and stores the row.
func (t *rotating) mark(ctx context.Context, step string, state StepState, detail string) error {
	setStep(t.r.Steps, step, t.r.Broker, t.r.At, t.now(), state, detail)
	return t.save(ctx, step, state, detail)
}

// save stores the row with the event of a step.
func (t *rotating) save(ctx context.Context, step string, state StepState, detail string) error {
	event := newEvent(t.now(), "server", "rotation.step", "rotation:"+t.r.ID, map[string]any{
		"step": step, "broker": t.r.Broker, "state": state, "rotation": t.r.State, "detail": detail})
	return t.store.SaveRotation(ctx, t.r, Change{Event: event})
}

// issue has a key made beside the broker, and issues for it. The request is
// stored before it is used: issued again after a crash, it is the same certificate.
func (t *rotating) issue(ctx context.Context) (string, error) {
	if len(t.r.CSR) == 0 {
		csr, err := t.driver.CertificateRequest(ctx, t.b.Names)
		if err != nil {
			return "", err
		}
		t.r.CSR = csr
		if err := t.mark(ctx, stepIssue, StepRunning, "key made beside the broker"); err != nil {
			return "", err
		}
	}
	request, err := ca.ParseRequest("csr", t.r.CSR)
	if err != nil {
		return "", err
	}
	cert, err := t.issueBroker(ctx, Call{Principal: Principal{Name: "server"}, IdempotencyKey: "rotation:" + t.r.ID}, t.b, request)
	if again, ok := errors.AsType[*Replay](err); ok {
		cert, err = t.store.Certificate(ctx, again.SerialNumber)
	}
	if err != nil {
		return "", err
	}
	t.r.NewSerial = cert.SerialNumber
	return "serial number " + string(cert.SerialNumber), nil
}

// install counts the sessions, then makes the new certificate the one served.
func (t *rotating) install(ctx context.Context) (string, error) {
	if _, ok := t.counts.of(t.r.ID); !ok {
		before, err := t.liveSessions(ctx)
		if err != nil {
			return "", err
		}
		if stepState(t.r.Steps, stepInstall, t.r.Broker) == StepPending { // else it was begun by a process that died
			t.r.SessionIDs, t.r.SessionsBefore = before.ids, len(before.ids)
			if err := t.mark(ctx, stepInstall, StepRunning, fmt.Sprintf("%d sessions before", len(before.ids))); err != nil {
				return "", err
			}
		}
		t.counts.keep(t.r.ID, before)
	}
	cert, err := t.store.Certificate(ctx, t.r.NewSerial)
	if err != nil {
		return "", err
	}
	chain := [][]byte{cert.DER}
	for _, c := range t.ca.ServedChain(cert.IssuerID) {
		chain = append(chain, c.Raw)
	}
	return "installed and reloaded", t.driver.Install(ctx, chain)
}

// probeNew looks until the broker serves the new certificate and a canary gets
// its CONNACK.
func (t *rotating) probeNew(ctx context.Context) (string, error) {
	good, err := t.goodCanary(ctx)
	if err != nil {
		return "", err
	}
	for deadline := time.Now().Add(t.cfg.ProofTimeout); ; {
		report := t.probe(ctx, t.b, good, min(probeTimeout, t.cfg.ProofTimeout))
		served := report.ServerCertificate
		switch {
		case report.Verdict != mqtts.VerdictPass:
			err = errors.New(failureOf(report))
		case served.SerialNumber != string(t.r.NewSerial):
			err = fmt.Errorf("the broker still serves %s", served.SerialNumber)
		default:
			if err := t.probeOlder(ctx, good); err != nil {
				return "", err
			}
			return "served, and a canary got its CONNACK", t.keepReport(ctx, report)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return "", err
		}
		if err := pause(ctx, probePause); err != nil {
			return "", err
		}
	}
}

// probeOlder looks at the broker as devices do that have an older trust bundle:
// each generation that is still in the field, unless the step to a root that it
// lacks was approved.
func (t *rotating) probeOlder(ctx context.Context, good *canary) error {
	cert, err := t.store.Certificate(ctx, t.r.NewSerial)
	if err != nil {
		return err
	}
	all, err := t.store.TrustGenerations(ctx)
	if err != nil || len(all) < 2 {
		return err
	}
	root := t.ca.RootOf(cert.IssuerID)
	approval, err := t.store.Approval(ctx, root, StepSwitch)
	if err != nil {
		return err
	}
	counts, err := t.store.TrustCounts(ctx, all[len(all)-1].Generation, 1)
	if err != nil {
		return err
	}
	for _, g := range all[:len(all)-1] {
		if g.Generation < counts.Oldest || counts.Behind == 0 || approval != nil && !slices.Contains(g.Roots, root) {
			continue
		}
		target := t.target(t.b, good, min(probeTimeout, t.cfg.ProofTimeout))
		target.Roots = nil
		for _, id := range g.Roots {
			i, err := t.ca.Issuer(id)
			if err != nil {
				return err
			}
			target.Roots = append(target.Roots, i.Certificate)
		}
		if report := mqtts.Verify(ctx, target); report.Verdict != mqtts.VerdictPass {
			return fmt.Errorf("devices with trust bundle %d would refuse it: %s", g.Generation, failureOf(report))
		}
	}
	return nil
}

// keepReport keeps what a rotation saw as a verification: the newest one shows
// the new certificate.
func (t *rotating) keepReport(ctx context.Context, report *mqtts.Report) error {
	v := Verification{ID: newID(), Broker: t.b.ID, At: t.now(), Report: report}
	return t.store.SaveVerification(ctx, v, Change{Event: newEvent(v.At, "server", "broker.verify", "broker:"+v.Broker,
		map[string]any{"verdict": report.Verdict, "verification": v.ID, "rotation": t.r.ID})})
}

// soak watches the sessions for a while. Each that was there must still be;
// where sessions came and went before the rotation, as many may go again.
//
// Sessions that another process counted are no measure: since then the server
// was down, an embedded broker with it, and devices came and went. What it left
// is counted anew and must live on; the rest is reported, and not held against a
// certificate that is served and works.
func (t *rotating) soak(ctx context.Context) (string, error) {
	before, ours := t.counts.of(t.r.ID)
	if !ours {
		var err error
		if before, err = t.liveSessions(ctx); err != nil {
			return "", err
		}
	}
	if err := pause(ctx, soakTime); err != nil {
		return "", err
	}
	after, err := deviceSessions(ctx, t.driver)
	if err != nil {
		return "", err
	}
	t.r.SessionsAfter, t.r.SessionsDropped = len(after), gone(t.r.SessionIDs, after)
	dropped, all := gone(before.ids, after), len(before.ids)
	switch {
	case dropped > before.mayEnd():
		return "", fmt.Errorf("%d of %d sessions were dropped", dropped, all)
	case !ours && t.r.SessionsDropped > 0:
		return fmt.Sprintf("%d of %d sessions ended around a restart of the server, which says nothing of the certificate; %d live on",
			t.r.SessionsDropped, len(t.r.SessionIDs), len(after)), nil
	case dropped > 0:
		return fmt.Sprintf("%d of %d sessions ended, no more than before the rotation", dropped, all), nil
	}
	return fmt.Sprintf("all %d sessions live on", all), nil
}

// commit ends the rotation. The old certificate stays good until it expires:
// a broker restored from a backup still serves it.
func (t *rotating) commit(context.Context) (string, error) {
	return "the broker serves " + string(t.r.NewSerial), nil
}

// fail records that a step failed and that the way leads back from here, in
// one: after a crash the step is not taken again.
func (t *rotating) fail(ctx context.Context, step string, cause error) error {
	t.r.Steps = append(t.r.Steps, Step{Name: stepRollback, Broker: t.r.Broker, State: StepPending})
	setStep(t.r.Steps, stepRollback, t.r.Broker, t.r.At, t.now(), StepRunning, "")
	return t.mark(ctx, step, StepFailed, cause.Error())
}

// rollBack makes the old certificate the served one again, and ends the
// rotation. A broker that does not answer, because it is just being restarted
// say, is waited for: what it serves decides what is to be done.
func (t *rotating) rollBack(ctx context.Context) error {
	detail, err := t.restore(ctx)
	if ctx.Err() != nil {
		return ctx.Err() // the server stops: resumed at its next start
	}
	state := StepDone
	t.r.State = RotationRolledBack
	if err != nil {
		waited := t.now().Sub(t.rollbackSince())
		if _, final := errors.AsType[*leftAlone](err); !final && waited < rollbackPatience {
			t.r.State = RotationRunning
			if setStep(t.r.Steps, stepRollback, t.r.Broker, t.r.At, t.now(), StepRunning, err.Error()) {
				if err := t.save(ctx, stepRollback, StepRunning, err.Error()); err != nil {
					return err
				}
			}
			return &Again{After: min(max(waited/4, rollbackPause), lastRollback)}
		}
		t.r.State, state, detail = RotationFailed, StepFailed, err.Error()
	}
	if err := t.mark(ctx, stepRollback, state, detail); err != nil {
		return err
	}
	t.counts.forget(t.r.ID)
	return nil
}

// rollbackSince returns when the way back was begun.
func (t *rotating) rollbackSince() time.Time {
	for _, st := range t.r.Steps {
		if st.Name == stepRollback && st.At != nil {
			return *st.At
		}
	}
	return t.r.At
}

// A leftAlone says that there is nothing for a rollback to do, whenever it is
// tried.
type leftAlone struct{ why string }

func (l *leftAlone) Error() string { return l.why }

// restore undoes an install. A certificate that this rotation did not install
// is left alone.
func (t *rotating) restore(ctx context.Context) (string, error) {
	served := func() (ca.SerialNumber, error) {
		leaf, err := t.driver.Active(ctx)
		if err != nil {
			return "", err
		}
		return ca.SerialNumberOf(leaf.SerialNumber), nil
	}
	serial, err := served()
	switch {
	case err != nil:
		// Not to be rolled back unseen: an install that failed has left the old
		// pair active, and the one before it is older still.
		return "", err
	case serial == t.r.OldSerial:
		return "the broker serves " + string(serial), nil
	case serial != t.r.NewSerial:
		return "", &leftAlone{fmt.Sprintf("the broker serves %s, which this rotation did not install: left alone", serial)}
	}
	err = t.driver.Rollback(ctx)
	if errors.Is(err, brokers.ErrNoGeneration) {
		return "", &leftAlone{err.Error()}
	}
	if err != nil {
		return "", err
	}
	if serial, err = served(); err == nil && serial != t.r.OldSerial {
		err = &leftAlone{fmt.Sprintf("rolled back, and the broker serves %s, not %s", serial, t.r.OldSerial)}
	}
	return "the broker serves " + string(serial) + " again", err
}
