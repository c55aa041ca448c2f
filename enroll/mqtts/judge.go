package mqtts

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"time"
)

// A judgement is the outcome of step verify: RFC 5280 section 6 through
// x509.Verify, stricter where that is lenient, and with causes told apart.
type judgement struct {
	*attempt
	now      time.Time
	sent     []*x509.Certificate // as the broker sent them
	leaf     *x509.Certificate
	chain    []*x509.Certificate // from leaf to trust anchor; nil when there is none
	staple   Staple
	findings []Diagnosis
}

// judge verifies the broker's certificates.
func (a *attempt) judge(state tls.ConnectionState) *judgement {
	j := &judgement{attempt: a, now: a.target.Now(), sent: state.PeerCertificates, staple: StapleNone}
	if len(j.sent) == 0 {
		j.find(CodeTLSProtocolViolation, facts{"error": "the broker sent no certificate"})
		return j
	}
	j.leaf = j.sent[0]
	j.checkValidity(j.leaf)
	j.checkTrust()
	j.checkName()
	j.checkUsage()
	j.checkRevocation()
	j.staple = j.checkStaple(state.OCSPResponse)
	if !j.failed() {
		j.checkWeakness()
	}
	return j
}

func (j *judgement) find(code Code, fs facts) {
	j.findings = append(j.findings, j.diagnosis(code, StepVerify, fs))
}

// warn notes what is an error elsewhere, and can be lived with here.
func (j *judgement) warn(code Code, fs facts) {
	d := j.diagnosis(code, StepVerify, fs)
	d.Severity = SeverityWarning
	j.findings = append(j.findings, d)
}

// failed tells whether an error was found.
func (j *judgement) failed() bool { return j.causes() != "" }

// causes names the errors found, for a person.
func (j *judgement) causes() string {
	var names []string
	for _, d := range j.findings {
		if d.Severity == SeverityError {
			names = append(names, words(d.Code))
		}
	}
	return strings.Join(names, ", ")
}

// checkValidity is RFC 5280 section 6.1.3 (a)(2), and reports whether it holds.
func (j *judgement) checkValidity(c *x509.Certificate) bool {
	switch {
	case j.now.After(c.NotAfter):
		j.find(CodeServerCertificateExpired, facts{
			"subject": subjectOf(c), "time": stamp(c.NotAfter), "ago": span(j.now.Sub(c.NotAfter))})
	case j.now.Before(c.NotBefore):
		j.find(CodeServerCertificateNotYet, facts{
			"subject": subjectOf(c), "time": stamp(c.NotBefore), "ago": span(c.NotBefore.Sub(j.now))})
	default:
		return true
	}
	return false
}

// checkTrust builds the chain to the trust bundle.
func (j *judgement) checkTrust() {
	chains, err := verifyChain(j.sent, j.roots, j.now)
	if err == nil {
		j.chain = chains[0]
		return
	}
	j.explainTrust(err)
}

