package enroll

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

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
