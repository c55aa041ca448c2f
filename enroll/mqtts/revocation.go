package mqtts

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"time"
)

// revocationReasons are the CRLReason codes of RFC 5280 section 5.3.1.
var revocationReasons = map[int]string{
	0: "unspecified", 1: "key compromise", 2: "CA compromise", 3: "affiliation changed", 4: "superseded",
	5: "cessation of operation", 6: "certificate hold", 9: "privilege withdrawn", 10: "AA compromise",
}

func revocationReason(code int) string {
	if s, ok := revocationReasons[code]; ok {
		return s
	}
	return fmt.Sprintf("reason %d", code)
}

// A revocationStatus is what CRLs say about one certificate.
type revocationStatus struct {
	covered bool // some CRL is from its issuer
	fresh   bool // and one of those has not expired
	expired time.Time
	entry   *revocation // nil: not revoked
}

// statusOf looks cert up in the CRLs of its issuer. A nil issuer leaves the CRLs'
// signatures unchecked: then names decide.
func statusOf(cert, issuer *x509.Certificate, crls []*x509.RevocationList, now time.Time) revocationStatus {
	var s revocationStatus
	for _, crl := range crls {
		if crl == nil || !bytes.Equal(crl.RawIssuer, cert.RawIssuer) {
			continue
		}
		if issuer != nil && issuer.CheckSignature(crl.SignatureAlgorithm, crl.RawTBSRevocationList, crl.Signature) != nil {
			continue // of another authority with the same name
		}
		e, err := findRevocation(crl, cert.SerialNumber)
		if err != nil {
			continue // says nothing
		}
		s.covered = true
		if crl.NextUpdate.IsZero() || now.Before(crl.NextUpdate) {
			s.fresh = true
		} else if crl.NextUpdate.After(s.expired) {
			s.expired = crl.NextUpdate
		}
		if e != nil {
			s.entry = e
		}
	}
	return s
}

// checkRevocation holds the chain against the CRLs given (RFC 5280 section 6.3).
func (j *judgement) checkRevocation() {
	if len(j.target.CRLs) == 0 || len(j.chain) < 2 {
		return
	}
	for i, c := range j.chain[:len(j.chain)-1] {
		s := statusOf(c, j.chain[i+1], j.target.CRLs, j.now)
		fs := facts{"subject": subjectOf(c), "issuer": issuerOf(c)}
		switch {
		case s.entry != nil:
			fs["serial"] = serialOf(c)
			fs["time"] = stamp(s.entry.at)
			fs["reason"] = revocationReason(s.entry.reason)
			j.find(CodeServerRevoked, fs)
		case !s.covered:
			j.find(CodeCRLNotCovering, fs)
		case !s.fresh:
			fs["time"] = stamp(s.expired)
			j.find(CodeCRLExpired, fs)
		}
	}
}
