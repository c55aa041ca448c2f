package ca

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"slices"
	"time"
)

// A Profile is what a kind of certificate looks like (RFC 5280, section 4).
// Every one has keyUsage digitalSignature and is never a CA.
type Profile struct {
	Name        string
	Purpose     Purpose    // of the issuer that signs it; empty for any, which the order names
	Holder      HolderKind // what its certificates identify
	ExtKeyUsage []x509.ExtKeyUsage
	Validity    time.Duration // from notBefore to notAfter, at most; never past the issuer's notAfter (I7)
	Backdate    time.Duration // notBefore lies this far back: clocks on the line are wrong
}

// profiles are the profiles there are.
var profiles = []Profile{
	{Name: "device", Purpose: PurposeDevice, Holder: HolderDevice, Validity: 365 * 24 * time.Hour, Backdate: time.Hour,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	{Name: "broker", Purpose: PurposeBroker, Holder: HolderBroker, Validity: 90 * 24 * time.Hour, Backdate: time.Hour,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
	{Name: "server", Purpose: PurposeBroker, Holder: HolderServer, Validity: 30 * 24 * time.Hour, Backdate: time.Hour,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
	{Name: "agent", Purpose: PurposeBroker, Holder: HolderAgent, Validity: 30 * 24 * time.Hour, Backdate: time.Hour,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	{Name: "canary", Purpose: PurposeDevice, Holder: HolderCanary, Validity: time.Hour, Backdate: 5 * time.Minute,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	// Canaries that brokers must refuse: one that expires soon, one that lives on
	// after its revocation, one that is no client's (the issuer of devices cannot
	// even sign that).
	{Name: "canary-brief", Purpose: PurposeDevice, Holder: HolderCanary, Validity: 6 * time.Minute, Backdate: 5 * time.Minute,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	{Name: "canary-kept", Purpose: PurposeDevice, Holder: HolderCanary, Validity: 72 * time.Hour, Backdate: 5 * time.Minute,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	{Name: "canary-server", Purpose: PurposeBroker, Holder: HolderCanary, Validity: time.Hour, Backdate: 5 * time.Minute,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
	{Name: ResponderProfile, Holder: HolderServer, Validity: 7 * 24 * time.Hour, Backdate: time.Hour,
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

// Profiles returns every profile.
func Profiles() []Profile { return slices.Clone(profiles) }

// ProfileNamed returns a profile by its name.
func ProfileNamed(field, name string) (*Profile, error) {
	for i := range profiles {
		if profiles[i].Name == name {
			return &profiles[i], nil
		}
	}
	return nil, Errorf(KindProfile, field, "GET /api/v1/profiles lists them", "there is no profile %.64q", name)
}

var ekuNames = map[x509.ExtKeyUsage]string{
	x509.ExtKeyUsageClientAuth: "clientAuth",
	x509.ExtKeyUsageServerAuth: "serverAuth",

	x509.ExtKeyUsageOCSPSigning: "OCSPSigning",
}

// MarshalJSON writes the REST form; durations as Go writes them ("8760h0m0s").
func (p Profile) MarshalJSON() ([]byte, error) {
	var ekus []string
	for _, u := range p.ExtKeyUsage {
		ekus = append(ekus, ekuNames[u])
	}
	return json.Marshal(struct {
		Name        string     `json:"name"`
		Purpose     Purpose    `json:"issuerPurpose"`
		Holder      HolderKind `json:"holder"`
		ExtKeyUsage []string   `json:"extendedKeyUsages"`
		Validity    string     `json:"validity"`
		Backdate    string     `json:"backdate"`
	}{p.Name, p.Purpose, p.Holder, ekus, p.Validity.String(), p.Backdate.String()})
}
