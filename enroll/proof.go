package enroll

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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
// is unproven, and attempted again: with the same canary where every broker
// admitted it, or none did and it was not revoked in vain. After a crash the
// attempt starts anew. A
// hold that was lifted before it was proven is left at that.
//
// A broker that another server drives is left to that one, with a canary of its
// own; the subject "ID BROKER" is such a part. Parts run beside each other, and
// each keeps to the steps of its brokers.
func (s *Service) AdvanceRevocation(ctx context.Context, subject string) error {
	id, broker := cutSubject(subject)
	r, err := s.store.Revocation(ctx, id)
	if err != nil {
		return err
	}
	if r.ended() {
		s.noteProof(r.ID, true)
		return nil
	}
	select {
	case s.proofs <- struct{}{}:
		defer func() { <-s.proofs }()
	default:
		return &Again{After: queuePause}
	}
	p := &proof{Service: s, r: r, broker: broker, loaded: slices.Clone(r.Steps)}
	if err := p.attempt(ctx); err != nil {
		return fmt.Errorf("revocation %s of %s: %w", r.ID, r.Device, err)
	}
	proven := p.r.ended() || !slices.ContainsFunc(p.brokers, func(b *Broker) bool { why, _ := p.lacks(b.ID); return why != "" })
	s.noteProof(r.ID, proven)
	if !proven {
		return &Again{After: min(firstRetry<<min(p.r.Attempts-1, 10), lastRetry)}
	}
	if broker == "" && p.r.State == RevocationRunning {
		return &Again{After: driverPatience + announceEvery} // a server that dies at its part is told of
	}
	return nil
}

// ended reports whether there is no more to prove.
func (r *Revocation) ended() bool {
	return r.State == RevocationProven || r.State == RevocationRecorded
}

// noteProof keeps count of revocations without proof.
func (s *Service) noteProof(id string, proven bool) {
	s.unprovenMu.Lock()
	defer s.unprovenMu.Unlock()
	if proven {
		delete(s.unproven, id)
		return
	}
	if s.unproven == nil {
		s.unproven = map[string]bool{}
	}
	s.unproven[id] = true
}

// Unproven returns how many revocations this process last attempted to prove
// without seeing every broker refuse.
func (s *Service) Unproven() int {
	s.unprovenMu.Lock()
	defer s.unprovenMu.Unlock()
	return len(s.unproven)
}

// A proof is one attempt to prove a revocation at the brokers of this server.
type proof struct {
	*Service
	broker    string     // the only one it is about; empty for all that no other server drives
	mu        sync.Mutex // guards r, loaded, and seen's elements
	r         *Revocation
	loaded    []Step // as the store has them, as far as is known
	brokers   []*Broker
	elsewhere map[string]*BrokerDriver // what other servers drive
	bad       *doomed                  // its canary is revoked in the course of the attempt
	good      *canary
	seen      []Observation // by index of brokers
	numbers   map[string]int64
}

