package ca_test

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// caTemplate is a CA certificate without limits.
func caTemplate(name string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
}

// ownHierarchy returns a change to a root and an issuer of devices and brokers
// of the test's making.
func ownHierarchy(t testing.TB, root, issuer *x509.Certificate) func(*ca.Config) {
	t.Helper()
	rootKey, key := newKey(t), newKey(t)
	rootCert := sign(t, root, nil, rootKey, nil)
	cert := sign(t, issuer, rootCert, key, rootKey)
	return func(cfg *ca.Config) {
		cfg.Issuers = []ca.Issuer{
			{ID: "root", Purpose: ca.PurposeRoot, State: ca.IssuerActive, Certificate: rootCert, Parent: "root"},
			{ID: "device", Purpose: ca.PurposeDevice, State: ca.IssuerActive, Certificate: cert, Parent: "root", KeyURI: keepKey(key)},
			{ID: "broker", Purpose: ca.PurposeBroker, State: ca.IssuerActive, Certificate: cert, Parent: "root", KeyURI: keepKey(key)},
		}
	}
}

func TestI3IssuersWhoseChainsDoNotVerifyDoNotOpen(t *testing.T) {
	t.Parallel()
	root := func(change func(*x509.Certificate)) *x509.Certificate {
		c := caTemplate("Root")
		change(c)
		return c
	}
	issuer := func(change func(*x509.Certificate)) *x509.Certificate {
		c := caTemplate("Issuer")
		change(c)
		return c
	}
	none := func(*x509.Certificate) {}
	for name, change := range map[string]func(*ca.Config){
		"no CA":          ownHierarchy(t, root(none), issuer(func(c *x509.Certificate) { c.IsCA = false })),
		"no keyCertSign": ownHierarchy(t, root(none), issuer(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })),
		"no cRLSign":     ownHierarchy(t, root(none), issuer(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })),
		"no clientAuth":  ownHierarchy(t, root(none), issuer(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })),
		"no serverAuth":  ownHierarchy(t, root(none), issuer(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })),
		"path length 0":  ownHierarchy(t, root(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }), issuer(none)),
		"never valid": ownHierarchy(t, root(none), issuer(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = made().at.AddDate(2, 0, 0), made().at.AddDate(3, 0, 0)
		})),
		"a foreign root": with("root", func(i *ca.Issuer) { i.Certificate = sign(t, caTemplate("Foreign"), nil, newKey(t), nil) }),
		"a missing link": with("device", func(i *ca.Issuer) { i.Parent = "none" }),
		"a wrong link": func(cfg *ca.Config) {
			ownHierarchy(t, root(none), issuer(none))(cfg)
			with("device", func(i *ca.Issuer) { i.Parent = "broker" })(cfg)
		},
		"links in a ring": with("root", func(i *ca.Issuer) { i.Parent = "device" }),
		"a foreign issuer": with("device", func(i *ca.Issuer) {
			key := newKey(t)
			i.Certificate, i.KeyURI = sign(t, caTemplate("Foreign"), nil, key, nil), keepKey(key)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := openFixture(t, change)
			wantKind(t, err, ca.KindKey, "")
		})
	}
	if _, err := openFixture(t, ownHierarchy(t, root(none), issuer(none))); err != nil {
		t.Errorf("control: %v", err)
	}
	if _, err := openFixture(t, func(cfg *ca.Config) { cfg.Issuers = cfg.Issuers[1:] }); err == nil || !strings.Contains(err.Error(), "no root") {
		t.Errorf("without a root: %v", err)
	}
}

func TestI3NamesOutsideTheIssuersConstraintsAreNotReleased(t *testing.T) {
	t.Parallel()
	constrained := caTemplate("Constrained")
	constrained.PermittedDNSDomains, constrained.PermittedDNSDomainsCritical = []string{"fleet.test"}, true
	f := newFixture(t, ownHierarchy(t, caTemplate("Root"), constrained))
	for name, allowed := range map[string]bool{"mqtt.fleet.test": true, "fleet.test": true, "mqtt.other.test": false} {
		o := f.order("broker")
		o.CommonName, o.DNSNames = name, []string{name}
		before, _ := f.ledger.count("broker")
		cert, err := f.ca.Issue(f.ctx, o)
		after, _ := f.ledger.count("broker")
		if allowed {
			f.must(err)
			f.must(f.verify(cert, x509.ExtKeyUsageServerAuth))
			continue
		}
		if wantKind(t, err, ca.KindNameNotAllowed, ""); cert != nil || after != before {
			t.Errorf("%s: released", name)
		}
	}
	f.issue(f.order("device")) // has no DNS name to constrain
}

