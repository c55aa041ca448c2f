package ca

import (
	"crypto/x509"
	"slices"
)

// Chain returns the certificates from an issuer's own up to, without, its root.
func (a *Authority) Chain(issuerID string) []*x509.Certificate {
	a.mu.RLock()
	defer a.mu.RUnlock()
	roots := a.issuers.anchors()
	return slices.DeleteFunc(a.issuers.chain(issuerID), func(c *x509.Certificate) bool {
		return slices.ContainsFunc(roots, c.Equal)
	})
}

// ChainPEM is Chain as PEM.
func (a *Authority) ChainPEM(issuerID string) string { return a.textOf(issuerID, a.Chain(issuerID)) }

// ServedChainPEM is ServedChain as PEM.
func (a *Authority) ServedChainPEM(issuerID string) string {
	return a.textOf("served "+issuerID, a.ServedChain(issuerID))
}

// RootsPEM is Roots as PEM.
func (a *Authority) RootsPEM() string { return a.textOf("", a.Roots()) }

// A chainText is the PEM of certificates. Every answer to an enrollment has two.
type chainText struct {
	chain []*x509.Certificate
	text  string
}

// textOf returns the PEM of certificates, encoded once for as long as they are
// the same.
func (a *Authority) textOf(key string, chain []*x509.Certificate) string {
	if known, ok := a.texts.Load(key); ok && slices.Equal(known.(*chainText).chain, chain) {
		return known.(*chainText).text
	}
	t := &chainText{chain, EncodeChain(chain...)}
	a.texts.Store(key, t)
	return t.text
}

// A Trust is the trust bundle of now: the roots in the field.
type Trust struct {
	Generation int64
	Roots      []string // IDs, oldest first
	Cross      []CrossCertificate
}

// SetTrust makes this the trust bundle. Without it every root that was published
// is in it.
func (a *Authority) SetTrust(t Trust) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trust = &t
}

// Roots returns the trust anchors, oldest first.
func (a *Authority) Roots() []*x509.Certificate {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.trust == nil {
		return a.issuers.trusted()
	}
	return a.issuers.certificates(a.trust.Roots)
}

// TrustGeneration numbers the trust bundle.
func (a *Authority) TrustGeneration() int64 {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.trust == nil {
		return int64(len(a.issuers.trusted()))
	}
	return a.trust.Generation
}

// ServedChain is Chain for certificates that are shown to who may trust an older
// root alone: with the cross-certificates of its root by those before it in the
// trust bundle.
func (a *Authority) ServedChain(issuerID string) []*x509.Certificate {
	chain := a.Chain(issuerID)
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.trust == nil {
		return chain
	}
	root := a.issuers.rootOf(issuerID)
	own := slices.Index(a.trust.Roots, root)
	for _, x := range a.trust.Cross {
		if by := slices.Index(a.trust.Roots, x.By); x.Root == root && by >= 0 && by < own {
			chain = append(chain, x.Certificate)
		}
	}
	return chain
}

// RootOf returns the ID of the root that an issuer's chain ends in; empty when
// there is no such issuer.
func (a *Authority) RootOf(issuerID string) string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.issuers.rootOf(issuerID)
}

// Trusts reports whether an issuer's root is to be trusted: it was not dropped
// from the trust bundle.
func (a *Authority) Trusts(issuerID string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	root := a.issuers[a.issuers.rootOf(issuerID)]
	return root != nil && (a.trust == nil || root.State == IssuerCreated || slices.Contains(a.trust.Roots, root.ID))
}