func (p *proof) attempt(ctx context.Context) error {
	lifted, err := p.lifted(ctx)
	if err != nil || lifted {
		return err
	}
	if p.elsewhere, err = p.driversElsewhere(ctx); err != nil {
		return err
	}
	others, err := p.chooseBrokers(ctx)
	if err != nil {
		return err
	}
	if err := p.handOver(ctx, JobRevocation, p.r.ID, others...); err != nil {
		return err
	}
	live := slices.ContainsFunc(others, func(id string) bool { return p.elsewhere[id].Live })
	if len(p.brokers) == 0 && (live || p.broker != "") {
		return nil // the others do it all, the CRL included
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
	for _, id := range others {
		if d := p.elsewhere[id]; !d.Live {
			if err := errors.Join(p.mark(ctx, stepCRLLoaded, id, StepPending, "%s", d.waiting()), p.mark(ctx, stepSession, id, StepPending, "%s", d.waiting())); err != nil {
				return err
			}
		}
	}
	return p.conclude(ctx)
}

// chooseBrokers finds the brokers that this attempt looks at: those that were
// not seen to refuse yet, but for others, which their own servers look at.
func (p *proof) chooseBrokers(ctx context.Context) (others []string, err error) {
	ids, err := p.brokerIDs(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		switch {
		case stepState(p.r.Steps, stepRefusal, id) == StepSkipped: // registered after the decision
		case p.provenAt(id) != nil:
		case p.broker != "" && p.broker != id:
		case p.elsewhere[id] != nil:
			others = append(others, id)
		default:
			b, err := p.store.Broker(ctx, id)
			if err != nil {
				return nil, err
			}
			p.brokers = append(p.brokers, b)
		}
	}
	return others, nil
}

// provenAt returns what an earlier attempt saw at a broker, if that was all
// there is to see.
func (p *proof) provenAt(broker string) *Observation {
	if stepState(p.r.Steps, stepRefusal, broker) != StepDone || stepState(p.r.Steps, stepSession, broker) == StepFailed {
		return nil
	}
	return p.r.Evidence.at(broker) // nil after a crash before it was stored
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
	p.doomed.forget(p.r.ID)
	p.r.State = RevocationRecorded
	setStep(p.r.Steps, stepEvidence, "", p.r.At, p.now(), StepSkipped, "the device is "+string(d.Status)+": the hold is over")
	return true, p.save(ctx, func() (string, any) {
		return "revocation." + string(p.r.State), map[string]any{"device": d.Status}
	})
}

// mark moves a step, and stores it.
func (p *proof) mark(ctx context.Context, step, broker string, state StepState, format string, args ...any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	detail := fmt.Sprintf(format, args...)
	if !setStep(p.r.Steps, step, broker, p.r.At, p.now(), state, detail) {
		return nil
	}
	return p.save(ctx, func() (string, any) {
		return "revocation.step", map[string]any{"step": step, "broker": broker, "state": state, "detail": detail}
	})
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
	if p.bad = p.doomed.of(p.r.ID, p.brokers, p.now()); p.bad == nil {
		scope, err := p.scope(ctx)
		if err != nil {
			return err
		}
		c, err := p.newCanary(ctx, canaryProfile, scope)
		if err != nil {
			return err
		}
		p.bad = p.doomed.take(p.r.ID, c)
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
		p.mu.Lock()
		admitted := p.bad.admitted[b.ID]
		p.seen[i] = Observation{
			Broker: b.ID, At: p.now(), Canary: p.bad.cert.SerialNumber, Control: p.good.cert.SerialNumber, Admitted: admitted,
		}
		if before := p.r.Evidence.at(b.ID); before != nil {
			p.seen[i].Closed = before.Closed
		}
		p.mu.Unlock()
		if p.bad.revoked {
			return nil // it was seen in an earlier attempt
		}
		report := p.probe(ctx, b, p.bad.canary, timeout)
		if ctx.Err() != nil {
			return ctx.Err() // the server stops: nothing was seen
		}
		if admitted = report.Verdict == mqtts.VerdictPass; !admitted {
			return p.mark(ctx, stepAdmitted, b.ID, StepFailed, "%s", failureOf(report))
		}
		p.mu.Lock()
		p.bad.admitted[b.ID], p.seen[i].Admitted = true, true
		p.mu.Unlock()
		return p.mark(ctx, stepAdmitted, b.ID, StepDone, "canary %s got its CONNACK", p.bad.cert.SerialNumber)
	})
}

