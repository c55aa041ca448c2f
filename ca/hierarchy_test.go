package ca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A planned is a root of the test's making, under which it signs issuers.
type planned struct {
	testing.TB
	root    *x509.Certificate
	rootKey *ecdsa.PrivateKey
	issuers []ca.Issuer
}

func newPlanned(t testing.TB) *planned {
	t.Helper()
	p := &planned{TB: t, rootKey: newKey(t)}
	var err error
	if p.root, err = ca.SignRoot(ca.CAPlan{ID: "root", Purpose: ca.PurposeRoot, CommonName: "Root", Organization: "Fleet of Tests"}, p.rootKey, made().at); err != nil {
		t.Fatal(err)
	}
	p.issuers = []ca.Issuer{{ID: "root", Purpose: ca.PurposeRoot, State: ca.IssuerActive, Certificate: p.root, Parent: "root"}}
	return p
}

// issuer adds an issuer to those that Open gets.
func (p *planned) issuer(plan ca.CAPlan, state ca.IssuerState) ca.Issuer {
	p.Helper()
	if plan.CommonName == "" {
		plan.CommonName = "Issuing CA " + plan.ID
	}
	key := newKey(p)
	cert, err := ca.SignIssuer(plan, key.Public(), p.root, p.rootKey, made().at)
	if err != nil {
		p.Fatal(err)
	}
	i := plan.Issuer(cert, "root", keepKey(key))
	if i.State != ca.IssuerCreated {
		p.Errorf("a new issuer is %s", i.State)
	}
	i.State = state
	i.StatusURLs = []string{"http://status.test"}
	p.issuers = append(p.issuers, i)
	return i
}

func (p *planned) config(cfg *ca.Config) { cfg.Issuers = p.issuers }

func TestTheMostSpecificActiveIssuerSigns(t *testing.T) {
	t.Parallel()
	p := newPlanned(t)
	for _, i := range []struct {
		id, product, site string
		state             ca.IssuerState
	}{
		{"all", "", "", ca.IssuerActive}, {"pumps", "pump", "", ca.IssuerActive}, {"hall", "", "hall", ca.IssuerActive},
		{"pumps-hall", "pump", "hall", ca.IssuerActive}, {"meters-created", "meter", "", ca.IssuerCreated},
		{"meters-published", "meter", "", ca.IssuerPublished}, {"meters-retired", "meter", "", ca.IssuerRetired},
	} {
		p.issuer(ca.CAPlan{ID: i.id, Purpose: ca.PurposeDevice, Product: i.product, Site: i.site}, i.state)
	}
	f := newFixture(t, p.config)
	for _, test := range []struct{ product, site, want string }{
		{"", "", "all"}, {"valve", "", "all"}, {"valve", "yard", "all"}, {"pump", "", "pumps"}, {"pump", "yard", "pumps"},
		{"", "hall", "hall"}, {"valve", "hall", "hall"}, {"pump", "hall", "pumps-hall"}, {"meter", "", "all"},
	} {
		o := f.order("device")
		o.Product, o.Site = test.product, test.site
		if got := f.issue(o).IssuerID; got != test.want {
			t.Errorf("product %q at site %q: signed by %s, want %s", test.product, test.site, got, test.want)
		}
	}
	o := f.order("broker")
	o.Product = "pump"
	_, err := f.ca.Issue(f.ctx, o)
	wantKind(t, err, ca.KindIssuerInactive, "profile")
	// Nobody for more steps in for one whose key is missing.
	p.issuers[4].KeyURI = "testkms:name=none"
	f = newFixture(t, p.config)
	o = f.order("device")
	o.Product, o.Site = "pump", "hall"
	_, err = f.ca.Issue(f.ctx, o)
	wantKind(t, err, ca.KindKey, "")
	if !strings.Contains(err.Error(), "pumps-hall") {
		t.Errorf("the error does not name the issuer: %v", err)
	}
	o.Site = "yard"
	if got := f.issue(o).IssuerID; got != "pumps" {
		t.Errorf("signed by %s", got)
	}
}

