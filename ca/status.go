package ca

import "slices"

// A Status is what the ledger says of a certificate.
type Status string

// The statuses. Expired is derived from notAfter when a certificate is shown
// and is never stored.
const (
	StatusGood    Status = "good"
	StatusHeld    Status = "held"
	StatusRevoked Status = "revoked"
	StatusExpired Status = "expired"
)

// A Reason is a revocation reason by its name in RFC 5280, 5.3.1.
type Reason string

// The reasons that a caller can give. removeFromCRL is of delta CRLs alone.
const (
	ReasonUnspecified          Reason = "unspecified"
	ReasonKeyCompromise        Reason = "keyCompromise"
	ReasonCACompromise         Reason = "cACompromise"
	ReasonAffiliationChanged   Reason = "affiliationChanged"
	ReasonSuperseded           Reason = "superseded"
	ReasonCessationOfOperation Reason = "cessationOfOperation"
	ReasonCertificateHold      Reason = "certificateHold"
	ReasonPrivilegeWithdrawn   Reason = "privilegeWithdrawn"
	ReasonAACompromise         Reason = "aACompromise"
)

// reasonCodes holds the CRLReason values of RFC 5280, 5.3.1.
var reasonCodes = map[Reason]int{
	ReasonUnspecified:          0,
	ReasonKeyCompromise:        1,
	ReasonCACompromise:         2,
	ReasonAffiliationChanged:   3,
	ReasonSuperseded:           4,
	ReasonCessationOfOperation: 5,
	ReasonCertificateHold:      6,
	ReasonPrivilegeWithdrawn:   9,
	ReasonAACompromise:         10,
}

// Reasons returns every reason, in the order of their codes.
func Reasons() []Reason {
	all := make([]Reason, 0, len(reasonCodes))
	for r := range reasonCodes {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Reason) int { return reasonCodes[a] - reasonCodes[b] })
	return all
}

// ParseReason reads a reason by its name.
func ParseReason(s string) (Reason, error) {
	if _, ok := reasonCodes[Reason(s)]; !ok {
		return "", Errorf(KindReason, "reason", "one of unspecified, keyCompromise, cACompromise, affiliationChanged, superseded, cessationOfOperation, certificateHold, privilegeWithdrawn, aACompromise",
			"%.80q is not a revocation reason", s)
	}
	return Reason(s), nil
}

// Code returns the CRLReason value. Unspecified is 0 and stays out of CRL
// entries (RFC 5280, 5.3.1).
func (r Reason) Code() int { return reasonCodes[r] }

// StatusAfter returns the status that a revocation for the reason gives.
func (r Reason) StatusAfter() Status {
	if r == ReasonCertificateHold {
		return StatusHeld
	}
	return StatusRevoked
}

// RevocableFrom returns the statuses that a revocation for the reason starts
// from: a hold needs a good certificate, anything else a good or a held one.
// Nothing leads out of revoked (I10).
func (r Reason) RevocableFrom() []Status {
	if r == ReasonCertificateHold {
		return []Status{StatusGood}
	}
	return []Status{StatusGood, StatusHeld}
}
