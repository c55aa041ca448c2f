package enroll

import (
	"context"
	"errors"
	"maps"
	"slices"
)

// Parts of one proof run beside each other, at the servers that drive the
// brokers. Each keeps to the steps of its brokers, and whoever is last says what
// they all amount to.

// save stores the row with its event, which say makes; say may change the row.
// Where a part at another server stored the row meanwhile, it is stored over
// that. mu is held, or nobody else runs.
func (p *proof) save(ctx context.Context, say func() (action string, detail any)) error {
	for {
		action, detail := say()
		err := p.store.SaveRevocation(ctx, p.r, Change{Event: newEvent(p.now(), "server", action, "revocation:"+p.r.ID, detail)})
		if err == nil {
			p.loaded = slices.Clone(p.r.Steps)
			return nil
		}
		if !isKind(err, KindConflict) {
			return err
		}
		if merged, mergeErr := p.merge(ctx); mergeErr != nil || !merged {
			return errors.Join(err, mergeErr)
		}
	}
}

// merge takes over what another part stored. It does not where the other is
// about the same brokers, or the revocation has ended: then this attempt is not
// the only one, and the row is the other's.
func (p *proof) merge(ctx context.Context) (bool, error) {
	fresh, err := p.store.Revocation(ctx, p.r.ID)
	if err != nil || fresh.ended() || fresh.Version == p.r.Version {
		return false, err
	}
	for i, st := range fresh.Steps {
		mine := slices.ContainsFunc(p.brokers, func(b *Broker) bool { return b.ID == st.Broker })
		before, now := stepOf(p.loaded, st.Name, st.Broker), stepOf(p.r.Steps, st.Name, st.Broker)
		if before == nil || now == nil {
			return false, nil
		}
		if mine && (before.State != st.State || before.Detail != st.Detail) {
			return false, nil
		}
		if before.State != now.State || before.Detail != now.Detail { // what is about to be stored
			fresh.Steps[i] = *now
		}
	}
	p.loaded = slices.Clone(fresh.Steps)
	fresh.Attempts = max(fresh.Attempts, p.r.Attempts)
	*p.r = *fresh
	return true, nil
}

// conclude stores the evidence and what it amounts to, together with what the
// other parts saw.
func (p *proof) conclude(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	earlier := p.r.Evidence
	return p.save(ctx, func() (string, any) {
		if p.r.Evidence != nil {
			earlier = p.r.Evidence
		}
		state, step, detail := p.judgement()
		if state == RevocationProven || state == RevocationRecorded {
			p.doomed.forget(p.r.ID)
		}
		seen, numbers := slices.Clone(p.seen), maps.Clone(p.numbers)
		if earlier != nil {
			for _, o := range earlier.Brokers {
				if !slices.ContainsFunc(p.brokers, func(b *Broker) bool { return b.ID == o.Broker }) {
					seen = append(seen, o)
				}
			}
			if len(seen) > len(p.seen) {
				for scope, n := range earlier.CRLNumbers {
					numbers[scope] = max(numbers[scope], n)
				}
			}
		}
		p.r.State, p.r.Evidence = state, newEvidence(numbers, seen)
		setStep(p.r.Steps, stepEvidence, "", p.r.At, p.now(), step, detail)
		return "revocation." + string(state), p.r.Evidence
	})
}

// judgement says what the steps of all brokers amount to. mu is held.
func (p *proof) judgement() (RevocationState, StepState, string) {
	state, step, detail := RevocationRecorded, StepDone, "no broker is registered; the device is on the CRL"
	for _, st := range p.r.Steps {
		if st.Name != stepRefusal {
			continue
		}
		switch why, failed := p.lacks(st.Broker); {
		case failed:
			return RevocationUnproven, StepFailed, why
		case why != "":
			state, step, detail = RevocationRunning, StepPending, why
		case state == RevocationRecorded:
			state, detail = RevocationProven, "every broker refuses"
		}
	}
	return state, step, detail
}

// lacks says what is not proven at a broker, empty for nothing, and whether
// nobody is about to look.
func (p *proof) lacks(broker string) (why string, failed bool) {
	refusal, session := stepState(p.r.Steps, stepRefusal, broker), stepState(p.r.Steps, stepSession, broker)
	switch d := p.elsewhere[broker]; {
	case refusal == StepDone && session == StepFailed:
		return "broker " + broker + " refuses, but live sessions may go on there; tried again", true
	case refusal == StepDone:
		return "", false
	case d != nil && !d.Live:
		return "broker " + broker + " " + d.waiting(), true
	case d != nil && refusal == StepPending:
		return "server " + d.Server + " is about to look at broker " + broker, false
	}
	return "broker " + broker + " was not seen to refuse; tried again", true
}
