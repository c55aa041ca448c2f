package ca

import (
	"context"
	"fmt"
	"strconv"
	"strings"
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

// A StatusStore tells what became of certificates. It is safe for concurrent
// use.
type StatusStore interface {
	// Certificate returns a recorded certificate, or an Error of KindNotFound.
	Certificate(ctx context.Context, serial SerialNumber) (*Certificate, error)
	// ChangedSince returns the certificates whose status changed after a
	// position that an earlier call gave, some perhaps again, and the position
	// to ask from next. A negative position gives none but the next.
	ChangedSince(ctx context.Context, position int64) ([]SerialNumber, int64, error)
}

// A CRLScope is what one CRL speaks for: an issuer's certificates that were
// issued for the same shard.
type CRLScope struct {
	IssuerID string
	Shard    int // from 0
}

func (s CRLScope) String() string {
	if s.Shard == 0 {
		return s.IssuerID
	}
	return fmt.Sprintf("%s/%d", s.IssuerID, s.Shard)
}

// ParseCRLScope reads a scope as String writes it.
func ParseCRLScope(name string) (CRLScope, error) {
	id, number, found := strings.Cut(name, "/")
	if !found {
		return CRLScope{IssuerID: id}, nil
	}
	shard, err := strconv.Atoi(number)
	if err != nil || shard < 1 || shard >= MaxCRLShards || number != strconv.Itoa(shard) {
		return CRLScope{}, Errorf(KindNotFound, "issuer", "GET /api/v1/crls lists them", "there is no CRL %.80q", name)
	}
	return CRLScope{id, shard}, nil
}

// A CRLStore keeps the CRLs and what goes on them. It is safe for concurrent
// use, by several processes on one database.
type CRLStore interface {
	// ReserveCRL takes the issuer's next CRL number, durably and for good, and
	// reads in the same transaction every entry the CRL must carry, or what
	// changed since what is known: revoked and held certificates whose notAfter
	// is not before the thisUpdate of the scope's latest scheduled CRL (I10,
	// I11).
	ReserveCRL(ctx context.Context, scope CRLScope, known CRLKnown) (CRLDraft, error)
	// SaveCRL stores a signed CRL under its reserved number, with its audit
	// event (I19). A number that already has one is an error.
	SaveCRL(ctx context.Context, crl *CRL) error
	// LatestCRL returns the scope's stored CRL with the highest number; an Error
	// of KindNotFound when it has none.
	LatestCRL(ctx context.Context, scope CRLScope) (*CRL, error)
}

// KindNotFound says that what was asked for does not exist.
const KindNotFound Kind = "not-found"

// CRLKnown is what a publisher has in memory, so that only the rest is read.
// The zero value is nothing.
type CRLKnown struct {
	Position int64 // that the last draft gave
	Number   int64 // of the CRL whose bytes it has
}

// A CRLDraft is a reserved number and what the CRL under it must carry.
type CRLDraft struct {
	Number   int64
	Entries  []CRLEntry // all; or, after a position, those that changed (some perhaps again), released ones among them
	Whole    bool       // Entries are all there are
	Position int64      // up to which the entries are known now
	Since    time.Time  // entries that expired before it may go: thisUpdate of the latest scheduled CRL; zero for none
	Previous *CRL       // the one with the highest number, without its bytes when those are known; nil for the first
}

// A CRLEntry is one revoked or held certificate; one that was released has no
// Reason.
type CRLEntry struct {
	SerialNumber SerialNumber
	Reason       Reason
	RevokedAt    time.Time
	NotAfter     time.Time
}

// A CRL is a signed certificate revocation list (RFC 5280, section 5).
type CRL struct {
	IssuerID   string    `json:"issuer"`
	Shard      int       `json:"shard"`      // of a partitioned CRL; 0 for the first, or the only one
	Number     int64     `json:"number"`     // CRL number, RFC 5280, 5.2.3
	ThisUpdate time.Time `json:"thisUpdate"` // some minutes before it was signed
	NextUpdate time.Time `json:"nextUpdate"`
	Entries    int       `json:"entries"` // how many certificates are on it
	Scheduled  bool      `json:"scheduled"`
	DER        []byte    `json:"-"`
}

// Scope returns what the CRL speaks for.
func (c *CRL) Scope() CRLScope { return CRLScope{c.IssuerID, c.Shard} }
