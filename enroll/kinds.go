package enroll

import "github.com/fleetca/fleetca/ca"

// Kinds of errors that this package and its store give, beside package ca's.
const (
	KindIdempotency         ca.Kind = "idempotency-conflict"
	KindConflict            ca.Kind = "conflict" // exists already, or changed meanwhile
	KindDuplicateKey        ca.Kind = "duplicate-key"
	KindDuplicateDevice     ca.Kind = "duplicate-device"
	KindTokenUnknown        ca.Kind = "token-unknown"
	KindTokenExpired        ca.Kind = "token-expired"
	KindTokenUsed           ca.Kind = "token-used"
	KindTokenOtherDevice    ca.Kind = "token-other-device"
	KindTokenOtherOrder     ca.Kind = "token-other-work-order"
	KindUnknownManufacturer ca.Kind = "unknown-manufacturer"             // or one that is disabled
	KindBadIDevID           ca.Kind = "manufacturer-certificate-refused" // its chain or its form does not hold
	KindNotInManifest       ca.Kind = "not-in-manifest"
	KindIDevIDUsed          ca.Kind = "manufacturer-certificate-used" // enrolled before
	KindExpired             ca.Kind = "certificate-expired"           // too late to renew with it
	KindQuotaReached        ca.Kind = "quota-reached"
	KindOrderClosed         ca.Kind = "work-order-closed"
	KindCertificateLimit    ca.Kind = "certificate-limit" // the device has as many good certificates as its profile allows
	KindRefusedProfile      ca.Kind = "profile-refused"   // the linter found an error
	KindDeviceRevoked       ca.Kind = "device-revoked"    // or retired
	KindDeviceHeld          ca.Kind = "device-held"
	KindForbidden           ca.Kind = "forbidden"
	KindUnauthenticated     ca.Kind = "unauthenticated"
	KindSecondFactor        ca.Kind = "second-factor-required" // the password was right, and a code is missing
	KindRateLimited         ca.Kind = "rate-limited"           // a *Later says for how long
	KindNoDriver            ca.Kind = "broker-not-driven"      // no server can install or reload at this broker
	KindNotPublished        ca.Kind = "issuer-not-published"   // what an issuer's certificates name cannot be fetched, or does not verify
	KindNotReady            ca.Kind = "rollover-not-ready"     // a step would leave devices or brokers behind
	KindUnavailable         ca.Kind = "unavailable"            // the store does not answer or cannot be written
)
