package ca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// issuersOf returns the certificates of a fixture's issuers, by their ID.
func (f *fixture) issuersOf() map[string]*x509.Certificate {
	all := map[string]*x509.Certificate{}
	for _, i := range f.ca.Issuers() {
		all[i.ID] = i.Certificate
	}
	return all
}

// What is issued under any profile breaks no rule of the audit.
func TestAuditFindsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	audit := ca.NewAudit(f.issuersOf())
	for _, p := range ca.Profiles() {
		if found := audit.Certificate(f.issue(f.order(p.Name)), &p); len(found) != 0 {
			t.Errorf("profile %s: %+v", p.Name, found)
		}
	}
	long := f.order("broker")
	long.CommonName = "a-host-name-that-is-longer-than-the-64-octets-of-a-common-name.mqtt.test"
	long.DNSNames = []string{long.CommonName}
	broker, err := ca.ProfileNamed("profile", "broker")
	f.must(err)
	if found := audit.Certificate(f.issue(long), broker); len(found) != 0 {
		t.Errorf("an empty subject: %+v", found)
	}
	spelled := f.order("broker")
	spelled.CommonName, spelled.DNSNames, spelled.IPs = "FE80::0:1", nil, []net.IP{net.ParseIP("fe80::1")}
	if found := audit.Certificate(f.issue(spelled), broker); len(found) != 0 {
		t.Errorf("an address spelled otherwise: %+v", found)
	}
	p := f.profile(ca.ProfileForm{Jitter: "5d", DNSNames: []string{"{{ .ID }}.fleet.example"}, URIs: []string{"spiffe://fleet.example/{{ .ID }}"}, Subject: ca.SubjectTemplate{Organization: "x"}})
	if found := audit.Certificate(f.issue(f.under(p, "pump-1")), p); len(found) != 0 {
		t.Errorf("a profile of templates: %+v", found)
	}
}

