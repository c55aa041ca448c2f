package ca

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"sync"
	"time"
)

// publicKeyBits returns a certificate's public key without its algorithm: what
// OCSP hashes (RFC 6960, 4.1.1).
func publicKeyBits(c *x509.Certificate) []byte {
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		PublicKey asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil {
		return nil // never: the certificate was parsed
	}
	return spki.PublicKey.RightAlign()
}

// cached returns a cached answer; nil for none.
func (r *Responder) cached(key ocspKey) *OCSPAnswer {
	r.mu.RLock()
	answer, old := r.young[key], r.old[key]
	r.mu.RUnlock()
	if answer != nil || old == nil {
		return answer
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old = r.old[key]; old != nil { // still
		r.put(key, old)
	}
	return old
}

// put stores an answer. mu is held.
func (r *Responder) put(key ocspKey, answer *OCSPAnswer) {
	if len(r.young) >= ocspCached {
		r.old, r.young = r.young, make(map[ocspKey]*OCSPAnswer, ocspCached)
	}
	r.young[key] = answer
}

func (r *Responder) currentEpoch() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.epoch
}

// keep caches an answer, unless statuses changed since the epoch in which its
// certificate was looked up: it may be one of those.
func (r *Responder) keep(key ocspKey, answer *OCSPAnswer, epoch int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epoch == epoch && r.position >= 0 {
		r.put(key, answer)
	}
}

// Refresh drops the answers about every certificate whose status changed since
// the last time, on whatever replica. Until it has run once nothing is cached,
// so whoever answers runs it as often as a revocation may go unseen (I13).
//
// A ledger whose changes end before those that were seen is another one, or one
// that was put back: then every answer is dropped. One Refresh runs at a time.
func (r *Responder) Refresh(ctx context.Context) error {
	r.refresh.Lock()
	defer r.refresh.Unlock()
	r.mu.RLock()
	position := r.position
	r.mu.RUnlock()
	changed, next, err := r.cfg.Statuses.ChangedSince(ctx, position)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.position = next
	if next < position {
		r.epoch++
		r.young, r.old = map[ocspKey]*OCSPAnswer{}, nil
		r.cfg.Log.WarnContext(ctx, "the database is at an earlier state than before: all OCSP answers are made anew", "position", next, "before", position)
		return nil
	}
	if len(changed) == 0 {
		return nil
	}
	r.epoch++
	signers := r.index.Load().all
	for _, serial := range changed {
		key, ok := serialKey(append([]byte{0}, serial.Int().Bytes()...))
		if !ok {
			continue
		}
		for _, s := range signers {
			for n := range ocspHashes {
				k := ocspKey{s, uint8(n), key}
				delete(r.young, k)
				delete(r.old, k)
			}
		}
	}
	return nil
}

// Cached returns how many answers are cached.
func (r *Responder) Cached() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.young) + len(r.old)
}

// An ocspBudget bounds what is done in a second.
type ocspBudget struct {
	mu     sync.Mutex
	second int64
	n      int
}

// take takes one of this second's, and reports whether there was one.
func (b *ocspBudget) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if second := now.Unix(); second != b.second {
		b.second, b.n = second, 0
	}
	b.n++
	return b.n <= ocspNonces
}