func TestAdoptTakesNewIssuersAndStates(t *testing.T) {
	t.Parallel()
	p := newPlanned(t)
	p.issuer(ca.CAPlan{ID: "first", Purpose: ca.PurposeDevice}, ca.IssuerActive)
	f := newFixture(t, p.config)
	next := p.issuer(ca.CAPlan{ID: "second", Purpose: ca.PurposeDevice}, ca.IssuerCreated)
	foreign := p.issuer(ca.CAPlan{ID: "foreign", Purpose: ca.PurposeDevice}, ca.IssuerActive)
	keyless := p.issuer(ca.CAPlan{ID: "keyless", Purpose: ca.PurposeBroker}, ca.IssuerActive)
	foreign.Certificate = made().Issuers[1].Certificate
	keyless.KeyURI = "testkms:name=none"
	p.issuers[3], p.issuers[4] = foreign, keyless
	added, err := f.ca.Adopt(f.ctx, p.issuers)
	wantKind(t, err, ca.KindKey, "") // of the foreign one
	if !slices.Equal(added, []string{"second", "keyless"}) || !strings.Contains(err.Error(), "foreign") {
		t.Fatalf("added %v: %v", added, err)
	}
	if u := f.ca.Unusable(); len(u) != 1 || u["keyless"] == nil {
		t.Errorf("unusable: %v", u)
	}
	if got := f.issue(f.order("device")).IssuerID; got != "first" {
		t.Errorf("signed by %s", got)
	}
	next.State = ca.IssuerActive
	p.issuers = []ca.Issuer{p.issuers[0], p.issuers[1], next}
	if added, err := f.ca.Adopt(f.ctx, p.issuers); err != nil || len(added) != 0 {
		t.Fatalf("added %v: %v", added, err)
	}
	p.issuers[1].State = ca.IssuerRetired
	_, err = f.ca.Adopt(f.ctx, p.issuers)
	f.must(err)
	if got := f.issue(f.order("device")).IssuerID; got != "second" {
		t.Errorf("signed by %s", got)
	}
	f.must(f.ca.SelfTest("second"))
	wantKind(t, f.ca.SelfTest("keyless"), ca.KindKey, "")
}

func TestPlansThatMakeNoCertificate(t *testing.T) {
	t.Parallel()
	good := ca.CAPlan{ID: "pumps", Purpose: ca.PurposeDevice, CommonName: "Pumps", Product: "pump", Site: "hall", Domain: "fleet.test"}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for field, changes := range map[string][]func(*ca.CAPlan){
		"id": {
			func(p *ca.CAPlan) { p.ID = "" }, func(p *ca.CAPlan) { p.ID = "bundle" }, func(p *ca.CAPlan) { p.ID = "../x" },
			func(p *ca.CAPlan) { p.ID = "a/b" }, func(p *ca.CAPlan) { p.ID = strings.Repeat("x", 65) }, func(p *ca.CAPlan) { p.ID = "a..b" },
		},
		"purpose":      {func(p *ca.CAPlan) { p.Purpose = "clock" }},
		"commonName":   {func(p *ca.CAPlan) { p.CommonName = "" }, func(p *ca.CAPlan) { p.CommonName = strings.Repeat("x", 65) }},
		"organization": {func(p *ca.CAPlan) { p.Organization = strings.Repeat("x", 65) }},
		"years":        {func(p *ca.CAPlan) { p.Years = -1 }, func(p *ca.CAPlan) { p.Years = 101 }},
		"product":      {func(p *ca.CAPlan) { p.Product = "Pump 3000" }, func(p *ca.CAPlan) { p.Purpose = ca.PurposeRoot }},
		"site":         {func(p *ca.CAPlan) { p.Site = "hall.2" }},
		"domain":       {func(p *ca.CAPlan) { p.Domain = "Fleet.test" }, func(p *ca.CAPlan) { p.Domain = "fleet..test" }},
	} {
		for n, change := range changes {
			p := good
			change(&p)
			if err := p.Check(); err == nil {
				t.Errorf("%s %d: allowed", field, n)
			} else {
				wantKind(t, err, ca.KindMalformed, field)
			}
		}
	}
	p := newPlanned(t)
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ca.SignIssuer(good, weak.Public(), p.root, p.rootKey, made().at)
	wantKind(t, err, ca.KindWeakKey, "key")
	issuer := p.issuer(good, ca.IssuerActive)
	_, err = ca.SignIssuer(good, newKey(t).Public(), issuer.Certificate, p.rootKey, made().at)
	wantKind(t, err, ca.KindKey, "parent") // path length 0
	_, err = ca.SignIssuer(good, newKey(t).Public(), p.root, p.rootKey, p.root.NotAfter)
	wantKind(t, err, ca.KindKey, "parent") // expired
}

