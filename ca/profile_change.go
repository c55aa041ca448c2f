package ca

import (
	"encoding/json"
	"fmt"
	"slices"
)

// A ProfileChange is one field that differs between two versions of a profile.
type ProfileChange struct {
	Field  string `json:"field"`
	Before string `json:"before"` // empty for nothing
	After  string `json:"after"`  // empty for nothing
	Widens bool   `json:"widens"` // something is issued under the new version that was not under the old one
}

// widening says for each field of a profile's form whether a change of it lets
// something be issued that was not. What is not decided by comparing counts as
// widening: another issuer, another template.
var widening = []struct {
	field  string
	widens func(before, after *Profile) bool
}{
	{"holder", always},
	{"extendedKeyUsages", func(b, a *Profile) bool { return !subset(a.ExtKeyUsage, b.ExtKeyUsage) }},
	{"validity", func(b, a *Profile) bool { return a.Validity > b.Validity }},
	{"backdate", func(b, a *Profile) bool { return a.Backdate > b.Backdate }},
	{"jitter", never}, // notAfter is the validity's at most, with or without
	{"renewBefore", never},
	{"issuer", always},
	{"keys", func(b, a *Profile) bool { return len(b.Keys) > 0 && (len(a.Keys) == 0 || !subset(a.Keys, b.Keys)) }},
	{"subject.organization", func(_, a *Profile) bool { return a.Subject.Organization != "" }},
	{"subject.organizationalUnit", func(_, a *Profile) bool { return a.Subject.OrganizationalUnit != "" }},
	{"subject.country", func(_, a *Profile) bool { return a.Subject.Country != "" }},
	{"subject.province", func(_, a *Profile) bool { return a.Subject.Province != "" }},
	{"subject.locality", func(_, a *Profile) bool { return a.Subject.Locality != "" }},
	{"subject.serialNumber", func(_, a *Profile) bool { return a.Subject.SerialNumber != "" }},
	{"dnsNames", func(b, a *Profile) bool { return !subset(a.DNSNames, b.DNSNames) }},
	{"uris", func(b, a *Profile) bool { return !subset(a.URIs, b.URIs) }},
	{"allowedDomains", func(b, a *Profile) bool {
		return len(b.Domains) > 0 && (len(a.Domains) == 0 || slices.ContainsFunc(a.Domains, func(d string) bool {
			return !slices.ContainsFunc(b.Domains, func(old string) bool { return belowDomain(d, old) })
		}))
	}},
	{"allowedNetworks", func(b, a *Profile) bool { return len(b.Networks) > 0 && (len(a.Networks) == 0 || !b.covers(a)) }},
	{"maxActive", func(b, a *Profile) bool { return b.MaxActive > 0 && (a.MaxActive == 0 || a.MaxActive > b.MaxActive) }},
	{"shelfLife", never},
}

func always(_, _ *Profile) bool { return true }

func never(_, _ *Profile) bool { return false }

// subset reports whether every one of some values is among others.
func subset[T comparable](some, others []T) bool {
	return !slices.ContainsFunc(some, func(v T) bool { return !slices.Contains(others, v) })
}

// covers reports whether every network of another version lies in one of this.
func (p *Profile) covers(other *Profile) bool {
	for _, n := range other.Networks {
		inside := false
		for _, mine := range p.Networks {
			inside = inside || mine.Bits() <= n.Bits() && mine.Contains(n.Addr())
		}
		if !inside {
			return false
		}
	}
	return true
}

// ChangesOf returns the fields that differ from one version of a profile to
// the next, in the order of the form. From none to the first, everything that
// it says is new, and widens.
func ChangesOf(before, after *Profile) []ProfileChange {
	changes := []ProfileChange{}
	was := map[string]string{}
	if before != nil {
		was = before.texts()
	}
	is := after.texts()
	for _, w := range widening {
		if was[w.field] == is[w.field] {
			continue
		}
		changes = append(changes, ProfileChange{w.field, was[w.field], is[w.field], before == nil || w.widens(before, after)})
	}
	return changes
}

// Widens reports whether one of changes does.
func Widens(changes []ProfileChange) bool {
	return slices.ContainsFunc(changes, func(c ProfileChange) bool { return c.Widens })
}

// texts returns the fields of the profile's form as text, those of its subject
// as subject.FIELD.
func (p *Profile) texts() map[string]string {
	text, err := json.Marshal(p.Form())
	var fields map[string]any
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil {
		panic("the form of a profile is not JSON: " + err.Error()) // it is of strings and numbers
	}
	texts := map[string]string{}
	for name, value := range fields {
		switch v := value.(type) {
		case []any:
			texts[name] = listed(v)
		case map[string]any:
			for inner, text := range v {
				texts[name+"."+inner] = fmt.Sprint(text)
			}
		default:
			texts[name] = fmt.Sprint(v)
		}
	}
	return texts
}
