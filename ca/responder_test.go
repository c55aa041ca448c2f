package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/fleetca/fleetca/ca"
)

// responder returns one that looked at the ledger, and so caches.
func (f *fixture) responder() *ca.Responder {
	f.Helper()
	r := ca.NewResponder(ca.ResponderConfig{Authority: f.ca, Statuses: f.ledger, Claim: func(ca.Certificate) any { return "responder" }})
	f.must(r.Refresh(f.ctx))
	return r
}

func (f *fixture) issuer(id string) *x509.Certificate {
	f.Helper()
	i, err := f.ca.Issuer(id)
	f.must(err)
	return i.Certificate
}

// ask asks about a serial number, and verifies the answer.
func (f *fixture) ask(r *ca.Responder, issuer string, serial ca.SerialNumber, hash crypto.Hash) (*ocsp.Response, *ca.OCSPAnswer) {
	f.Helper()
	request, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial.Int()}, f.issuer(issuer), &ocsp.RequestOptions{Hash: hash})
	f.must(err)
	answer, err := r.Answer(f.ctx, request)
	f.must(err)
	if len(answer.DER) < 10 {
		f.Fatalf("about %s of %s: %s", serial, issuer, answer.Status)
	}
	response, err := ocsp.ParseResponseForCert(answer.DER, &x509.Certificate{SerialNumber: serial.Int()}, f.issuer(issuer))
	f.must(err)
	if !response.ThisUpdate.Equal(answer.ThisUpdate) || !response.NextUpdate.Equal(answer.NextUpdate) {
		f.Errorf("times %v %v, and in the answer %v %v", answer.ThisUpdate, answer.NextUpdate, response.ThisUpdate, response.NextUpdate)
	}
	return response, answer
}

// withNonce adds a nonce's extnValue, and more certificates' requests, to a
// request.
func withNonce(t testing.TB, request []byte, nonce []byte) []byte {
	t.Helper()
	var r struct {
		TBS struct {
			List       []asn1.RawValue
			Extensions []pkixExtension `asn1:"explicit,tag:2,optional"`
		}
	}
	if _, err := asn1.Unmarshal(request, &r); err != nil {
		t.Fatal(err)
	}
	r.TBS.Extensions = []pkixExtension{{ID: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}, Value: nonce}}
	der, err := asn1.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

type pkixExtension struct {
	ID    asn1.ObjectIdentifier
	Value []byte
}

func octets(t testing.TB, b []byte) []byte {
	t.Helper()
	der, err := asn1.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestI14OCSPSaysWhatTheLedgerSays(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.responder()
	good := f.issue(f.order("device"))
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		response, answer := f.ask(r, "device", good.SerialNumber, hash)
		if response.Status != ocsp.Good || answer.Status != ca.OCSPGood || !answer.Cacheable || response.IssuerHash != hash {
			t.Errorf("%v: a good certificate: %+v", hash, response)
		}
	}
	for _, reason := range ca.Reasons() {
		cert := f.issue(f.order("device"))
		at := f.clock.now()
		f.ledger.setStatus(cert.SerialNumber, reason, at)
		response, answer := f.ask(r, "device", cert.SerialNumber, crypto.SHA256)
		if response.Status != ocsp.Revoked || answer.Status != ca.OCSPRevoked || response.RevocationReason != reason.Code() || !response.RevokedAt.Equal(at.Truncate(time.Second)) {
			t.Errorf("%s: %+v", reason, response)
		}
	}
	for what, serial := range map[string]ca.SerialNumber{
		"never issued": ca.NewSerialNumber(), "another issuer's": f.issue(f.order("broker")).SerialNumber, "short": "05",
		"longer than any": ca.SerialNumber(strings.Repeat("7f", 24)),
	} {
		if response, answer := f.ask(r, "device", serial, crypto.SHA1); response.Status != ocsp.Unknown || answer.Cacheable {
			t.Errorf("%s: %+v", what, response)
		}
	}
	request, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: big.NewInt(1)}, f.root, nil)
	f.must(err)
	if answer, err := r.Answer(f.ctx, request); err != nil || answer.Status != ca.OCSPUnauthorized {
		t.Errorf("the root's: %v %v", answer.Status, err)
	}
}

