package ca

import (
	"context"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// crlBackdate is how far thisUpdate lies before the signature: a broker whose
// clock is behind refuses a CRL of the future, and every device with it. What a
// CRL lists is what is revoked when it is signed, so that it says more than its
// thisUpdate promises (I10).
const crlBackdate = 5 * time.Minute

// oidIDP is the issuing distribution point extension (RFC 5280, 5.2.5).
var oidIDP = asn1.ObjectIdentifier{2, 5, 29, 28}

// A publisher is what a process keeps of a scope from one CRL to the next, so
// that a CRL of a million entries that follows one more revocation reads one
// row. The entries are slices of the CRL.
type publisher struct {
	mu       sync.Mutex // held while a CRL of the scope is made
	position int64      // up to which entries are known
	entries  crlEntries
	last     *CRL // made here; nil for none
}

// forget makes the next CRL read everything again.
func (p *publisher) forget() { p.position, p.entries, p.last = 0, crlEntries{}, nil }

// publisherOf returns what is kept of a scope.
func (a *Authority) publisherOf(scope CRLScope) *publisher {
	p, _ := a.publishers.LoadOrStore(scope, &publisher{})
	return p.(*publisher)
}

// PublishCRL signs a scope's next CRL, checks it against its predecessor,
// stores it and returns it. Scheduled CRLs are those of the clock; others
// follow a revocation (RFC 5280, 3.3). Several may run at once, in any number
// of processes: each takes its own number, and what it lists was read after
// that. A scheduled one reads the ledger whole, others what changed since.
func (a *Authority) PublishCRL(ctx context.Context, scope CRLScope, scheduled bool) (*CRL, error) {
	a.mu.RLock()
	s, ok := a.issuers[scope.IssuerID]
	unusable := a.unusable[scope.IssuerID]
	a.mu.RUnlock()
	if unusable != nil {
		return nil, unusable
	}
	if !ok || s.cas == nil || scope.Shard < 0 || scope.Shard >= s.ShardsEver() {
		return nil, Errorf(KindIssuerInactive, "issuer", "", "issuer %.64q has no key here to sign a CRL with", scope)
	}
	p := a.publisherOf(scope)
	p.mu.Lock()
	defer p.mu.Unlock()
	if scheduled {
		p.forget()
	}
	crl, err := a.publish(ctx, s, p, scope, scheduled)
	if err != nil {
		p.forget()
		return nil, err
	}
	return crl, nil
}

func (a *Authority) publish(ctx context.Context, s *signer, p *publisher, scope CRLScope, scheduled bool) (*CRL, error) {
	// Taken before the entries are read: what was revoked before it is on it (I10).
	now, err := a.now()
	if err != nil {
		return nil, err
	}
	known := CRLKnown{Position: p.position}
	if p.last != nil {
		known.Number = p.last.Number
	}
	draft, err := a.cfg.Ledger.ReserveCRL(ctx, scope, known)
	if err != nil {
		return nil, fmt.Errorf("reserve a CRL number: %w", err)
	}
	if draft.Previous != nil && p.last != nil && draft.Previous.Number == p.last.Number {
		draft.Previous = p.last
	}
	if draft.Whole {
		p.entries = crlEntries{}
	}
	crl, entries, err := s.signCRL(scope, draft, p.entries, now, a.cfg.CRLPeriod)
	if err != nil {
		return nil, err
	}
	crl.Scheduled = scheduled
	if err := a.checkSuccessor(ctx, draft.Previous, crl, s, now); err != nil {
		return nil, err
	}
	if err := a.cfg.Ledger.SaveCRL(ctx, crl); err != nil {
		return nil, fmt.Errorf("store CRL %d of %s: %w", crl.Number, scope, err)
	}
	p.position, p.entries, p.last = draft.Position, entries, crl
	return crl, nil
}

// signCRL signs a CRL: the entries that are known with what the draft changes,
// number, AKI, and an IDP that lists every distribution point which
// certificates of this scope carry (design decision 8).
func (s *signer) signCRL(scope CRLScope, draft CRLDraft, known crlEntries, now time.Time, period time.Duration) (*CRL, crlEntries, error) {
	thisUpdate := now.Add(-crlBackdate).UTC().Truncate(time.Second)
	if p := draft.Previous; p != nil && p.ThisUpdate.After(thisUpdate) {
		thisUpdate = p.ThisUpdate // within the clock's tolerance, or not backdated yet
	}
	crl := &CRL{
		IssuerID: scope.IssuerID, Shard: scope.Shard, Number: draft.Number,
		ThisUpdate: thisUpdate, NextUpdate: thisUpdate.Add(crlBackdate + period),
	}
	entries, err := s.encodeCRL(crl, draft, known)
	if err != nil {
		return nil, entries, Errorf(KindKey, "", "look at the key store; the last CRL stays in force", "issuer %s cannot sign CRL %d: %w", s.ID, draft.Number, err)
	}
	return crl, entries, nil
}

// encodeCRL fills crl.DER, in one buffer: the entries are written first, what
// stands before them is put there when its length is known.
func (s *signer) encodeCRL(crl *CRL, draft CRLDraft, known crlEntries) (entries crlEntries, err error) {
	kind, err := signatureOf(s.Certificate.PublicKey)
	if err != nil {
		return entries, err
	}
	head, tail, err := s.crlEnds(crl, kind)
	if err != nil {
		return entries, err
	}
	const room = 3 * maxHeader // CertificateList, TBSCertList, revokedCertificates
	start := room + len(head)
	sortEntries(draft.Entries)
	buf := make([]byte, start, start+len(known.der)+len(draft.Entries)*maxEntry+len(tail)+len(kind.algorithm)+maxHeader+1024)
	if buf, entries, err = known.merge(buf, draft.Entries, draft.Since); err != nil {
		return entries, err
	}
	crl.Entries = len(entries.notAfter)
	n := len(buf) - start
	buf = append(buf, tail...)
	prepend := func(b []byte) {
		start -= len(b)
		copy(buf[start:], b)
	}
	if n > 0 { // absent when empty (RFC 5280, 5.1.2.6)
		prepend(appendHeader(nil, cbasn1.SEQUENCE, n))
	}
	prepend(head)
	prepend(appendHeader(nil, cbasn1.SEQUENCE, len(buf)-start))
	signature, err := kind.sign(s.cas.Signer, buf[start:])
	if err != nil {
		return entries, err
	}
	buf = append(buf, kind.algorithm...)
	buf = append(appendHeader(buf, cbasn1.BIT_STRING, 1+len(signature)), 0)
	buf = append(buf, signature...)
	prepend(appendHeader(nil, cbasn1.SEQUENCE, len(buf)-start))
	crl.DER = buf[start:]
	return entries, nil
}

// crlEnds returns what stands before the entries in a TBSCertList, and after.
func (s *signer) crlEnds(crl *CRL, kind *signatureKind) (head, tail []byte, err error) {
	var b, e cryptobyte.Builder
	b.AddASN1Int64(1) // v2
	b.AddBytes(kind.algorithm)
	b.AddBytes(s.Certificate.RawSubject)
	addTime(&b, crl.ThisUpdate)
	addTime(&b, crl.NextUpdate)
	if head, err = b.Bytes(); err != nil {
		return nil, nil, err
	}
	urls := s.ShardCDPs(crl.Shard)
	e.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(e *cryptobyte.Builder) {
		e.AddASN1(cbasn1.SEQUENCE, func(e *cryptobyte.Builder) {
			addExtension(e, asn1.ObjectIdentifier{2, 5, 29, 35}, false, func(v *cryptobyte.Builder) { // AKI
				v.AddASN1(cbasn1.SEQUENCE, func(v *cryptobyte.Builder) {
					v.AddASN1(cbasn1.Tag(0).ContextSpecific(), func(v *cryptobyte.Builder) { v.AddBytes(s.Certificate.SubjectKeyId) })
				})
			})
			addExtension(e, asn1.ObjectIdentifier{2, 5, 29, 20}, false, func(v *cryptobyte.Builder) { v.AddASN1Int64(crl.Number) })
			if len(urls) > 0 {
				addExtension(e, oidIDP, true, func(v *cryptobyte.Builder) { addIDP(v, urls) })
			}
		})
	})
	tail, err = e.Bytes()
	return head, tail, err
}

