package mqtts_test

import (
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// TestStaple has every stapled response, of which crypto/tls checks none.
func TestStaple(t *testing.T) {
	f := newFleet(t)
	serial := leafOf(t, f.broker).SerialNumber
	other := newAuthority(t, "Fleet Issuer", nil)
	stranger := f.issuer.issue(t, "stranger")
	response := func(signer *authority, change func(*ocsp.Response)) []byte {
		r := ocsp.Response{Status: ocsp.Good, SerialNumber: serial, ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
		if change != nil {
			change(&r)
		}
		responder := signer.certificate
		if r.Certificate != nil {
			responder = r.Certificate
		}
		der, err := ocsp.CreateResponse(f.issuer.certificate, responder, r, signer.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	strangerKey := &authority{certificate: leafOf(t, stranger), key: keyOf(t, stranger)}
	cases := []struct {
		name   string
		staple []byte
		want   mqtts.Staple
		step   mqtts.StepName
		code   mqtts.Code
	}{
		{"none", nil, mqtts.StapleNone, "", ""},
		{"good", response(f.issuer, nil), mqtts.StapleGood, "", ""},
		{"revoked", response(f.issuer, func(r *ocsp.Response) { r.Status, r.RevokedAt = ocsp.Revoked, time.Now() }), mqtts.StapleRevoked, mqtts.StepVerify, mqtts.CodeServerRevoked},
		{"stale", response(f.issuer, func(r *ocsp.Response) { r.NextUpdate = time.Now().Add(-time.Minute) }), mqtts.StapleStale, "", mqtts.CodeStapleStale},
		{"of the future", response(f.issuer, func(r *ocsp.Response) { r.ThisUpdate = time.Now().Add(time.Minute) }), mqtts.StapleInvalid, mqtts.StepVerify, mqtts.CodeStapleInvalid},
		{"of another serial", response(f.issuer, func(r *ocsp.Response) { r.SerialNumber = big.NewInt(1) }), mqtts.StapleInvalid, mqtts.StepVerify, mqtts.CodeStapleInvalid},
		{"by another key", response(other, nil), mqtts.StapleInvalid, mqtts.StepVerify, mqtts.CodeStapleInvalid},
		{"by a certificate without OCSPSigning", response(strangerKey, func(r *ocsp.Response) { r.Certificate = strangerKey.certificate }), mqtts.StapleInvalid, mqtts.StepVerify, mqtts.CodeStapleInvalid},
		{"unknown", response(f.issuer, func(r *ocsp.Response) { r.Status = ocsp.Unknown }), mqtts.StapleInvalid, mqtts.StepVerify, mqtts.CodeStapleInvalid},
		{"garbage", []byte("staple"), mqtts.StapleInvalid, mqtts.StepVerify, mqtts.CodeStapleInvalid},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			certificate := *f.broker
			certificate.OCSPStaple = c.staple
			config := f.mutual()
			config.Certificates = []tls.Certificate{certificate}
			r := verify(t, f.target(broker{tls: config}.start(t)))
			expect(t, r, c.step, c.code)
			if r.TLS == nil || r.TLS.Staple != c.want {
				t.Errorf("TLS %+v, want %s", r.TLS, c.want)
			}
		})
	}
	delegate := f.issuer.issue(t, "responder", usage(x509.ExtKeyUsageOCSPSigning))
	signer := &authority{certificate: leafOf(t, delegate), key: keyOf(t, delegate)}
	certificate := *f.broker
	certificate.OCSPStaple = response(signer, func(r *ocsp.Response) { r.Certificate = signer.certificate })
	config := f.mutual()
	config.Certificates = []tls.Certificate{certificate}
	if r := verify(t, f.target(broker{tls: config}.start(t))); r.TLS.Staple != mqtts.StapleGood {
		t.Errorf("delegated responder: %+v, %+v", r.TLS, r.Diagnosis)
	}
}
