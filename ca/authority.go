package ca

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"
)

// clockTolerance is how far the wall clock may step back before nothing is
// signed any more (I7).
const clockTolerance = 5 * time.Second

// A Ledger is where an Authority records.
type Ledger interface {
	Recorder
	CRLStore
	StatusStore
}

// Config says what an Authority works with.
type Config struct {
	Issuers    []Issuer  // as the store holds them, the root among them
	Keys       Keyring   // opens their keys
	Ledger     Ledger    //
	LastEvent  time.Time // the ledger's newest audit event: the clock must not be before it
	Now        func() time.Time
	Skew       func() time.Duration // how far the database's clock is ahead of Now's (behind: negative); nil for one clock
	CRLPeriod  time.Duration        // from the signature to nextUpdate; 7 days when zero
	CRLRenewal time.Duration        // a scheduled CRL this long after the last, at most a quarter of CRLPeriod (I12); an hour, or that quarter, when zero
}

// An Authority issues certificates and CRLs. It is safe for concurrent use.
type Authority struct {
	cfg   Config
	clock atomic.Int64 // newest time seen, Unix nanoseconds

	publishers sync.Map // *publisher by CRLScope
	texts      sync.Map // *chainText by what it is of

	adopting sync.Mutex // held while issuers are taken over
	mu       sync.RWMutex
	issuers  hierarchy
	trust    *Trust           // nil before SetTrust
	unusable map[string]error // issuers whose key should be here, and why it is not used
}

// A signer is an issuer with its key at hand.
type signer struct {
	Issuer
	cas       *softcas.SoftCAS    // nil when the key is kept apart, or unusable
	notBefore time.Time           // its chain is valid from here
	notAfter  time.Time           // to here
	names     *x509.VerifyOptions // how its chain's name constraints are checked; nil without any
	keySHA256 string              // of the SubjectPublicKeyInfo, lower-case hex
}

// Open returns an Authority whose issuer keys are open and have passed a
// self-test signature. A key that is missing, locked with another passphrase
// or not the certificate's keeps its issuer from signing, and no other: see
// Unusable. When no key can be used, that is an Error of KindKey that names one.
func Open(ctx context.Context, cfg Config) (*Authority, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.CRLPeriod == 0 {
		cfg.CRLPeriod = 7 * 24 * time.Hour
	}
	if cfg.CRLRenewal == 0 {
		cfg.CRLRenewal = min(time.Hour, cfg.CRLPeriod/4)
	}
	if cfg.CRLRenewal > cfg.CRLPeriod/4 {
		return nil, fmt.Errorf("a CRL every %v is too late for CRLs that are valid for %v: renew at a quarter of it", cfg.CRLRenewal, cfg.CRLPeriod)
	}
	a := &Authority{cfg: cfg, issuers: hierarchy{}, unusable: map[string]error{}}
	if !cfg.LastEvent.IsZero() { // the zero time has no UnixNano
		a.clock.Store(cfg.LastEvent.UnixNano())
	}
	if !slices.ContainsFunc(cfg.Issuers, func(i Issuer) bool { return i.Purpose == PurposeRoot }) {
		return nil, errors.New("the store holds no root; run fleetca init")
	}
	if _, err := a.Adopt(ctx, cfg.Issuers); err != nil {
		return nil, err
	}
	usable := slices.ContainsFunc(slices.Collect(maps.Values(a.issuers)), func(s *signer) bool { return s.cas != nil })
	if len(a.unusable) > 0 && !usable {
		return nil, a.unusable[slices.Min(slices.Collect(maps.Keys(a.unusable)))]
	}
	return a, nil
}

// openSigner opens an issuer's key, as what signs.
func (k Keyring) openSigner(ctx context.Context, i Issuer) (*softcas.SoftCAS, error) {
	key, err := k.Open(ctx, i.KeyURI, i.Certificate.PublicKey)
	if err != nil {
		return nil, err
	}
	return softcas.New(ctx, apiv1.Options{CertificateChain: []*x509.Certificate{i.Certificate}, Signer: key})
}

// Unusable returns the issuers whose key should be here and cannot be used, with
// the reason: Errors of KindKey.
func (a *Authority) Unusable() map[string]error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return maps.Clone(a.unusable)
}

// RetryKeys tries the keys again that could not be used. What Unusable returns
// then is what is left.
func (a *Authority) RetryKeys(ctx context.Context) {
	for id := range a.Unusable() {
		issuer, err := a.Issuer(id)
		if err != nil {
			continue // never: it is one of ours
		}
		cas, err := a.cfg.Keys.openSigner(ctx, *issuer)
		a.mu.Lock()
		if err != nil {
			a.unusable[id] = fmt.Errorf("issuer %s: %w", id, err)
		} else {
			next := *a.issuers[id]
			next.cas = cas
			a.issuers[id] = &next
			delete(a.unusable, id)
		}
		a.mu.Unlock()
	}
}

// An Order is what a certificate is asked for. Names come from policy, never
// from the certification request (I9).
type Order struct {
	Profile    string
	Version    *Profile // of Profile, the version in force; the built-in one when nil
	IssuerID   string   // who signs; empty for the profile's, or else its most specific active issuer, the newest of several
	Shard      *int     // of the issuer's CRLs; nil for one by the serial number
	Holder     Holder
	CommonName string
	DNSNames   []string
	IPs        []net.IP
	URIs       []*url.URL
	Facts      NameFacts // what the profile's templates are filled in with
	PublicKey  crypto.PublicKey
	KeySHA256  string // of PublicKey's SubjectPublicKeyInfo, lower-case hex
	// Product and Site choose the issuer, and name devices under one with a domain.
	Product, Site string
	// Claim returns what is committed with the certificate, for the record it
	// is handed, which holds no bytes to serve yet (DER is empty).
	Claim func(Certificate) any

	subject pkix.Name // as the profile says; see Profile.named
}

