package ca_test

import (
	"crypto"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/fleetca/fleetca/ca"
)

// TestI7AClockThatJumps: the wall clock jumps back and forth beside the
// database's, which runs on. Nothing is signed while the two are more than 5 s
// apart, or the wall clock is that far behind the newest record; what is signed
// is dated within that, CRLs follow each other in number and time, and OCSP never
// says good of what is revoked.
func TestI7AClockThatJumps(t *testing.T) {
	t.Parallel()
	const tolerance = 5 * time.Second
	var f *fixture
	database := made().at.Add(time.Hour)
	f = newFixture(t, func(cfg *ca.Config) { cfg.Skew = func() time.Duration { return database.Sub(f.clock.now()) } })
	f.clock.set(database)
	r := f.responder()
	random := rand.New(rand.NewPCG(7, 7))
	jumps := []time.Duration{0, 0, 0, 3 * time.Second, -3 * time.Second, 6 * time.Second, -6 * time.Second, time.Hour, -time.Hour, 400 * 24 * time.Hour, -400 * 24 * time.Hour}
	last := f.publish("device", true)
	newest := f.clock.now() // that anything was signed at
	revoked := map[ca.SerialNumber]bool{}
	var serials []ca.SerialNumber
	signed, refused := 0, 0
	for step := range 400 {
		database = database.Add(time.Duration(random.IntN(4000)) * time.Millisecond)
		jump := jumps[random.IntN(len(jumps))]
		wall := database.Add(jump)
		f.clock.set(wall)
		may := jump.Abs() <= tolerance && newest.Sub(wall) <= tolerance
		cert, err := f.ca.Issue(f.ctx, f.order("device"))
		crl, crlErr := f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device"}, step%7 == 0)
		if (err == nil) != may || (crlErr == nil) != may {
			t.Fatalf("step %d, %v off, %v behind: %v, %v", step, jump, newest.Sub(wall), err, crlErr)
		}
		if !may {
			refused++
			if !errors.Is(err, ca.IsKind(ca.KindClock)) || !errors.Is(crlErr, ca.IsKind(ca.KindClock)) {
				t.Fatalf("step %d: %v, %v", step, err, crlErr)
			}
		} else {
			signed++
			newest = later(newest, wall)
			if cert.NotBefore.After(wall) || cert.NotBefore.Before(wall.Add(-time.Hour-tolerance)) || cert.NotAfter.After(wall.AddDate(1, 0, 0)) {
				t.Errorf("step %d: a certificate from %v to %v at %v", step, cert.NotBefore, cert.NotAfter, wall)
			}
			if crl.Number <= last.Number || crl.ThisUpdate.Before(last.ThisUpdate) || crl.NextUpdate.Before(last.NextUpdate) ||
				crl.ThisUpdate.After(database.Add(tolerance)) || !crl.NextUpdate.After(database) {
				t.Errorf("step %d: CRL %d from %v to %v after %d from %v to %v", step, crl.Number, crl.ThisUpdate, crl.NextUpdate, last.Number, last.ThisUpdate, last.NextUpdate)
			}
			last = crl
			serials = append(serials, cert.SerialNumber)
		}
		if len(serials) == 0 {
			continue
		}
		serial := serials[random.IntN(len(serials))]
		if step%3 == 0 {
			f.ledger.setStatus(serial, ca.ReasonKeyCompromise, database)
			revoked[serial] = true
			f.must(r.Refresh(f.ctx))
		}
		request, err := ocsp.CreateRequest(f.parse(&ca.Certificate{DER: f.der(serial)}), f.issuer("device"), &ocsp.RequestOptions{Hash: crypto.SHA256})
		f.must(err)
		answer, err := r.Answer(f.ctx, request)
		switch {
		case answer.Status == ca.OCSPTryLater && err != nil && !may: // nothing that it said before holds
		case revoked[serial] && answer.Status != ca.OCSPRevoked, !revoked[serial] && answer.Status != ca.OCSPGood:
			t.Errorf("step %d, %v off: OCSP says %s of %s, revoked %v: %v", step, jump, answer.Status, serial, revoked[serial], err)
		case !answer.NextUpdate.After(wall):
			t.Errorf("step %d: an answer until %v at %v", step, answer.NextUpdate, wall)
		}
	}
	if signed < 100 || refused < 100 {
		t.Errorf("%d signed, %d refused: this tries nothing", signed, refused)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// der returns a recorded certificate's bytes.
func (f *fixture) der(serial ca.SerialNumber) []byte {
	f.Helper()
	cert, err := f.ledger.Certificate(f.ctx, serial)
	f.must(err)
	return cert.DER
}
