package ca

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"
)

// SampleProfile returns what a certificate of the profile looks like, in words,
// were it issued now to a made-up holder: under the issuer that signs for the
// profile, with a key and a signature that are nobody's.
func (a *Authority) SampleProfile(p *Profile, now time.Time) (string, error) {
	s, err := a.signerFor(p, Order{}, now)
	if err != nil {
		return "", err
	}
	cert, err := a.sample(p, s, now)
	if err != nil {
		return "", err
	}
	text, err := Text(cert)
	return withoutKeys(text), err
}

// A double is a chain like an issuer's with keys that are nobody's, so that
// certificates can be tried under it and none of them is real.
type double struct {
	issuer        *x509.Certificate
	root          *x509.Certificate
	intermediates *x509.CertPool
	key           *ecdsa.PrivateKey
}

// doubleOf makes the double of an issuer's chain.
func (a *Authority) doubleOf(s *signer) (*double, error) {
	a.mu.RLock()
	chain := a.issuers.chain(s.ID)
	a.mu.RUnlock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	d := &double{key: key, intermediates: x509.NewCertPool()}
	var parent *x509.Certificate
	for _, c := range slices.Backward(chain) {
		template := *c
		template.PublicKey, template.SignatureAlgorithm, template.ExtraExtensions = key.Public(), 0, nil
		if parent == nil {
			parent = &template
		}
		der, err := x509.CreateCertificate(rand.Reader, &template, parent, key.Public(), key)
		if err != nil {
			return nil, err
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
		if d.root == nil {
			d.root = parent
		}
		d.intermediates.AddCert(parent)
	}
	d.issuer = parent
	return d, nil
}

// sample signs a certificate of the profile under the double of an issuer, and
// verifies it there, names and usages included.
func (a *Authority) sample(p *Profile, s *signer, now time.Time) (*x509.Certificate, error) {
	o, err := p.named(sampleOrder(p, s))
	if err == nil {
		o, err = s.named(o)
	}
	if err != nil {
		return nil, err
	}
	if err := checkNames(o); err != nil {
		return nil, err
	}
	d, err := a.doubleOf(s)
	if err != nil {
		return nil, fmt.Errorf("a double of issuer %s: %w", s.ID, err)
	}
	latest := *p
	latest.Jitter = 0
	template := s.template(&latest, o, SerialNumber(strings.Repeat("01", 20)), 0, now)
	template.SubjectKeyId = bytes.Repeat([]byte{0xaa}, 20)
	der, err := x509.CreateCertificate(rand.Reader, template, d.issuer, o.PublicKey, d.key)
	if err != nil {
		return nil, fmt.Errorf("a sample of profile %s: %w", p.Name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("a sample of profile %s: %w", p.Name, err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(d.root)
	for _, usage := range p.ExtKeyUsage {
		if usage == x509.ExtKeyUsageOCSPSigning { // no issuer has it (see builder.sign)
			usage = x509.ExtKeyUsageAny
		}
		_, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: d.intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
		if err != nil {
			return nil, Errorf(KindNameNotAllowed, "issuer", "use names and usages within the issuer's constraints, or another issuer", "no certificate like this verifies under issuer %s: %s", s.ID, err)
		}
	}
	return cert, nil
}

// sampleOrder orders a certificate of the profile for a made-up holder that an
// issuer signs for.
func sampleOrder(p *Profile, s *signer) Order {
	o := Order{Profile: p.Name, Holder: Holder{p.Holder, "sample-1"}, CommonName: "sample-1", PublicKey: sampleKey(p)}
	o.Product, o.Site = cmp.Or(s.Product, "product"), cmp.Or(s.Site, "site")
	o.Facts = NameFacts{ID: o.CommonName, Product: o.Product, Site: o.Site, WorkOrder: "wo-1", Group: "group", Attributes: p.sampleAttributes()}
	if p.Holder == HolderBroker || p.Holder == HolderServer {
		o.CommonName = "mqtt.example"
		if len(p.Domains) > 0 {
			o.CommonName = "mqtt." + p.Domains[0]
		}
		o.DNSNames = []string{o.CommonName}
	}
	return o
}

var attributePattern = regexp.MustCompile(`\.Attributes(?:\.([\pL_][\pL\pN_]*)| "([^"]*)")`)

// sampleAttributes returns those that the profile's templates name.
func (p *Profile) sampleAttributes() map[string]string {
	attributes := map[string]string{}
	fields := p.Subject.fields()
	for _, text := range slices.Concat(fields[:], p.DNSNames, p.URIs) {
		for _, found := range attributePattern.FindAllStringSubmatch(text, -1) {
			attributes[found[1]+found[2]] = "value"
		}
	}
	return attributes
}

// sampleKey returns a public key of a kind that the profile certifies. It is
// not random, and nobody's.
func sampleKey(p *Profile) crypto.PublicKey {
	kind := KeyP256
	if len(p.Keys) > 0 {
		kind = p.Keys[0]
	}
	rsaKey := func(bits uint) *rsa.PublicKey {
		n := new(big.Int).Lsh(big.NewInt(1), bits)
		return &rsa.PublicKey{N: n.Sub(n, big.NewInt(159)), E: 65537}
	}
	curve := elliptic.P256()
	switch kind {
	case KeyEd25519:
		return ed25519.PublicKey(unhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")) // RFC 8032, 7.1
	case KeyRSA2048:
		return rsaKey(2048)
	case KeyRSA3072:
		return rsaKey(3072)
	case KeyRSA4096:
		return rsaKey(4096)
	case KeyP384:
		curve = elliptic.P384()
	}
	size := curve.Params().BitSize / 8
	point := append([]byte{4}, make([]byte, 2*size)...) // SEC 1, 2.3.3: the generator
	curve.Params().Gx.FillBytes(point[1 : 1+size])
	curve.Params().Gy.FillBytes(point[1+size:])
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		panic("the generator of a curve is no point of it: " + err.Error())
	}
	return key
}

var (
	hexLine    = regexp.MustCompile(`^\s*(?:keyid:)?[0-9a-f]{2}(:[0-9a-f]{2})*:?$`)
	keyIDLine  = regexp.MustCompile(`(Subject Key Identifier:\n\s*)[0-9A-F:]+`)
	serialLine = regexp.MustCompile(`Serial Number: .*`)
)

// withoutKeys returns the text of a sample without what is random, or is
// nobody's: key, signature, serial number.
func withoutKeys(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(line, "    Signature Algorithm:") && len(kept) > 5 {
			break
		}
		if trimmed == "" || trimmed == "X:" || trimmed == "Y:" || trimmed == "Modulus:" || hexLine.MatchString(strings.TrimRight(line, "\n")) {
			continue
		}
		kept = append(kept, strings.TrimRight(line, "\n"))
	}
	text = strings.Join(kept, "\n") + "\n"
	text = keyIDLine.ReplaceAllString(text, "${1}of the holder's key")
	return serialLine.ReplaceAllString(text, "Serial Number: random, 20 octets")
}
