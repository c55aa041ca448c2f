package mqtts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Material is what the checks of a negative run are made with: client
// certificates that the broker must refuse, each with its chain and key. The
// zero value is good: what can be made on the spot is, and checks that need an
// authority's signature are skipped.
type Material struct {
	// Foreign is of an authority that the broker does not trust. Nil: one of a
	// new authority, with the subject of Target.Certificate.
	Foreign *tls.Certificate
	// SameNameRogue is of an authority that has the name of the trusted one and
	// another key. Nil: made after the chain of Target.Certificate or, without
	// one, after the first authority in Target.Roots.
	SameNameRogue *tls.Certificate

	// Expired, NotYetValid, WrongUsage and Revoked are of the authority that the
	// broker trusts. A nil one skips its check.
	Expired, NotYetValid, WrongUsage, Revoked *tls.Certificate

	// Resume asks for resume_after_revocation: two connections with Revoked and
	// one session cache. Neither may reach a CONNACK that accepts.
	Resume bool
	// Sessions is that cache. Whoever connected with Revoked before it was
	// revoked gives the cache of then, so that there is a session to resume: a
	// broker that refuses the first of the two connections hands none out.
	Sessions tls.ClientSessionCache
}

// validate reports material that is not what it has to be: a certificate that
// the broker is right to accept would make its check lie.
func (m Material) validate(now time.Time) error {
	pieces := []struct {
		name string
		pair *tls.Certificate
		fits func(*x509.Certificate) bool
		is   string
	}{
		{"foreign", m.Foreign, nil, ""},
		{"same-name rogue", m.SameNameRogue, nil, ""},
		{"expired", m.Expired, func(c *x509.Certificate) bool { return now.After(c.NotAfter) }, "has not expired"},
		{"not yet valid", m.NotYetValid, func(c *x509.Certificate) bool { return now.Before(c.NotBefore) }, "is valid already"},
		{"wrong usage", m.WrongUsage, lacksClientAuth, "is for TLS clients"},
		{"revoked", m.Revoked, nil, ""},
	}
	for _, p := range pieces {
		if p.pair == nil {
			continue
		}
		leaf, err := leafOf(p.pair)
		if err != nil {
			return fmt.Errorf("%s certificate: %w", p.name, err)
		}
		if p.fits != nil && !p.fits(leaf) {
			return fmt.Errorf("%s certificate: the one given (%s) %s", p.name, subjectOf(leaf), p.is)
		}
	}
	if m.Resume && m.Revoked == nil {
		return errors.New("resumption after revocation needs the revoked certificate")
	}
	return nil
}

// leafOf returns the certificate of a pair that can be used.
func leafOf(pair *tls.Certificate) (*x509.Certificate, error) {
	if len(pair.Certificate) == 0 || pair.PrivateKey == nil {
		return nil, errors.New("give the certificate and its private key")
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("not a certificate: %w", err)
	}
	return leaf, nil
}

// foreign returns a certificate with our subject of an authority made now.
func (r *run) foreign() (*tls.Certificate, error) {
	name, err := nameOf(pkix.Name{CommonName: "Foreign authority " + randomHex(6)})
	if err != nil {
		return nil, err
	}
	leaf, err := r.stranger()
	if err != nil {
		return nil, err
	}
	chain, key, err := remake([]*x509.Certificate{leaf, authorityLike(name, r.target.Now())})
	if err != nil {
		return nil, err
	}
	return pairOf(chain, key), nil // with the authority: who trusts what is sent along must show it
}

// rogue returns a certificate with our subject, and with every name and
// identifier of our chain, under other keys.
func (r *run) rogue() (*tls.Certificate, error) {
	chain := r.own.path.chain
	switch {
	case r.own.leaf == nil:
		leaf, err := r.stranger()
		if err != nil {
			return nil, err
		}
		chain = []*x509.Certificate{leaf, r.target.Roots[0]}
	case len(chain) < 2:
		chain = append([]*x509.Certificate{r.own.leaf}, r.own.authorities...)
		if top := chain[len(chain)-1]; string(top.RawIssuer) != string(top.RawSubject) {
			chain = append(chain, authorityLike(top.RawIssuer, r.target.Now()))
		}
	}
	made, key, err := remake(chain)
	if err != nil {
		return nil, err
	}
	return pairOf(made[:max(1, len(made)-1)], key), nil // the root is known by its name
}

// stranger returns what a certificate made now is modelled on: ours or, without
// one, that of a client for a day.
func (r *run) stranger() (*x509.Certificate, error) {
	if r.own.leaf != nil {
		return r.own.leaf, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := r.target.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: r.target.ClientID},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func pairOf(chain []*x509.Certificate, key *ecdsa.PrivateKey) *tls.Certificate {
	pair := &tls.Certificate{PrivateKey: key}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}
