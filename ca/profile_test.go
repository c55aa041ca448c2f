package ca_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// profile reads a form, which must be a profile.
func (f *fixture) profile(form ca.ProfileForm) *ca.Profile {
	f.Helper()
	if form.Name == "" {
		form.Name = "pump"
	}
	if form.Validity == "" {
		form.Validity = "60d"
	}
	p, err := form.Profile()
	f.must(err)
	return p
}

// under orders a certificate under a version of a profile for devices.
func (f *fixture) under(p *ca.Profile, id string) ca.Order {
	o := f.order("device")
	o.Profile, o.Version, o.Holder.ID, o.CommonName, o.Facts.ID = p.Name, p, id, id, id
	return o
}

func TestProfileForm(t *testing.T) {
	t.Parallel()
	for _, p := range ca.Profiles() {
		form := p.Form()
		if form.Version != 1 || form.Name != p.Name || form.Fixed != p.Fixed() {
			t.Errorf("%+v", form)
		}
		if p.Fixed() {
			continue
		}
		back, err := form.Profile()
		if err != nil {
			t.Fatal(err)
		}
		if changes := ca.ChangesOf(&p, back); len(changes) != 0 || back.Version != 1 {
			t.Errorf("profile %s as a form and back: %v", p.Name, changes)
		}
	}
	with := func(change func(*ca.ProfileForm)) ca.ProfileForm {
		form := ca.ProfileForm{Name: "pump", Validity: "60d"}
		change(&form)
		return form
	}
	for field, forms := range map[string][]ca.ProfileForm{
		"name":                 {with(func(f *ca.ProfileForm) { f.Name = "Pump" }), with(func(f *ca.ProfileForm) { f.Name = "" }), with(func(f *ca.ProfileForm) { f.Name = "a/b" })},
		"holder":               {with(func(f *ca.ProfileForm) { f.Holder = ca.HolderCanary }), with(func(f *ca.ProfileForm) { f.Holder = "x" })},
		"issuerPurpose":        {with(func(f *ca.ProfileForm) { f.Purpose = ca.PurposeRoot }), with(func(f *ca.ProfileForm) { f.Purpose = ca.PurposeBroker })},
		"validity":             {with(func(f *ca.ProfileForm) { f.Validity = "" }), with(func(f *ca.ProfileForm) { f.Validity = "1y" }), with(func(f *ca.ProfileForm) { f.Validity = "1m" }), with(func(f *ca.ProfileForm) { f.Validity = "40000d" }), with(func(f *ca.ProfileForm) { f.Validity = "-1h" }), with(func(f *ca.ProfileForm) { f.Validity = "3600001ms" })},
		"backdate":             {with(func(f *ca.ProfileForm) { f.Validity, f.Backdate = "2h", "2h" }), with(func(f *ca.ProfileForm) { f.Backdate = "8d" })},
		"jitter":               {with(func(f *ca.ProfileForm) { f.Jitter = "31d" })},
		"renewBefore":          {with(func(f *ca.ProfileForm) { f.RenewBefore = "60d" }), with(func(f *ca.ProfileForm) { f.RenewBefore, f.Jitter = "45d", "15d" })},
		"extendedKeyUsages":    {with(func(f *ca.ProfileForm) { f.ExtKeyUsage = []string{"serverAuth"} })},
		"extendedKeyUsages[0]": {with(func(f *ca.ProfileForm) { f.ExtKeyUsage = []string{"OCSPSigning"} }), with(func(f *ca.ProfileForm) { f.ExtKeyUsage = []string{"any"} })},
		"extendedKeyUsages[1]": {with(func(f *ca.ProfileForm) { f.ExtKeyUsage = []string{"clientAuth", "clientAuth"} })},
		"keys[1]":              {with(func(f *ca.ProfileForm) { f.Keys = []ca.KeyAlgorithm{ca.KeyP256, "P-224"} }), with(func(f *ca.ProfileForm) { f.Keys = []ca.KeyAlgorithm{ca.KeyP256, ca.KeyP256} })},
		"maxActive":            {with(func(f *ca.ProfileForm) { f.MaxActive = 1 }), with(func(f *ca.ProfileForm) { f.MaxActive = -1 }), with(func(f *ca.ProfileForm) { f.Holder, f.MaxActive = ca.HolderBroker, 2 })},
		"dnsNames[0]": {with(func(f *ca.ProfileForm) { f.DNSNames = []string{"{{ .ID"} }), with(func(f *ca.ProfileForm) { f.DNSNames = []string{`{{ env "HOME" }}`} }), with(func(f *ca.ProfileForm) { f.DNSNames = []string{`{{ getHostByName "x" }}`} }),
			with(func(f *ca.ProfileForm) { f.DNSNames = []string{`{{ range 1000000000 }}x{{ end }}`} }), with(func(f *ca.ProfileForm) {
				f.DNSNames = []string{`{{ if .ID }}{{ range $k, $v := .Attributes }}{{ $v }}{{ end }}{{ end }}`}
			}),
			with(func(f *ca.ProfileForm) {
				f.DNSNames = []string{`{{ define "x" }}{{ template "x" }}{{ end }}{{ template "x" }}`}
			}), with(func(f *ca.ProfileForm) { f.DNSNames = []string{""} }), with(func(f *ca.ProfileForm) { f.DNSNames = []string{strings.Repeat("x", 1025)} })},
		"subject.organization": {with(func(f *ca.ProfileForm) { f.Subject.Organization = "{{ end }}" })},
		"allowedDomains[0]":    {with(func(f *ca.ProfileForm) { f.Domains = []string{".fleet.example"} })},
		"allowedNetworks[0]":   {with(func(f *ca.ProfileForm) { f.Networks = []string{"192.0.2.1/24"} })},
		"dnsNames":             {with(func(f *ca.ProfileForm) { f.DNSNames = slices.Repeat([]string{"a"}, 21) })},
	} {
		for _, form := range forms {
			_, err := form.Profile()
			wantKind(t, err, ca.KindMalformed, field)
		}
	}
}

