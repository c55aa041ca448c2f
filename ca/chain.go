package ca

import (
	"cmp"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// oidNameConstraints is the name constraints extension (RFC 5280, 4.2.1.10).
var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

// A hierarchy is all issuers, by ID.
type hierarchy map[string]*signer

// anchors returns the certificates of all roots, oldest first.
func (h hierarchy) anchors() []*x509.Certificate {
	return h.roots(func(*signer) bool { return true })
}

// trusted returns the roots that are in the trust bundle, oldest first.
func (h hierarchy) trusted() []*x509.Certificate {
	return h.roots(func(s *signer) bool { return s.State != IssuerCreated })
}

func (h hierarchy) roots(which func(*signer) bool) []*x509.Certificate {
	var roots []*signer
	for _, s := range h {
		if s.Purpose == PurposeRoot && which(s) {
			roots = append(roots, s)
		}
	}
	slices.SortFunc(roots, func(a, b *signer) int {
		return cmp.Or(a.Certificate.NotBefore.Compare(b.Certificate.NotBefore), strings.Compare(a.ID, b.ID))
	})
	certs := make([]*x509.Certificate, len(roots))
	for n, s := range roots {
		certs[n] = s.Certificate
	}
	return certs
}

// chain follows Parent from an issuer to its root.
func (h hierarchy) chain(id string) []*x509.Certificate {
	var chain []*x509.Certificate
	for range len(h) {
		s, ok := h[id]
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

// certificates returns those of some issuers, in their order.
func (h hierarchy) certificates(ids []string) []*x509.Certificate {
	var all []*x509.Certificate
	for _, id := range ids {
		if s := h[id]; s != nil {
			all = append(all, s.Certificate)
		}
	}
	return all
}

// rootOf follows Parent to the root's ID; empty for an issuer that is not there.
func (h hierarchy) rootOf(id string) string {
	for range len(h) {
		s := h[id]
		if s == nil {
			return ""
		}
		if s.Parent == id {
			return id
		}
		id = s.Parent
	}
	return ""
}

// checkChain verifies one issuer's chain up to a root for every usage that its
// profiles give, before it signs anything (I3), and notes from when to when it
// is valid. Whether that is now is asked when it signs: a server must come up
// and answer whatever has expired.
func (h hierarchy) checkChain(s *signer) error {
	const sign = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	c := s.Certificate
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&sign != sign {
		return errors.New("it is no CA certificate that signs certificates and CRLs")
	}
	chain, roots := h.chain(s.ID), h.anchors()
	s.notBefore, s.notAfter = c.NotBefore, c.NotAfter
	if !slices.ContainsFunc(roots, chain[len(chain)-1].Equal) {
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
	opts := x509.VerifyOptions{Roots: pool(roots), Intermediates: pool(chain), CurrentTime: s.notBefore}
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

// CheckChains verifies the chain of each of some issuers, among which are all
// that stand above them: Errors of KindKey.
func CheckChains(issuers []Issuer) error {
	all := hierarchy{}
	for _, i := range issuers {
		all[i.ID] = &signer{Issuer: i}
	}
	for _, i := range issuers {
		if err := all.checkChain(all[i.ID]); err != nil {
			return Errorf(KindKey, "cert", "give a CA certificate that signs certificates and CRLs, under a parent that allows it", "issuer %s: its chain does not verify: %w", i.ID, err)
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
	if usages == nil { // roots and intermediates
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

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}
