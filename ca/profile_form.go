package ca

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A ProfileForm is a profile as people write it, and as JSON shows it.
// Durations are Go's, or days such as 90d.
type ProfileForm struct {
	Name        string          `json:"name"`
	Version     int64           `json:"version,omitempty"`       // from 1; in a request the version that the change begins with
	Purpose     Purpose         `json:"issuerPurpose,omitempty"` // of the issuer that signs it; given by the holder
	Holder      HolderKind      `json:"holder,omitempty"`        // what its certificates identify; device when missing
	ExtKeyUsage []string        `json:"extendedKeyUsages,omitempty"`
	Validity    string          `json:"validity"`              // from notBefore to notAfter at most
	Backdate    string          `json:"backdate,omitempty"`    // how far back notBefore lies, for clocks that are wrong; 1h when missing
	Jitter      string          `json:"jitter,omitempty"`      // notAfter lies earlier by a random part of this, so that a fleet does not renew at once
	RenewBefore string          `json:"renewBefore,omitempty"` // holders renew this long before notAfter; at two thirds of the life when missing
	IssuerID    string          `json:"issuer,omitempty"`      // who signs; the newest active issuer of the purpose when missing
	Keys        []KeyAlgorithm  `json:"keys,omitempty"`        // kinds that are certified; every kind of the key policy when missing
	Subject     SubjectTemplate `json:"subject,omitzero"`      // beside the common name, which is the holder's id
	DNSNames    []string        `json:"dnsNames,omitempty"`    // templates, such as {{ .ID | lower }}.{{ .Product }}.fleet.example
	URIs        []string        `json:"uris,omitempty"`        // templates of uniform resource identifiers
	Domains     []string        `json:"allowedDomains,omitempty"`
	Networks    []string        `json:"allowedNetworks,omitempty"`
	MaxActive   int             `json:"maxActive,omitempty"` // good certificates that a device may have at once, 2 or more; any number when missing
	ShelfLife   string          `json:"shelfLife,omitempty"` // how long a unit may lie between its enrollment and its first power-up; 90 days when missing
	Fixed       bool            `json:"fixed,omitempty"`     // the program's own, which cannot be changed
}

// Form returns the profile as JSON shows it.
func (p *Profile) Form() ProfileForm {
	f := ProfileForm{
		Name: p.Name, Version: p.Version, Purpose: p.Purpose, Holder: p.Holder, Validity: p.Validity.String(), Backdate: p.Backdate.String(),
		Jitter: spanOrNone(p.Jitter), RenewBefore: spanOrNone(p.RenewBefore), IssuerID: p.IssuerID, Keys: p.Keys,
		Subject: p.Subject, DNSNames: p.DNSNames, URIs: p.URIs, Domains: p.Domains,
		MaxActive: p.MaxActive, ShelfLife: spanOrNone(p.ShelfLife), Fixed: p.Fixed(),
	}
	for _, u := range p.ExtKeyUsage {
		f.ExtKeyUsage = append(f.ExtKeyUsage, usageNames[u])
	}
	for _, n := range p.Networks {
		f.Networks = append(f.Networks, n.String())
	}
	return f
}

// MarshalJSON writes the profile's form.
func (p Profile) MarshalJSON() ([]byte, error) { return json.Marshal(p.Form()) }

