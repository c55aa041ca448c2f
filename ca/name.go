package ca

import (
	"crypto/x509/pkix"
	"regexp"
	"strings"
)

// Longest names, in octets: ub-common-name (RFC 5280, appendix A.1), and a
// host name (RFC 1123, 2.1).
const (
	maxCommonName = 64
	maxHostName   = 253
)

// hostPattern is a host name of letters, digits and hyphens (RFC 5280, 4.2.1.6).
var hostPattern = regexp.MustCompile(`^(?i:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.(?i:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?))*$`)

// checkNames refuses names that no policy may give (I9): empty, NUL and other
// controls, anything outside ASCII (no two scripts to mix), what is no host
// name, no IP address, or longer than certificates allow.
func checkNames(o Order) error {
	field := "names"
	if o.Holder.Kind == HolderDevice {
		field = "deviceId"
	}
	named := len(o.DNSNames)+len(o.IPs) > 0
	switch {
	case o.CommonName == "":
		return Errorf(KindNameNotAllowed, field, "", "a certificate needs a common name")
	case strings.ContainsFunc(o.CommonName, func(r rune) bool { return r < ' ' || r > '~' }):
		return Errorf(KindNameNotAllowed, field, "use printable ASCII", "the common name %.80q holds other than printable ASCII", o.CommonName)
	case len(o.CommonName) > maxCommonName && !named:
		return Errorf(KindNameNotAllowed, field, "shorten it", "the common name is %d octets long, more than %d", len(o.CommonName), maxCommonName)
	}
	for _, name := range o.DNSNames {
		if len(name) > maxHostName || !hostPattern.MatchString(name) {
			return Errorf(KindNameNotAllowed, field, "use letters, digits, hyphens and dots", "%.80q is no host name", name)
		}
	}
	for _, ip := range o.IPs {
		if ip.To16() == nil {
			return Errorf(KindNameNotAllowed, field, "", "%.80q is no IP address", ip.String())
		}
	}
	return nil
}

// subjectFor returns an order's subject: its common name. One that is too long
// for a subject stands in the subject alternative name alone, which is critical
// then (RFC 5280, 4.2.1.6).
func subjectFor(o Order) pkix.Name {
	if len(o.CommonName) > maxCommonName {
		return pkix.Name{}
	}
	return pkix.Name{CommonName: o.CommonName}
}
