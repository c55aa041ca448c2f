package ca_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/fleetca/fleetca/ca"
)

// An issuance of a benchmark, ours and its floor: parse and check the request,
// sign and parse the certificate, by crypto/x509 alone.
func issuances(b *testing.B) (ours, raw func()) {
	b.Helper()
	f := newFixture(b)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "device-1"}}, newKey(b))
	f.must(err)
	issuer := made().issuers[1]
	key, _ := kept.Load(issuer.KeyURI)
	template := f.parse(f.issue(f.order("device")))
	ours = func() {
		r, err := ca.ParseRequest("csr", der)
		f.must(err)
		f.issue(ca.Order{
			Profile: "device", Holder: ca.Holder{Kind: ca.HolderDevice, ID: "device-1"}, CommonName: "device-1",
			PublicKey: r.PublicKey, KeySHA256: r.KeySHA256, Claim: func(ca.Certificate) any { return nil },
		})
	}
	raw = func() {
		csr, err := x509.ParseCertificateRequest(der)
		f.must(err)
		f.must(csr.CheckSignature())
		template.SerialNumber = ca.NewSerialNumber().Int()
		cert, err := x509.CreateCertificate(rand.Reader, template, issuer.Certificate, csr.PublicKey, key.(crypto.Signer))
		f.must(err)
		_, err = x509.ParseCertificate(cert)
		f.must(err)
	}
	return ours, raw
}

// BenchmarkIssue is what an enrollment costs in this package: ParseRequest, and
// Issue on a ledger in memory.
func BenchmarkIssue(b *testing.B) {
	ours, _ := issuances(b)
	b.ReportAllocs()
	for b.Loop() {
		ours()
	}
}

// BenchmarkIssueRaw is the floor of BenchmarkIssue.
func BenchmarkIssueRaw(b *testing.B) {
	_, raw := issuances(b)
	b.ReportAllocs()
	for b.Loop() {
		raw()
	}
}

// BenchmarkIssueRatio takes turns, so that a busy machine slows both: x/raw is
// what ours costs in terms of the floor.
func BenchmarkIssueRatio(b *testing.B) {
	ours, raw := issuances(b)
	var spent [2]time.Duration
	for b.Loop() {
		for n, issue := range []func(){ours, raw} {
			start := time.Now()
			issue()
			spent[n] += time.Since(start)
		}
	}
	b.ReportMetric(float64(spent[0])/float64(spent[1]), "x/raw")
}

// BenchmarkCRL signs, checks and stores the CRL that follows one more
// revocation: one as long was published by the same process.
func BenchmarkCRL(b *testing.B) {
	for _, entries := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(entries), func(b *testing.B) {
			f := newFixture(b)
			var last ca.SerialNumber
			for range entries {
				last = ca.NewSerialNumber()
				f.ledger.certs[last] = ca.Certificate{SerialNumber: last, IssuerID: "device", Status: ca.StatusRevoked,
					Reason: ca.ReasonSuperseded, RevokedAt: f.clock.now(), NotAfter: f.clock.now().Add(24 * time.Hour)}
			}
			f.publish("device", true)
			f.ledger.setStatus(last, ca.ReasonKeyCompromise, f.clock.now())
			b.ReportAllocs()
			for b.Loop() {
				f.ledger.setStatus(last, ca.ReasonKeyCompromise, f.clock.now())
				crl := f.publish("device", false)
				if crl.Entries != entries {
					b.Fatalf("%d entries", crl.Entries)
				}
				f.ledger.forgetCRLs("device")
			}
		})
	}
}

// BenchmarkOCSP signs an answer: what is asked was not asked before.
func BenchmarkOCSP(b *testing.B) {
	f := newFixture(b)
	r := ca.NewResponder(ca.ResponderConfig{Authority: f.ca, Statuses: f.ledger, Claim: func(ca.Certificate) any { return nil }})
	serial := f.issue(f.order("device")).SerialNumber // not refreshed: nothing is cached
	request, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial.Int()}, f.issuer("device"), nil)
	f.must(err)
	b.ReportAllocs()
	for b.Loop() {
		if answer, err := r.Answer(f.ctx, request); err != nil || answer.Status != ca.OCSPGood {
			b.Fatal(err)
		}
	}
}

// BenchmarkOCSPCached answers what was asked before, as nearly every request is.
func BenchmarkOCSPCached(b *testing.B) {
	f := newFixture(b)
	r := f.responder()
	request, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: f.issue(f.order("device")).SerialNumber.Int()}, f.issuer("device"), nil)
	f.must(err)
	b.ReportAllocs()
	b.RunParallel(func(loop *testing.PB) {
		for loop.Next() {
			if answer, err := r.Answer(f.ctx, request); err != nil || answer.Status != ca.OCSPGood {
				b.Fatal(err)
			}
		}
	})
}
