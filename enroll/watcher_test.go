package enroll_test

import (
	"crypto"
	"crypto/x509"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A watcher looks at one server for what it says of certificates.
type watcher struct {
	t       *testing.T
	service *enroll.Service
	issuer  *x509.Certificate
	crl     int64 // number of the newest that was seen

	mu  sync.Mutex
	all []*watched
}

// A watched is one certificate, and when its revocation was committed and seen.
type watched struct {
	serial                   ca.SerialNumber
	request                  []byte
	committed, onCRL, onOCSP time.Time
}

func (w *watcher) add(cert *x509.Certificate) {
	w.t.Helper()
	request, err := ocsp.CreateRequest(cert, w.issuer, &ocsp.RequestOptions{Hash: crypto.SHA256})
	if err != nil {
		w.t.Fatal(err)
	}
	w.all = append(w.all, &watched{serial: ca.SerialNumberOf(cert.SerialNumber), request: request})
}

// committing notes when a revocation was committed.
func (w *watcher) committing(n int, revoke func()) {
	revoke()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[n].committed = time.Now()
}

// look asks for the CRL and for OCSP answers, and reports whether every
// revocation was seen on both.
func (w *watcher) look() (done bool) {
	crl, err := w.service.CRL(w.t.Context(), "device")
	if err != nil {
		w.t.Error(err)
		return true
	}
	var listed map[ca.SerialNumber]bool
	if crl.Number != w.crl {
		w.crl = crl.Number
		serials := make([]ca.SerialNumber, len(w.all))
		for i, one := range w.all {
			serials[i] = one.serial
		}
		if listed, err = crl.Listed(serials...); err != nil {
			w.t.Error(err)
			return true
		}
	}
	done = true
	for _, one := range w.all {
		w.mu.Lock()
		ask := one.onOCSP.IsZero()
		w.mu.Unlock()
		revoked := false
		if ask {
			answer, err := w.service.OCSP(w.t.Context(), one.request)
			if err != nil || answer.Status != ca.OCSPGood && answer.Status != ca.OCSPRevoked {
				w.t.Errorf("OCSP says %s: %v", answer.Status, err)
			}
			revoked = answer.Status == ca.OCSPRevoked
		}
		w.mu.Lock()
		if ask && revoked {
			one.onOCSP = time.Now()
		}
		if one.onCRL.IsZero() && listed[one.serial] {
			one.onCRL = time.Now()
		}
		done = done && !one.onCRL.IsZero() && !one.onOCSP.IsZero() && !one.committed.IsZero()
		w.mu.Unlock()
	}
	return done
}

// times returns how long after their commits revocations were seen, the
// shortest first.
func (w *watcher) times(seen func(*watched) time.Time) []time.Duration {
	var all []time.Duration
	for _, one := range w.all {
		all = append(all, max(seen(one).Sub(one.committed), 0)) // seen before the caller knew
	}
	slices.Sort(all)
	return all
}