// TestI14TheRespondersCertificate: of the very issuer, for OCSP alone, not to
// be checked itself, short-lived, recorded, and replaced at half of its life.
func TestI14TheRespondersCertificate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.responder()
	serial := f.issue(f.order("broker")).SerialNumber
	response, _ := f.ask(r, "broker", serial, crypto.SHA1)
	first := response.Certificate
	all, _ := extensionsOf(first)
	record, err := f.ledger.Certificate(f.ctx, ca.SerialNumberOf(first.SerialNumber))
	f.must(err)
	if !slices.Equal(first.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}) || !slices.Contains(all, "ocspNoCheck") ||
		first.CheckSignatureFrom(f.issuer("broker")) != nil || first.NotAfter.Sub(first.NotBefore) > 7*24*time.Hour || len(first.OCSPServer) > 0 ||
		record.Profile != ca.ResponderProfile || record.Holder != (ca.Holder{Kind: ca.HolderServer, ID: "ocsp-broker"}) || !slices.Contains(f.ledger.claims, any("responder")) {
		t.Errorf("certificate %v, recorded as %+v", all, record)
	}
	for _, step := range []struct {
		after time.Duration
		same  bool
	}{{time.Hour, true}, {80 * time.Hour, true}, {5 * time.Hour, false}} {
		f.clock.advance(step.after)
		response, _ := f.ask(r, "broker", serial, crypto.SHA1)
		if same := response.Certificate.Equal(first); same != step.same || response.NextUpdate.After(response.Certificate.NotAfter) {
			t.Errorf("%v later: the same certificate %t, until %v", step.after, same, response.NextUpdate)
		}
	}
	if certs := r.Certificates(); len(certs) != 1 || certs["broker"] == nil {
		t.Errorf("certificates %v", certs)
	}
}

func TestOCSPAnswersAreKeptAndDropped(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.responder()
	serial, other := f.issue(f.order("device")).SerialNumber, f.issue(f.order("device")).SerialNumber
	_, first := f.ask(r, "device", serial, crypto.SHA1)
	_, beside := f.ask(r, "device", other, crypto.SHA1)
	f.clock.advance(time.Hour)
	if _, again := f.ask(r, "device", serial, crypto.SHA1); !bytes.Equal(again.DER, first.DER) || again.ETag != first.ETag || r.Cached() != 2 {
		t.Error("signed anew within the hour")
	}
	f.ledger.setStatus(serial, ca.ReasonKeyCompromise, f.clock.now())
	f.must(r.Refresh(f.ctx))
	if response, _ := f.ask(r, "device", serial, crypto.SHA1); response.Status != ocsp.Revoked {
		t.Error("I13: a revocation is not seen")
	}
	if _, same := f.ask(r, "device", other, crypto.SHA1); !bytes.Equal(same.DER, beside.DER) {
		t.Error("a revocation drops the answers about others")
	}
	f.clock.advance(3 * time.Hour)
	if _, later := f.ask(r, "device", other, crypto.SHA1); bytes.Equal(later.DER, beside.DER) || !later.NextUpdate.After(beside.NextUpdate) {
		t.Error("not signed anew in the last half of its time")
	}
}

// A slow ledger is one whose lookups wait.
type slowLedger struct {
	*ledger
	begun, proceed chan struct{}
}

func (l *slowLedger) Certificate(ctx context.Context, serial ca.SerialNumber) (*ca.Certificate, error) {
	cert, err := l.ledger.Certificate(ctx, serial)
	close(l.begun)
	<-l.proceed
	return cert, err
}

