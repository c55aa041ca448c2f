package ca

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A FindingSeverity says what a finding stands in the way of.
type FindingSeverity string

// The severities.
const (
	SeverityError   FindingSeverity = "error"   // the profile cannot be used so
	SeverityWarning FindingSeverity = "warning" // it can, and somebody may be surprised
)

// A ProfileFinding is something wrong with a profile.
type ProfileFinding struct {
	Severity FindingSeverity `json:"severity"`
	Field    string          `json:"field"`
	Message  string          `json:"message"`
	Hint     string          `json:"hint,omitempty"` // the next step
}

// assumedShelfLife is how long a unit may lie before its first power-up, when
// its profile does not say.
const assumedShelfLife = 90 * 24 * time.Hour

// longestServer is the longest life of a server's certificate that clients of
// every make accept.
const longestServer = 398 * 24 * time.Hour

// LintProfile looks at a profile beside the issuers that there are: whether one
// signs for it, whether certificates of it would verify under that one's
// constraints (design decision 10), and what would surprise its holders.
func (a *Authority) LintProfile(p *Profile, now time.Time) []ProfileFinding {
	l := &profileLint{p: p, found: []ProfileFinding{}, life: p.Validity - p.Backdate - p.Jitter}
	s, err := a.signerFor(p, Order{}, now)
	if err != nil {
		l.failed("issuer", err)
	} else {
		l.underIssuer(a, s, now)
	}
	l.lives()
	return l.found
}

// Blocks reports whether findings forbid to use a profile.
func Blocks(found []ProfileFinding) bool {
	return slices.ContainsFunc(found, func(f ProfileFinding) bool { return f.Severity == SeverityError })
}

// ShelfWarning says that a certificate which is valid until notAfter may be dead
// before its device is powered up for the first time; "" when it lives on.
func (p *Profile) ShelfWarning(now, notAfter time.Time) string {
	shelf := p.shelfLife()
	if p.Holder != HolderDevice || notAfter.Sub(now) > shelf {
		return ""
	}
	return fmt.Sprintf("the certificate expires on %s, and a unit may lie for %s before its first power-up: it would come up with an expired certificate",
		notAfter.UTC().Format(time.DateOnly), inDays(shelf))
}

func (p *Profile) shelfLife() time.Duration {
	if p.ShelfLife > 0 {
		return p.ShelfLife
	}
	return assumedShelfLife
}

// NotAfter returns the earliest notAfter of a certificate that is issued now for
// a product and a site.
func (a *Authority) NotAfter(p *Profile, product, site string, now time.Time) (time.Time, error) {
	s, err := a.signerFor(p, Order{Product: product, Site: site}, now)
	if err != nil {
		return time.Time{}, err
	}
	latest := now.Add(p.Validity - p.Backdate)
	if latest.After(s.notAfter) {
		latest = s.notAfter
	}
	return latest.Add(-p.Jitter), nil
}

// inDays writes a duration in whole days, when it is some.
func inDays(d time.Duration) string {
	if days := int(d / (24 * time.Hour)); days >= 2 {
		return fmt.Sprintf("%d days", days)
	}
	return d.String()
}

// A profileLint is one look at a profile.
type profileLint struct {
	p     *Profile
	life  time.Duration // that a certificate has at least, as its holder sees it
	found []ProfileFinding
}

func (l *profileLint) add(severity FindingSeverity, field, hint, format string, args ...any) {
	l.found = append(l.found, ProfileFinding{severity, field, fmt.Sprintf(format, args...), hint})
}

// failed adds an error of a check.
func (l *profileLint) failed(field string, err error) {
	if e, ok := errors.AsType[*Error](err); ok {
		if e.Field != "" && e.Field != "profile" {
			field = e.Field
		}
		l.add(SeverityError, field, e.Hint, "%s", e.Message)
		return
	}
	l.add(SeverityError, field, "", "%s", err)
}

// underIssuer looks at the profile under the issuer that signs for it.
func (l *profileLint) underIssuer(a *Authority, s *signer, now time.Time) {
	p := l.p
	if left := s.notAfter.Sub(now); left < p.Validity-p.Backdate {
		l.add(SeverityWarning, "validity", "make the issuer's successor, or shorten the validity",
			"issuer %s ends on %s: certificates that are issued today live %s, not %s", s.ID, s.notAfter.UTC().Format(time.DateOnly), inDays(left), inDays(p.Validity))
		l.life = min(l.life, left-p.Jitter)
	}
	if s.names != nil {
		for i, text := range p.URIs {
			if strings.HasPrefix(strings.ToLower(text), "urn:") {
				l.add(SeverityError, fmt.Sprintf("uris[%d]", i), "leave it out, or choose an issuer without name constraints",
					"issuer %s has name constraints, and a urn: under them is refused by Go's verifiers with every chain", s.ID)
				return // and the sample says no more
			}
		}
		if len(p.DNSNames) == 0 && p.Holder == HolderDevice && s.Domain == "" {
			l.add(SeverityError, "dnsNames", "add a template such as {{ .ID | lower }}.{{ .Product }}.{{ .Site }}.DOMAIN under a domain that the issuer permits",
				"issuer %s has name constraints: of a certificate without DNS names OpenSSL takes the common name for one, and refuses it", s.ID)
			return
		}
	}
	if _, err := a.sample(p, s, now); err != nil {
		l.failed("dnsNames", err)
	}
}

// lives looks at how long certificates live, and when they are renewed.
func (l *profileLint) lives() {
	p := l.p
	if p.Holder == HolderDevice && l.life <= p.shelfLife() {
		l.add(SeverityWarning, "validity", "make the validity longer than the shelf life and a renewal window, or enroll at the first power-up; say the true shelfLife",
			"a certificate may be dead before the first power-up: it lives %s, and a unit may lie for %s", inDays(l.life), inDays(p.shelfLife()))
	}
	if slices.Contains(p.Form().ExtKeyUsage, "serverAuth") && p.Validity > longestServer {
		l.add(SeverityWarning, "validity", "stay at or below 397d", "some clients refuse servers whose certificates live longer than 398 days")
	}
	if p.RenewBefore > 0 && p.RenewBefore < l.life/10 {
		l.add(SeverityWarning, "renewBefore", "give a third of the validity, say",
			"a holder that is off for %s at the end comes back with an expired certificate", inDays(p.RenewBefore))
	}
	if p.RenewBefore > 0 && p.Jitter == 0 {
		l.add(SeverityWarning, "jitter", "give a twentieth of the validity, say", "all that enrolled at once renew at once")
	}
}

// Refusal returns why an order would be refused by a profile, before its issuer
// is looked at; nil when it would not. Nothing is signed.
func (a *Authority) Refusal(p *Profile, o Order) error {
	_, err := a.checkOrder(p, o)
	return err
}
