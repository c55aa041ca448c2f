package ca

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// oidNameConstraints is the name constraints extension (RFC 5280, 4.2.1.10).
var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

// checkChains verifies every issuer's chain up to a root before it signs
// anything (I3).
func (a *Authority) checkChains() error {
	for id, s := range a.issuers {
		if err := a.checkChain(s); err != nil {
			return Errorf(KindKey, "", "restore the issuer's row from a backup", "issuer %s: its chain does not verify: %w", id, err)
		}
	}
	return nil
}

// checkChain verifies one issuer's chain for every usage that its profiles
// give, and notes from when to when it is valid. Whether that is now is asked
// when it signs: a server must come up and answer whatever has expired.
func (a *Authority) checkChain(s *signer) error {
	const sign = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	c := s.Certificate
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&sign != sign {
		return errors.New("it is no CA certificate that signs certificates and CRLs")
	}
	chain := a.chain(s.ID)
	s.notBefore, s.notAfter = c.NotBefore, c.NotAfter
	if !slices.ContainsFunc(a.roots, chain[len(chain)-1].Equal) {
		return fmt.Errorf("it does not end in a root: there is no issuer %.64q", s.Parent)
	}
	constrained := false
	for depth, c := range chain {
		if depth > 0 {
			if err := chain[depth-1].CheckSignatureFrom(c); err != nil {
				return err
			}
		}
		if c.MaxPathLen >= 0 && c.MaxPathLen < depth {
			return fmt.Errorf("%s allows no chain of %d below it", c.Subject, depth)
		}
		if c.NotBefore.After(s.notBefore) {
			s.notBefore = c.NotBefore
		}
		if c.NotAfter.Before(s.notAfter) {
			s.notAfter = c.NotAfter
		}
		for _, ext := range c.Extensions {
			constrained = constrained || ext.Id.Equal(oidNameConstraints)
		}
	}
	opts := x509.VerifyOptions{Roots: pool(a.roots), Intermediates: pool(chain), CurrentTime: s.notBefore}
	if constrained {
		names := opts
		s.names = &names
	}
	for _, usage := range usagesOf(s.Purpose) {
		opts.KeyUsages = []x509.ExtKeyUsage{usage}
		if _, err := c.Verify(opts); err != nil {
			return err
		}
	}
	return nil
}

// usagesOf returns what the profiles of an issuer's purpose need from its chain.
func usagesOf(p Purpose) []x509.ExtKeyUsage {
	var usages []x509.ExtKeyUsage
	for _, profile := range profiles {
		if profile.Purpose == p {
			usages = append(usages, profile.ExtKeyUsage...)
		}
	}
	if usages == nil { // the root
		usages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
	slices.Sort(usages)
	return slices.Compact(usages)
}

// checkConstraints holds a signed certificate against the name constraints of
// its chain, before it is released (I3).
func (s *signer) checkConstraints(cert *x509.Certificate, now time.Time) error {
	if s.names == nil {
		return nil
	}
	opts := *s.names
	opts.CurrentTime, opts.KeyUsages = now, cert.ExtKeyUsage
	if slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) { // no issuer has it (see builder.sign)
		opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
	if _, err := cert.Verify(opts); err != nil {
		return Errorf(KindNameNotAllowed, "", "use names within the issuer's constraints", "issuer %s may not certify these names: %w", s.ID, err)
	}
	return nil
}

// chain follows Parent from an issuer to its root. mu is held, or not needed yet.
func (a *Authority) chain(id string) []*x509.Certificate {
	var chain []*x509.Certificate
	for range len(a.issuers) {
		s, ok := a.issuers[id]
		if !ok {
			break
		}
		chain = append(chain, s.Certificate)
		if s.Parent == id {
			break
		}
		id = s.Parent
	}
	return chain
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}