// TestI13ARevocationDuringALookupIsNotForgotten: good was read just before the
// revocation, and answered just after Refresh saw it.
func TestI13ARevocationDuringALookupIsNotForgotten(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	slow := &slowLedger{f.ledger, make(chan struct{}), make(chan struct{})}
	r := ca.NewResponder(ca.ResponderConfig{Authority: f.ca, Statuses: slow, Claim: func(ca.Certificate) any { return nil }})
	f.must(r.Refresh(f.ctx))
	serial := f.issue(f.order("device")).SerialNumber
	var asked sync.WaitGroup
	asked.Go(func() { f.ask(r, "device", serial, crypto.SHA1) })
	<-slow.begun
	f.ledger.setStatus(serial, ca.ReasonKeyCompromise, f.clock.now())
	f.must(r.Refresh(f.ctx))
	close(slow.proceed)
	asked.Wait()
	if r.Cached() != 0 {
		t.Fatal("what was read before the revocation is cached after it")
	}
}

func TestI14WhenTheLedgerIsGone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.responder()
	cached, cold := f.issue(f.order("device")).SerialNumber, f.issue(f.order("device")).SerialNumber
	_, first := f.ask(r, "device", cached, crypto.SHA1)
	f.ledger.mu.Lock()
	f.ledger.gone, f.ledger.refuse = errors.New("no route to host"), errors.New("no route to host")
	f.ledger.mu.Unlock()
	if r.Refresh(f.ctx) == nil {
		t.Error("Refresh does not tell")
	}
	raw := func(issuer string, serial ca.SerialNumber) ca.OCSPStatus {
		request, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial.Int()}, f.issuer(issuer), nil)
		f.must(err)
		answer, _ := r.Answer(f.ctx, request)
		return answer.Status
	}
	if status := raw("device", cold); status != ca.OCSPTryLater {
		t.Errorf("nothing is cached: %s", status)
	}
	if status := raw("broker", cold); status != ca.OCSPTryLater { // without a responder's certificate either
		t.Errorf("nothing is cached, nor a certificate: %s", status)
	}
	f.clock.advance(3 * time.Hour) // past the time that it would be signed anew
	if _, again := f.ask(r, "device", cached, crypto.SHA1); !bytes.Equal(again.DER, first.DER) {
		t.Error("the cached answer is no more")
	}
	f.clock.advance(time.Hour)
	if status := raw("device", cached); status != ca.OCSPTryLater {
		t.Errorf("past nextUpdate: %s", status)
	}
}

