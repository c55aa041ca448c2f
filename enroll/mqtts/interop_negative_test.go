package mqtts_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
	"github.com/fleetca/fleetca/enroll/mqtts/brokerkit"
)

// A refusal is a negative run in one TLS version.
type refusal struct {
	tls    uint16
	report *mqtts.Report
}

func (r refusal) tlsText() string { return strings.TrimPrefix(tls.VersionName(r.tls), "TLS ") }

// refusals makes a negative run in each TLS version, with everything that a
// broker must refuse.
func (l *lab) refusals(t *testing.T, b *brokerkit.Broker) (all []refusal) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		target := l.target(b.MQTTS)
		target.MinTLS, target.MaxTLS, target.Negative = version, version, true
		target.Username, target.Password = brokerkit.User, brokerkit.Password
		target.Timeout, target.StepTimeout = 60*time.Second, 6*time.Second
		target.Material = mqtts.Material{
			Expired: l.issuer.issue(t, "device-1", forClients, expired), NotYetValid: l.issuer.issue(t, "device-1", forClients, notYetValid),
			WrongUsage: l.issuer.issue(t, "device-1", usage(x509.ExtKeyUsageServerAuth)), Revoked: l.revoked, Resume: true,
		}
		all = append(all, refusal{version, mqtts.Verify(t.Context(), target)})
	}
	return all
}

// An acceptance is what a broker is known to accept.
type acceptance struct {
	brokers string // how their names begin
	checks  []mqtts.CheckName
	code    mqtts.Code
}

var acceptances = []acceptance{
	{"NATS", []mqtts.CheckName{mqtts.CheckRevoked, mqtts.CheckResumeAfterRevocation}, mqtts.CodeRevokedAccepted},
	{"ejabberd", []mqtts.CheckName{mqtts.CheckNoClientCertificate}, mqtts.CodeClientCertificateNotEnforced},
	{"ejabberd", []mqtts.CheckName{mqtts.CheckForeignCA, mqtts.CheckSameNameRogueCA}, mqtts.CodeForeignAccepted},
	{"ejabberd", []mqtts.CheckName{mqtts.CheckExpired}, mqtts.CodeExpiredAccepted},
	{"ejabberd", []mqtts.CheckName{mqtts.CheckNotYetValid}, mqtts.CodeNotYetValidAccepted},
	{"ejabberd", []mqtts.CheckName{mqtts.CheckWrongUsage}, mqtts.CodeWrongUsageAccepted},
	{"ejabberd", []mqtts.CheckName{mqtts.CheckRevoked, mqtts.CheckResumeAfterRevocation}, mqtts.CodeRevokedAccepted},
}

// knownToAccept returns the code of what a broker is known to accept.
func knownToAccept(kind brokerkit.Kind, check mqtts.CheckName) mqtts.Code {
	for _, a := range acceptances {
		if strings.HasPrefix(kind.Name, a.brokers) && slices.Contains(a.checks, check) {
			return a.code
		}
	}
	return ""
}

// expectRefusals holds negative runs against what is known.
func expectRefusals(t *testing.T, kind brokerkit.Kind, runs []refusal) {
	for _, r := range runs {
		checkReport(t, r.report)
		if len(r.report.Checks) != 10 {
			t.Fatalf("%d checks: %+v", len(r.report.Checks), r.report.Diagnosis)
		}
		for _, c := range r.report.Checks {
			t.Run(fmt.Sprintf("refuses %s/TLS %s", c.Name, r.tlsText()), func(t *testing.T) {
				code := knownToAccept(kind, c.Name)
				want := mqtts.CheckPass
				if code != "" {
					want = mqtts.CheckFail
				}
				has := func(d mqtts.Diagnosis) bool { return strings.HasPrefix(string(d.Code), string(code)) }
				if c.Result != want || code != "" && !slices.ContainsFunc(c.Diagnosis, has) {
					t.Errorf("%s, want %s %s: %+v %+v", c.Result, want, code, c.Observed, c.Diagnosis)
				}
			})
		}
	}
}

// checkText is how a check ended.
func checkText(c mqtts.Check) string {
	switch c.Result {
	case mqtts.CheckPass:
		return "refused"
	case mqtts.CheckFail:
		var codes []string
		for _, d := range c.Diagnosis {
			codes = append(codes, string(d.Code))
		}
		return "**accepted**: " + strings.Join(codes, ", ")
	}
	return string(c.Result)
}

// observedText is the broker's own answer, without what differs from run to run.
func observedText(c mqtts.Check) string {
	switch o := c.Observed; {
	case o == nil || c.Result != mqtts.CheckPass:
		return ""
	case o.Alert != nil:
		return fmt.Sprintf("alert %d %s", *o.Alert, o.AlertName)
	case o.ReasonCode != nil:
		return fmt.Sprintf("reason code 0x%02x", *o.ReasonCode)
	}
	return "no CONNACK"
}

// refusalRows is the table of a broker's refusals.
func refusalRows(runs []refusal) string {
	var b strings.Builder
	b.WriteString("| must be refused | TLS | | answer |\n|---|---|---|---|\n")
	for i := range runs[0].report.Checks {
		for _, r := range runs {
			c := r.report.Checks[i]
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", c.Name, r.tlsText(), checkText(c), observedText(c))
		}
	}
	return b.String()
}