// scope returns the CRL that the canary must go on to be refused with the
// device: that of the device's certificate which lives longest. Nil for any: the
// device has no certificate that lives, or its issuer signs no more.
func (p *proof) scope(ctx context.Context) (*ca.CRLScope, error) {
	var last *ca.Certificate
	for _, serial := range p.r.SerialNumbers {
		cert, err := p.store.Certificate(ctx, serial)
		if err != nil {
			return nil, err
		}
		if last == nil || cert.NotAfter.After(last.NotAfter) {
			last = cert
		}
	}
	if last == nil || !p.now().Before(last.NotAfter) {
		return nil, nil
	}
	issuer, err := p.ca.Issuer(last.IssuerID)
	if err != nil {
		return nil, err
	}
	if issuer.State != ca.IssuerActive {
		return nil, nil
	}
	scope := last.CRLScope()
	return &scope, nil
}

// signCRL revokes the canary, if a broker admitted it, and publishes a CRL that
// carries it and the device's certificates, unless the newest one does.
func (p *proof) signCRL(ctx context.Context) error {
	serials := p.r.SerialNumbers
	if p.bad != nil && len(p.bad.admitted) > 0 {
		if err := p.revokeCanary(ctx); err != nil {
			return fmt.Errorf("revoke the canary: %w", err)
		}
		serials = append(slices.Clone(serials), p.bad.cert.SerialNumber)
	}
	scopes := map[ca.CRLScope][]*ca.Certificate{}
	for _, serial := range serials {
		cert, err := p.store.Certificate(ctx, serial)
		if err != nil {
			return err
		}
		scopes[cert.CRLScope()] = append(scopes[cert.CRLScope()], cert)
	}
	p.numbers = map[string]int64{}
	detail := "no certificate to put on a CRL"
	byName := func(a, b ca.CRLScope) int { return strings.Compare(a.String(), b.String()) }
	for _, scope := range slices.SortedFunc(maps.Keys(scopes), byName) {
		crl, err := p.crlShowing(ctx, scope, scopes[scope])
		if err != nil {
			return errors.Join(err, p.mark(ctx, stepCRLSigned, "", StepFailed, "issuer %s: the CRL was not published; see the server's log", scope))
		}
		p.numbers[scope.String()] = crl.Number
		if detail = fmt.Sprintf("CRL %d of issuer %s", crl.Number, scope); len(p.numbers) > 1 {
			detail = fmt.Sprintf("%d CRLs, the last %s", len(p.numbers), detail)
		}
	}
	for i := range p.seen {
		p.seen[i].CRLNumber = p.numbers[p.bad.cert.CRLScope().String()]
	}
	return p.mark(ctx, stepCRLSigned, "", StepDone, "%s", detail)
}

// revokeCanary revokes the attempt's canary, once.
func (p *proof) revokeCanary(ctx context.Context) error {
	if p.bad.revoked {
		return nil
	}
	event := newEvent(p.now(), "server", "canary.revoke", "certificate:"+string(p.bad.cert.SerialNumber), map[string]any{"revocation": p.r.ID})
	_, err := p.store.RevokeCertificate(ctx, p.bad.cert.SerialNumber, ca.ReasonCessationOfOperation, p.now(), Change{Event: event})
	if err == nil || isKind(err, ca.KindRevoked) { // by an attempt whose answer was lost
		p.bad.revoked, err = true, nil
	}
	return err
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
	var last error // what went wrong, and not that there was no more time
	for {
		err := f(ctx)
		if last != nil && ctx.Err() != nil && err != nil {
			return last
		}
		last = err
		if _, refused := errors.AsType[*brokers.GuardError](err); err == nil || refused || pause(ctx, probePause) != nil {
			return err
		}
	}
}

// watch looks until the broker refuses the canary and admits the good one, or
// the attempt's time is over.
func (p *proof) watch(ctx context.Context, i int) error {
	b := p.brokers[i]
	if !p.seen[i].Admitted {
		return p.mark(ctx, stepRefusal, b.ID, StepFailed, "the canary was not seen admitted before its revocation; the next attempt looks again")
	}
	timeout := min(probeTimeout, p.cfg.ProofTimeout)
	deadline := time.Now().Add(p.cfg.ProofTimeout)
	for {
		refused := p.probe(ctx, b, p.bad.canary, timeout)
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
