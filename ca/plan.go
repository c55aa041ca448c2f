package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"
)

// Lifetimes of what is made where nothing else is said.
const (
	RootYears     = 20
	IssuerYears   = 8
	RootCRLPeriod = 366 * 24 * time.Hour // its key is offline: once a year is often enough
	firstPeriod   = 7 * 24 * time.Hour   // of an issuer's first CRL
	caBackdate    = 24 * time.Hour       // wrong clocks on the line must not refuse a new CA
)

// rootPathLength is how many CAs may follow a root: a root that it cross-signs,
// and an issuer under that.
const rootPathLength = 2

const (
	maxOrganization = 64 // ub-organization-name, RFC 5280, appendix A.1
	maxYears        = 100
)

// A CAPlan is what the certificate of a root or of an issuer is to say.
type CAPlan struct {
	ID           string // of the issuer; a word in URLs
	Purpose      Purpose
	CommonName   string
	Organization string // O of the subject; none when empty
	Years        int    // of validity; RootYears or IssuerYears when zero
	// Product, Site and Domain are Issuer's. A Domain makes the certificate
	// permit names below NameConstraint alone, critically.
	Product, Site, Domain string
}

// issuerIDs are what an issuer may be called: its CRL and certificate are files
// of that name.
var (
	issuerIDs = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	dnsLabels = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// Check refuses a plan that no certificate can be made by. Fields are those of
// the plan, in lower case.
func (p CAPlan) Check() error {
	switch {
	case !issuerIDs.MatchString(p.ID) || p.ID == "bundle" || strings.Contains(p.ID, ".."):
		return Errorf(KindMalformed, "id", "use 1 to 64 of A-Z a-z 0-9 . _ -; the word bundle is taken", "%.80q cannot be an issuer's id", p.ID)
	case !slices.Contains([]Purpose{PurposeRoot, PurposeIntermediate, PurposeDevice, PurposeBroker}, p.Purpose):
		return Errorf(KindMalformed, "purpose", "one of device, broker, intermediate, root", "%.40q is no purpose", p.Purpose)
	case p.CommonName == "" || utf8.RuneCountInString(p.CommonName) > maxCommonName:
		return Errorf(KindMalformed, "commonName", "give 1 to 64 characters", "must be there, and not too long")
	case utf8.RuneCountInString(p.Organization) > maxOrganization:
		return Errorf(KindMalformed, "organization", "shorten it", "is more than %d characters long", maxOrganization)
	case p.Years < 0 || p.Years > maxYears:
		return Errorf(KindMalformed, "years", "give 1 to 100", "%d years are no lifetime", p.Years)
	}
	return p.checkScope()
}

// checkScope checks what an issuer is for.
func (p CAPlan) checkScope() error {
	if p.Purpose.keptApart() && p.Product+p.Site+p.Domain != "" {
		return Errorf(KindMalformed, "product", "leave product, site and domain out", "a %s is for no product or site", p.Purpose)
	}
	if p.Domain == "" {
		return nil
	}
	const hint = "lower-case letters, digits and hyphens: devices are named <device>.<product>.<site>.<domain>"
	if len(p.Domain) > maxHostName || !hostPattern.MatchString(p.Domain) || p.Domain != strings.ToLower(p.Domain) {
		return Errorf(KindMalformed, "domain", hint, "%.80q is no DNS domain", p.Domain)
	}
	for field, label := range map[string]string{"product": p.Product, "site": p.Site} {
		if label != "" && !dnsLabels.MatchString(label) {
			return Errorf(KindMalformed, field, hint, "%.80q is no DNS label, which it must be under a domain", label)
		}
	}
	return nil
}

// template returns what the plan makes of a certificate, for a time.
func (p CAPlan) template(now time.Time) *x509.Certificate {
	subject := pkix.Name{CommonName: p.CommonName}
	if p.Organization != "" {
		subject.Organization = []string{p.Organization}
	}
	years := p.Years
	if years == 0 {
		if years = IssuerYears; p.Purpose == PurposeRoot {
			years = RootYears
		}
	}
	t := &x509.Certificate{
		SerialNumber: NewSerialNumber().Int(), Subject: subject,
		NotBefore: now.Add(-caBackdate).Truncate(time.Second), NotAfter: now.AddDate(years, 0, 0).Truncate(time.Second),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
	}
	switch p.Purpose {
	case PurposeRoot:
		t.MaxPathLen = rootPathLength
	case PurposeIntermediate:
		t.MaxPathLen = 1
	default:
		t.MaxPathLenZero, t.ExtKeyUsage = true, issuerUsages[p.Purpose]
	}
	if c := NameConstraint(p.Product, p.Site, p.Domain); c != "" {
		t.PermittedDNSDomains, t.PermittedDNSDomainsCritical = []string{c}, true
	}
	return t
}

// Issuer returns the issuer of a certificate that the plan was for, as it is
// created.
func (p CAPlan) Issuer(cert *x509.Certificate, parent, keyURI string) Issuer {
	return Issuer{
		ID: p.ID, Purpose: p.Purpose, State: IssuerCreated, Certificate: cert, Parent: parent, KeyURI: keyURI,
		Product: p.Product, Site: p.Site, Domain: p.Domain,
	}
}

// CheckConstraint refuses an issuer with a domain whose certificate does not
// permit the names that it would give, or permits others: the certificate was
// signed elsewhere.
func (i *Issuer) CheckConstraint() error {
	want, c := NameConstraint(i.Product, i.Site, i.Domain), i.Certificate
	if want == "" {
		return nil
	}
	if len(c.PermittedDNSDomains) != 1 || strings.TrimPrefix(c.PermittedDNSDomains[0], ".") != want || !c.PermittedDNSDomainsCritical || len(c.ExcludedDNSDomains) > 0 {
		return Errorf(KindMalformed, "domain", "have it signed with nameConstraints=critical,permitted;DNS:"+want+", or leave the domain out",
			"the certificate's name constraints are not just %s", want)
	}
	return nil
}

// issuerUsages are the extended key usages of issuers, which nest those of their
// leaves. Never OCSPSigning: that would let an issuer answer for the root, on its
// siblings and on itself (RFC 6960, 4.2.2.2). A responder below it does not need
// it there.
var issuerUsages = map[Purpose][]x509.ExtKeyUsage{
	PurposeDevice: {x509.ExtKeyUsageClientAuth},
	PurposeBroker: {x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
}

// SignRoot makes the certificate of a root.
func SignRoot(p CAPlan, key crypto.Signer, now time.Time) (*x509.Certificate, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	if err := checkKey("key", key.Public()); err != nil {
		return nil, err
	}
	t := p.template(now)
	return signCA(t, t, key.Public(), key)
}

// SignIssuer makes the certificate of an issuer under a parent, which it does
// not outlive.
func SignIssuer(p CAPlan, key crypto.PublicKey, parent *x509.Certificate, parentKey crypto.Signer, now time.Time) (*x509.Certificate, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	if err := checkKey("key", key); err != nil {
		return nil, err
	}
	if err := checkParent(parent, now); err != nil {
		return nil, err
	}
	t := p.template(now)
	if t.NotAfter.After(parent.NotAfter) {
		t.NotAfter = parent.NotAfter
	}
	if t.MaxPathLen > 0 && parent.MaxPathLen >= 0 {
		t.MaxPathLen = min(t.MaxPathLen, parent.MaxPathLen-1)
		t.MaxPathLenZero = t.MaxPathLen == 0
	}
	return signCA(t, parent, key, parentKey)
}

// checkParent refuses a certificate that no issuer can be signed under now.
func checkParent(c *x509.Certificate, now time.Time) error {
	const usage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	var why string
	switch {
	case !c.IsCA:
		why = "is not a CA certificate"
	case c.KeyUsage&usage != usage:
		why = "may not sign both certificates and CRLs (keyUsage)"
	case c.MaxPathLen == 0 && c.MaxPathLenZero:
		why = "allows no issuer below it (path length 0)"
	case now.Before(c.NotBefore) || !now.Before(c.NotAfter):
		why = "is not valid now"
	default:
		return nil
	}
	return Errorf(KindKey, "parent", "give the certificate of a root or of an intermediate CA", "%s %s", c.Subject, why)
}

func signCA(t, parent *x509.Certificate, key crypto.PublicKey, parentKey crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key, parentKey)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", t.Subject, err)
	}
	return x509.ParseCertificate(der)
}

// FirstCRL signs an issuer's first CRL, without entries: valid for a week, which
// the server's own follows at once, or of an issuer whose key is kept apart for
// a year.
func FirstCRL(ctx context.Context, i Issuer, key crypto.Signer, number int64, now time.Time) (*CRL, error) {
	period := firstPeriod
	if i.Purpose.keptApart() {
		period = RootCRLPeriod
	}
	cas, err := softcas.New(ctx, apiv1.Options{CertificateChain: []*x509.Certificate{i.Certificate}, Signer: key})
	if err != nil {
		return nil, err
	}
	this, next := now.Add(-crlBackdate).UTC().Truncate(time.Second), now.Add(period).UTC().Truncate(time.Second)
	res, err := cas.CreateCRL(&apiv1.CreateCRLRequest{RevocationList: &x509.RevocationList{
		Number: big.NewInt(number), ThisUpdate: this, NextUpdate: next,
	}})
	if err != nil {
		return nil, fmt.Errorf("sign the first CRL of %s: %w", i.ID, err)
	}
	return &CRL{IssuerID: i.ID, Number: number, ThisUpdate: this, NextUpdate: next, Scheduled: true, DER: res.CRL}, nil
}