// What a profile says stands in what is issued, and in the ledger.
func TestProfileIsIssued(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.profile(ca.ProfileForm{
		Version: 7, Validity: "60d", Backdate: "2h", RenewBefore: "20d", ExtKeyUsage: []string{"clientAuth", "serverAuth"}[:1],
		Subject:  ca.SubjectTemplate{Organization: "Pumps", OrganizationalUnit: "{{ .Product }}", Country: "DE", SerialNumber: "{{ .Attributes.unit }}"},
		DNSNames: []string{"{{ .ID | lower }}.{{ .Product }}.{{ .Attributes.site }}.fleet.example"}, URIs: []string{"spiffe://fleet.example/{{ .WorkOrder }}/{{ .ID }}"},
		Domains: []string{"fleet.example"},
	})
	o := f.under(p, "Pump-1")
	o.Facts = ca.NameFacts{ID: "Pump-1", Product: "pump", WorkOrder: "wo-1", Attributes: map[string]string{"unit": "SN-7", "site": "muc"}}
	cert := f.issue(o)
	c := f.parse(cert)
	if got := c.Subject.String(); got != "SERIALNUMBER=SN-7,CN=Pump-1,OU=pump,O=Pumps,C=DE" {
		t.Errorf("subject %s", got)
	}
	if want := []string{"pump-1.pump.muc.fleet.example", "spiffe://fleet.example/wo-1/Pump-1"}; !slices.Equal(cert.Names, want) {
		t.Errorf("names %v", cert.Names)
	}
	if life := c.NotAfter.Sub(c.NotBefore) + time.Second; life != p.Validity || cert.ProfileVersion != 7 || cert.Profile != "pump" || !cert.RenewAfter().Equal(c.NotAfter.Add(-20*24*time.Hour)) {
		t.Errorf("valid for %v, version %d, renewed after %v", life, cert.ProfileVersion, cert.RenewAfter())
	}
	f.must(f.verify(cert, x509.ExtKeyUsageClientAuth))

	for what, change := range map[string]func(*ca.Order){
		"an attribute that is missing":        func(o *ca.Order) { delete(o.Facts.Attributes, "site") },
		"no host name":                        func(o *ca.Order) { o.Facts.Attributes["site"] = "a b" },
		"another domain by a value":           func(o *ca.Order) { o.Facts.Attributes["site"] = "muc.fleet.example,DNS:evil" },
		"a value that is too long":            func(o *ca.Order) { o.Facts.Attributes["unit"] = strings.Repeat("x", 65) },
		"a control character":                 func(o *ca.Order) { o.Facts.Attributes["unit"] = "a\x00b" },
		"letters of another script":           func(o *ca.Order) { o.Facts.Attributes["unit"] = "раypal" },
		"a URI that is broken":                func(o *ca.Order) { o.Facts.WorkOrder = "a b" },
		"nothing":                             func(o *ca.Order) { o.Facts.Attributes["unit"] = "" },
		"a DNS name outside what it may give": func(o *ca.Order) { o.DNSNames = []string{"evil.example"} },
	} {
		o := f.under(p, "Pump-2")
		o.Facts = ca.NameFacts{ID: "Pump-2", Product: "pump", WorkOrder: "wo-1", Attributes: map[string]string{"unit": "SN-8", "site": "muc"}}
		change(&o)
		if _, err := f.ca.Issue(f.ctx, o); err == nil {
			t.Errorf("%s is issued", what)
		} else if e, ok := errors.AsType[*ca.Error](err); !ok || e.Kind != ca.KindNameNotAllowed || e.Hint == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// No attribute adds a name or a field: a value stays inside its own.
func TestProfileValuesStayInside(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.profile(ca.ProfileForm{Subject: ca.SubjectTemplate{Organization: "{{ .Attributes.maker }}"}})
	o := f.under(p, "pump-1")
	const hostile = `x", "commonName": "admin", "dnsNames": ["evil.example"], "y": "{{ .ID }}`
	o.Facts.Attributes = map[string]string{"maker": hostile}
	if _, err := f.ca.Issue(f.ctx, o); err == nil {
		t.Error("75 octets of organization are issued")
	}
	o.Facts.Attributes["maker"] = hostile[:60]
	c := f.parse(f.issue(o))
	if c.Subject.CommonName != "pump-1" || !slices.Equal(c.Subject.Organization, []string{hostile[:60]}) || len(c.DNSNames) != 0 {
		t.Errorf("subject %s, names %v", c.Subject, c.DNSNames)
	}
}

func TestProfileKeys(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.profile(ca.ProfileForm{Keys: []ca.KeyAlgorithm{ca.KeyEd25519}})
	_, err := f.ca.Issue(f.ctx, f.under(p, "pump-1"))
	wantKind(t, err, ca.KindWeakKey, "csr")
	o := f.under(p, "pump-1")
	public, _, err := ed25519.GenerateKey(rand.Reader)
	f.must(err)
	o.PublicKey, o.KeySHA256 = public, keySHA256(t, public)
	f.issue(o)
}

// I7: with jitter notAfter is spread, and never later than without.
func TestI7JitterSpreads(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	long := f.profile(ca.ProfileForm{Validity: "36000d", Jitter: "100d"}) // beyond the issuer's
	short := f.profile(ca.ProfileForm{Validity: "60d", Jitter: "6d"})
	issuer, err := f.ca.Issuer("device")
	f.must(err)
	for _, c := range []struct {
		p      *ca.Profile
		latest time.Time
	}{{short, f.clock.now().Add(-time.Hour).Truncate(time.Second).Add(60*24*time.Hour - time.Second)}, {long, issuer.Certificate.NotAfter}} {
		seen := map[time.Time]bool{}
		for n := range 40 {
			at := f.parse(f.issue(f.under(c.p, fmt.Sprintf("pump-%d", n)))).NotAfter
			if at.After(c.latest) || at.Before(c.latest.Add(-c.p.Jitter-time.Second)) {
				t.Errorf("notAfter %v, want %v before %v at most", at, c.p.Jitter, c.latest)
			}
			seen[at] = true
		}
		if len(seen) < 35 {
			t.Errorf("40 certificates expire at %d times", len(seen))
		}
	}
}

func TestProfileChanges(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	base := ca.ProfileForm{Name: "pump", Validity: "60d", Keys: []ca.KeyAlgorithm{ca.KeyP256, ca.KeyP384}, Domains: []string{"fleet.example"}, Networks: []string{"192.0.2.0/24"}, MaxActive: 3, Jitter: "1d"}
	before := f.profile(base)
	for what, c := range map[string]struct {
		change func(*ca.ProfileForm)
		field  string
		widens bool
	}{
		"longer":              {func(f *ca.ProfileForm) { f.Validity = "61d" }, "validity", true},
		"shorter":             {func(f *ca.ProfileForm) { f.Validity = "59d" }, "validity", false},
		"backdated more":      {func(f *ca.ProfileForm) { f.Backdate = "2h" }, "backdate", true},
		"more usages":         {func(f *ca.ProfileForm) { f.ExtKeyUsage = []string{"clientAuth", "serverAuth"} }, "extendedKeyUsages", true},
		"less jitter":         {func(f *ca.ProfileForm) { f.Jitter = "" }, "jitter", false},
		"renewed earlier":     {func(f *ca.ProfileForm) { f.RenewBefore = "20d" }, "renewBefore", false},
		"another issuer":      {func(f *ca.ProfileForm) { f.IssuerID = "device" }, "issuer", true},
		"any key":             {func(f *ca.ProfileForm) { f.Keys = nil }, "keys", true},
		"another key":         {func(f *ca.ProfileForm) { f.Keys = []ca.KeyAlgorithm{ca.KeyEd25519} }, "keys", true},
		"fewer keys":          {func(f *ca.ProfileForm) { f.Keys = f.Keys[:1] }, "keys", false},
		"a subject":           {func(f *ca.ProfileForm) { f.Subject.Organization = "x" }, "subject.organization", true},
		"a name":              {func(f *ca.ProfileForm) { f.DNSNames = []string{"{{ .ID }}.fleet.example"} }, "dnsNames", true},
		"a URI":               {func(f *ca.ProfileForm) { f.URIs = []string{"urn:x:{{ .ID }}"} }, "uris", true},
		"a narrower domain":   {func(f *ca.ProfileForm) { f.Domains = []string{"muc.fleet.example"} }, "allowedDomains", false},
		"another domain":      {func(f *ca.ProfileForm) { f.Domains = []string{"fleet.example", "example"} }, "allowedDomains", true},
		"any domain":          {func(f *ca.ProfileForm) { f.Domains = nil }, "allowedDomains", true},
		"a narrower network":  {func(f *ca.ProfileForm) { f.Networks = []string{"192.0.2.128/25"} }, "allowedNetworks", false},
		"another network":     {func(f *ca.ProfileForm) { f.Networks = []string{"192.0.0.0/16"} }, "allowedNetworks", true},
		"fewer certificates":  {func(f *ca.ProfileForm) { f.MaxActive = 2 }, "maxActive", false},
		"any certificates":    {func(f *ca.ProfileForm) { f.MaxActive = 0 }, "maxActive", true},
		"a longer shelf life": {func(f *ca.ProfileForm) { f.ShelfLife = "30d" }, "shelfLife", false},
	} {
		form := base
		c.change(&form)
		changes := ca.ChangesOf(before, f.profile(form))
		if len(changes) != 1 || changes[0].Field != c.field || changes[0].Widens != c.widens || ca.Widens(changes) != c.widens {
			t.Errorf("%s: %+v", what, changes)
		}
	}
	if all := ca.ChangesOf(nil, before); len(all) != 9 || !ca.Widens(all) {
		t.Errorf("from nothing: %+v", all)
	}
	// No field of the form is forgotten.
	var fields map[string]any
	text, err := json.Marshal(ca.ProfileForm{Version: 1, Purpose: "x", Holder: "x", ExtKeyUsage: []string{"x"}, Backdate: "x", Jitter: "x", RenewBefore: "x", IssuerID: "x", Keys: []ca.KeyAlgorithm{"x"},
		Subject: ca.SubjectTemplate{Country: "x"}, DNSNames: []string{"x"}, URIs: []string{"x"}, Domains: []string{"x"}, Networks: []string{"x"}, MaxActive: 1, ShelfLife: "x", Fixed: true})
	f.must(err)
	f.must(json.Unmarshal(text, &fields))
	if compared := len(ca.ComparedFields()); compared != len(fields)-4+5 { // name, version, issuerPurpose, fixed; six fields of the subject
		t.Errorf("%d fields are compared, of %d", compared, len(fields))
	}
}

// finding looks for a finding about a field.
func finding(found []ca.ProfileFinding, severity ca.FindingSeverity, field string) *ca.ProfileFinding {
	for _, f := range found {
		if f.Severity == severity && f.Field == field {
			return &f
		}
	}
	return nil
}

func TestProfileLint(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, p := range ca.Profiles() {
		if p.Fixed() {
			continue
		}
		if found := f.ca.LintProfile(&p, f.clock.now()); len(found) != 0 {
			t.Errorf("the built-in profile %s: %+v", p.Name, found)
		}
	}
	for what, c := range map[string]struct {
		form     ca.ProfileForm
		severity ca.FindingSeverity
		field    string
	}{
		"dead on the shelf":           {ca.ProfileForm{Validity: "60d"}, ca.SeverityWarning, "validity"},
		"jitter takes what is left":   {ca.ProfileForm{Validity: "95d", Jitter: "10d"}, ca.SeverityWarning, "validity"},
		"past the issuer":             {ca.ProfileForm{Validity: "9000d"}, ca.SeverityWarning, "validity"},
		"a broker for too long":       {ca.ProfileForm{Name: "broker", Holder: ca.HolderBroker, Validity: "400d"}, ca.SeverityWarning, "validity"},
		"a window that is too narrow": {ca.ProfileForm{Validity: "365d", RenewBefore: "10d"}, ca.SeverityWarning, "renewBefore"},
		"all at once":                 {ca.ProfileForm{Validity: "365d", RenewBefore: "100d"}, ca.SeverityWarning, "jitter"},
		"no such issuer":              {ca.ProfileForm{Validity: "365d", IssuerID: "none"}, ca.SeverityError, "issuer"},
		"an issuer of brokers":        {ca.ProfileForm{Validity: "365d", IssuerID: "broker"}, ca.SeverityError, "issuer"},
		"usages of another issuer":    {ca.ProfileForm{Validity: "365d", ExtKeyUsage: []string{"clientAuth", "serverAuth"}}, ca.SeverityError, "issuer"},
		"no host name":                {ca.ProfileForm{Validity: "365d", DNSNames: []string{"{{ .ID }}_x"}}, ca.SeverityError, "deviceId"},
		"outside its own domains":     {ca.ProfileForm{Validity: "365d", DNSNames: []string{"{{ .ID }}.b.example"}, Domains: []string{"a.example"}}, ca.SeverityError, "deviceId"},
		"no URI":                      {ca.ProfileForm{Validity: "365d", URIs: []string{"{{ .ID }}"}}, ca.SeverityError, "uris[0]"},
	} {
		found := f.ca.LintProfile(f.profile(c.form), f.clock.now())
		got := finding(found, c.severity, c.field)
		if got == nil || got.Message == "" || ca.Blocks(found) != (c.severity == ca.SeverityError) {
			t.Errorf("%s: %+v", what, found)
		}
	}
	if found := f.ca.LintProfile(f.profile(ca.ProfileForm{Validity: "60d", ShelfLife: "20d"}), f.clock.now()); len(found) != 0 {
		t.Errorf("a shelf life that fits: %+v", found)
	}
}

// A constrained issuer takes names below its domain, and no urn: (design
// decision 10). What the linter says without an issuer's key is what signing
// says with it.
func TestProfileLintUnderConstraints(t *testing.T) {
	t.Parallel()
	constrained := caTemplate("Constrained")
	constrained.PermittedDNSDomainsCritical, constrained.PermittedDNSDomains = true, []string{"fleet.test"}
	f := newFixture(t, ownHierarchy(t, caTemplate("Root"), constrained))
	for what, c := range map[string]struct {
		form     ca.ProfileForm
		severity ca.FindingSeverity // empty for nothing
		field    string
	}{
		"below the domain":   {ca.ProfileForm{DNSNames: []string{"{{ .ID }}.fleet.test"}}, "", ""},
		"another domain":     {ca.ProfileForm{DNSNames: []string{"{{ .ID }}.fleet.example"}}, ca.SeverityError, "issuer"},
		"urn":                {ca.ProfileForm{DNSNames: []string{"{{ .ID }}.fleet.test"}, URIs: []string{"urn:fleet:{{ .ID }}"}}, ca.SeverityError, "uris[0]"},
		"a URI with a host":  {ca.ProfileForm{DNSNames: []string{"{{ .ID }}.fleet.test"}, URIs: []string{"spiffe://fleet.test/{{ .ID }}"}}, "", ""},
		"no names to bind":   {ca.ProfileForm{}, ca.SeverityError, "dnsNames"},
		"urn, from a value":  {ca.ProfileForm{DNSNames: []string{"{{ .ID }}.fleet.test"}, URIs: []string{"{{ .Attributes.kind }}:fleet:{{ .ID }}"}}, ca.SeverityError, "issuer"},
		"a name and another": {ca.ProfileForm{DNSNames: []string{"{{ .ID }}.fleet.test", "{{ .ID }}.example"}}, ca.SeverityError, "issuer"},
	} {
		c.form.Validity, c.form.ShelfLife = "300d", "10d"
		p := f.profile(c.form)
		found := f.ca.LintProfile(p, f.clock.now())
		if c.severity == "" && len(found) != 0 || c.severity != "" && finding(found, c.severity, c.field) == nil {
			t.Errorf("%s: %+v", what, found)
		}
		o := f.under(p, "d-1")
		o.Facts.Attributes = map[string]string{"kind": "urn"}
		// Go lets a certificate without DNS names pass, OpenSSL does not.
		if _, err := f.ca.Issue(f.ctx, o); (err != nil) != ca.Blocks(found) && len(p.DNSNames) > 0 {
			t.Errorf("%s: the linter says %+v, signing %v", what, found, err)
		}
	}
}

// An issuer with a domain names what its profile leaves without a name, and takes
// a profile's names that lie below it.
func TestProfileUnderAnIssuerWithADomain(t *testing.T) {
	t.Parallel()
	p := newPlanned(t)
	p.issuer(ca.CAPlan{ID: "pumps", Purpose: ca.PurposeDevice, Product: "pump", Site: "hall-2", Domain: "fleet.test"}, ca.IssuerActive)
	f := newFixture(t, p.config)
	for what, c := range map[string]struct {
		names  []string
		want   []string
		blocks bool
	}{
		"the issuer's":             {nil, []string{"d-1.pump.hall-2.fleet.test"}, false},
		"the profile's":            {[]string{"{{ .ID }}-x.{{ .Product }}.{{ .Site }}.fleet.test"}, []string{"d-1-x.pump.hall-2.fleet.test"}, false},
		"the profile's, elsewhere": {[]string{"{{ .ID }}.fleet.test"}, nil, true},
	} {
		profile := f.profile(ca.ProfileForm{Name: "pump", Validity: "200d", IssuerID: "pumps", DNSNames: c.names})
		found := f.ca.LintProfile(profile, f.clock.now())
		if !c.blocks && len(found) != 0 || c.blocks && !ca.Blocks(found) {
			t.Errorf("%s: %+v", what, found)
		}
		o := f.under(profile, "d-1")
		o.Product, o.Site, o.Facts.Product, o.Facts.Site = "pump", "hall-2", "pump", "hall-2"
		cert, err := f.ca.Issue(f.ctx, o)
		if (err != nil) != c.blocks || err == nil && !slices.Equal(cert.Names, c.want) {
			t.Errorf("%s: %+v, %v", what, cert, err)
		}
	}
}

// A sample shows all that the profile decides, and nothing that changes by
// itself.
func TestProfileSample(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, kind := range ca.CertifiedKeys() {
		p := f.profile(ca.ProfileForm{Keys: []ca.KeyAlgorithm{kind}, DNSNames: []string{`{{ .ID }}.{{ .Attributes.site }}.{{ index .Attributes "line-no" }}.fleet.example`}, Jitter: "5d"})
		first, err := f.ca.SampleProfile(p, f.clock.now())
		f.must(err)
		second, err := f.ca.SampleProfile(p, f.clock.now())
		f.must(err)
		issuer, err := f.ca.Issuer("device")
		f.must(err)
		for _, want := range []string{"CN=sample-1", "DNS:sample-1.value.value.fleet.example", "Client Authentication", "http://status.test/crl/device.crl", issuer.Certificate.Subject.CommonName, "of the holder's key"} {
			if !strings.Contains(first, want) {
				t.Errorf("%s: the sample has no %q:\n%s", kind, want, first)
			}
		}
		if first != second || strings.Contains(first, "01:01") || strings.Count(first, "\n") > 40 {
			t.Errorf("%s: two samples differ, or show random bytes:\n%s", kind, first)
		}
	}
	if n, _ := f.ledger.count("pump"); n != 0 {
		t.Errorf("%d certificates are recorded", n)
	}
}

// What people write is a profile or an error that names the field, never a panic;
// a profile's form is the same profile; and its names can be tried out.
func FuzzProfileForm(f *testing.F) {
	for _, form := range []ca.ProfileForm{
		{Name: "pump", Validity: "60d", DNSNames: []string{`{{ .ID | lower | trunc 20 }}.{{ if .Site }}{{ .Site }}{{ else }}x{{ end }}.example`}, Keys: []ca.KeyAlgorithm{ca.KeyP256}},
		{Name: "pump", Validity: "8760h", URIs: []string{`urn:x:{{ regexReplaceAll "(" .ID "x" }}`}, Subject: ca.SubjectTemplate{Organization: `{{ index .Attributes "a b" }}`}, Networks: []string{"192.0.2.0/24"}},
		{Name: "broker", Holder: ca.HolderBroker, Validity: "90d", Backdate: "0s", Jitter: "1h", RenewBefore: "240h", ShelfLife: "1d", Domains: []string{"a.example"}},
	} {
		text, err := json.Marshal(form)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	x := newFixture(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		var form ca.ProfileForm
		if json.Unmarshal(text, &form) != nil {
			return
		}
		p, err := form.Profile()
		if err != nil {
			if e, ok := errors.AsType[*ca.Error](err); !ok || e.Field == "" {
				t.Fatalf("%s: %v", text, err)
			}
			return
		}
		again, err := p.Form().Profile()
		if err != nil || len(ca.ChangesOf(p, again)) != 0 {
			t.Fatalf("%s: as a form and back: %v, %v", text, err, ca.ChangesOf(p, again))
		}
		_ = x.ca.LintProfile(p, x.clock.now())
	})
}

func BenchmarkIssueUnderProfile(b *testing.B) {
	for _, c := range []struct {
		name string
		form *ca.ProfileForm
	}{{"built-in", nil}, {"plain", &ca.ProfileForm{}}, {"templates", &ca.ProfileForm{DNSNames: []string{"{{ .ID | lower }}.{{ .Product }}.fleet.example"}, Subject: ca.SubjectTemplate{Organization: "Pumps", OrganizationalUnit: "{{ .Product }}"}}}} {
		b.Run(c.name, func(b *testing.B) {
			f := newFixture(b)
			o := f.order("device")
			if c.form != nil {
				p := f.profile(*c.form)
				o = f.under(p, "pump-1")
				o.Facts.Product = "pump"
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.ca.Issue(f.ctx, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
