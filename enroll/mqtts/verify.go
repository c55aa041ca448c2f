package mqtts

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"time"
)

// Verify connects to t and reports what it saw. The report is never nil. When
// Verify returns, every connection is closed and no goroutine is left. It is
// safe for concurrent use.
func Verify(ctx context.Context, t Target) *Report {
	start := time.Now()
	err := t.Validate()
	t = t.withDefaults()
	r := &run{target: t, report: &Report{
		Target:    ReportTarget{URL: withScheme(t.URL), ServerName: t.ServerName, Address: t.address()},
		StartedAt: start.UTC(), Checks: []Check{},
	}}
	if err != nil {
		r.refuse(err)
	} else {
		var cancel context.CancelFunc
		r.ctx, cancel = context.WithTimeout(ctx, t.Timeout)
		defer cancel()
		r.prepare()
		r.verify()
	}
	r.report.DurationMs = milliseconds(time.Since(start))
	return r.report
}

// A run is one call of Verify: one attempt, or two where the MQTT version has
// to be found out.
type run struct {
	target   Target
	endpoint Endpoint
	ctx      context.Context
	report   *Report
	roots    *x509.CertPool
	own      preflight
	crlError error // of Target.FetchCRLs
	quiet    bool  // makes no other connections to name a cause
}

func (r *run) prepare() {
	r.endpoint, _ = ParseURL(r.target.URL) // the target is valid
	r.roots = x509.NewCertPool()
	for _, c := range r.target.Roots {
		r.roots.AddCert(c)
	}
	if r.target.FetchCRLs != nil {
		ctx, cancel := context.WithTimeout(r.ctx, r.target.StepTimeout)
		defer cancel()
		crls, err := r.target.FetchCRLs(ctx)
		r.target.CRLs, r.crlError = slices.Concat(r.target.CRLs, crls), err
	}
	r.own = examine(r.target)
}

// refuse reports a target that cannot be verified. Nothing is dialled.
func (r *run) refuse(err error) {
	code := CodeInvalidTarget
	if errors.Is(err, errNoRoots) {
		code = CodeTrustBundleUnreadable
	}
	l := newLedger()
	l.note(diagnose(code, StepTCP, facts{"error": err.Error()}))
	l.skipRest()
	r.adopt(&attempt{run: r, ledger: l})
}

// verify runs the steps, then the checks of a negative run.
func (r *run) verify() {
	a := r.positive()
	r.adopt(a)
	if r.target.Negative {
		r.negate(a)
		r.report.Verdict = verdictOf(r.report)
	}
}

// positive runs the steps. Where version 5 was refused, or answered with silence,
// it finds out whether 3.1.1 does better.
func (r *run) positive() *attempt {
	if r.target.Version == Version311 {
		return r.attempt(mqtt311)
	}
	a := r.attempt(mqtt5)
	if !a.doubtsVersion() {
		return a
	}
	b := r.attempt(mqtt311)
	speaks := b.answered && !unsupportedVersion(b.code)
	switch auto := r.target.Version == VersionAuto; {
	case auto && speaks:
		b.note(diagnose(CodeMQTT3Only, StepConnack, a.versionFacts()))
		return b
	case auto && b.refusal != nil && b.refusal.Alert != 0: // clearer than silence
		return b
	case speaks:
		a.blameVersion()
	}
	return a
}

// adopt takes over what an attempt saw as the report.
func (r *run) adopt(a *attempt) {
	a.settleSilence()
	if r.crlError != nil {
		a.note(a.diagnosis(CodeCRLUnavailable, StepVerify, facts{"error": errorText(r.crlError)}))
	}
	a.seal()
	p := r.report
	p.Steps, p.Diagnosis = a.steps, a.diagnoses
	p.TLS, p.MQTT, p.ServerCertificate, p.Refused = a.tls, a.mqtt, a.certificate, a.refusal
	if a.address != "" {
		p.Target.Address = a.address
	}
	p.Verdict = verdictOf(p)
}

// verdictOf judges a report: fail when a step failed, an error was diagnosed or a
// check failed; inconclusive when none did, but something could not be decided.
func verdictOf(p *Report) Verdict {
	if p.Failed() != nil || p.hasError() {
		return VerdictFail
	}
	open := slices.ContainsFunc(p.Diagnosis, func(d Diagnosis) bool { return undecided(d.Code) })
	for _, c := range p.Checks {
		switch c.Result {
		case CheckFail:
			return VerdictFail
		case CheckInconclusive:
			open = true
		}
	}
	if open {
		return VerdictInconclusive
	}
	return VerdictPass
}

func (r *Report) hasError() bool {
	for _, d := range r.Diagnosis {
		if d.Severity == SeverityError {
			return true
		}
	}
	return false
}
