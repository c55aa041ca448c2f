package mqtts

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"
)

// subjectOf names a certificate for a person.
func subjectOf(c *x509.Certificate) string {
	if c == nil {
		return ""
	}
	if s := c.Subject.String(); s != "" {
		return printable(s, 200)
	}
	if n := namesOf(c); n != "no name at all" {
		return n
	}
	return "a certificate without a name"
}

// issuerOf names a certificate's issuer for a person.
func issuerOf(c *x509.Certificate) string {
	if s := c.Issuer.String(); s != "" {
		return printable(s, 200)
	}
	return "an issuer without a name"
}

// namesOf lists the subject alternative names, the first few.
func namesOf(c *x509.Certificate) string {
	names := append([]string(nil), c.DNSNames[:min(8, len(c.DNSNames))]...)
	for _, ip := range c.IPAddresses[:min(8, len(c.IPAddresses))] {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name at all"
	}
	if more := len(c.DNSNames) + len(c.IPAddresses) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return printable(strings.Join(names, ", "), 250)
}

// serialOf returns the serial number in lower-case hex.
func serialOf(c *x509.Certificate) string {
	if c.SerialNumber == nil {
		return ""
	}
	return c.SerialNumber.Text(16)
}

// stamp formats a time for a person.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// span formats a duration for a person, in its largest unit.
func span(d time.Duration) string {
	units := []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}}
	for _, u := range units {
		if n := int(d / u.of); n == 1 {
			return "1 " + u.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return fmt.Sprintf("%d seconds", int(d/time.Second))
}
