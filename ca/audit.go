package ca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// A CertificateFinding is something wrong with a recorded certificate.
type CertificateFinding struct {
	SerialNumber SerialNumber `json:"serialNumber"`
	Rule         string       `json:"rule"`   // its name, as AuditRules lists it
	Source       string       `json:"source"` // what says so: RFC and section, or what it is held against
	Message      string       `json:"message"`
}

// An Audit looks at recorded certificates: whether the bytes are what the ledger
// says, what their profile said, and what RFC 5280 asks of them. It is safe for
// concurrent use.
type Audit struct {
	issuers       map[string]*x509.Certificate
	roots         *x509.CertPool
	intermediates *x509.CertPool
}

// NewAudit returns an Audit under issuers, by their ID, roots among them.
func NewAudit(issuers map[string]*x509.Certificate) *Audit {
	a := &Audit{issuers: issuers, roots: x509.NewCertPool(), intermediates: x509.NewCertPool()}
	for _, c := range issuers {
		if c.CheckSignatureFrom(c) == nil {
			a.roots.AddCert(c)
		} else {
			a.intermediates.AddCert(c)
		}
	}
	return a
}

// An audited certificate is one with all that it is held against.
type audited struct {
	*x509.Certificate
	record *Certificate      // without bytes while it is on its way into the ledger
	issuer *x509.Certificate // nil for one that is not known
	p      *Profile          // the version it was issued under; nil for one that is not known
	audit  *Audit            // nil before the release
}

// An auditRule is one thing that every certificate must be. It returns what is
// wrong, or "".
type auditRule struct {
	name, source string
	check        func(c *audited) string
	release      bool // cheap, and held against every certificate before it is released
}

// auditRules are the rules, in the order they are looked at.
var auditRules = []auditRule{
	{"ledger", "the ledger", auditLedger, false},
	{"issuer", "RFC 5280, 6.1", auditChain, false},
	{"version", "RFC 5280, 4.1.2.1", auditVersion, true},
	{"serial_number", "RFC 5280, 4.1.2.2", auditSerial, true},
	{"validity", "RFC 5280, 4.1.2.5; the profile", auditValidity, true},
	{"names", "RFC 5280, 4.1.2.6, 4.2.1.6", auditNames, true},
	{"key", "the key policy; the profile", auditKey, false}, // the order's key was looked at before it was signed
	{"key_identifiers", "RFC 5280, 4.2.1.1, 4.2.1.2", auditKeyIdentifiers, true},
	{"key_usage", "RFC 5280, 4.2.1.3", auditKeyUsage, true},
	{"basic_constraints", "RFC 5280, 4.2.1.9", auditLeaf, true},
	{"extended_key_usage", "RFC 5280, 4.2.1.12; the profile", auditUsages, true},
	{"status_urls", "RFC 5280, 4.2.1.13, 4.2.2.1; RFC 6960, 4.2.2.2.1", auditStatus, true},
	{"extensions", "RFC 5280, 4.2", auditExtensions, true},
}

// An AuditRule names a rule.
type AuditRule struct {
	Name    string `json:"rule"`
	Source  string `json:"source"`  // what says so: RFC and section, or what it is held against
	Release bool   `json:"release"` // held against every certificate before it is released, too
}

// AuditRules returns the rules that an Audit holds certificates against.
func AuditRules() []AuditRule {
	all := make([]AuditRule, len(auditRules))
	for i, r := range auditRules {
		all[i] = AuditRule{r.name, r.source, r.release}
	}
	return all
}

// Certificate returns what is wrong with a recorded certificate. profile is the
// version that it was issued under; nil when that is not known, which is a
// finding of itself.
func (a *Audit) Certificate(c *Certificate, profile *Profile) []CertificateFinding {
	parsed, err := c.X509()
	if err != nil {
		return []CertificateFinding{{c.SerialNumber, "ledger", "the ledger", fmt.Sprintf("its bytes are no certificate: %v", err)}}
	}
	looked := &audited{Certificate: parsed, record: c, issuer: a.issuers[c.IssuerID], p: profile, audit: a}
	var found []CertificateFinding
	for _, r := range auditRules {
		if message := r.check(looked); message != "" {
			found = append(found, CertificateFinding{c.SerialNumber, r.name, r.source, message})
		}
	}
	return found
}