// verifyChain is RFC 5280 section 6 for a server's certificates, leaf first.
func verifyChain(sent []*x509.Certificate, roots *x509.CertPool, now time.Time) ([][]*x509.Certificate, error) {
	intermediates := x509.NewCertPool()
	for _, c := range sent[1:] {
		intermediates.AddCert(c)
	}
	return sent[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// verifyAnew verifies a chain in which a signature is by SHA-1, and was checked,
// as though it were signed anew: everything but the signatures counts.
func verifyAnew(chain []*x509.Certificate, now time.Time) error {
	made, _, err := remake(chain)
	if err != nil {
		return err
	}
	root := x509.NewCertPool()
	root.AddCert(made[len(made)-1])
	_, err = verifyChain(made, root, now)
	return err
}

// explainTrust finds why x509.Verify built no chain.
func (j *judgement) explainTrust(err error) {
	p := findPath(j.leaf, j.sent[1:], j.target.Roots)
	if p.chain != nil && p.weak != nil && p.broken == nil {
		if err = verifyAnew(p.chain, j.now); err == nil {
			j.chain = p.chain
			j.warn(CodeServerWeakSignature, facts{
				"subject": subjectOf(p.weak), "algorithm": p.weak.SignatureAlgorithm.String()})
			return
		}
	}
	switch {
	case p.broken != nil:
		j.find(CodeServerWeakSignature, facts{
			"subject": subjectOf(p.broken), "algorithm": p.broken.SignatureAlgorithm.String()})
	case p.chain != nil:
		j.explainChain(p.chain, err)
	case p.forged != nil:
		j.find(CodeServerSameNameOtherKey, facts{
			"subject": subjectOf(p.forged), "issuer": issuerOf(p.forged)})
	case p.orphan != nil && !p.orphan.Equal(j.leaf):
		// Its authorities were sent as far as somebody had put them together:
		// what is left out of a chain in good order is its root.
		j.find(CodeServerUnknownCA, facts{"root": issuerOf(p.orphan)})
	case p.orphan != nil:
		j.find(CodeServerMissingIntermediate, facts{
			"subject": subjectOf(p.orphan), "issuer": issuerOf(p.orphan)})
	case p.top != nil && p.top.Equal(j.leaf):
		j.find(CodeServerUnknownCA, facts{"root": subjectOf(p.top) + ", a certificate that signed itself"})
	case p.top != nil:
		j.find(CodeServerUnknownCA, facts{"root": subjectOf(p.top)})
	default:
		j.find(CodeServerChainInvalid, facts{"error": errorText(err)})
	}
}

// explainChain says what is wrong with a chain that reaches a trust anchor.
func (j *judgement) explainChain(chain []*x509.Certificate, err error) {
	dated := len(j.findings) > 0 // the leaf's dates
	for _, c := range chain[1:] {
		if !j.checkValidity(c) {
			dated = true
		}
	}
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case dated:
	case ok && invalid.Reason == x509.IncompatibleUsage && !forServers(j.leaf):
		// checkUsage says so
	case ok && invalid.Reason == x509.IncompatibleUsage:
		j.find(CodeServerWrongUsage, facts{"subject": "an authority in the broker's chain",
			"error": "its extended key usage does not allow serverAuth below it"})
	default:
		j.find(CodeServerChainInvalid, facts{"error": strings.TrimPrefix(errorText(err), "x509: ")})
	}
}

// checkName is RFC 9525 section 6: subject alternative names.
func (j *judgement) checkName() {
	name, _, _ := strings.Cut(j.target.ServerName, "%") // without the zone of an IPv6 address
	if j.leaf.VerifyHostname(name) == nil {
		return
	}
	if len(j.leaf.DNSNames) == 0 && len(j.leaf.IPAddresses) == 0 && j.leaf.Subject.CommonName != "" {
		j.checkCommonName(name)
		return
	}
	names := namesOf(j.leaf)
	if net.ParseIP(name) != nil {
		for _, d := range j.leaf.DNSNames {
			if d == name {
				names = "it as a DNS name, where an IP address name is needed"
			}
		}
	}
	j.find(CodeServerNameMismatch, facts{"names": names})
}

// checkCommonName judges a certificate without any subject alternative name. Old
// TLS stacks still look at its common name, new ones do not: where it fits, that
// is a weak point, and where it does not, nobody connects.
func (j *judgement) checkCommonName(name string) {
	fs := facts{"cn": j.leaf.Subject.CommonName}
	asName := x509.Certificate{DNSNames: []string{j.leaf.Subject.CommonName}}
	if net.ParseIP(name) == nil && asName.VerifyHostname(name) == nil {
		j.warn(CodeServerCommonNameOnly, fs)
		return
	}
	j.find(CodeServerCommonNameOnly, fs)
}

// checkUsage is RFC 5280 sections 4.2.1.3 and 4.2.1.12. x509.Verify takes a
// certificate without extended key usage for any purpose; here serverAuth is
// required.
func (j *judgement) checkUsage() {
	reason := ""
	switch {
	case len(j.leaf.ExtKeyUsage) == 0 && len(j.leaf.UnknownExtKeyUsage) == 0:
		reason = "it has no extended key usage"
	case !forServers(j.leaf):
		reason = "its extended key usage lacks serverAuth"
	case j.leaf.KeyUsage != 0 && j.leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		reason = "its key usage lacks digitalSignature, which every handshake needs (RFC 8446 section 4.4.2.2)"
	default:
		return
	}
	j.find(CodeServerWrongUsage, facts{"subject": "The broker's certificate", "error": reason})
}

func forServers(c *x509.Certificate) bool { return hasUsage(c, x509.ExtKeyUsageServerAuth) }

func hasUsage(c *x509.Certificate, usage x509.ExtKeyUsage) bool {
	for _, u := range c.ExtKeyUsage {
		if u == usage {
			return true
		}
	}
	return false
}

// text sums up a certificate that was found good.
func (j *judgement) text() string {
	s := fmt.Sprintf("%s, issued below %s, %s left", subjectOf(j.leaf), subjectOf(j.anchor()), span(j.leaf.NotAfter.Sub(j.now)))
	if j.staple != StapleNone {
		s += ", staple " + string(j.staple)
	}
	return s
}

func (j *judgement) anchor() *x509.Certificate {
	if len(j.chain) == 0 {
		return nil
	}
	return j.chain[len(j.chain)-1]
}

// maxNames bounds the names that a report lists.
const maxNames = 100

// describe returns the broker's certificate for the report.
func (j *judgement) describe() *ServerCertificate {
	if j.leaf == nil {
		return nil
	}
	sum := sha256.Sum256(j.leaf.Raw)
	s := &ServerCertificate{
		Subject: subjectOf(j.leaf), Issuer: issuerOf(j.leaf),
		SerialNumber: serialOf(j.leaf), SHA256: hex.EncodeToString(sum[:]),
		NotBefore: j.leaf.NotBefore.UTC(), NotAfter: j.leaf.NotAfter.UTC(),
		DaysLeft: int(math.Floor(j.leaf.NotAfter.Sub(j.now).Hours() / 24)),
		DNSNames: []string{}, IPAddresses: []string{},
	}
	if a := j.anchor(); a != nil {
		s.TrustAnchor = subjectOf(a)
	}
	for _, d := range j.leaf.DNSNames[:min(maxNames, len(j.leaf.DNSNames))] {
		s.DNSNames = append(s.DNSNames, printable(d, 255))
	}
	for _, ip := range j.leaf.IPAddresses[:min(maxNames, len(j.leaf.IPAddresses))] {
		s.IPAddresses = append(s.IPAddresses, ip.String())
	}
	return s
}
