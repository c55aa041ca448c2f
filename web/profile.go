package web

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// profileRoutes are what certificates look like.
func profileRoutes() []route {
	return []route{
		{Method: get, Pattern: "/authority/profiles/{name}", Permission: enroll.MayLook, handle: getProfile},
	}
}

// profileURL returns a profile's page.
func profileURL(name string) string { return "/authority/profiles/" + url.PathEscape(name) }

// A profilePage is one profile, with its versions.
type profilePage struct {
	ca.ProfileForm
	Facts    []profileFact
	Findings []ca.ProfileFinding
	Sample   string // certificate in words; empty when none can be issued
	Versions []versionRow
	Export   string // command that writes a file to edit
	Plan     command
	Apply    command
}

// A profileFact is a line about a profile.
type profileFact struct{ Name, Value string }

// A versionRow is a version in a table.
type versionRow struct {
	*enroll.ProfileVersion
	Number int64
}

func getProfile(v *visit) (answer, error) {
	name := v.param("name")
	profile, err := v.site.service.Profile(v.ctx(), name)
	if err != nil {
		return nil, err
	}
	versions, err := v.site.service.ProfileVersions(v.ctx(), name)
	if err != nil {
		return nil, err
	}
	p := profilePage{ProfileForm: profile.Form(), Facts: profileFacts(profile), Findings: v.site.service.ProfileFindings(profile)}
	for _, version := range versions {
		p.Versions = append(p.Versions, versionRow{version, version.Profile.Version})
	}
	if p.Sample, err = v.site.service.SampleProfile(profile); err != nil {
		return nil, err
	}
	file := name + ".yaml"
	next := enroll.NewProfileVersion{Profile: p.ProfileForm}
	p.Export = v.site.program("profile", "show", name, "--yaml") + " > " + shellWord(file)
	p.Plan = v.site.command("/profiles/"+url.PathEscape(name)+"/plan", next, "profile", "plan", file)
	p.Apply = v.site.command("/profiles/"+url.PathEscape(name)+"/versions", next, "profile", "apply", file)
	return page{name: "profile", title: "Profile " + name, data: p}, nil
}

// profileFacts says what a profile decides, without what it leaves open.
func profileFacts(p *ca.Profile) []profileFact {
	f := p.Form()
	span := func(d time.Duration) string {
		if d == 0 {
			return ""
		}
		return spanText(d)
	}
	kinds := make([]string, len(f.Keys))
	for i, k := range f.Keys {
		kinds[i] = string(k)
	}
	renewed := "at two thirds of the life"
	if p.RenewBefore > 0 {
		renewed = span(p.RenewBefore) + " before the end"
	}
	if f.Fixed {
		renewed = "by the server itself"
	}
	active := ""
	if p.MaxActive > 0 {
		active = fmt.Sprintf("%d at most", p.MaxActive)
	}
	s := f.Subject
	var facts []profileFact
	for _, fact := range []profileFact{
		{"For a", string(f.Holder)}, {"Issuer", orElse(f.IssuerID, "the active one for a "+string(f.Purpose))}, {"Authenticates as", strings.Join(f.ExtKeyUsage, ", ")},
		{"Keys", orElse(strings.Join(kinds, ", "), "every kind of the key policy")},
		{"Valid for", span(p.Validity)}, {"Backdated by", span(p.Backdate)}, {"Jitter", span(p.Jitter)},
		{"Renewed", renewed}, {"Shelf life", span(p.ShelfLife)},
		{"Organization", s.Organization}, {"Organizational unit", s.OrganizationalUnit}, {"Country", s.Country}, {"Province", s.Province},
		{"Locality", s.Locality}, {"Serial number", s.SerialNumber},
		{"DNS names", strings.Join(f.DNSNames, ", ")}, {"URIs", strings.Join(f.URIs, ", ")},
		{"Allowed domains", strings.Join(f.Domains, ", ")}, {"Allowed networks", strings.Join(f.Networks, ", ")},
		{"Certificates a device", active},
	} {
		if fact.Value != "" {
			facts = append(facts, fact)
		}
	}
	return facts
}

func orElse(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}
