package enroll

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// Times of one attempt to prove a revocation.
const (
	admitTimeout = 2 * time.Second        // a dead broker holds the CRL up no longer
	probeTimeout = 4 * time.Second        // of one look at a broker
	probePause   = 200 * time.Millisecond // between looks, while a broker reloads
	firstRetry   = 2 * time.Second        // after an attempt without proof; doubles up to
	lastRetry    = 15 * time.Minute
	queuePause   = 2 * time.Second // while maxProofs attempts are under way
)

// maxProofs is how many attempts run at once in this process, fewer than there
// are workers: many revocations and a dead broker must not keep CRLs waiting.
const maxProofs = 4

// AdvanceRevocation handles JobRevocation. One attempt:
//
//  1. A fresh canary of the devices' issuer is admitted by each broker.
//  2. It is revoked, and a CRL signed that carries it and the device.
//  3. Each broker loads the CRL and closes the device's live sessions.
//  4. Each broker refuses the canary, and still admits a good one.
//
// What was seen is the evidence. Without proof at every broker the revocation
// is unproven, and attempted again; after a crash the attempt starts anew. A
// hold that was lifted before it was proven is left at that.
func (s *Service) AdvanceRevocation(ctx context.Context, id string) error {
	r, err := s.store.Revocation(ctx, id)
	if err != nil {
		return err
	}
	if r.State == RevocationProven || r.State == RevocationRecorded {
		return nil
	}
	select {
	case s.proofs <- struct{}{}:
		defer func() { <-s.proofs }()
	default:
		return &Again{After: queuePause}
	}
	p := &proof{Service: s, r: r}
	if err := p.attempt(ctx); err != nil {
		return fmt.Errorf("revocation %s of %s: %w", r.ID, r.Device, err)
	}
	s.noteProof(r)
	if r.State == RevocationUnproven {
		return &Again{After: min(firstRetry<<min(r.Attempts-1, 10), lastRetry)}
	}
	return nil
}

// noteProof keeps count of revocations without proof.
func (s *Service) noteProof(r *Revocation) {
	s.unprovenMu.Lock()
	defer s.unprovenMu.Unlock()
	if r.State != RevocationUnproven {
		delete(s.unproven, r.ID)
		return
	}
	if s.unproven == nil {
		s.unproven = map[string]bool{}
	}
	s.unproven[r.ID] = true
}

// Unproven returns how many revocations this process last attempted to prove
// without seeing every broker refuse.
func (s *Service) Unproven() int {
	s.unprovenMu.Lock()
	defer s.unprovenMu.Unlock()
	return len(s.unproven)
}

// A proof is one attempt to prove a revocation.
type proof struct {
	*Service
	mu      sync.Mutex // guards r, and seen's elements
	r       *Revocation
	brokers []*Broker
	bad     *canary // revoked in the course of the attempt
	good    *canary
	seen    []Observation // by index of brokers
	numbers map[string]int64
}

func (p *proof) attempt(ctx context.Context) error {
	lifted, err := p.lifted(ctx)
	if err != nil || lifted {
		return err
	}
	ids, err := p.brokerIDs(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		b, err := p.store.Broker(ctx, id)
		if err != nil {
			return err
		}
		if stepState(p.r.Steps, stepRefusal, id) == StepSkipped {
			continue // registered after the decision
		}
		p.brokers = append(p.brokers, b)
	}
	p.r.Attempts++
	if len(p.brokers) > 0 {
		if err := p.admit(ctx); err != nil {
			return err
		}
	}
	if err := p.signCRL(ctx); err != nil {
		return err
	}
	if err := p.eachBroker(ctx, p.enforce); err != nil {
		return err
	}
	return p.conclude(ctx)
}

// lifted ends the proof of a hold that is no more: the device was released, or
// revoked for good, which has a proof of its own.
func (p *proof) lifted(ctx context.Context) (bool, error) {
	if p.r.Reason != ca.ReasonCertificateHold {
		return false, nil
	}
	d, err := p.store.Device(ctx, p.r.Device)
	if err != nil || d.Status == DeviceHeld {
		return false, err
	}
	p.r.State = RevocationRecorded
	setStep(p.r.Steps, stepEvidence, "", p.r.At, p.now(), StepSkipped, "the device is "+string(d.Status)+": the hold is over")
	return true, p.save(ctx, "revocation."+string(p.r.State), map[string]any{"device": d.Status})
}

// mark moves a step, and stores it.
func (p *proof) mark(ctx context.Context, step, broker string, state StepState, format string, args ...any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	detail := fmt.Sprintf(format, args...)
	if !setStep(p.r.Steps, step, broker, p.r.At, p.now(), state, detail) {
		return nil
	}
	return p.save(ctx, "revocation.step", map[string]any{"step": step, "broker": broker, "state": state, "detail": detail})
}

// save stores the row with its event. mu is held, or nobody else runs.
func (p *proof) save(ctx context.Context, action string, detail any) error {
	return p.store.SaveRevocation(ctx, p.r, Change{Event: newEvent(p.now(), "server", action, "revocation:"+p.r.ID, detail)})
}

