package mqtts

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
)

// A trial is how one check is made.
type trial struct {
	name     CheckName
	accepted Code // what it means when the broker accepts
	// try makes the check. A nil *outcome says that there is nothing to make it
	// with, or that it was not asked for.
	try func(*negative) (*outcome, error)
}

// trials are the checks, in their order.
var trials = [...]trial{
	{CheckNoClientCertificate, CodeClientCertificateNotEnforced, func(n *negative) (*outcome, error) { return n.present(nil, nil), nil }},
	{CheckForeignCA, CodeForeignAccepted, func(n *negative) (*outcome, error) {
		return n.presentOr(n.target.Material.Foreign, n.foreign)
	}},
	{CheckSameNameRogueCA, CodeForeignAccepted, func(n *negative) (*outcome, error) {
		return n.presentOr(n.target.Material.SameNameRogue, n.rogue)
	}},
	{CheckExpired, CodeExpiredAccepted, given(func(m Material) *tls.Certificate { return m.Expired })},
	{CheckNotYetValid, CodeNotYetValidAccepted, given(func(m Material) *tls.Certificate { return m.NotYetValid })},
	{CheckWrongUsage, CodeWrongUsageAccepted, given(func(m Material) *tls.Certificate { return m.WrongUsage })},
	{CheckRevoked, CodeRevokedAccepted, given(func(m Material) *tls.Certificate { return m.Revoked })},
	{CheckPlaintext, CodePlaintextAccepted, func(n *negative) (*outcome, error) { return n.plaintext(), nil }},
	{CheckOldTLS, CodeOldTLSAccepted, func(n *negative) (*outcome, error) { return n.oldTLS(), nil }},
	{CheckResumeAfterRevocation, CodeRevokedAccepted, (*negative).resume},
}

// given returns the try of a check that needs a certificate of the trusted
// authority.
func given(piece func(Material) *tls.Certificate) func(*negative) (*outcome, error) {
	return func(n *negative) (*outcome, error) {
		pair := piece(n.target.Material)
		if pair == nil {
			return nil, nil
		}
		return n.present(pair, nil), nil
	}
}

// A negative is the negative part of a run. What it tries differs from the
// positive control in one thing each.
type negative struct {
	*run
	version version // of the control
	silent  []int   // indexes of the checks that passed by an outcome that is silent
}

// An outcome is what one trial came to.
type outcome struct {
	observed Observed
	accepted bool   // the broker let us in
	refused  bool   // it did not
	silent   bool   // it refused without a word, or with one about itself: a broker in trouble looks the same
	error    string // why neither was seen
	facts    facts
}

// negate makes the checks, once the eight steps are done.
func (r *run) negate(control *attempt) {
	n := &negative{run: r, version: control.version}
	for i, t := range trials {
		c, silent := n.check(t, control)
		if silent {
			n.silent = append(n.silent, i)
		}
		r.report.Checks = append(r.report.Checks, c)
	}
	n.confirmSilence()
}

// check makes one check, and tells whether it passed by an outcome that is silent.
func (n *negative) check(t trial, control *attempt) (c Check, silent bool) {
	c = Check{Name: t.name, Expect: ExpectRefused, Result: CheckInconclusive, Diagnosis: []Diagnosis{}}
	if why := n.uncontrolled(); why != "" {
		c.Diagnosis = append(c.Diagnosis, control.diagnosis(CodeControlFailed, StepTCP, facts{"error": why}))
		return c, false
	}
	o, err := t.try(n)
	switch {
	case err != nil:
		o = &outcome{error: err.Error(), observed: Observed{Step: StepTCP}}
	case o == nil:
		c.Result = CheckSkipped
		return c, false
	default:
		c.Observed = &o.observed
	}
	note := func(code Code, severity Severity, fs facts) {
		d := control.diagnosis(code, o.observed.Step, fs)
		d.Severity = severity
		c.Diagnosis = append(c.Diagnosis, d)
	}
	switch {
	case o.accepted:
		c.Result = CheckFail
		code := t.accepted
		full := n.report.Check(CheckRevoked) // by a full handshake: then it is not resumption that lets it in
		if code == CodeRevokedAccepted && o.observed.Resumed && (full == nil || full.Result != CheckFail) {
			code = CodeRevokedAcceptedByResumption
		}
		o.facts["kind"] = kinds[t.name]
		note(code, SeverityError, o.facts)
	case o.refused:
		c.Result = CheckPass
		if o.observed.Step == StepConnack {
			note(CodeRefusedAtMQTT, SeverityWarning, facts{"reason": o.observed.Error})
		}
	default:
		note(CodeCheckUndecided, SeverityWarning, facts{"error": o.error})
	}
	return c, o.refused && o.silent
}

// kinds say what was wrong with an authority that was accepted.
var kinds = map[CheckName]string{
	CheckForeignCA:       "an unknown one",
	CheckSameNameRogueCA: "one with the name of a trusted one, and another key",
}

