package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Times of the OCSP responder.
const (
	ocspPeriod    = 4 * time.Hour   // from the signature to nextUpdate; half of it until it is signed anew
	ocspUnknown   = 5 * time.Minute // of an answer about what was never issued, which may be issued yet
	ocspPatience  = 2 * time.Second // for the ledger
	ocspIssuing   = 10 * time.Second
	ocspIssueWait = 10 * time.Second // after a responder's certificate could not be issued
)

// Limits of the OCSP responder.
const (
	ocspNonces  = 1000   // signatures a second for requests that a cached answer does not do for
	ocspLookups = 64     // answers that are made at the same time; what comes above is told to try later
	ocspCached  = 65_536 // answers in each of two generations of the cache
)

// ResponderConfig says what a Responder works with. All but Log must be set.
type ResponderConfig struct {
	Authority *Authority
	Statuses  StatusStore
	// Claim returns what is committed with a certificate of the responder's own.
	Claim func(Certificate) any
	Log   *slog.Logger
}

// A Responder answers OCSP requests (RFC 6960) for every issuer whose key is
// here. It signs with a key of its own, never written anywhere, under a
// certificate of the very issuer (RFC 6960, 4.2.2.2) that it orders when it is
// asked first, and again at half of its life.
//
// Answers are made when they are asked for, and kept: for nextUpdate's half,
// or until Refresh sees that the certificate's status changed. It says good
// only of what was issued and is not revoked (I14). It is safe for concurrent
// use.
type Responder struct {
	cfg     ResponderConfig
	index   atomic.Pointer[ocspIndex]
	lookups chan struct{}
	nonces  ocspBudget

	refresh    sync.Mutex // held by Refresh
	mu         sync.RWMutex
	young, old map[ocspKey]*OCSPAnswer // what is used moves to young; old is dropped when young is full
	epoch      int64                   // raised by every Refresh that saw changes
	position   int64                   // of the ledger's changes; negative before the first Refresh
}

// NewResponder returns a Responder with nothing cached.
func NewResponder(cfg ResponderConfig) *Responder {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Responder{cfg: cfg, lookups: make(chan struct{}, ocspLookups), young: map[ocspKey]*OCSPAnswer{}, position: -1}
	r.index.Store(&ocspIndex{}) // made when it is asked
	return r
}

// An ocspIndex finds issuers by the hashes in CertIDs.
type ocspIndex struct {
	issuers int // that there were
	signers map[string]*ocspSigners
	all     map[string]*ocspSigners // by issuer ID
}

// ocspSigners are who signs for one issuer: one after the other.
type ocspSigners struct {
	issuer  string
	current atomic.Pointer[ocspSigner]
	mu      sync.Mutex // held while a certificate is ordered
	failed  time.Time  // when that was last in vain
}

// An ocspSigner is a key with its certificate.
type ocspSigner struct {
	key         *ecdsa.PrivateKey
	keyHash     [sha1.Size]byte // ResponderID (RFC 6960, 4.2.1)
	certificate *Certificate
}

func newOCSPIndex(before *ocspIndex, issuers []Issuer) *ocspIndex {
	x := &ocspIndex{issuers: len(issuers), signers: map[string]*ocspSigners{}, all: map[string]*ocspSigners{}}
	for _, i := range issuers {
		if i.KeyURI == "" { // its responder would be signed elsewhere
			continue
		}
		s := &ocspSigners{issuer: i.ID}
		if before != nil && before.all[i.ID] != nil {
			s = before.all[i.ID]
		}
		x.all[i.ID] = s
		for n, h := range ocspHashes {
			sum := func(b []byte) []byte {
				d := h.hash.New()
				d.Write(b)
				return d.Sum(nil)
			}
			x.signers[string(issuerKey(nil, n, sum(i.Certificate.RawSubject), sum(publicKeyBits(i.Certificate))))] = s
		}
	}
	return x
}

// issuerKey appends what an issuer is looked up by.
func issuerKey(b []byte, algorithm int, nameHash, keyHash []byte) []byte {
	b = append(b, byte(algorithm), byte(len(nameHash)))
	return append(append(b, nameHash...), keyHash...)
}

// signersFor returns who answers for a CertID's issuer; nil for an issuer that
// is not ours.
func (r *Responder) signersFor(id *ocspCertID) *ocspSigners {
	if id.algorithm < 0 || len(id.nameHash) > 64 || len(id.keyHash) > 64 {
		return nil
	}
	var room [2 + 64 + 64]byte
	x := r.index.Load()
	s := x.signers[string(issuerKey(room[:0], id.algorithm, id.nameHash, id.keyHash))]
	if s == nil && x.issuers != r.cfg.Authority.countIssuers() {
		x = newOCSPIndex(x, r.cfg.Authority.Issuers())
		r.index.Store(x)
		s = x.signers[string(issuerKey(room[:0], id.algorithm, id.nameHash, id.keyHash))]
	}
	return s
}

