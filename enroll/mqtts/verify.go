package mqtts

import (
	"context"
	"crypto/x509"
	"errors"
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
}

func (r *run) prepare() {
	r.endpoint, _ = ParseURL(r.target.URL) // the target is valid
	r.roots = x509.NewCertPool()
	for _, c := range r.target.Roots {
		r.roots.AddCert(c)
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

// verify runs the steps. Where version 5 was refused, or answered with silence,
// it finds out whether 3.1.1 does better.
func (r *run) verify() {
	if r.target.Version == Version311 {
		r.adopt(r.attempt(mqtt311))
		return
	}
	a := r.attempt(mqtt5)
	if !a.doubtsVersion() {
		r.adopt(a)
		return
	}
	b := r.attempt(mqtt311)
	speaks := b.answered && !unsupportedVersion(b.code)
	switch auto := r.target.Version == VersionAuto; {
	case auto && speaks:
		b.note(diagnose(CodeMQTT3Only, StepConnack, a.versionFacts()))
		r.adopt(b)
	case auto && b.refusal != nil && b.refusal.Alert != 0: // clearer than silence
		r.adopt(b)
	case speaks:
		a.blameVersion()
		r.adopt(a)
	default:
		r.adopt(a)
	}
}

// adopt takes over what an attempt saw as the report.
func (r *run) adopt(a *attempt) {
	a.settleSilence()
	a.seal()
	p := r.report
	p.Steps, p.Diagnosis = a.steps, a.diagnoses
	p.TLS, p.MQTT, p.ServerCertificate, p.Refused = a.tls, a.mqtt, a.certificate, a.refusal
	if a.address != "" {
		p.Target.Address = a.address
	}
	p.Verdict = verdictOf(p)
}

// verdictOf judges a report: fail when a step failed or an error was diagnosed.
func verdictOf(p *Report) Verdict {
	if p.Failed() != nil {
		return VerdictFail
	}
	for _, d := range p.Diagnosis {
		if d.Severity == SeverityError {
			return VerdictFail
		}
	}
	if p.Has(CodeInterrupted) {
		return VerdictInconclusive
	}
	return VerdictPass
}