// uncontrolled says why nothing that a check sees would count, "" when it does:
// the positive control of this run failed, or there is no time.
func (n *negative) uncontrolled() string {
	connack := n.report.Step(StepConnack)
	switch {
	case n.report.Verdict == VerdictFail:
		return "The positive control of this run failed"
	case connack.Result == ResultSkipped: // interrupted
		return "The positive control of this run did not come to its end"
	case errors.Is(n.ctx.Err(), context.Canceled):
		return "The run was interrupted"
	case n.ctx.Err() != nil:
		return "The time for the run was over before this check"
	}
	return ""
}

// confirmSilence repeats the positive control when a broker refused without a
// word, to tell that from one that has died meanwhile.
func (n *negative) confirmSilence() {
	if len(n.silent) == 0 {
		return
	}
	a := n.attemptWith(n.target.Certificate, nil)
	if a.answered && a.code == 0 {
		return
	}
	for _, i := range n.silent {
		c := &n.report.Checks[i]
		c.Result = CheckInconclusive
		c.Diagnosis = append(c.Diagnosis, a.diagnosis(CodeControlFailed, c.Observed.Step,
			facts{"error": "The broker refused in silence, and the positive control failed when it was repeated"}))
	}
}

// attemptWith connects as the control did, but with another certificate.
func (n *negative) attemptWith(pair *tls.Certificate, sessions tls.ClientSessionCache) *attempt {
	t := n.target
	t.Certificate, t.SkipPublish, t.SessionCache = pair, true, sessions
	r := &run{target: t, endpoint: n.endpoint, ctx: n.ctx, roots: n.roots, quiet: true, report: &Report{Target: n.report.Target}}
	r.own = examine(t)
	a := r.attempt(n.version)
	a.settleSilence()
	return a
}

// presentOr presents the certificate given, or the one that make makes.
func (n *negative) presentOr(pair *tls.Certificate, make func() (*tls.Certificate, error)) (*outcome, error) {
	if pair == nil {
		var err error
		if pair, err = make(); err != nil {
			return nil, err
		}
	}
	return n.present(pair, nil), nil
}

// present tries to get in with a certificate, or without one.
func (n *negative) present(pair *tls.Certificate, sessions tls.ClientSessionCache) *outcome {
	a := n.attemptWith(pair, sessions)
	o := &outcome{facts: a.own.facts(), observed: Observed{
		Step: a.step(), CertificateRequested: a.requested, CertificateSent: a.sent,
		AfterFinished: a.step() == StepConnack, Resumed: a.tls != nil && a.tls.Resumed,
	}}
	o.facts["asked"], o.facts["unlisted"] = "", ""
	if !a.requested && !o.observed.Resumed {
		o.facts["asked"] = " It did not even ask for one."
	}
	if a.own.unlisted {
		o.facts["unlisted"] = " The CRL given does not list it: is it revoked at all?"
	}
	if a.answered {
		code := int(a.code)
		o.observed.ReasonCode = &code
	}
	switch refusal := cmp.Or(a.refusal, a.rejection); {
	case a.answered && a.code == 0:
		o.accepted, o.observed.Step = true, StepConnack
	case a.answered && connackCode(a.code) == CodeConnackServerUnavailable:
		o.error = a.reason // it had no time for us, whoever we are
		o.observed.refusedAs(*refusal)
	case refusal != nil:
		o.refused = true
		o.silent = !a.answered && (refusal.Alert == 0 || refusal.Alert == alertInternalError)
		o.observed.refusedAs(*refusal)
	default:
		o.error = a.ended()
		o.observed.Error = o.error
	}
	return o
}

func (o *Observed) refusedAs(r Refusal) {
	o.Step, o.AfterFinished, o.Error = r.Step, r.AfterFinished, r.Detail
	if r.Alert != 0 {
		o.Alert, o.AlertName = &r.Alert, r.AlertName
	}
}

// ended says how an attempt ended that neither was refused nor came in.
func (a *attempt) ended() string {
	for _, s := range a.steps {
		if s.Result == ResultFail {
			return fmt.Sprintf("%s: %s", s.Name, s.Detail)
		}
	}
	return "the run was interrupted"
}

// resume connects twice with the revoked certificate and one session cache.
func (n *negative) resume() (*outcome, error) {
	m := n.target.Material
	if !m.Resume || m.Revoked == nil {
		return nil, nil
	}
	sessions := m.Sessions
	if sessions == nil {
		sessions = tls.NewLRUClientSessionCache(4)
	}
	first := n.present(m.Revoked, sessions)
	if first.accepted && first.observed.Resumed || !first.accepted && !first.refused {
		return first, nil
	}
	second := n.present(m.Revoked, sessions)
	if first.accepted && !second.accepted {
		return first, nil
	}
	return second, nil
}