func TestI7NoCertificateOutlivesItsIssuersIssuer(t *testing.T) {
	t.Parallel()
	root := caTemplate("Root")
	root.NotBefore, root.NotAfter = made().at.Add(-time.Hour), made().at.Add(30*24*time.Hour).Truncate(time.Second)
	f := newFixture(t, ownHierarchy(t, root, caTemplate("Issuer")))
	if c := f.parse(f.issue(f.order("device"))); !c.NotAfter.Equal(root.NotAfter) {
		t.Errorf("notAfter %v, the root's %v", c.NotAfter, root.NotAfter)
	}
	f.clock.set(root.NotAfter)
	_, err := f.ca.Issue(f.ctx, f.order("device"))
	wantKind(t, err, ca.KindIssuerInactive, "profile")
}

// TestAnExpiredIssuerDoesNotKeepTheOthersDown: nor its own CRLs.
func TestAnExpiredIssuerDoesNotKeepTheOthersDown(t *testing.T) {
	t.Parallel()
	root := caTemplate("Root")
	rootKey, oldKey, newestKey := newKey(t), newKey(t), newKey(t)
	root.NotBefore, root.NotAfter = made().at.AddDate(-9, 0, 0), made().at.AddDate(9, 0, 0)
	rootCert := sign(t, root, nil, rootKey, nil)
	issuer := func(key crypto.Signer, from, to time.Time) *x509.Certificate {
		c := caTemplate("Issuer")
		c.NotBefore, c.NotAfter = from, to
		return sign(t, c, rootCert, key, rootKey)
	}
	old := ca.Issuer{ID: "old", Purpose: ca.PurposeDevice, State: ca.IssuerActive, Parent: "root", KeyURI: keepKey(oldKey),
		Certificate: issuer(oldKey, made().at.AddDate(-8, 0, 0), made().at.AddDate(0, 0, -1))}
	newest := ca.Issuer{ID: "new", Purpose: ca.PurposeDevice, State: ca.IssuerActive, Parent: "root", KeyURI: keepKey(newestKey),
		Certificate: issuer(newestKey, made().at.AddDate(0, 0, -1), made().at.AddDate(8, 0, 0))}
	f := newFixture(t, func(cfg *ca.Config) {
		cfg.Issuers = []ca.Issuer{{ID: "root", Purpose: ca.PurposeRoot, State: ca.IssuerActive, Certificate: rootCert, Parent: "root"}, old, newest}
	})
	if cert := f.issue(f.order("device")); cert.IssuerID != "new" {
		t.Errorf("issued by %s", cert.IssuerID)
	}
	f.publish("old", true)
}

func TestIssuersAreListedInOneOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 10 {
		var ids []string
		for _, i := range f.ca.Issuers() {
			ids = append(ids, i.ID)
		}
		if strings.Join(ids, " ") != "device broker root" {
			t.Fatalf("issuers %v", ids)
		}
	}
	i, err := f.ca.Issuer("device")
	f.must(err)
	i.State = ca.IssuerRetired // a copy
	f.issue(f.order("device"))
	_, err = f.ca.Issuer("none")
	wantKind(t, err, ca.KindNotFound, "issuer")
	if chain := f.ca.Chain("device"); len(chain) != 1 || len(f.ca.Chain("root")) != 0 || len(f.ca.Chain("none")) != 0 || len(f.ca.Roots()) != 1 || f.ca.TrustGeneration() != 1 {
		t.Errorf("a chain of %d", len(chain))
	}
}

func TestIssuersStatusURLs(t *testing.T) {
	t.Parallel()
	i := ca.Issuer{ID: "device"}
	if i.CDP(0) != "" || i.CertificateURL() != "" || len(i.CDPs()) != 0 {
		t.Error("URLs without a status URL")
	}
	for _, test := range []struct {
		base    string
		changed bool
		want    string
	}{
		{"http://a", true, "http://a/crl/device.crl"},
		{"http://a", false, "http://a/crl/device.crl"},
		{"http://b", true, "http://a/crl/device.crl http://b/crl/device.crl"},
		{"http://a", true, "http://b/crl/device.crl http://a/crl/device.crl"},
	} {
		before := strings.Join(i.StatusURLs, " ")
		next, changed := i.WithStatusURL(test.base)
		if got := strings.Join(next.CDPs(), " "); got != test.want || changed != test.changed || next.CDP(0) != test.base+"/crl/device.crl" {
			t.Errorf("%s: %s, changed %t", test.base, got, changed)
		}
		if strings.Join(i.StatusURLs, " ") != before {
			t.Errorf("%s: the issuer itself was changed", test.base)
		}
		i = next
	}
}