// eachBroker runs f for every broker at once.
func (p *proof) eachBroker(ctx context.Context, f func(context.Context, int) error) error {
	errs := make([]error, len(p.brokers))
	var wg sync.WaitGroup
	for i := range p.brokers {
		wg.Go(func() { errs[i] = f(ctx, i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// admit shows that each broker admits the canary that is about to be revoked.
func (p *proof) admit(ctx context.Context) (err error) {
	if p.bad, err = p.newCanary(ctx, "server"); err != nil {
		return err
	}
	if p.good, err = p.goodCanary(ctx); err != nil {
		return err
	}
	p.seen = make([]Observation, len(p.brokers))
	timeout := admitTimeout
	if p.r.Attempts > 1 { // the device has been on the CRL since the first: no hurry
		timeout = probeTimeout
	}
	return p.eachBroker(ctx, func(ctx context.Context, i int) error {
		b := p.brokers[i]
		report := p.probe(ctx, b, p.bad, timeout)
		if ctx.Err() != nil {
			return ctx.Err() // the server stops: nothing was seen
		}
		admitted := report.Verdict == mqtts.VerdictPass
		p.mu.Lock()
		p.seen[i] = Observation{
			Broker: b.ID, Canary: p.bad.cert.SerialNumber, Control: p.good.cert.SerialNumber, Admitted: admitted,
			Closed: p.r.Evidence.closedAt(b.ID),
		}
		p.mu.Unlock()
		if !admitted {
			return p.mark(ctx, stepAdmitted, b.ID, StepFailed, "%s", failureOf(report))
		}
		return p.mark(ctx, stepAdmitted, b.ID, StepDone, "canary %s got its CONNACK", p.bad.cert.SerialNumber)
	})
}

// signCRL revokes the canary, and publishes a CRL that carries it and the
// device's certificates.
func (p *proof) signCRL(ctx context.Context) error {
	issuers := map[string]bool{}
	for _, serial := range p.r.SerialNumbers {
		cert, err := p.store.Certificate(ctx, serial)
		if err != nil {
			return err
		}
		issuers[cert.IssuerID] = true
	}
	if p.bad != nil {
		issuers[p.bad.cert.IssuerID] = true
		event := newEvent(p.now(), "server", "canary.revoke", "certificate:"+string(p.bad.cert.SerialNumber), map[string]any{"revocation": p.r.ID})
		if _, err := p.store.RevokeCertificate(ctx, p.bad.cert.SerialNumber, ca.ReasonCessationOfOperation, p.now(), Change{Event: event}); err != nil {
			return fmt.Errorf("revoke the canary: %w", err)
		}
	}
	p.numbers = map[string]int64{}
	detail := "no certificate to put on a CRL"
	for _, id := range slices.Sorted(maps.Keys(issuers)) {
		crl, err := p.ca.PublishCRL(ctx, id, false)
		if err != nil {
			return errors.Join(err, p.mark(ctx, stepCRLSigned, "", StepFailed, "issuer %s: the CRL was not published; see the server's log", id))
		}
		p.numbers[id] = crl.Number
		if detail = fmt.Sprintf("CRL %d of issuer %s", crl.Number, id); len(p.numbers) > 1 {
			detail = fmt.Sprintf("%d CRLs, the last %s", len(p.numbers), detail)
		}
	}
	return p.mark(ctx, stepCRLSigned, "", StepDone, "%s", detail)
}

// enforce makes one broker load the CRL and close the device's sessions, and
// watches it refuse.
func (p *proof) enforce(ctx context.Context, i int) error {
	b := p.brokers[i]
	driver := p.cfg.Drivers[b.ID]
	if driver == nil {
		const why = "no driver for this broker: it fetches CRLs by itself"
		if err := errors.Join(p.mark(ctx, stepCRLLoaded, b.ID, StepSkipped, why), p.mark(ctx, stepSession, b.ID, StepSkipped, "no driver for this broker")); err != nil {
			return err
		}
		return p.watch(ctx, i)
	}
	if err := p.order(ctx, func(ctx context.Context) error { return p.loadCRLs(ctx, b.ID, driver) }); ctx.Err() != nil {
		return ctx.Err() // the server stops
	} else if err != nil {
		if err := p.mark(ctx, stepCRLLoaded, b.ID, StepFailed, "%v", err); err != nil {
			return err
		}
	} else if err := p.mark(ctx, stepCRLLoaded, b.ID, StepDone, "handed to the broker"); err != nil {
		return err
	}
	err := p.order(ctx, func(ctx context.Context) error {
		closed, err := driver.Disconnect(ctx, p.r.Device)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen[i].Closed += closed
		return err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		if err := p.mark(ctx, stepSession, b.ID, StepFailed, "%v", err); err != nil {
			return err
		}
	} else if err := p.mark(ctx, stepSession, b.ID, StepDone, "%d closed", p.seen[i].Closed); err != nil {
		return err
	}
	return p.watch(ctx, i)
}

// order gives a broker an order, again while it fails (a broker that is being
// restarted takes it then) and is not refused by ourselves, for as long as it
// may take: one that hangs must not keep the evidence of the others.
func (p *proof) order(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.ProofTimeout)
	defer cancel()
	for {
		err := f(ctx)
		if _, refused := errors.AsType[*brokers.GuardError](err); err == nil || refused || pause(ctx, probePause) != nil {
			return err
		}
	}
}

// watch looks until the broker refuses the canary and admits the good one, or
// the attempt's time is over.
func (p *proof) watch(ctx context.Context, i int) error {
	b := p.brokers[i]
	timeout := min(probeTimeout, p.cfg.ProofTimeout)
	deadline := time.Now().Add(p.cfg.ProofTimeout)
	for {
		refused := p.probe(ctx, b, p.bad, timeout)
		control := p.probe(ctx, b, p.good, timeout)
		if ctx.Err() != nil {
			return ctx.Err() // the server stops: what was seen is no refusal, nor the lack of one
		}
		p.mu.Lock()
		seen := &p.seen[i]
		seen.At, seen.Refusal, seen.ControlPass = p.now(), refused.Refusal(), control.Verdict == mqtts.VerdictPass
		proven, why := seen.judge(refused, control)
		p.mu.Unlock()
		if proven {
			return p.mark(ctx, stepRefusal, b.ID, StepDone, "%s", why)
		}
		if time.Now().After(deadline) {
			return p.mark(ctx, stepRefusal, b.ID, StepFailed, "%s", why)
		}
		if err := pause(ctx, probePause); err != nil {
			return err
		}
	}
}

// judge says whether an observation proves the revocation, and why (or why
// not), for a person.
func (o *Observation) judge(refused, control *mqtts.Report) (bool, string) {
	switch {
	case refused.Step(mqtts.StepConnack).Result == mqtts.ResultPass:
		return false, "the revoked canary still gets its CONNACK: the broker has not loaded the new CRL, or checks none"
	case o.Refusal == nil:
		return false, "no refusal was seen: " + failureOf(refused)
	case !o.ControlPass:
		return false, "the broker refuses the good canary too, so its refusal of the revoked one proves nothing: " + failureOf(control)
	case !o.Admitted:
		return false, "the canary was not seen admitted before its revocation; the next attempt takes another"
	}
	return true, fmt.Sprintf("%s; a good canary is admitted", refusalText(o.Refusal))
}

// refusalText says how a broker refused.
func refusalText(r *mqtts.Refusal) string {
	switch {
	case r.Alert != 0:
		return fmt.Sprintf("refused at %s with TLS alert %d (%s)", r.Step, r.Alert, r.AlertName)
	case r.ReasonCode != 0:
		return fmt.Sprintf("refused at %s with reason code %d", r.Step, r.ReasonCode)
	}
	return fmt.Sprintf("refused at %s: %s", r.Step, r.Detail)
}

// failureOf says in a line why a verification did not pass.
func failureOf(r *mqtts.Report) string {
	if len(r.Diagnosis) > 0 {
		d := r.Diagnosis[0]
		return fmt.Sprintf("%s at %s: %s", d.Code, d.Step, d.Message)
	}
	if st := r.Failed(); st != nil {
		return fmt.Sprintf("%s: %s", st.Name, st.Detail)
	}
	return "verdict " + string(r.Verdict)
}

// conclude stores the evidence and what it amounts to.
func (p *proof) conclude(ctx context.Context) error {
	state, detail := RevocationRecorded, "no broker is registered; the device is on the CRL"
	if len(p.brokers) > 0 {
		state, detail = RevocationProven, "every broker refuses"
		for _, b := range p.brokers {
			switch {
			case stepState(p.r.Steps, stepRefusal, b.ID) != StepDone:
				state, detail = RevocationUnproven, "broker "+b.ID+" was not seen to refuse; tried again"
			case stepState(p.r.Steps, stepSession, b.ID) == StepFailed:
				state, detail = RevocationUnproven, "broker "+b.ID+" refuses, but live sessions may go on there; tried again"
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.r.State = state
	p.r.Evidence = newEvidence(p.numbers, p.seen)
	step := StepDone
	if state == RevocationUnproven {
		step = StepFailed
	}
	setStep(p.r.Steps, stepEvidence, "", p.r.At, p.now(), step, detail)
	return p.save(ctx, "revocation."+string(state), p.r.Evidence)
}

// closedAt returns how many sessions earlier attempts closed at a broker.
func (e *Evidence) closedAt(broker string) int {
	if e == nil {
		return 0
	}
	for _, o := range e.Brokers {
		if o.Broker == broker {
			return o.Closed
		}
	}
	return 0
}

// newEvidence returns evidence with its hash.
func newEvidence(numbers map[string]int64, seen []Observation) *Evidence {
	e := &Evidence{CRLNumbers: numbers, Brokers: seen}
	if e.Brokers == nil {
		e.Brokers = []Observation{}
	}
	text, err := json.Marshal(e)
	if err != nil {
		panic(fmt.Sprintf("evidence: %v", err)) // our own types
	}
	e.SHA256 = fmt.Sprintf("%x", sha256.Sum256(text))
	return e
}