func spanOrNone(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

var usageNames = map[x509.ExtKeyUsage]string{
	x509.ExtKeyUsageClientAuth: "clientAuth",
	x509.ExtKeyUsageServerAuth: "serverAuth",

	x509.ExtKeyUsageOCSPSigning: "OCSPSigning",
}

// usages are those that a profile may give: what authenticates, nothing that
// signs for the authority.
var usages = map[string]x509.ExtKeyUsage{"clientAuth": x509.ExtKeyUsageClientAuth, "serverAuth": x509.ExtKeyUsageServerAuth}

// needs is what certificates of a kind of holder are for, and who signs them.
var needs = map[HolderKind]struct {
	purpose Purpose
	usage   string
}{
	HolderDevice: {PurposeDevice, "clientAuth"},
	HolderBroker: {PurposeBroker, "serverAuth"},
	HolderServer: {PurposeBroker, "serverAuth"},
	HolderAgent:  {PurposeBroker, "clientAuth"},
}

var profilePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`)

// Profile reads the form: an Error that names the field for what is no
// profile. Whether its issuer and names fit together is Authority.LintProfile's
// matter.
func (f ProfileForm) Profile() (*Profile, error) {
	holder := cmp.Or(f.Holder, HolderDevice)
	need, known := needs[holder]
	switch {
	case !profilePattern.MatchString(f.Name):
		return nil, Errorf(KindMalformed, "name", "use small letters, digits and hyphens, such as pump-indoor", "%.80q is no name of a profile", f.Name)
	case !known:
		return nil, Errorf(KindMalformed, "holder", "one of device, broker, server, agent", "%.40q has no profiles that can be changed", holder)
	case f.Purpose != "" && f.Purpose != need.purpose:
		return nil, Errorf(KindMalformed, "issuerPurpose", "leave it out", "certificates of a %s are signed by an issuer of purpose %s, not %s", holder, need.purpose, f.Purpose)
	case f.Validity == "":
		return nil, Errorf(KindMalformed, "validity", "give how long certificates are valid, such as 365d", "is missing")
	case f.MaxActive != 0 && holder != HolderDevice:
		return nil, Errorf(KindMalformed, "maxActive", "leave it out", "is for devices; a %s may have any number", holder)
	case f.MaxActive < 0 || f.MaxActive == 1 || f.MaxActive > maxActive:
		return nil, Errorf(KindMalformed, "maxActive", "give 2 or more: a device keeps its certificate until it was seen with the next one", "must be 0 for any number, or 2 to %d", maxActive)
	}
	p := &Profile{Name: f.Name, Version: f.Version, Purpose: need.purpose, Holder: holder, IssuerID: f.IssuerID, Subject: f.Subject, MaxActive: f.MaxActive}
	for _, read := range []func(*Profile) error{f.spans, f.usages, f.keys, f.names, (*Profile).compile} {
		if err := read(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Bounds of profiles.
const (
	maxActive   = 1000
	maxValidity = 100 * 365 * 24 * time.Hour
	minValidity = 10 * time.Minute
	maxBackdate = 7 * 24 * time.Hour
	maxNames    = 20
)

// spans reads the durations.
func (f ProfileForm) spans(p *Profile) error {
	for _, s := range []struct {
		field, text string
		into        *time.Duration
		least, most time.Duration
	}{
		{"validity", f.Validity, &p.Validity, minValidity, maxValidity},
		{"backdate", cmp.Or(f.Backdate, "1h"), &p.Backdate, 0, maxBackdate},
		{"jitter", f.Jitter, &p.Jitter, 0, maxValidity},
		{"renewBefore", f.RenewBefore, &p.RenewBefore, 0, maxValidity},
		{"shelfLife", f.ShelfLife, &p.ShelfLife, 0, maxValidity},
	} {
		if s.text == "" {
			continue
		}
		d, err := ParseSpan(s.text)
		if err != nil || d%time.Second != 0 {
			return Errorf(KindMalformed, s.field, "write whole seconds as 8760h, 90m or 365d", "%.40q is no duration", s.text)
		}
		if d < s.least || d > s.most {
			return Errorf(KindMalformed, s.field, "give a duration within these bounds", "must be %s to %s", s.least, s.most)
		}
		*s.into = d
	}
	life := p.Validity - p.Backdate // as the holder sees it
	switch {
	case life < minValidity:
		return Errorf(KindMalformed, "backdate", "make it shorter than the validity", "leaves %s of the validity", life)
	case p.Jitter > life/2:
		return Errorf(KindMalformed, "jitter", "give a tenth of the validity, say", "is more than half of what is left of the validity, %s", life)
	case p.RenewBefore > 0 && p.RenewBefore >= life-p.Jitter:
		return Errorf(KindMalformed, "renewBefore", "give a third of the validity, say", "lets a certificate be renewed as soon as it is issued: with backdate and jitter it may live %s", life-p.Jitter)
	}
	return nil
}

// ParseSpan reads a duration of Go, or whole days such as 90d.
func ParseSpan(text string) (time.Duration, error) {
	if days, found := strings.CutSuffix(text, "d"); found {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}

// usages reads the extended key usages; missing ones are what the holder needs.
func (f ProfileForm) usages(p *Profile) error {
	need := needs[p.Holder].usage
	names := f.ExtKeyUsage
	if len(names) == 0 {
		names = []string{need}
	}
	for i, name := range names {
		u, known := usages[name]
		if !known || slices.Contains(p.ExtKeyUsage, u) {
			return Errorf(KindMalformed, fmt.Sprintf("extendedKeyUsages[%d]", i), "give clientAuth, serverAuth, or both, each once", "%.40q is none that a profile may give, or stands twice", name)
		}
		p.ExtKeyUsage = append(p.ExtKeyUsage, u)
	}
	if !slices.Contains(names, need) {
		return Errorf(KindMalformed, "extendedKeyUsages", "add "+need, "a %s authenticates with %s", p.Holder, need)
	}
	return nil
}

// keys reads the kinds of keys.
func (f ProfileForm) keys(p *Profile) error {
	for i, kind := range f.Keys {
		if !slices.Contains(CertifiedKeys(), kind) || slices.Contains(f.Keys[:i], kind) {
			return Errorf(KindMalformed, fmt.Sprintf("keys[%d]", i), "give some of "+listed(CertifiedKeys())+", each once", "%.40q is no kind of key that is certified, or stands twice", kind)
		}
	}
	p.Keys = f.Keys
	return nil
}

// names reads the templates, which compile looks at, and what is allowed.
func (f ProfileForm) names(p *Profile) error {
	if len(f.DNSNames) > maxNames || len(f.URIs) > maxNames || len(f.Domains) > maxNames || len(f.Networks) > maxNames {
		return Errorf(KindMalformed, "dnsNames", "leave some out", "lists of names hold at most %d", maxNames)
	}
	for i, domain := range f.Domains {
		if len(domain) > maxHostName || !hostPattern.MatchString(domain) {
			return Errorf(KindMalformed, fmt.Sprintf("allowedDomains[%d]", i), "give a domain such as fleet.example, without a dot before it", "%.80q is no domain", domain)
		}
	}
	for i, text := range f.Networks {
		n, err := netip.ParsePrefix(text)
		if err != nil || n != n.Masked() {
			return Errorf(KindMalformed, fmt.Sprintf("allowedNetworks[%d]", i), "give a network such as 192.0.2.0/24", "%.80q is no network", text)
		}
		p.Networks = append(p.Networks, n)
	}
	p.DNSNames, p.URIs, p.Domains = f.DNSNames, f.URIs, f.Domains
	return nil
}

// listed writes values for a person.
func listed[T any](all []T) string {
	texts := make([]string, len(all))
	for i, v := range all {
		texts[i] = fmt.Sprint(v)
	}
	return strings.Join(texts, ", ")
}

// renewFrom returns when a certificate of the profile is to be renewed; zero
// when the profile does not say.
func (p *Profile) renewFrom(notAfter time.Time) time.Time {
	if p.RenewBefore == 0 {
		return time.Time{}
	}
	return notAfter.Add(-p.RenewBefore).UTC()
}
