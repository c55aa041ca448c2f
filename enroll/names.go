package enroll

import (
	"net"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/fleetca/fleetca/ca"
)

var idPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// CanaryID is the common name of every canary. Brokers know it as a client;
// no device may have it.
const CanaryID = "fleetca-canary"

// checkID refuses what cannot name a device, a work order or a broker: 1 to 64
// of A-Z a-z 0-9 . _ - and not "." or "..", which are folders.
func checkID(field, id string) error {
	switch {
	case id == "":
		return ca.Errorf(ca.KindMalformed, field, "give 1 to 64 of A-Z a-z 0-9 . _ -", "is missing")
	case !idPattern.MatchString(id), id == ".", id == "..":
		return ca.Errorf(ca.KindMalformed, field, "use 1 to 64 of A-Z a-z 0-9 . _ -", "%.80q is not an identifier", id)
	}
	return nil
}

// CheckDeviceID refuses what cannot be a device id (rest.md), and the canary's name.
func CheckDeviceID(field, id string) error {
	if err := checkID(field, id); err != nil {
		return err
	}
	if id == CanaryID {
		return ca.Errorf(ca.KindNameNotAllowed, field, "choose another id", "%q is the name of the canaries", id)
	}
	return nil
}

var dnsLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// checkServerName refuses what is neither an IP address nor a host name of
// letters, digits and hyphens (RFC 1123), at most 253 octets.
func checkServerName(field, name string) error {
	if net.ParseIP(name) != nil {
		return nil
	}
	ok := len(name) > 0 && len(name) <= 253
	for label := range strings.SplitSeq(name, ".") {
		ok = ok && dnsLabel.MatchString(label)
	}
	if !ok {
		return ca.Errorf(ca.KindMalformed, field, "give a lower-case host name or an IP address", "%.80q is neither a host name nor an IP address", name)
	}
	return nil
}

// checkText refuses text for people that is empty, longer than limit octets,
// or holds control characters.
func checkText(field, text string, limit int) error {
	switch {
	case text == "":
		return ca.Errorf(ca.KindMalformed, field, "give it", "is missing")
	case len(text) > limit:
		return ca.Errorf(ca.KindMalformed, field, "shorten it", "is %d octets long, more than %d", len(text), limit)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl):
		return ca.Errorf(ca.KindMalformed, field, "leave control characters out", "holds control characters, or is not UTF-8")
	}
	return nil
}

// checkSite refuses what cannot name a site; empty is none.
func checkSite(site string) error {
	if site == "" {
		return nil
	}
	return checkID("site", site)
}

// Bounds of a device's attributes.
const (
	maxAttributes     = 32
	maxAttributeName  = 64
	maxAttributeValue = 1024
)

func checkAttributes(attributes map[string]string) error {
	if len(attributes) > maxAttributes {
		return ca.Errorf(ca.KindMalformed, "attributes", "leave some out", "are %d, more than %d", len(attributes), maxAttributes)
	}
	for name, value := range attributes {
		if err := checkText("attributes", name, maxAttributeName); err != nil {
			return err
		}
		if value == "" {
			continue
		}
		if err := checkText("attributes."+name, value, maxAttributeValue); err != nil {
			return err
		}
	}
	return nil
}
