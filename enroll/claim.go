package enroll

import (
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A Claim is committed with a certificate (ca.Issuance.Claim), in one
// transaction: what it spends, whom it belongs to, and the audit event.
//
// The store checks, in this order, and refuses with the kind named: the caller's
// API token (KindUnauthenticated); the profile (KindConflict); idempotency
// (*Replay, KindIdempotency); token (KindTokenExpired, KindTokenOtherDevice,
// KindTokenUsed; *Replay when this very request spent it); the manufacturer's certificate (KindNotInManifest,
// KindUnknownManufacturer, KindIDevIDUsed; *Replay as with a token); the key's
// holder (KindDuplicateKey); device (KindDuplicateDevice, KindDeviceRevoked,
// KindDeviceHeld); replaced certificate (ca.KindRevoked); number of
// certificates (KindCertificateLimit); quota (KindOrderClosed,
// KindQuotaReached).
type Claim struct {
	Change
	// Caller is the id of the API token that asks: it must hold. Empty for none.
	Caller  string
	Profile *ProfileClaim // nil for one that was read during the call
	Device  *DeviceClaim  // nil for brokers, servers, canaries
	Token   *TokenClaim   // nil when no enrollment token is spent
	IDevID  *IDevIDClaim  // nil when no manufacturer's certificate enrolls
	Order   string        // work order whose quota a new device takes one of; empty for none
	// Replaces is the certificate that a renewal or rekey is based on: it must
	// still be good, and its device active. Empty on a first enrollment.
	Replaces ca.SerialNumber
	// MaxActive is how many good certificates a device may have once this one is
	// recorded that replaces another: KindCertificateLimit. Any number when zero.
	MaxActive int
}

// A ProfileClaim says by which version of a profile a certificate was made: it
// must be the newest.
type ProfileClaim struct {
	Name    string
	Version int64 // of the newest that is stored; zero for the built-in one
}

// A DeviceClaim says which device a certificate makes active. On a first
// enrollment the device must be unknown or registered, or Stranded allowed.
type DeviceClaim struct {
	ID              string
	Group           string            // kept as registered when empty
	Attributes      map[string]string // kept as registered when nil
	TrustGeneration int64
	// Stranded lets a device enroll again that is active and holds no good
	// certificate any more: each expired, or was revoked by itself.
	Stranded bool
	// Supersedes lets an active device enroll again under a key that nobody
	// had: its good and held certificates are revoked as superseded in the same
	// transaction. The token must be one that renews, the manufacturer one whose
	// devices may.
	Supersedes bool
}

// A TokenClaim is one use of an enrollment token.
type TokenClaim struct {
	ID          string
	DeviceID    string
	RequestHash []byte // SHA-256 of the request that spends it
}

// An IDevIDClaim is one use of a line of a manufacturer's manifest: the first,
// unless DeviceClaim.Supersedes.
type IDevIDClaim struct {
	Manufacturer string
	DeviceID     string
	AddedAt      time.Time // of the line that was looked at
	RequestHash  []byte    // SHA-256 of the request
}