// What an issuer with a domain certifies is named below it, the common name of
// clients too, and what lies outside is not released. OpenSSL, GnuTLS, NSS and Go
// agree on both.
func TestI3NameConstraintsAsOthersReadThem(t *testing.T) {
	t.Parallel()
	needOpenSSL(t)
	p := newPlanned(t)
	pumps := p.issuer(ca.CAPlan{ID: "pumps", Purpose: ca.PurposeDevice, Product: "pump", Site: "hall-2", Domain: "fleet.test"}, ca.IssuerActive)
	p.issuer(ca.CAPlan{ID: "fleet", Purpose: ca.PurposeDevice, Domain: "fleet.test"}, ca.IssuerActive)
	p.issuer(ca.CAPlan{ID: "broker", Purpose: ca.PurposeBroker, Site: "hall-2", Domain: "fleet.test"}, ca.IssuerActive)
	f := newFixture(t, p.config, func(cfg *ca.Config) { cfg.Now = time.Now }) // certtool and NSS know no other time
	f.root = p.root
	if c := pumps.Certificate; len(c.PermittedDNSDomains) != 1 || c.PermittedDNSDomains[0] != "pump.hall-2.fleet.test" || !c.PermittedDNSDomainsCritical || c.MaxPathLen != 0 || !c.MaxPathLenZero {
		t.Fatalf("permits %v", c.PermittedDNSDomains)
	}
	device := func(profile, product, site string) ca.Order {
		o := f.order(profile)
		o.Product, o.Site = product, site
		return o
	}
	broker := f.order("broker")
	broker.CommonName, broker.DNSNames = "mqtt.hall-2.fleet.test", []string{"mqtt.hall-2.fleet.test"}
	broker.Site = "hall-2"
	canary := device("canary", "", "")
	canary.IssuerID = "pumps"
	good := map[string]*ca.Certificate{}
	for name, o := range map[string]ca.Order{
		"pump-1.pump.hall-2.fleet.test": device("device", "pump", "hall-2"), "x.meter.fleet.test": device("device", "meter", ""),
		"canary-1.pump.hall-2.fleet.test": canary, "mqtt.hall-2.fleet.test": broker,
	} {
		if o.Holder.Kind == ca.HolderDevice {
			o.CommonName, _, _ = strings.Cut(name, ".")
		}
		cert := f.issue(o)
		if !slices.Equal(cert.Names, []string{name}) {
			t.Fatalf("%s is named %v", name, cert.Names)
		}
		good[name] = cert
	}
	// Outside: refused here, and so signed by the issuer's own key for the others.
	outside := f.order("broker")
	outside.Site = "hall-2"
	_, err := f.ca.Issue(f.ctx, outside)
	wantKind(t, err, ca.KindNameNotAllowed, "")
	for _, id := range []string{"Pump-1", "pump_1", strings.Repeat("x", 64)} {
		o := device("device", "pump", "hall-2")
		o.CommonName = id
		_, err := f.ca.Issue(f.ctx, o)
		wantKind(t, err, ca.KindNameNotAllowed, "deviceId")
	}
	i, err := f.ca.Issuer("broker")
	f.must(err)
	key, _ := kept.Load(i.KeyURI)
	bad := signLeaf(t, i.Certificate, key, "mqtt.other.test")

	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	writeFile(t, path("root.pem"), ca.EncodeChain(p.root))
	judge := func(name, leaf string, chain []*x509.Certificate, want bool) {
		t.Helper()
		writeFile(t, path("leaf.pem"), leaf)
		writeFile(t, path("chain.pem"), ca.EncodeChain(chain...))
		writeFile(t, path("whole.pem"), leaf+ca.EncodeChain(chain...)+ca.EncodeChain(p.root))
		out, err := openssl(t, "verify", "-x509_strict", "-CAfile", path("root.pem"), "-untrusted", path("chain.pem"), path("leaf.pem"))
		if (err == nil) != want {
			t.Errorf("openssl, %s: %v %s", name, err, out)
		}
		if !want && !strings.Contains(out, "permitted subtree violation") {
			t.Errorf("openssl refuses %s for another reason: %s", name, out)
		}
		need(t, "certtool", "gnutls-bin")
		text, err := exec.CommandContext(t.Context(), "certtool", "--verify", "--load-ca-certificate", path("root.pem"), "--infile", path("whole.pem")).CombinedOutput()
		if (err == nil) != want {
			t.Errorf("certtool, %s: %v %s", name, err, text)
		}
		usage := "0" // TLS client
		if strings.HasPrefix(name, "mqtt") {
			usage = "1" // TLS server
		}
		if text, err := nssVerify(t, path, usage, chain); (err == nil) != want {
			t.Errorf("NSS, %s: %v %s", name, err, text)
		}
	}
	for name, cert := range good {
		f.must(f.verify(cert, x509.ExtKeyUsageAny))
		judge(name, cert.PEM(), f.ca.Chain(cert.IssuerID), true)
	}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	opts.Roots.AddCert(p.root)
	opts.Intermediates.AddCert(i.Certificate)
	if _, err := bad.Verify(opts); err == nil {
		t.Error("Go takes a name outside")
	}
	judge("mqtt.other.test", ca.EncodeChain(bad), []*x509.Certificate{i.Certificate}, false)
}

// signLeaf makes a server's certificate for a name, whatever its issuer permits.
func signLeaf(t *testing.T, issuer *x509.Certificate, key any, name string) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: ca.NewSerialNumber().Int(), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, newKey(t).Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// nssVerify has vfychain verify path("leaf.pem") for a certificate usage, with a
// database of its own.
func nssVerify(t *testing.T, path func(string) string, usage string, chain []*x509.Certificate) (string, error) {
	t.Helper()
	need(t, "vfychain", "libnss3-tools")
	db, err := os.MkdirTemp(path("."), "nss")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "certutil", "-N", "-d", "sql:"+db, "--empty-password").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	args := []string{"-d", "sql:" + db, "-pp", "-u", usage, "-a", path("leaf.pem")}
	for n, c := range chain {
		name := filepath.Join(db, "ca"+string(rune('0'+n))+".pem")
		writeFile(t, name, ca.EncodeChain(c))
		args = append(args, "-a", name)
	}
	args = append(args, "-t", "-a", path("root.pem"))
	out, err := exec.CommandContext(t.Context(), "vfychain", args...).CombinedOutput()
	return string(out), err
}