// An ocspKey is what a cached answer is found by.
type ocspKey struct {
	signers   *ocspSigners
	algorithm uint8
	serial    ocspSerial
}

// An ocspSerial is a serial number without sign octet, from its end.
type ocspSerial [serialOctets]byte

// serialKey returns a serial number as a key; false for what is none.
func serialKey(integer []byte) (key ocspSerial, ok bool) {
	if len(integer) > 1 && integer[0] == 0 {
		integer = integer[1:]
	} else if integer[0] >= 0x80 {
		return key, false // negative
	}
	if len(integer) > serialOctets || integer[0] == 0 {
		return key, false
	}
	copy(key[serialOctets-len(integer):], integer)
	return key, true
}

// Answer answers an OCSPRequest in DER. The error says, for the log, why the
// answer is tryLater or internalError.
func (r *Responder) Answer(ctx context.Context, request []byte) (*OCSPAnswer, error) {
	var q ocspRequest
	if !q.parse(request) {
		return ocspErrors[OCSPMalformed], nil
	}
	signers := r.signersFor(&q.ids[0])
	for n := 1; n < q.n; n++ {
		if r.signersFor(&q.ids[n]) != signers {
			return ocspErrors[OCSPUnauthorized], nil // no responder's certificate is good for two issuers
		}
	}
	if signers == nil {
		return ocspErrors[OCSPUnauthorized], nil
	}
	now := r.cfg.Authority.cfg.Now()
	if q.n == 1 && q.nonce == nil {
		return r.answerOne(ctx, signers, &q.ids[0], now)
	}
	return r.answerFresh(ctx, signers, &q, now)
}

// answerOne answers about one certificate, from the cache where it is there.
func (r *Responder) answerOne(ctx context.Context, signers *ocspSigners, id *ocspCertID, now time.Time) (*OCSPAnswer, error) {
	serial, ok := serialKey(id.serial)
	key := ocspKey{signers, uint8(id.algorithm), serial}
	if !ok {
		return r.make(ctx, signers, id, key, false, now)
	}
	cached := r.cached(key)
	if cached != nil && now.Before(cached.renew) {
		return cached, nil
	}
	answer, err := r.make(ctx, signers, id, key, true, now)
	if err != nil && cached != nil && now.Before(cached.NextUpdate) {
		return cached, nil // the ledger is gone: what was said holds
	}
	return answer, err
}

// answerFresh answers with a signature of its own: because of a nonce, or about
// several certificates. When that was done too often lately, a request with a
// nonce gets the answer without (RFC 9654, 2.1 leaves that to the client).
func (r *Responder) answerFresh(ctx context.Context, signers *ocspSigners, q *ocspRequest, now time.Time) (*OCSPAnswer, error) {
	within := r.nonces.take(now)
	if !within && q.n > 1 {
		return ocspErrors[OCSPTryLater], errors.New("too many requests about several certificates")
	}
	var fresh OCSPAnswer
	singles := make([][]byte, q.n)
	for n := range q.n {
		one, err := r.answerOne(ctx, signers, &q.ids[n], now)
		if one.single == nil || !within {
			return one, err
		}
		singles[n] = one.single
		if n == 0 || one.NextUpdate.Before(fresh.NextUpdate) {
			fresh = OCSPAnswer{Status: one.Status, ThisUpdate: one.ThisUpdate, NextUpdate: one.NextUpdate}
		}
	}
	if q.n > 1 {
		fresh.Status = OCSPSeveral
	}
	signer, err := r.signer(ctx, signers, now)
	if err == nil {
		fresh.DER, err = signer.answer(now, q.nonce, singles...)
	}
	if err != nil {
		return failedAnswer(err), err
	}
	return &fresh, nil
}

// failedAnswer returns the answer for what went wrong.
func failedAnswer(err error) *OCSPAnswer {
	if errors.Is(err, IsKind(KindKey)) {
		return ocspErrors[OCSPInternal]
	}
	return ocspErrors[OCSPTryLater]
}

