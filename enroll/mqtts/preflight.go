package mqtts

import (
	"bytes"
	"crypto/x509"
	"time"
)

// A preflight is what can be known of our own certificate without the broker.
// It explains refusals, many of which are ambiguous.
type preflight struct {
	leaf                *x509.Certificate // nil: none was given, or it cannot be parsed
	expired, notYet     bool
	wrongUsage, revoked bool
	unlisted            bool                // a CRL of its issuer was given, and does not list it
	authorities         []*x509.Certificate // sent along with it
	path                path                // to the trust bundle, which the broker often shares
}

// examine looks at the client certificate of a target.
func examine(t Target) preflight {
	var p preflight
	if t.Certificate == nil {
		return p
	}
	for i, der := range t.Certificate.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return p
		}
		if i == 0 {
			p.leaf = c
		} else {
			p.authorities = append(p.authorities, c)
		}
	}
	now := t.Now()
	p.expired, p.notYet = now.After(p.leaf.NotAfter), now.Before(p.leaf.NotBefore)
	p.wrongUsage = lacksClientAuth(p.leaf)
	p.path = findPath(p.leaf, p.authorities, t.Roots)
	status := statusOf(p.leaf, p.issuer(), t.CRLs, now)
	p.revoked, p.unlisted = status.entry != nil, status.covered && status.entry == nil
	return p
}

// issuer returns the certificate of the leaf's issuer, nil when it is not known.
func (p preflight) issuer() *x509.Certificate {
	if len(p.path.chain) > 1 {
		return p.path.chain[1]
	}
	for _, c := range p.authorities {
		if bytes.Equal(c.RawSubject, p.leaf.RawIssuer) {
			return c
		}
	}
	return nil
}

// lacksClientAuth tells a certificate that brokers refuse for its usage. One
// without extended key usage is for any.
func lacksClientAuth(c *x509.Certificate) bool {
	restricted := len(c.ExtKeyUsage) > 0 || len(c.UnknownExtKeyUsage) > 0
	return restricted && !hasUsage(c, x509.ExtKeyUsageClientAuth) && !hasUsage(c, x509.ExtKeyUsageAny)
}

// A standing is whether the broker knows our certificate's authority.
type standing int

const (
	standingUnsure standing = iota
	standingKnown
	standingUnknown
)

// standing judges by the names in the broker's CertificateRequest (RFC 8446
// section 4.2.4, RFC 5246 section 7.4.4), when it sent any, and by the trust
// bundle.
func (p preflight) standing(acceptable [][]byte) standing {
	switch {
	case p.leaf == nil:
		return standingUnsure
	case p.path.forged != nil && p.path.chain == nil:
		return standingUnknown // imitates an authority of the bundle
	case len(acceptable) > 0 && !p.names(acceptable):
		return standingUnknown
	case len(acceptable) > 0, p.path.chain != nil:
		return standingKnown
	}
	return standingUnsure
}

// names tells whether one of the acceptable names issued our certificate or one
// that is sent with it, or that the bundle has above it.
func (p preflight) names(acceptable [][]byte) bool {
	above := append([]*x509.Certificate{p.leaf}, p.authorities...)
	above = append(above, p.path.chain...)
	for _, name := range acceptable {
		for _, c := range above {
			if bytes.Equal(name, c.RawIssuer) {
				return true
			}
		}
	}
	return false
}

// facts describe our certificate for a diagnosis.
func (p preflight) facts() facts {
	if p.leaf == nil {
		return facts{"issuer": "its issuer", "serial": "unknown", "time": "unknown"}
	}
	at := p.leaf.NotAfter
	if p.notYet {
		at = p.leaf.NotBefore
	}
	return facts{"issuer": issuerOf(p.leaf), "serial": serialOf(p.leaf), "time": stamp(at.Truncate(time.Second))}
}