func TestOCSPNonces(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.responder()
	serial := f.issue(f.order("device")).SerialNumber
	plain, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial.Int()}, f.issuer("device"), nil)
	f.must(err)
	long := make([]byte, 129)
	_, _ = rand.Read(long)
	for what, test := range map[string]struct {
		value []byte
		want  ca.OCSPStatus
	}{
		"1 octet": {octets(t, long[:1]), ca.OCSPGood}, "32": {octets(t, long[:32]), ca.OCSPGood}, "128": {octets(t, long[:128]), ca.OCSPGood},
		"129": {octets(t, long), ca.OCSPMalformed}, "none": {octets(t, nil), ca.OCSPMalformed}, "not wrapped": {[]byte("123456789"), ca.OCSPGood},
	} {
		answer, err := r.Answer(f.ctx, withNonce(t, plain, test.value))
		if err != nil || answer.Status != test.want || answer.Cacheable {
			t.Errorf("%s: %s %v", what, answer.Status, err)
			continue
		}
		if test.want == ca.OCSPGood {
			if response, err := ocsp.ParseResponse(answer.DER, f.issuer("device")); err != nil || response.Status != ocsp.Good || !bytes.Contains(answer.DER, test.value) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	// Past the budget of a second (the clock stands) the answer is the cached one.
	nonce := octets(t, long[:16])
	echoed := 0
	for range 1100 {
		answer, err := r.Answer(f.ctx, withNonce(t, plain, nonce))
		f.must(err)
		if bytes.Contains(answer.DER, nonce) {
			echoed++
		}
	}
	if echoed < 900 || echoed > 1000 {
		t.Errorf("%d of 1100 nonces echoed in one second", echoed)
	}
}

func TestOCSPAboutSeveral(t *testing.T) {
	t.Parallel()
	needOpenSSL(t)
	f := newFixture(t)
	r := f.responder()
	good, revoked, foreign := f.issue(f.order("device")), f.issue(f.order("device")), f.issue(f.order("broker"))
	f.ledger.setStatus(revoked.SerialNumber, ca.ReasonSuperseded, f.clock.now())
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "issuer.pem"), ca.EncodeChain(f.issuer("device")))
	writeFile(t, filepath.Join(dir, "broker.pem"), ca.EncodeChain(f.issuer("broker")))
	args := []string{"ocsp", "-issuer", filepath.Join(dir, "issuer.pem"), "-serial", "0x" + string(good.SerialNumber), "-serial", "0x" + string(revoked.SerialNumber), "-reqout", filepath.Join(dir, "req")}
	if out, err := openssl(t, args...); err != nil {
		t.Fatal(out)
	}
	request, err := os.ReadFile(filepath.Join(dir, "req"))
	f.must(err)
	answer, err := r.Answer(f.ctx, request)
	f.must(err)
	if answer.Status != ca.OCSPSeveral || answer.Cacheable {
		t.Fatalf("status %s", answer.Status)
	}
	writeFile(t, filepath.Join(dir, "resp"), string(answer.DER))
	writeFile(t, filepath.Join(dir, "root.pem"), ca.EncodeChain(f.root))
	out, err := openssl(t, append(args[:len(args)-2], "-respin", filepath.Join(dir, "resp"), "-CAfile", filepath.Join(dir, "root.pem"), "-verify_other", filepath.Join(dir, "issuer.pem"), "-no_nonce")...)
	if err != nil || !strings.Contains(out, "Response verify OK") || !strings.Contains(out, ": good") || !strings.Contains(out, ": revoked") {
		t.Errorf("%v %s", err, out)
	}
	args = append(args, "-issuer", filepath.Join(dir, "broker.pem"), "-serial", "0x"+string(foreign.SerialNumber))
	if out, err := openssl(t, args...); err != nil {
		t.Fatal(out)
	}
	request, err = os.ReadFile(filepath.Join(dir, "req"))
	f.must(err)
	if answer, err := r.Answer(f.ctx, request); err != nil || answer.Status != ca.OCSPUnauthorized {
		t.Errorf("of two issuers: %s %v", answer.Status, err)
	}
}

// TestOCSPAgainstOtherReaders: OpenSSL and GnuTLS read good, revoked and
// unknown as they are meant, with a chain up to the root.
func TestOCSPAgainstOtherReaders(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(cfg *ca.Config) { cfg.Now = time.Now }) // ocsptool knows no other time
	r := f.responder()
	good, revoked := f.issue(f.order("device")), f.issue(f.order("device"))
	f.ledger.setStatus(revoked.SerialNumber, ca.ReasonKeyCompromise, time.Now())
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	writeFile(t, path("root.pem"), ca.EncodeChain(f.root))
	writeFile(t, path("issuer.pem"), ca.EncodeChain(f.issuer("device")))
	writeFile(t, path("both.pem"), ca.EncodeChain(f.root, f.issuer("device")))
	for name, cert := range map[string]*ca.Certificate{"good": good, "revoked": revoked} {
		writeFile(t, path(name+".pem"), cert.PEM())
		_, answer := f.ask(r, "device", cert.SerialNumber, crypto.SHA1)
		writeFile(t, path(name+".der"), string(answer.DER))
	}
	t.Run("openssl", func(t *testing.T) {
		needOpenSSL(t)
		for name, want := range map[string]string{"good": "good.pem: good", "revoked": "revoked.pem: revoked"} {
			out, err := openssl(t, "ocsp", "-issuer", path("issuer.pem"), "-cert", path(name+".pem"), "-respin", path(name+".der"),
				"-CAfile", path("root.pem"), "-verify_other", path("issuer.pem"), "-no_nonce")
			if err != nil || !strings.Contains(out, "Response verify OK") || !strings.Contains(out, want) {
				t.Errorf("%s: %v %s", name, err, out)
			}
		}
	})
	t.Run("gnutls", func(t *testing.T) {
		need(t, "ocsptool", "gnutls-bin")
		for name, want := range map[string]string{"good": "Certificate Status: good", "revoked": "Certificate Status: revoked"} {
			for _, args := range [][]string{
				{"--response-info", "--inder", "--infile", path(name + ".der")},
				{"--verify-response", "--inder", "--load-response", path(name + ".der"), "--load-trust", path("both.pem")},
			} {
				out, err := exec.CommandContext(t.Context(), "ocsptool", args...).CombinedOutput()
				wanted := want
				if args[0] == "--verify-response" {
					wanted = "Verifying OCSP Response: Success"
				}
				if err != nil || !strings.Contains(string(out), wanted) {
					t.Errorf("%s %s: %v %s", name, args[0], err, out)
				}
			}
		}
	})
}

