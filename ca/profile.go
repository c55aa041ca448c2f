package ca

import (
	"crypto/x509"
	"encoding/asn1"
	"net/netip"
	"slices"
	"time"
)

// A Profile is what a kind of certificate looks like (RFC 5280, section 4).
// Every one has keyUsage digitalSignature and is never a CA. What a profile
// says beyond the names that an order comes with is in its templates.
//
// A version of a profile never changes: Parse makes one of what people write,
// ready for use.
type Profile struct {
	Name        string
	Version     int64      // from 1; of a built-in profile that is the one in the program
	Purpose     Purpose    // of the issuer that signs it; empty for any, which the order names
	Holder      HolderKind // what its certificates identify
	ExtKeyUsage []x509.ExtKeyUsage
	Validity    time.Duration  // from notBefore to notAfter, at most; never past the issuer's notAfter (I7)
	Backdate    time.Duration  // notBefore lies this far back: clocks on the line are wrong
	Jitter      time.Duration  // notAfter lies earlier by a random part of this, so that a fleet does not renew at once
	IssuerID    string         // who signs; empty for the newest active issuer of the purpose
	RenewBefore time.Duration  // holders renew this long before notAfter; at two thirds of the life when zero
	Keys        []KeyAlgorithm // that are certified; every kind of the key policy (I8) when empty
	Subject     SubjectTemplate
	DNSNames    []string // templates of the DNS names, beside those of the order
	URIs        []string // templates of the URIs
	Domains     []string // every DNS name is one of these or below it; any when empty
	Networks    []netip.Prefix
	MaxActive   int           // good certificates that a device may have at once; any number when zero
	ShelfLife   time.Duration // how long a unit may lie between its enrollment and its first power-up; assumedShelfLife when zero

	templates *nameTemplates // compiled; nil when it has none
}

// profiles are the profiles there are.
var profiles = []Profile{
	{Version: 1, Name: "device", Purpose: PurposeDevice, Holder: HolderDevice, Validity: 365 * 24 * time.Hour, Backdate: time.Hour,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	{Version: 1, Name: "broker", Purpose: PurposeBroker, Holder: HolderBroker, Validity: 90 * 24 * time.Hour, Backdate: time.Hour,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
	{Version: 1, Name: "server", Purpose: PurposeBroker, Holder: HolderServer, Validity: 30 * 24 * time.Hour, Backdate: time.Hour,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
	{Version: 1, Name: "agent", Purpose: PurposeBroker, Holder: HolderAgent, Validity: 30 * 24 * time.Hour, Backdate: time.Hour,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	{Version: 1, Name: "canary", Purpose: PurposeDevice, Holder: HolderCanary, Validity: time.Hour, Backdate: 5 * time.Minute,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	// Canaries that brokers must refuse: one that expires soon, one that lives on
	// after its revocation, one that is no client's (the issuer of devices cannot
	// even sign that).
	{Version: 1, Name: "canary-brief", Purpose: PurposeDevice, Holder: HolderCanary, Validity: 6 * time.Minute, Backdate: 5 * time.Minute,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	{Version: 1, Name: "canary-kept", Purpose: PurposeDevice, Holder: HolderCanary, Validity: 72 * time.Hour, Backdate: 5 * time.Minute,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	{Version: 1, Name: "canary-server", Purpose: PurposeBroker, Holder: HolderCanary, Validity: time.Hour, Backdate: 5 * time.Minute,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
	{Version: 1, Name: ResponderProfile, Holder: HolderServer, Validity: 7 * 24 * time.Hour, Backdate: time.Hour,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}},
}

// ResponderProfile is the profile of OCSP responders, which every issuer signs,
// a retired one too: with id-pkix-ocsp-nocheck (RFC 6960, 4.2.2.2).
const ResponderProfile = "ocsp"

// oidNoCheck is id-pkix-ocsp-nocheck (RFC 6960, 4.2.2.2.1).
var oidNoCheck = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}

// responder reports whether the profile's certificates sign OCSP answers.
func (p *Profile) responder() bool {
	return slices.Contains(p.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning)
}

// Fixed reports whether the profile cannot be changed: what proofs and status
// answers rest on is the program's.
func (p *Profile) Fixed() bool { return p.Holder == HolderCanary || p.responder() }

// Profiles returns every built-in profile.
func Profiles() []Profile { return slices.Clone(profiles) }

// ProfileNamed returns a built-in profile by its name.
func ProfileNamed(field, name string) (*Profile, error) {
	for i := range profiles {
		if profiles[i].Name == name {
			return &profiles[i], nil
		}
	}
	return nil, Errorf(KindProfile, field, "GET /api/v1/profiles lists them", "there is no profile %.64q", name)
}