// make looks a certificate up and signs what is to be said of it. known says
// that key is its serial number.
func (r *Responder) make(ctx context.Context, signers *ocspSigners, id *ocspCertID, key ocspKey, known bool, now time.Time) (*OCSPAnswer, error) {
	select {
	case r.lookups <- struct{}{}:
		defer func() { <-r.lookups }()
	default:
		return ocspErrors[OCSPTryLater], errors.New("too many answers are being made")
	}
	if _, err := r.cfg.Authority.now(); err != nil { // it went backwards
		return ocspErrors[OCSPTryLater], err
	}
	signer, err := r.signer(ctx, signers, now)
	if err != nil {
		return failedAnswer(err), err
	}
	epoch := r.currentEpoch()
	single := singleResponse{id: id, status: OCSPUnknown, thisUpdate: now.Add(-crlBackdate), nextUpdate: now.Add(ocspUnknown)}
	if known {
		if err := r.lookUp(ctx, signers, &single, key.serial, now); err != nil {
			return failedAnswer(err), err
		}
	}
	if end := signer.certificate.NotAfter; single.nextUpdate.After(end) {
		single.nextUpdate = end
	}
	answer := &OCSPAnswer{Status: single.status, ThisUpdate: single.thisUpdate.Truncate(time.Second), NextUpdate: single.nextUpdate.Truncate(time.Second)}
	if answer.single, err = single.encode(); err == nil {
		answer.DER, err = signer.answer(now, nil, answer.single)
	}
	if err != nil {
		return failedAnswer(err), err
	}
	if single.status != OCSPUnknown {
		answer.Cacheable, answer.ETag = true, etagOf(answer.DER)
		answer.renew = now.Add(answer.NextUpdate.Sub(now) / 2)
		r.keep(key, answer, epoch)
	}
	return answer, nil
}

// lookUp fills in what the ledger says.
func (r *Responder) lookUp(ctx context.Context, signers *ocspSigners, single *singleResponse, serial ocspSerial, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, ocspPatience)
	defer cancel()
	cert, err := r.cfg.Statuses.Certificate(ctx, serialNumberOf(serial))
	switch {
	case isNotFound(err), err == nil && cert.IssuerID != signers.issuer:
		return nil
	case err != nil:
		return fmt.Errorf("look up a certificate: %w", err)
	}
	single.nextUpdate = now.Add(ocspPeriod)
	if single.status = OCSPGood; cert.Status != StatusGood {
		single.status, single.reason, single.revokedAt = OCSPRevoked, cert.Reason, cert.RevokedAt
	}
	return nil
}

func serialNumberOf(serial ocspSerial) SerialNumber {
	n := 0
	for n < len(serial)-1 && serial[n] == 0 {
		n++
	}
	return SerialNumber(hex.EncodeToString(serial[n:]))
}

// signer returns who signs for an issuer now, with a new certificate in the
// last half of the old one's life. Where there is none to be had, the old one
// goes on as long as it can.
func (r *Responder) signer(ctx context.Context, s *ocspSigners, now time.Time) (*ocspSigner, error) {
	current := s.current.Load()
	if current.fresh(now) {
		return current, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if current = s.current.Load(); current.fresh(now) { // meanwhile
		return current, nil
	}
	valid := current != nil && now.Before(current.certificate.NotAfter)
	if wait := now.Sub(s.failed); wait >= 0 && wait < ocspIssueWait {
		if valid {
			return current, nil
		}
		return nil, fmt.Errorf("no responder's certificate of issuer %s could be issued a moment ago", s.issuer)
	}
	// The next client needs it too: this one leaving is no reason to stop.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ocspIssuing)
	defer cancel()
	next, err := r.orderSigner(ctx, s.issuer)
	if err != nil {
		s.failed = now
		err = fmt.Errorf("issue a responder's certificate of issuer %s: %w", s.issuer, err)
		if valid {
			r.cfg.Log.ErrorContext(ctx, "the OCSP responder goes on with its old certificate", "error", err, "notAfter", current.certificate.NotAfter)
			return current, nil
		}
		return nil, err
	}
	s.current.Store(next)
	return next, nil
}

// fresh reports whether more than half of the certificate's life is left.
func (p *ocspSigner) fresh(now time.Time) bool {
	if p == nil || now.Before(p.certificate.NotBefore) {
		return false
	}
	life := p.certificate.NotAfter.Sub(p.certificate.NotBefore)
	return p.certificate.NotAfter.Sub(now) > life/2
}

// orderSigner makes a key, and has its certificate issued and recorded.
func (r *Responder) orderSigner(ctx context.Context, issuer string) (*ocspSigner, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	id := "ocsp-" + issuer
	cert, err := r.cfg.Authority.Issue(ctx, Order{
		Profile: ResponderProfile, IssuerID: issuer, Holder: Holder{HolderServer, id}, CommonName: "OCSP responder of " + issuer,
		PublicKey: key.Public(), KeySHA256: hexSHA256(spki), Claim: r.cfg.Claim,
	})
	if err != nil {
		return nil, err
	}
	x, err := cert.X509()
	if err != nil {
		return nil, err
	}
	r.cfg.Log.InfoContext(ctx, "OCSP responder's certificate issued", "issuer", issuer, "serial", cert.SerialNumber, "notAfter", cert.NotAfter)
	return &ocspSigner{key: key, keyHash: sha1.Sum(publicKeyBits(x)), certificate: cert}, nil
}

// Certificates returns the responder's newest certificate of each issuer that
// it was asked about.
func (r *Responder) Certificates() map[string]*Certificate {
	all := map[string]*Certificate{}
	for id, s := range r.index.Load().all {
		if p := s.current.Load(); p != nil {
			all[id] = p.certificate
		}
	}
	return all
}
