package mqtts

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
)

// A Staple is what the broker's stapled OCSP response says (RFC 6066 section 8,
// RFC 8446 section 4.4.2.1).
type Staple string

const (
	StapleNone    Staple = "none"
	StapleGood    Staple = "good"
	StapleRevoked Staple = "revoked"
	StapleStale   Staple = "stale"
	StapleInvalid Staple = "invalid" // of another certificate or signer, or no OCSP response at all
)

// checkStaple checks the stapled response, which crypto/tls hands on unread.
func (j *judgement) checkStaple(response []byte) Staple {
	if len(response) == 0 {
		switch {
		case mustStaple(j.leaf):
			j.find(CodeStapleRequired, nil)
		case len(j.leaf.OCSPServer) > 0:
			j.find(CodeStapleMissing, nil)
		}
		return StapleNone
	}
	if len(j.chain) == 0 {
		return StapleInvalid // without a chain there is no signer to hold it against
	}
	issuer := j.chain[min(1, len(j.chain)-1)]
	r, err := ocsp.ParseResponseForCert(response, j.leaf, issuer)
	switch {
	case err != nil:
		j.find(CodeStapleInvalid, facts{"error": errorText(err)})
		return StapleInvalid
	case !mayRespond(r.Certificate, issuer, j.now):
		j.find(CodeStapleInvalid, facts{"error": "its signer is not authorized for OCSP"})
		return StapleInvalid
	case r.Status == ocsp.Revoked:
		j.find(CodeServerRevoked, facts{"subject": subjectOf(j.leaf), "serial": serialOf(j.leaf),
			"time": stamp(r.RevokedAt), "reason": revocationReason(r.RevocationReason)})
		return StapleRevoked
	case r.Status != ocsp.Good:
		j.find(CodeStapleInvalid, facts{"error": "the responder does not know the certificate"})
		return StapleInvalid
	case j.now.Before(r.ThisUpdate):
		j.find(CodeStapleInvalid, facts{"error": "it is from " + stamp(r.ThisUpdate) + ", which is to come"})
		return StapleInvalid
	case !r.NextUpdate.IsZero() && j.now.After(r.NextUpdate):
		j.find(CodeStapleStale, facts{"time": stamp(r.NextUpdate)})
		return StapleStale
	}
	return StapleGood
}

// oidTLSFeature is the extension that lists what TLS must do for a certificate.
var oidTLSFeature = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

// mustStaple tells a certificate that is void without a stapled response
// (RFC 7633 section 4.2.2): feature 5 is status_request.
func mustStaple(c *x509.Certificate) bool {
	for _, e := range c.Extensions {
		var features []int
		if e.Id.Equal(oidTLSFeature) {
			_, err := asn1.Unmarshal(e.Value, &features)
			return err == nil && slices.Contains(features, 5)
		}
	}
	return false
}

// mayRespond tells whether the certificate that signed an OCSP response may do
// so: the issuer's own, or one with extended key usage OCSPSigning (RFC 6960
// section 4.2.2.2). A nil responder is the issuer.
func mayRespond(responder, issuer *x509.Certificate, now time.Time) bool {
	if responder == nil || responder.Equal(issuer) {
		return true
	}
	return hasUsage(responder, x509.ExtKeyUsageOCSPSigning) && !now.Before(responder.NotBefore) && !now.After(responder.NotAfter)
}