// TestI14OCSPOfALedgerThatWasPutBack: what was cached of a later state, or
// of another database, is not said any more.
func TestI14OCSPOfALedgerThatWasPutBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.responder()
	one, two := f.issue(f.order("device")).SerialNumber, f.issue(f.order("device")).SerialNumber
	revoke := func(serial ca.SerialNumber) {
		f.ledger.setStatus(serial, ca.ReasonSuperseded, f.clock.now())
		f.must(r.Refresh(f.ctx))
	}
	status := func(serial ca.SerialNumber) int {
		response, _ := f.ask(r, "device", serial, crypto.SHA256)
		return response.Status
	}
	revoke(one)
	revoke(two)
	if status(one) != ocsp.Revoked || status(two) != ocsp.Revoked || r.Cached() == 0 {
		t.Fatal("not revoked, or not cached")
	}
	f.ledger.putBack(1)
	f.must(r.Refresh(f.ctx))
	if status(one) != ocsp.Revoked || status(two) != ocsp.Good {
		t.Error("an answer of the later state was given")
	}
	revoke(two) // as many changes as were seen before: that is no reason to miss one
	if status(two) != ocsp.Revoked {
		t.Error("a change of the earlier state was not seen")
	}
}

func TestOCSPConcurrently(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.responder()
	var serials []ca.SerialNumber
	for range 20 {
		serials = append(serials, f.issue(f.order("device")).SerialNumber)
	}
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for i := range 100 {
				serial := serials[(n*7+i)%len(serials)]
				f.ask(r, "device", serial, crypto.SHA256)
				if n == 0 && i%10 == 0 {
					f.ledger.setStatus(serial, ca.ReasonSuperseded, f.clock.now())
					if err := r.Refresh(f.ctx); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	f.must(r.Refresh(f.ctx))
	for _, serial := range serials {
		cert, err := f.ledger.Certificate(f.ctx, serial)
		f.must(err)
		if response, _ := f.ask(r, "device", serial, crypto.SHA256); (response.Status == ocsp.Good) != (cert.Status == ca.StatusGood) {
			t.Errorf("%s is %s, and OCSP says %d", serial, cert.Status, response.Status)
		}
	}
}

func FuzzOCSPRequest(f *testing.F) {
	x := newFixture(f)
	r := x.responder()
	serial := x.issue(x.order("device")).SerialNumber
	plain, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial.Int()}, x.issuer("device"), nil)
	x.must(err)
	f.Add(plain)
	f.Add(withNonce(f, plain, octets(f, []byte("nonce"))))
	f.Add([]byte{})
	f.Add([]byte("GET / HTTP/1.1"))
	device, broker := x.issuer("device"), x.issuer("broker")
	f.Fuzz(func(t *testing.T, request []byte) {
		answer, err := r.Answer(x.ctx, request)
		if err != nil && answer.Status != ca.OCSPTryLater || answer == nil || len(answer.DER) == 0 {
			t.Fatalf("%x: %v", request, err)
		}
		if answer.ThisUpdate.IsZero() {
			return
		}
		// What is answered verifies; x/crypto reads one certificate's at a time.
		if answer.Status == ca.OCSPSeveral {
			return
		}
		if _, err := ocsp.ParseResponse(answer.DER, device); err != nil {
			if _, err := ocsp.ParseResponse(answer.DER, broker); err != nil {
				t.Fatalf("%x: %v", request, err)
			}
		}
	})
}
