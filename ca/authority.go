package ca

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
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