// Every rule of the audit finds what it is for: certificates that a bug, or a
// hand in the database, could have made.
func TestAuditFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	audit := ca.NewAudit(f.issuersOf())
	device, err := ca.ProfileNamed("profile", "device")
	f.must(err)
	issuer := made().issuers[slices.IndexFunc(made().issuers, func(i ca.Issuer) bool { return i.ID == "device" })]
	issuerKey, _ := kept.Load(issuer.KeyURI)
	seen := map[string]bool{}
	for what, c := range map[string]struct {
		rule   string
		change func(*x509.Certificate) // of what is signed
		record func(*ca.Certificate)   // of what the ledger says
		key    crypto.Signer           // the holder's
		issuer crypto.Signer           // that signs
	}{
		"another serial number":      {rule: "ledger", record: func(c *ca.Certificate) { c.SerialNumber = ca.NewSerialNumber() }},
		"another fingerprint":        {rule: "ledger", record: func(c *ca.Certificate) { c.SHA256 = strings.Repeat("0", 64) }},
		"another subject":            {rule: "ledger", record: func(c *ca.Certificate) { c.Subject = "CN=other" }},
		"another name":               {rule: "ledger", record: func(c *ca.Certificate) { c.Names = []string{"x"} }},
		"another end":                {rule: "ledger", record: func(c *ca.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }},
		"another device":             {rule: "ledger", record: func(c *ca.Certificate) { c.Holder.ID = "other" }},
		"no certificate":             {rule: "ledger", record: func(c *ca.Certificate) { c.DER = c.DER[:20] }},
		"no such issuer":             {rule: "issuer", record: func(c *ca.Certificate) { c.IssuerID = "none" }},
		"another's signature":        {rule: "issuer", issuer: newKey(t)},
		"another issuer's":           {rule: "issuer", record: func(c *ca.Certificate) { c.IssuerID = "broker" }},
		"a short serial number":      {rule: "serial_number", change: func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) }},
		"a life that is too long":    {rule: "validity", change: func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }},
		"a life beyond the issuer's": {rule: "validity", change: func(c *x509.Certificate) { c.NotAfter = issuer.Certificate.NotAfter.Add(time.Hour) }},
		"no name at all":             {rule: "names", change: func(c *x509.Certificate) { c.Subject = pkix.Name{} }},
		"an e-mail address":          {rule: "names", change: func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b.example"} }},
		"a wildcard":                 {rule: "names", change: func(c *x509.Certificate) { c.DNSNames = []string{"*.fleet.example"} }},
		"a name of two scripts":      {rule: "names", change: func(c *x509.Certificate) { c.Subject.CommonName = "pаypal" }},
		"a key on another curve":     {rule: "key", key: curveKey(t, elliptic.P521())},
		"no subject key identifier":  {rule: "key_identifiers", change: func(c *x509.Certificate) { c.SubjectKeyId = nil }},
		"a key that signs":           {rule: "key_usage", change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		"a key for nothing":          {rule: "key_usage", change: func(c *x509.Certificate) { c.KeyUsage = 0 }},
		"an authority":               {rule: "basic_constraints", change: func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }},
		"no basic constraints":       {rule: "basic_constraints", change: func(c *x509.Certificate) { c.BasicConstraintsValid = false }},
		"another usage":              {rule: "extended_key_usage", change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }},
		"a CRL alone":                {rule: "status_urls", change: func(c *x509.Certificate) { c.OCSPServer = nil }},
		"two CRLs":                   {rule: "status_urls", change: func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://a.test", "http://b.test"} }},
		"a responder's mark": {rule: "status_urls", change: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: []byte{5, 0}}}
		}},
		"an extension of its own": {rule: "extensions", change: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Value: []byte{5, 0}}}
		}},
	} {
		var key crypto.Signer = newKey(t)
		if c.key != nil {
			key = c.key
		}
		signer := issuerKey.(crypto.Signer)
		if c.issuer != nil {
			signer = c.issuer
		}
		template := &x509.Certificate{
			SerialNumber: ca.NewSerialNumber().Int(), Subject: pkix.Name{CommonName: "d-1"}, SubjectKeyId: []byte{1, 2, 3}, BasicConstraintsValid: true,
			NotBefore: f.clock.now().Add(-time.Hour).Truncate(time.Second), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: device.ExtKeyUsage,
			CRLDistributionPoints: []string{"http://status.test/crl/device.crl"}, OCSPServer: []string{"http://status.test/ocsp"}, IssuingCertificateURL: []string{"http://status.test/issuers/device.cer"},
		}
		template.NotAfter = template.NotBefore.Add(device.Validity - time.Second)
		if c.change != nil {
			c.change(template)
		}
		parent := *issuer.Certificate
		parent.PublicKey = signer.Public()
		der, err := x509.CreateCertificate(rand.Reader, template, &parent, key.Public(), signer)
		f.must(err)
		record := recordFor(t, der)
		if c.record != nil {
			c.record(record)
		}
		found := audit.Certificate(record, device)
		if !slices.ContainsFunc(found, func(f ca.CertificateFinding) bool { return f.Rule == c.rule && f.Source != "" && f.Message != "" }) {
			t.Errorf("%s: found %+v, want %s", what, found, c.rule)
		}
		for _, one := range found {
			seen[one.Rule] = true
		}
		if c.change == nil && c.record == nil && c.key == nil && c.issuer == nil {
			t.Errorf("%s changes nothing", what)
		}
	}
	good := recordFor(t, f.issue(f.order("device")).DER)
	if found := audit.Certificate(good, nil); len(found) != 1 || found[0].Rule != "validity" {
		t.Errorf("an unknown profile: %+v", found)
	}
	for _, r := range ca.AuditRules() {
		if !seen[r.Name] && r.Name != "version" { // Go makes none of another version
			t.Errorf("the rule %s found nothing", r.Name)
		}
	}
}

// recordFor returns what the ledger should have of a device's certificate.
func recordFor(t *testing.T, der []byte) *ca.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	r := &ca.Certificate{SerialNumber: ca.SerialNumberOf(c.SerialNumber), SHA256: hex.EncodeToString(sum[:]), Subject: c.Subject.String(), IssuerID: "device",
		Holder: ca.Holder{Kind: ca.HolderDevice, ID: c.Subject.CommonName}, NotBefore: c.NotBefore, NotAfter: c.NotAfter, DER: der}
	r.Names = append(r.Names, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		r.Names = append(r.Names, net.IP.String(ip))
	}
	for _, uri := range c.URIs {
		r.Names = append(r.Names, (*url.URL).String(uri))
	}
	return r
}

func curveKey(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
