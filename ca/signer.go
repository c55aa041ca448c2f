package ca

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"
)

// A signer is an issuer with its key at hand.
type signer struct {
	Issuer
	cas       *softcas.SoftCAS    // nil when the key is kept apart, or unusable
	notBefore time.Time           // its chain is valid from here
	notAfter  time.Time           // to here
	names     *x509.VerifyOptions // how its chain's name constraints are checked; nil without any
	keySHA256 string              // of the SubjectPublicKeyInfo, lower-case hex
}

// openSigner opens an issuer's key, as what signs.
func (k Keyring) openSigner(ctx context.Context, i Issuer) (*softcas.SoftCAS, error) {
	key, err := k.Open(ctx, i.KeyURI, i.Certificate.PublicKey)
	if err != nil {
		return nil, err
	}
	return softcas.New(ctx, apiv1.Options{CertificateChain: []*x509.Certificate{i.Certificate}, Signer: key})
}

// SignerFor returns the ID of the issuer that signs for a profile, product and
// site now.
func (a *Authority) SignerFor(p *Profile, product, site string) (string, error) {
	s, err := a.signerFor(p, Order{Product: product, Site: site}, a.cfg.Now())
	if err != nil {
		return "", err
	}
	return s.ID, nil
}

// signerFor returns the issuer that signs an order.
func (a *Authority) signerFor(p *Profile, o Order, now time.Time) (*signer, error) {
	id := cmp.Or(o.IssuerID, p.IssuerID)
	if id == "" {
		return a.activeFor(p.Purpose, o.Product, o.Site, now)
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if err := a.unusable[id]; err != nil {
		return nil, err
	}
	s, ok := a.issuers[id]
	if !ok || s.cas == nil || p.Purpose != "" && (s.Purpose != p.Purpose || s.State != IssuerActive) || now.Before(s.notBefore) || !now.Before(s.notAfter) {
		return nil, Errorf(KindIssuerInactive, "profile", "GET /api/v1/issuers shows their states", "issuer %.64q does not sign for profile %s", id, p.Name)
	}
	return s, nil
}

// shardOf returns the shard of the issuer's CRLs for a new certificate. Without
// a distribution point there is none to choose.
func (s *signer) shardOf(o Order, serial SerialNumber) int {
	switch {
	case len(s.StatusURLs) == 0:
		return 0
	case o.Shard != nil:
		return min(max(*o.Shard, 0), s.ShardsEver()-1)
	}
	b := serial.Int().Bytes()
	return (int(b[len(b)-2])<<8 | int(b[len(b)-1])) % s.Shards()
}

// activeFor returns the issuer of a purpose that signs for a product and a site
// at a time: the most specific active one, of several the newest. An Error of
// KindKey when the key of one is what is in the way: nobody steps in for it
// who is for more.
func (a *Authority) activeFor(p Purpose, product, site string, now time.Time) (*signer, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var best *signer
	var unusable error
	bestRank, unusableRank := -1, -1
	for _, s := range a.issuers {
		rank := s.rank(product, site)
		if s.Purpose != p || s.State != IssuerActive || rank < 0 {
			continue
		}
		if err := a.unusable[s.ID]; err != nil && rank > unusableRank {
			unusable, unusableRank = err, rank
		}
		if s.cas == nil || now.Before(s.notBefore) || !now.Before(s.notAfter) {
			continue
		}
		if best == nil || rank > bestRank || rank == bestRank && s.newerThan(best) {
			best, bestRank = s, rank
		}
	}
	switch {
	case unusable != nil && unusableRank > bestRank:
		return nil, unusable
	case best == nil:
		return nil, Errorf(KindIssuerInactive, "profile", "GET /api/v1/issuers shows their states", "no active issuer signs for purpose %s%s", p, forWhat(product, site))
	}
	return best, nil
}

// newerThan orders issuers that would do equally.
func (s *signer) newerThan(other *signer) bool {
	return cmp.Or(s.Certificate.NotBefore.Compare(other.Certificate.NotBefore), strings.Compare(s.ID, other.ID)) > 0
}

// forWhat says what an issuer is looked for, beside its purpose.
func forWhat(product, site string) string {
	text := ""
	if product != "" {
		text += fmt.Sprintf(", product %.64q", product)
	}
	if site != "" {
		text += fmt.Sprintf(", site %.64q", site)
	}
	return text
}

// named returns the order with the names that the issuer's domain gives a
// holder that is no host, where its profile gives none: under a name constraint OpenSSL takes the common name
// of a certificate without DNS names for one, and refuses it.
func (s *signer) named(o Order) (Order, error) {
	if s.Domain == "" || len(o.DNSNames) > 0 || o.Holder.Kind == HolderBroker || o.Holder.Kind == HolderServer {
		return o, nil
	}
	name := s.memberName(o.CommonName, cmp.Or(o.Product, s.Product), cmp.Or(o.Site, s.Site))
	if len(name) > maxHostName || !hostPattern.MatchString(name) || name != strings.ToLower(name) {
		return o, Errorf(KindNameNotAllowed, "deviceId", "under an issuer with a domain, device ids, products and sites are lower-case letters, digits and hyphens, at most 63 long",
			"%.300q, as issuer %s names it, is no host name", name, s.ID)
	}
	o.DNSNames = []string{name}
	return o, nil
}

// template returns what is signed for an order.
func (s *signer) template(p *Profile, o Order, serial SerialNumber, shard int, now time.Time) *x509.Certificate {
	notBefore := now.Add(-p.Backdate).Truncate(time.Second)
	notAfter := notBefore.Add(p.Validity - time.Second) // both ends count (RFC 5280, 4.1.2.5)
	if notAfter.After(s.notAfter) {
		notAfter = s.notAfter
	}
	if p.Jitter > 0 { // earlier alone: never past the profile's lifetime or the issuer's
		notAfter = notAfter.Add(-rand.N(p.Jitter)).Truncate(time.Second)
	}
	template := &x509.Certificate{
		SerialNumber: serial.Int(),
		Subject:      o.subject,
		DNSNames:     o.DNSNames, IPAddresses: o.IPs, URIs: o.URIs,
		NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: p.ExtKeyUsage,
		BasicConstraintsValid: true,
		PublicKey:             o.PublicKey,
	}
	if k, ok := o.PublicKey.(*ecdsa.PublicKey); ok { // others are left to the library, which encodes the key to find its bits
		if point, err := k.Bytes(); err == nil {
			id := sha1.Sum(point) // RFC 5280, 4.2.1.2, method 1: nothing rests on it
			template.SubjectKeyId = id[:]
		}
	}
	if _, ok := o.PublicKey.(*rsa.PublicKey); ok && slices.Contains(p.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment // RSA key exchange of TLS 1.2
	}
	if len(s.StatusURLs) > 0 {
		template.CRLDistributionPoints = []string{s.CDP(shard)}
		template.IssuingCertificateURL = []string{s.CertificateURL()}
		template.OCSPServer = []string{s.OCSPURL()}
	}
	if p.responder() { // who would answer for it is itself (RFC 6960, 4.2.2.2.1)
		template.OCSPServer = nil
		template.ExtraExtensions = []pkix.Extension{{Id: oidNoCheck, Value: asn1.NullBytes}}
	}
	return template
}

// sign makes and signs the certificate of an order, and holds what came out
// against it (I3). The signature itself was verified by x509.CreateCertificate.
func (s *signer) sign(p *Profile, o Order, serial SerialNumber, shard int, now time.Time) (*x509.Certificate, error) {
	template := s.template(p, o, serial, shard, now)
	res, err := s.cas.CreateCertificate(&apiv1.CreateCertificateRequest{Template: template, Lifetime: p.Validity})
	if err != nil {
		return nil, Errorf(KindKey, "", "look at the key store; nothing was released", "issuer %s cannot sign: %w", s.ID, err)
	}
	cert := res.Certificate
	switch {
	case SerialNumberOf(cert.SerialNumber) != serial, cert.IsCA, !sameSubject(cert.Subject, template.Subject),
		!slices.Equal(cert.DNSNames, o.DNSNames), !slices.EqualFunc(cert.IPAddresses, o.IPs, net.IP.Equal), !sameURIs(cert.URIs, o.URIs),
		cert.NotAfter.After(s.notAfter), cert.NotBefore.After(now),
		hexSHA256(cert.RawSubjectPublicKeyInfo) != o.KeySHA256:
		return nil, fmt.Errorf("sign certificate: what was signed is not what was ordered for %s", o.Holder)
	}
	if err := auditRelease(cert, s.Certificate, p); err != nil {
		return nil, err
	}
	return cert, s.checkConstraints(cert, now)
}

// recordOf returns what the ledger keeps of a freshly signed certificate, all
// but its bytes.
func recordOf(s *signer, p *Profile, o Order, shard int, cert *x509.Certificate) Certificate {
	names := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	for _, uri := range cert.URIs {
		names = append(names, uri.String())
	}
	return Certificate{
		SerialNumber: SerialNumberOf(cert.SerialNumber), SHA256: hexSHA256(cert.Raw),
		Subject: cert.Subject.String(), Names: names, IssuerID: s.ID, Profile: p.Name, ProfileVersion: p.Version, Holder: o.Holder,
		Status: StatusGood, NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
		KeySHA256: o.KeySHA256, CDP: s.CDP(shard), CRLShard: shard, RenewFrom: p.renewFrom(cert.NotAfter),
	}
}
