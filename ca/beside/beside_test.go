// Package beside measures what package ca costs beside smallstep's own
// authority, on which step-ca runs, and beside crypto/x509 alone. It is a module
// of its own, so that what that authority needs is not needed to build fleetca.
// The figures are in ../SPEED.md.
package beside

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"
	"go.step.sm/crypto/jose"

	"github.com/fleetca/fleetca/ca"
)

// A ledger records nothing: what is measured is the authority.
type ledger struct{ ca.Ledger }

func (ledger) Commit(_ context.Context, batch []ca.Issuance) []error {
	return make([]error, len(batch))
}

// A bench is one hierarchy that all sign with, and a device's request.
type bench struct {
	*testing.B
	dir     string
	made    *ca.Hierarchy
	issuer  ca.Issuer // of devices
	key     crypto.Signer
	request []byte
}

var passphrase = []byte("correct horse battery staple")

func newBench(b *testing.B) *bench {
	b.Helper()
	x := &bench{B: b, dir: b.TempDir()}
	x.must(os.MkdirAll(filepath.Join(x.dir, "keys"), 0o700))
	var err error
	x.made, err = ca.Initialize(b.Context(), ca.InitConfig{Dir: x.dir, RootKeyPath: filepath.Join(x.dir, "root.pem"), Passphrase: passphrase, Organization: "Bench"})
	x.must(err)
	for n, i := range x.made.Issuers {
		if i.Purpose == ca.PurposeDevice {
			x.made.Issuers[n].StatusURLs = []string{"http://status.test"}
			x.issuer = x.made.Issuers[n]
		}
	}
	x.key, err = (ca.Keyring{Dir: x.dir, Passphrase: passphrase}).Open(b.Context(), x.issuer.KeyURI, x.issuer.Certificate.PublicKey)
	x.must(err)
	x.request, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "device-1"}, DNSNames: []string{"device-1"}}, x.newKey())
	x.must(err)
	return x
}

func (x *bench) must(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

func (x *bench) newKey() *ecdsa.PrivateKey {
	x.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	x.must(err)
	return key
}

// raw parses and checks the request, signs, and parses what came out, as the
// others do: by crypto/x509, which verifies its own signature.
func (x *bench) raw() func() {
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "device-1"}, DNSNames: []string{"device-1"}, NotBefore: time.Now(), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
		CRLDistributionPoints: []string{"http://status.test/crl/device.crl"}, OCSPServer: []string{"http://status.test/ocsp"}}
	return func() {
		csr, err := x509.ParseCertificateRequest(x.request)
		x.must(err)
		x.must(csr.CheckSignature())
		template.SerialNumber = ca.NewSerialNumber().Int()
		der, err := x509.CreateCertificate(rand.Reader, template, x.issuer.Certificate, csr.PublicKey, x.key)
		x.must(err)
		_, err = x509.ParseCertificate(der)
		x.must(err)
	}
}

// ours is ca.ParseRequest and Authority.Issue.
func (x *bench) ours() func() {
	a, err := ca.Open(x.Context(), ca.Config{Issuers: x.made.Issuers, Keys: ca.Keyring{Dir: x.dir, Passphrase: passphrase}, Ledger: ledger{}})
	x.must(err)
	return func() {
		r, err := ca.ParseRequest("csr", x.request)
		x.must(err)
		_, err = a.Issue(x.Context(), ca.Order{
			Profile: "device", Holder: ca.Holder{Kind: ca.HolderDevice, ID: "device-1"}, CommonName: "device-1", DNSNames: []string{"device-1"},
			PublicKey: r.PublicKey, KeySHA256: r.KeySHA256, Claim: func(ca.Certificate) any { return nil },
		})
		x.must(err)
	}
}

// smallstep is authority.Sign without a database, with the options that a JWK
// provisioner gives for a one-time token. That the token is checked first, each
// time, is not in it.
func (x *bench) smallstep() func() {
	jwk, err := jose.GenerateJWK("EC", "P-256", "ES256", "sig", "", 0)
	x.must(err)
	public := jwk.Public()
	year := &provisioner.Duration{Duration: 365 * 24 * time.Hour}
	line := &provisioner.JWK{Type: "JWK", Name: "line", Key: &public, Claims: &provisioner.Claims{MaxTLSDur: year, DefaultTLSDur: year}}
	a, err := authority.NewEmbedded(authority.WithQuietInit(), authority.WithX509RootCerts(x.made.Root()), authority.WithX509Signer(x.issuer.Certificate, x.key),
		authority.WithConfig(&config.Config{DNSNames: []string{"ca.test"}, Address: "127.0.0.1:0", AuthorityConfig: &config.AuthConfig{Provisioners: provisioner.List{line}}}))
	x.must(err)
	options, err := a.Authorize(provisioner.NewContextWithMethod(x.Context(), provisioner.SignMethod), x.token(jwk))
	x.must(err)
	return func() {
		csr, err := x509.ParseCertificateRequest(x.request)
		x.must(err)
		x.must(csr.CheckSignature())
		_, err = a.Sign(csr, provisioner.SignOptions{}, options...)
		x.must(err)
	}
}

// token returns a one-time token, as step ca token does.
func (x *bench) token(jwk *jose.JSONWebKey) string {
	x.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jwk.Key}, new(jose.SignerOptions).WithType("JWT").WithHeader("kid", jwk.KeyID))
	x.must(err)
	now := time.Now()
	token, err := jose.Signed(signer).Claims(map[string]any{
		"iss": "line", "sub": "device-1", "sans": []string{"device-1"}, "aud": "https://ca.test/1.0/sign", "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
	}).CompactSerialize()
	x.must(err)
	return token
}

// BenchmarkIssue has all take turns, so that other work on the machine slows
// each alike. It reports for each its time, its allocations, and its time in
// terms of raw's.
func BenchmarkIssue(b *testing.B) {
	x := newBench(b)
	all := []struct {
		name  string
		issue func()
	}{{"raw", x.raw()}, {"fleetca", x.ours()}, {"smallstep", x.smallstep()}}
	spent, allocs := make([]time.Duration, len(all)), make([]uint64, len(all))
	var before, after runtime.MemStats
	for n, one := range all { // allocations are the same each time
		const times = 50
		runtime.ReadMemStats(&before)
		for range times {
			one.issue()
		}
		runtime.ReadMemStats(&after)
		allocs[n] = (after.Mallocs - before.Mallocs) / times
	}
	for b.Loop() {
		for n, one := range all {
			began := time.Now()
			one.issue()
			spent[n] += time.Since(began)
		}
	}
	for n, one := range all {
		b.ReportMetric(float64(spent[n].Nanoseconds())/float64(b.N), one.name+"-ns")
		b.ReportMetric(float64(allocs[n]), one.name+"-allocs")
		b.ReportMetric(float64(spent[n])/float64(spent[0]), one.name+"/raw")
	}
}
