package ca

import (
	"context"
	"time"
)

// An Issuance is a signed certificate on its way into the ledger. Its bytes
// must not leave the process before Recorder.Commit said nil for it (I1).
type Issuance struct {
	Certificate Certificate // status good
	Claim       any         // what is committed with it, opaque here; package enroll's Claim
}

// A Recorder writes certificates to the ledger. It is safe for concurrent use.
type Recorder interface {
	// Commit records each issuance durably: certificate, and everything its
	// claim holds, in one transaction. It returns one error an issuance, in
	// their order: nil only after that issuance is on stable storage. One that
	// is refused leaves nothing behind and does not disturb the others. A
	// serial number or a key that another holder has is refused.
	Commit(ctx context.Context, batch []Issuance) []error
}

// A CRLStore keeps the CRLs and what goes on them. It is safe for concurrent
// use, by several processes on one database.
type CRLStore interface {
	// ReserveCRL takes the issuer's next CRL number, durably and for good, and
	// reads in the same transaction every entry the CRL must carry: revoked
	// and held certificates whose notAfter is not before the thisUpdate of the
	// issuer's latest scheduled CRL (I10, I11).
	ReserveCRL(ctx context.Context, issuerID string) (CRLDraft, error)
	// SaveCRL stores a signed CRL under its reserved number, with its audit
	// event (I19). A number that already has one is an error.
	SaveCRL(ctx context.Context, crl *CRL) error
	// LatestCRL returns the stored CRL with the highest number; an Error of
	// KindNotFound when the issuer has none.
	LatestCRL(ctx context.Context, issuerID string) (*CRL, error)
}

// KindNotFound says that what was asked for does not exist.
const KindNotFound Kind = "not-found"

// A CRLDraft is a reserved number and what the CRL under it must carry.
type CRLDraft struct {
	Number   int64
	Entries  []CRLEntry
	Previous *CRL // the one with the highest number; nil for the first
}

// A CRLEntry is one revoked or held certificate.
type CRLEntry struct {
	SerialNumber SerialNumber
	Reason       Reason
	RevokedAt    time.Time
	NotAfter     time.Time
}

// A CRL is a signed certificate revocation list (RFC 5280, section 5).
type CRL struct {
	IssuerID   string    `json:"issuer"`
	Number     int64     `json:"number"`     // CRL number, RFC 5280, 5.2.3
	ThisUpdate time.Time `json:"thisUpdate"` // some minutes before it was signed
	NextUpdate time.Time `json:"nextUpdate"`
	Entries    int       `json:"entries"` // how many certificates are on it
	Scheduled  bool      `json:"scheduled"`
	DER        []byte    `json:"-"`
}
