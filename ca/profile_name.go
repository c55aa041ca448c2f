package ca

import (
	"bytes"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"go.step.sm/crypto/x509util"
)

// A SubjectTemplate is what a subject holds beside its common name, which is
// always the holder's. Each is a template, as DNSNames are.
type SubjectTemplate struct {
	Organization       string `json:"organization,omitempty"`
	OrganizationalUnit string `json:"organizationalUnit,omitempty"`
	Country            string `json:"country,omitempty"` // two letters, ISO 3166
	Province           string `json:"province,omitempty"`
	Locality           string `json:"locality,omitempty"`
	SerialNumber       string `json:"serialNumber,omitempty"` // of the unit (RFC 4519, 2.31), not the certificate's
}

// NameFacts are what templates are filled in with.
type NameFacts struct {
	ID         string            // of the holder: the device id, or the name it is known by
	Product    string            // of the work order
	Site       string            // of the work order
	WorkOrder  string            //
	Group      string            // of the device
	Attributes map[string]string // of the device; one that is missing is an error
}

// nameTemplates are a profile's templates, compiled once. One template stands
// for one value, so that no attribute can add another name: what x509util
// reads is JSON as a whole, which a value with a quote in it breaks out of.
type nameTemplates struct {
	subject  [6]*template.Template // in the order of SubjectTemplate; nil for none
	dnsNames []*template.Template
	uris     []*template.Template
}

// templateFuncs are the functions of templates: those of x509util templates
// that always give the same and reach nothing outside.
var templateFuncs = func() template.FuncMap {
	all, few := x509util.GetFuncMap(), template.FuncMap{}
	for _, name := range []string{
		"coalesce", "contains", "default", "fail", "hasPrefix", "hasSuffix", "lower", "nospace", "regexMatch", "regexReplaceAll",
		"replace", "substr", "ternary", "trim", "trimAll", "trimPrefix", "trimSuffix", "trunc", "upper",
	} {
		few[name] = all[name]
	}
	return few
}()

const templateHint = "write it as a Go template with .ID, .Product, .Site, .WorkOrder, .Group and .Attributes.NAME, such as {{ .ID | lower }}.{{ .Product }}.fleet.example"

// compile compiles the profile's templates.
func (p *Profile) compile() error {
	t := &nameTemplates{}
	some := false
	one := func(field, text string) (*template.Template, error) {
		some = true
		made, err := template.New(field).Option("missingkey=error").Funcs(templateFuncs).Parse(text)
		if err != nil {
			return nil, Errorf(KindMalformed, field, templateHint, "%.200q is no template: %w", text, err)
		}
		if text == "" || len(text) > maxTemplate || len(made.Templates()) > 1 || made.Tree == nil || !straight(made.Root) {
			return nil, Errorf(KindMalformed, field, templateHint, "%.200q is empty, longer than %d octets, or has loops or templates of its own", text, maxTemplate)
		}
		return made, nil
	}
	for i, text := range p.Subject.fields() {
		if text == "" {
			continue
		}
		var err error
		if t.subject[i], err = one("subject."+subjectFields[i], text); err != nil {
			return err
		}
	}
	for _, list := range []struct {
		field string
		texts []string
		into  *[]*template.Template
	}{{"dnsNames", p.DNSNames, &t.dnsNames}, {"uris", p.URIs, &t.uris}} {
		for i, text := range list.texts {
			made, err := one(fmt.Sprintf("%s[%d]", list.field, i), text)
			if err != nil {
				return err
			}
			*list.into = append(*list.into, made)
		}
	}
	if some {
		p.templates = t
	}
	return nil
}

// maxTemplate is the longest template, in octets.
const maxTemplate = 1024

// straight reports whether a template runs through once: without loops, which
// may be endless, and without other templates.
func straight(node parse.Node) bool {
	switch n := node.(type) {
	case *parse.ListNode:
		return n == nil || !slices.ContainsFunc(n.Nodes, func(inner parse.Node) bool { return !straight(inner) })
	case *parse.IfNode:
		return straight(n.List) && straight(n.ElseList)
	case *parse.WithNode:
		return straight(n.List) && straight(n.ElseList)
	case *parse.TextNode, *parse.ActionNode, *parse.CommentNode:
		return true
	}
	return false
}

// Templated reports whether names depend on more than the holder's id.
func (p *Profile) Templated() bool { return p.templates != nil }

var subjectFields = [6]string{"organization", "organizationalUnit", "country", "province", "locality", "serialNumber"}

func (s SubjectTemplate) fields() [6]string {
	return [6]string{s.Organization, s.OrganizationalUnit, s.Country, s.Province, s.Locality, s.SerialNumber}
}

// named returns an order with the names that the profile gives it.
func (p *Profile) named(o Order) (Order, error) {
	o.subject = subjectFor(o)
	if t := p.templates; t != nil {
		if err := t.fill(&o); err != nil {
			return o, err
		}
	}
	return o, p.checkNames(o)
}

