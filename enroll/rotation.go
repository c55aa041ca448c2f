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