// addExtension adds an Extension (RFC 5280, 4.1).
func addExtension(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, critical bool, value cryptobyte.BuilderContinuation) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1(cbasn1.OCTET_STRING, value)
	})
}

// addIDP adds an IDP whose distribution point's fullName lists the URLs.
func addIDP(b *cryptobyte.Builder, urls []string) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { // distributionPoint
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { // fullName
				for _, u := range urls {
					b.AddASN1(cbasn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(u)) })
				}
			})
		})
	})
}

// checkSuccessor refuses a CRL that does not verify, or may not follow prev
// (I10, I11): the number must grow, and an entry may be gone only when its
// certificate expired (before prev, if that was a scheduled one), or its hold
// was released. What is looked at is the bytes that are released. The entries were
// read after a time.
func (a *Authority) checkSuccessor(ctx context.Context, prev, next *CRL, s *signer, read time.Time) error {
	after, err := next.parts()
	if err != nil {
		return err
	}
	if err := after.check(s.Certificate); err != nil {
		return Errorf(KindKey, "", "look at the key store; the last CRL stays in force", "the signature of CRL %d of %s does not verify: %w", next.Number, next.Scope(), err)
	}
	if prev == nil {
		return nil
	}
	if next.Number <= prev.Number || after.number != next.Number {
		return Errorf(KindRefusedCRL, "", "restore the CRL numbers; fleetca restore does it", "CRL number %d of %s does not follow %d", next.Number, next.Scope(), prev.Number)
	}
	before, err := prev.parts()
	if err != nil {
		return err
	}
	expired := next.ThisUpdate
	if prev.Scheduled {
		expired = prev.ThisUpdate
	}
	return missing(before.entries, after.entries, func(serial SerialNumber, reason int) error {
		return a.checkGone(ctx, next, serial, reason, expired, read)
	})
}

