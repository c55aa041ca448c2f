package mqtts

import (
	"bytes"
	"crypto/x509"
	"errors"
)

// A path is what following the issuers of a certificate came to. It looks at
// names and signatures only: dates, usages and constraints are x509.Verify's.
// Its purpose is to tell why a chain does not hold.
type path struct {
	chain  []*x509.Certificate // to the trust anchor, which is last; nil when none was reached
	top    *x509.Certificate   // self-signed end of the chain that is not in the bundle
	orphan *x509.Certificate   // last certificate whose issuer nobody has
	forged *x509.Certificate   // certificate whose issuer's name is in the bundle under another key
	weak   *x509.Certificate   // certificate whose signature is by SHA-1, and right
	broken *x509.Certificate   // certificate whose signature algorithm says nothing any more
}

// A climber searches for a path. Signature checks are what costs, so they are
// counted.
type climber struct {
	sent, roots []*x509.Certificate
	checks      int
	found       path
}

const maxSignatureChecks = 100

// findPath follows the issuers of leaf through sent to roots.
func findPath(leaf *x509.Certificate, sent, roots []*x509.Certificate) path {
	c := climber{sent: sent, roots: roots}
	c.climb(leaf, nil)
	return c.found
}

// climb searches from cert upwards, depth first; below are the certificates that
// led to it.
func (c *climber) climb(cert *x509.Certificate, below []*x509.Certificate) bool {
	here := append(below[:len(below):len(below)], cert)
	for _, root := range c.roots {
		if root.Equal(cert) {
			c.found.chain = here
			return true
		}
	}
	for _, root := range c.roots {
		if !bytes.Equal(root.RawSubject, cert.RawIssuer) {
			continue
		}
		if c.signed(cert, root) {
			c.found.chain = append(here, root)
			return true
		}
		c.found.forged = cert
	}
	if bytes.Equal(cert.RawSubject, cert.RawIssuer) && c.signed(cert, cert) {
		c.found.top = cert
		return false
	}
	known := false
	for _, issuer := range c.sent {
		if !bytes.Equal(issuer.RawSubject, cert.RawIssuer) || containsCertificate(here, issuer) || !c.signed(cert, issuer) {
			continue
		}
		known = true
		if c.climb(issuer, here) {
			return true
		}
	}
	if !known {
		c.found.orphan = cert
	}
	return false
}

// signed tells whether issuer's key signed cert. CheckSignature still checks
// SHA-1, which x509.Verify takes no more: that is noted. A signature by MD5 is
// taken as it is, and noted: it is never accepted.
func (c *climber) signed(cert, issuer *x509.Certificate) bool {
	if c.checks++; c.checks > maxSignatureChecks {
		return false
	}
	err := issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature)
	if _, insecure := errors.AsType[x509.InsecureAlgorithmError](err); insecure {
		c.found.broken = cert
		return true
	}
	if err == nil && (cert.SignatureAlgorithm == x509.SHA1WithRSA || cert.SignatureAlgorithm == x509.ECDSAWithSHA1) {
		c.found.weak = cert
	}
	return err == nil
}

func containsCertificate(in []*x509.Certificate, c *x509.Certificate) bool {
	for _, x := range in {
		if x.Equal(c) {
			return true
		}
	}
	return false
}