// auditRelease holds a certificate that was just signed against the cheap rules
// (I3): an error is a bug, and nothing is released.
func auditRelease(cert, issuer *x509.Certificate, p *Profile) error {
	c := &audited{Certificate: cert, issuer: issuer, p: p}
	for _, r := range auditRules {
		if !r.release {
			continue
		}
		if message := r.check(c); message != "" {
			return fmt.Errorf("sign certificate: what was signed breaks the rule %s (%s): %s", r.name, r.source, message)
		}
	}
	return nil
}

// auditLedger holds the record against the bytes.
func auditLedger(c *audited) string {
	r := c.record
	var names []string
	names = append(names, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for _, uri := range c.URIs {
		names = append(names, uri.String())
	}
	switch {
	case SerialNumberOf(c.SerialNumber) != r.SerialNumber:
		return "the ledger has it under another serial number than its own"
	case hexSHA256(c.Raw) != r.SHA256:
		return "the ledger has another SHA-256"
	case c.Subject.String() != r.Subject:
		return fmt.Sprintf("the ledger has the subject %.100q, it %.100q", r.Subject, c.Subject)
	case !slices.Equal(names, r.Names) && len(names)+len(r.Names) > 0:
		return fmt.Sprintf("the ledger has the names %.200q, it %.200q", r.Names, names)
	case !c.NotBefore.Equal(r.NotBefore) || !c.NotAfter.Equal(r.NotAfter):
		return "the ledger has another validity"
	case r.Holder.Kind == HolderDevice && c.Subject.CommonName != "" && c.Subject.CommonName != r.Holder.ID:
		return fmt.Sprintf("the common name is %.80q, the device's id %.80q", c.Subject.CommonName, r.Holder.ID)
	}
	return ""
}

// auditChain verifies the certificate up to a root, names and usages included,
// as of when it was issued.
func auditChain(c *audited) string {
	if c.issuer == nil {
		return fmt.Sprintf("its issuer %.64q is not known", c.record.IssuerID)
	}
	if err := c.CheckSignatureFrom(c.issuer); err != nil {
		return fmt.Sprintf("issuer %s did not sign it: %v", c.record.IssuerID, err)
	}
	usages := c.ExtKeyUsage
	if slices.Contains(usages, x509.ExtKeyUsageOCSPSigning) { // no issuer has it (see builder.sign)
		usages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
	at := c.NotBefore
	if at.Before(c.issuer.NotBefore) { // backdated in the issuer's first hour
		at = c.issuer.NotBefore
	}
	_, err := c.Verify(x509.VerifyOptions{Roots: c.audit.roots, Intermediates: c.audit.intermediates, CurrentTime: at, KeyUsages: usages})
	if err != nil {
		return fmt.Sprintf("its chain does not verify: %v", err)
	}
	return ""
}

func auditVersion(c *audited) string {
	if c.Version != 3 {
		return fmt.Sprintf("it is of version %d", c.Version)
	}
	return ""
}

// auditSerial: NewSerialNumber's are never shorter than their 20 octets.
func auditSerial(c *audited) string {
	if bits := c.SerialNumber.BitLen(); c.SerialNumber.Sign() <= 0 || bits != 8*serialOctets-1 {
		return fmt.Sprintf("its serial number has %d bits", bits)
	}
	return ""
}

func auditValidity(c *audited) string {
	life := c.NotAfter.Sub(c.NotBefore) + time.Second // both ends count
	switch {
	case !c.NotBefore.Before(c.NotAfter):
		return "it ends before it begins"
	case c.issuer != nil && c.NotAfter.After(c.issuer.NotAfter):
		return "it outlives its issuer"
	case c.p == nil:
		return "the version of its profile is not known"
	case life > c.p.Validity:
		return fmt.Sprintf("it lives %v, longer than the %v of its profile", life, c.p.Validity)
	}
	return ""
}

func auditNames(c *audited) string {
	san := slices.IndexFunc(c.Extensions, isExtension(oidSubjectAltName))
	cn := c.Subject.CommonName
	switch {
	case len(c.Subject.Names) == 0 && (san < 0 || !c.Extensions[san].Critical):
		return "it has neither a subject nor a critical subject alternative name"
	case len(cn) > maxCommonName || !printableASCII(cn):
		return fmt.Sprintf("its common name %.80q is too long, or holds other than printable ASCII", cn)
	case len(c.EmailAddresses) > 0:
		return "it has e-mail addresses, which no profile gives"
	}
	for _, name := range c.DNSNames {
		if len(name) > maxHostName || !hostPattern.MatchString(name) {
			return fmt.Sprintf("%.80q is no host name", name)
		}
	}
	server := slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	if server && cn != "" && !slices.Contains(c.DNSNames, cn) && !slices.ContainsFunc(c.IPAddresses, net.ParseIP(cn).Equal) &&
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return fmt.Sprintf("its common name %.80q is not among its names (RFC 6125)", cn)
	}
	return ""
}

func auditKey(c *audited) string {
	if err := checkKey("key", c.PublicKey); err != nil {
		return err.Error()
	}
	if c.p != nil {
		if err := c.p.checkKey(c.PublicKey); err != nil {
			return err.Error()
		}
	}
	return ""
}

func auditKeyIdentifiers(c *audited) string {
	switch {
	case len(c.SubjectKeyId) == 0:
		return "it has no subject key identifier"
	case c.issuer != nil && !slices.Equal(c.AuthorityKeyId, c.issuer.SubjectKeyId):
		return "its authority key identifier is not its issuer's"
	}
	return ""
}

func auditKeyUsage(c *audited) string {
	const may = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	if c.KeyUsage&x509.KeyUsageDigitalSignature == 0 || c.KeyUsage&^may != 0 {
		return fmt.Sprintf("its key usage is %b", c.KeyUsage)
	}
	return ""
}

func auditLeaf(c *audited) string {
	if c.IsCA || !c.BasicConstraintsValid {
		return "it may be taken for an authority's"
	}
	return ""
}

func auditUsages(c *audited) string {
	if c.p != nil && (!slices.Equal(c.ExtKeyUsage, c.p.ExtKeyUsage) || len(c.UnknownExtKeyUsage) > 0) {
		return "its extended key usages are not its profile's"
	}
	return ""
}

func auditStatus(c *audited) string {
	responder := slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning)
	noCheck := slices.ContainsFunc(c.Extensions, isExtension(oidNoCheck))
	switch {
	case responder != noCheck:
		return "the one and only certificates with ocsp-nocheck are OCSP responders'"
	case len(c.CRLDistributionPoints) > 1 || len(c.OCSPServer) > 1 || len(c.IssuingCertificateURL) > 1:
		return "it names a CRL, a responder or an issuer more than once"
	case len(c.CRLDistributionPoints) == 1 && len(c.IssuingCertificateURL) == 0:
		return "it names a CRL, and not where its issuer's certificate is"
	case len(c.CRLDistributionPoints) == 1 && len(c.OCSPServer) == 0 && !responder:
		return "it names a CRL, and no OCSP responder"
	}
	return ""
}

// Extensions that certificates here have (RFC 5280, 4.2).
var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	knownExtensions   = []asn1.ObjectIdentifier{
		{2, 5, 29, 14}, {2, 5, 29, 15}, oidSubjectAltName, {2, 5, 29, 19}, {2, 5, 29, 31}, {2, 5, 29, 35}, {2, 5, 29, 37}, {1, 3, 6, 1, 5, 5, 7, 1, 1}, oidNoCheck,
	}
)

func auditExtensions(c *audited) string {
	var unknown []string
	for i, e := range c.Extensions {
		if !slices.ContainsFunc(knownExtensions, e.Id.Equal) {
			unknown = append(unknown, e.Id.String())
		}
		if slices.ContainsFunc(c.Extensions[:i], isExtension(e.Id)) {
			unknown = append(unknown, e.Id.String()+" twice")
		}
	}
	if len(unknown) > 0 {
		return "it has extensions that no profile gives: " + strings.Join(unknown, ", ")
	}
	return ""
}

func isExtension(id asn1.ObjectIdentifier) func(pkix.Extension) bool {
	return func(e pkix.Extension) bool { return e.Id.Equal(id) }
}