// fill adds what the templates give to an order.
func (t *nameTemplates) fill(o *Order) error {
	subject := [6][]string{}
	for i, one := range t.subject {
		if one == nil {
			continue
		}
		text, err := filled(one, o.Facts)
		if err != nil {
			return err
		}
		if err := checkSubject(subjectFields[i], text); err != nil {
			return err
		}
		subject[i] = []string{text}
	}
	o.subject.Organization, o.subject.OrganizationalUnit, o.subject.Country = subject[0], subject[1], subject[2]
	o.subject.Province, o.subject.Locality = subject[3], subject[4]
	o.subject.SerialNumber = strings.Join(subject[5], "")
	o.DNSNames = slices.Clone(o.DNSNames)
	for _, one := range t.dnsNames {
		name, err := filled(one, o.Facts)
		if err != nil {
			return err
		}
		if !slices.Contains(o.DNSNames, name) {
			o.DNSNames = append(o.DNSNames, name)
		}
	}
	for _, one := range t.uris {
		text, err := filled(one, o.Facts)
		if err != nil {
			return err
		}
		uri, err := parseURI(one.Name(), text)
		if err != nil {
			return err
		}
		o.URIs = append(o.URIs, uri)
	}
	return nil
}

// filled fills one template in.
func filled(t *template.Template, facts NameFacts) (string, error) {
	var text bytes.Buffer
	if err := t.Execute(&text, facts); err != nil {
		return "", Errorf(KindNameNotAllowed, t.Name(), "give the device the attributes that its profile names, or mend the profile's template", "the profile's template cannot be filled in: %s", cause(err))
	}
	if text.Len() == 0 {
		return "", Errorf(KindNameNotAllowed, t.Name(), "give the device what its profile's template asks for", "the profile's template gives nothing for this device")
	}
	return text.String(), nil
}

// cause returns the innermost text of a template's error: without the place in
// the template, which its reader cannot see.
func cause(err error) string {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	text := err.Error()
	if i := strings.LastIndex(text, ">: "); i >= 0 {
		text = text[i+3:]
	}
	return text
}

// Longest values of a subject, in octets (RFC 5280, appendix A.1).
var subjectLimits = map[string]int{"organization": 64, "organizationalUnit": 64, "country": 2, "province": 128, "locality": 128, "serialNumber": 64}

// checkSubject refuses what a subject cannot hold.
func checkSubject(field, text string) error {
	limit := subjectLimits[field]
	switch {
	case !printableASCII(text):
		return Errorf(KindNameNotAllowed, "subject."+field, "use printable ASCII", "%.80q holds other than printable ASCII", text)
	case len(text) > limit:
		return Errorf(KindNameNotAllowed, "subject."+field, "shorten it", "%.80q is %d octets long, more than %d", text, len(text), limit)
	case field == "country" && (len(text) != 2 || strings.ToUpper(text) != text):
		return Errorf(KindNameNotAllowed, "subject."+field, "give two capital letters of ISO 3166", "%.80q is no country", text)
	}
	return nil
}

// maxURI is the longest URI that a certificate holds, in octets.
const maxURI = 512

// parseURI reads an absolute URI (RFC 5280, 4.2.1.6).
func parseURI(field, text string) (*url.URL, error) {
	uri, err := url.Parse(text)
	if err != nil || len(text) > maxURI || !printableASCII(text) || strings.Contains(text, " ") || !uri.IsAbs() || uri.Opaque == "" && uri.Host == "" || uri.String() != text {
		return nil, Errorf(KindNameNotAllowed, field, "give an absolute URI such as spiffe://fleet.example/device/pump-1", "%.80q is no absolute URI", text)
	}
	return uri, nil
}

// checkNames holds an order's names against what the profile allows.
func (p *Profile) checkNames(o Order) error {
	field := "names"
	if o.Holder.Kind == HolderDevice {
		field = "deviceId"
	}
	for _, name := range o.DNSNames {
		if len(p.Domains) > 0 && !slices.ContainsFunc(p.Domains, func(domain string) bool { return belowDomain(name, domain) }) {
			return Errorf(KindNameNotAllowed, field, "use a name at or below "+listed(p.Domains), "profile %s allows no DNS name %.80q", p.Name, name)
		}
	}
	for _, ip := range o.IPs {
		addr, _ := netip.AddrFromSlice(ip)
		if len(p.Networks) > 0 && !slices.ContainsFunc(p.Networks, func(n netip.Prefix) bool { return n.Contains(addr.Unmap()) }) {
			return Errorf(KindNameNotAllowed, field, "use an address of "+listed(p.Networks), "profile %s allows no IP address %s", p.Name, ip)
		}
	}
	return nil
}

// belowDomain reports whether a host name is a domain or below it.
func belowDomain(name, domain string) bool {
	name, domain = strings.ToLower(name), strings.ToLower(domain)
	return name == domain || strings.HasSuffix(name, "."+domain)
}

func printableASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func sameURIs(a, b []*url.URL) bool {
	return slices.EqualFunc(a, b, func(x, y *url.URL) bool { return x.String() == y.String() })
}

// sameSubject reports whether a certificate's subject is what was asked for.
func sameSubject(got, want pkix.Name) bool { return got.String() == want.String() }