// checkGone refuses a CRL without an entry that the one before it had, unless
// the entry may be gone. A certificate that was released may have been held again
// since the entries were read: the next CRL has it.
func (a *Authority) checkGone(ctx context.Context, next *CRL, serial SerialNumber, reason int, expired, read time.Time) error {
	cert, err := a.cfg.Ledger.Certificate(ctx, serial)
	if isNotFound(err) {
		return Errorf(KindRefusedCRL, "", "the ledger was changed by hand; restore a backup", "CRL %d of %s would drop %s, which the ledger no longer holds", next.Number, next.Scope(), serial)
	}
	if err != nil {
		return fmt.Errorf("why is %s no longer on the CRL: %w", serial, err)
	}
	released := reason == ReasonCertificateHold.Code() && (cert.Status == StatusGood || cert.RevokedAt.After(read))
	if !released && cert.NotAfter.After(expired) {
		return Errorf(KindRefusedCRL, "", "the ledger was changed by hand; restore a backup", "CRL %d of %s would drop %s, which is neither expired nor released", next.Number, next.Scope(), serial)
	}
	return nil
}

// CRLDue reports whether a scope's scheduled CRL is due: none yet, none
// younger than the renewal interval, or one that does not list the scope's
// current distribution points.
func (a *Authority) CRLDue(ctx context.Context, scope CRLScope) (bool, error) {
	i, err := a.Issuer(scope.IssuerID)
	if err != nil || i.KeyURI == "" {
		return false, err
	}
	crl, err := a.cfg.Ledger.LatestCRL(ctx, scope)
	if isNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if a.cfg.Now().Sub(crl.ThisUpdate) >= crlBackdate+a.cfg.CRLRenewal {
		return true, nil
	}
	listed, err := crl.DistributionPoints()
	if err != nil {
		return false, err
	}
	for _, url := range i.ShardCDPs(scope.Shard) {
		if !listed[url] {
			return true, nil
		}
	}
	return false, nil
}

const crlBlock = "X509 CRL" // RFC 7468, 7

// PEM returns the CRL PEM-encoded.
func (c *CRL) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: crlBlock, Bytes: c.DER})
}