// profile returns the version of the profile that the order is for.
func (o *Order) profile() (*Profile, error) {
	if o.Version == nil {
		return ProfileNamed("profile", o.Profile)
	}
	if o.Version.Name != o.Profile {
		return nil, fmt.Errorf("an order for profile %s comes with a version of %s", o.Profile, o.Version.Name)
	}
	return o.Version, nil
}

// Issue checks, signs, records, and returns the recorded certificate (design
// decision 1). Errors: KindProfile, KindNameNotAllowed, KindIssuerInactive,
// KindWeakKey, KindBlockedKey, KindClock, KindKey, and whatever the Ledger's
// Commit refuses with.
func (a *Authority) Issue(ctx context.Context, o Order) (*Certificate, error) {
	profile, err := o.profile()
	if err != nil {
		return nil, err
	}
	if o, err = a.checkOrder(profile, o); err != nil {
		return nil, err
	}
	now, err := a.now()
	if err != nil {
		return nil, err
	}
	s, err := a.signerFor(profile, o, now)
	if err != nil {
		return nil, err
	}
	if o, err = s.named(o); err != nil {
		return nil, err
	}
	serial := NewSerialNumber()
	shard := s.shardOf(o, serial)
	cert, err := s.sign(profile, o, serial, shard, now)
	if err != nil {
		return nil, err
	}
	record := recordOf(s, profile, o, shard, cert)
	claim := o.Claim(record)
	record.DER = cert.Raw
	if err := a.cfg.Ledger.Commit(ctx, []Issuance{{Certificate: record, Claim: claim}})[0]; err != nil {
		return nil, err
	}
	return &record, nil
}

// checkOrder holds an order against its profile, and against what no profile
// may override. It returns it with the names that the profile gives.
func (a *Authority) checkOrder(p *Profile, o Order) (Order, error) {
	if p.Holder != o.Holder.Kind || o.Holder.ID == "" {
		return o, Errorf(KindProfile, "profile", "", "profile %s is for a %s, not for %s", p.Name, p.Holder, o.Holder)
	}
	o, err := p.named(o)
	if err != nil {
		return o, err
	}
	if err := checkNames(o); err != nil {
		return o, err
	}
	if err := checkKey("csr", o.PublicKey); err != nil {
		return o, err
	}
	if a.ownsKey(o.KeySHA256) {
		return o, Errorf(KindBlockedKey, "csr", "make a key of your own", "this key is one of the authority's own")
	}
	return o, p.checkKey(o.PublicKey)
}

// now returns the time, unless the clock went backwards (I7).
func (a *Authority) now() (time.Time, error) {
	now := a.cfg.Now()
	if a.cfg.Skew != nil {
		if skew := a.cfg.Skew(); skew.Abs() > clockTolerance {
			return now, Errorf(KindClock, "", "set the clocks of the server and of the database (chrony, systemd-timesyncd); signing goes on by itself then",
				"the clock is %v off the database's", skew.Abs().Round(time.Second))
		}
	}
	seen := a.clock.Load()
	if back := time.Duration(seen - now.UnixNano()); back > clockTolerance {
		return now, Errorf(KindClock, "", "set the server's clock (chrony, systemd-timesyncd); signing goes on by itself then",
			"the clock is %v behind the newest record", back.Round(time.Second))
	}
	for seen < now.UnixNano() && !a.clock.CompareAndSwap(seen, now.UnixNano()) {
		seen = a.clock.Load()
	}
	return now, nil
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

// Issuers returns every issuer: those that devices hang on first, roots last.
func (a *Authority) Issuers() []Issuer {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var all []Issuer
	for _, s := range a.issuers {
		all = append(all, s.Issuer)
	}
	slices.SortFunc(all, func(x, y Issuer) int {
		return cmp.Or(issuerOrder(x)-issuerOrder(y), strings.Compare(x.ID, y.ID))
	})
	return all
}

// countIssuers returns how many issuers there are.
func (a *Authority) countIssuers() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.issuers)
}

func issuerOrder(i Issuer) int {
	return slices.Index([]Purpose{PurposeDevice, PurposeBroker, PurposeIntermediate, PurposeRoot}, i.Purpose)
}

// Issuer returns one issuer.
func (a *Authority) Issuer(id string) (*Issuer, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	s, ok := a.issuers[id]
	if !ok {
		return nil, Errorf(KindNotFound, "issuer", "GET /api/v1/issuers lists them", "there is no issuer %.64q", id)
	}
	i := s.Issuer
	return &i, nil
}

// SetStatusURLs makes the issuer publish under these base URLs, oldest first.
func (a *Authority) SetStatusURLs(id string, urls []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s, ok := a.issuers[id]; ok {
		next := *s
		next.StatusURLs = slices.Clone(urls)
		a.issuers[id] = &next
	}
}

// SetCRLShards spreads the issuer's new certificates over so many CRLs, of as
// many as there ever were.
func (a *Authority) SetCRLShards(id string, shards, ever int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s, ok := a.issuers[id]; ok {
		next := *s
		next.CRLShards, next.CRLShardsEver = shards, ever
		a.issuers[id] = &next
	}
}

// ValidUntil returns when the first certificate of an issuer's chain ends, its
// root among them; zero for an issuer that there is none of.
func (a *Authority) ValidUntil(issuerID string) time.Time {
	a.mu.RLock()
	defer a.mu.RUnlock()
	s, ok := a.issuers[issuerID]
	if !ok {
		return time.Time{}
	}
	return s.notAfter
}

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
