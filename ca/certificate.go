package ca

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A HolderKind says what a certificate identifies.
type HolderKind string

// The kinds of holders.
const (
	HolderDevice HolderKind = "device"
	HolderBroker HolderKind = "broker"
	HolderServer HolderKind = "server"
	HolderAgent  HolderKind = "agent"
	HolderCanary HolderKind = "canary"
)

// A Holder is the end entity a certificate belongs to.
type Holder struct {
	Kind HolderKind
	ID   string
}

func (h Holder) String() string { return string(h.Kind) + ":" + h.ID }

// A Certificate is a certificate that stands in the ledger: its bytes may be
// served. Authority.Issue and the store are the only makers.
type Certificate struct {
	SerialNumber SerialNumber
	SHA256       string   // of the DER, lower-case hex
	Subject      string   // distinguished name, RFC 4514
	Names        []string // subject alternative names: DNS names, IP addresses, then URIs
	IssuerID     string
	Profile      string
	Holder       Holder
	Status       Status
	Reason       Reason    // empty while the status is good
	RevokedAt    time.Time // of the hold or revocation; zero while good
	NotBefore    time.Time
	NotAfter     time.Time
	KeySHA256    string // of the SubjectPublicKeyInfo, lower-case hex
	CDP          string // the CRL distribution point written into it; empty for none
	CRLShard     int    // of its issuer's CRLs, the one that it goes on
	DER          []byte
	// ProfileVersion is the version of the profile that it was issued under.
	ProfileVersion int64
	RenewFrom      time.Time // when the profile wants it renewed; zero for RenewAfter's own rule
}

// CRLScope returns what a CRL that lists the certificate speaks for.
func (c *Certificate) CRLScope() CRLScope { return CRLScope{c.IssuerID, c.CRLShard} }

// PEM returns the certificate alone, PEM-encoded.
func (c *Certificate) PEM() string {
	var out strings.Builder
	out.Grow(pemSize(c.DER))
	writePEM(&out, c.DER)
	return out.String()
}

// X509 parses the certificate.
func (c *Certificate) X509() (*x509.Certificate, error) { return x509.ParseCertificate(c.DER) }

// StatusAt returns the status as shown at a time: a good certificate past its
// notAfter is expired.
func (c *Certificate) StatusAt(now time.Time) Status {
	if c.Status == StatusGood && now.After(c.NotAfter) {
		return StatusExpired
	}
	return c.Status
}

// RenewAfter returns when the holder should ask for its next certificate: when
// its profile says, or else at two thirds of the validity, up to 5 % of it
// earlier, by the serial number, so that a fleet enrolled at once does not renew
// at once.
func (c *Certificate) RenewAfter() time.Time {
	if !c.RenewFrom.IsZero() {
		return c.RenewFrom
	}
	life := c.NotAfter.Sub(c.NotBefore)
	sum := sha256.Sum256([]byte(c.SerialNumber))
	jitter := life / 20 * time.Duration(sum[0]) / 255
	return c.NotBefore.Add(life*2/3 - jitter).Truncate(time.Second)
}

// certificateJSON is the REST form of a Certificate.
type certificateJSON struct {
	SerialNumber SerialNumber `json:"serialNumber"`
	SHA256       string       `json:"sha256"`
	Subject      string       `json:"subject"`
	Names        []string     `json:"names"`
	Issuer       string       `json:"issuer"`
	Profile      string       `json:"profile"`
	Version      int64        `json:"profileVersion"`
	Status       Status       `json:"status"`
	Reason       Reason       `json:"reason,omitempty"`
	RevokedAt    *time.Time   `json:"revokedAt,omitempty"`
	NotBefore    time.Time    `json:"notBefore"`
	NotAfter     time.Time    `json:"notAfter"`
	Device       string       `json:"device,omitempty"`
	Broker       string       `json:"broker,omitempty"`
	PEM          string       `json:"pem"`
}

// MarshalJSON writes the REST form, with the status as it is now.
func (c *Certificate) MarshalJSON() ([]byte, error) { return json.Marshal(c.form()) }

// MarshalJSONTo is MarshalJSON for an encoder that is under way, which would
// have to look through the text of MarshalJSON again.
func (c *Certificate) MarshalJSONTo(to *jsontext.Encoder) error {
	return jsonv2.MarshalEncode(to, c.form())
}

func (c *Certificate) form() *certificateJSON {
	v := &certificateJSON{
		SerialNumber: c.SerialNumber, SHA256: c.SHA256, Subject: c.Subject, Names: c.Names,
		Issuer: c.IssuerID, Profile: c.Profile, Version: c.ProfileVersion, Status: c.StatusAt(time.Now()), Reason: c.Reason,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, PEM: c.PEM(),
	}
	if v.Names == nil {
		v.Names = []string{}
	}
	if !c.RevokedAt.IsZero() {
		v.RevokedAt = &c.RevokedAt
	}
	switch c.Holder.Kind {
	case HolderDevice:
		v.Device = c.Holder.ID
	case HolderBroker:
		v.Broker = c.Holder.ID
	}
	return v
}

// UnmarshalJSON reads the REST form.
func (c *Certificate) UnmarshalJSON(b []byte) error {
	var v certificateJSON
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	block, _ := pem.Decode([]byte(v.PEM))
	if block == nil {
		return fmt.Errorf("certificate %s: pem holds no PEM block", v.SerialNumber)
	}
	*c = Certificate{
		SerialNumber: v.SerialNumber, SHA256: v.SHA256, Subject: v.Subject, Names: v.Names,
		IssuerID: v.Issuer, Profile: v.Profile, ProfileVersion: v.Version, Status: v.Status, Reason: v.Reason,
		NotBefore: v.NotBefore, NotAfter: v.NotAfter, DER: block.Bytes,
	}
	if v.RevokedAt != nil {
		c.RevokedAt = *v.RevokedAt
	}
	switch {
	case v.Device != "":
		c.Holder = Holder{HolderDevice, v.Device}
	case v.Broker != "":
		c.Holder = Holder{HolderBroker, v.Broker}
	}
	return nil
}

// EncodeChain returns certificates as one PEM text, in their order.
func EncodeChain(chain ...*x509.Certificate) string {
	size := 0
	for _, c := range chain {
		size += pemSize(c.Raw)
	}
	var out strings.Builder
	out.Grow(size)
	for _, c := range chain {
		writePEM(&out, c.Raw)
	}
	return out.String()
}

// writePEM writes to memory, which does not fail.
func writePEM(out io.Writer, der []byte) {
	_ = pem.Encode(out, &pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// pemSize is how long a certificate is as PEM: base64 in lines of 64 (RFC 7468,
// section 2), between two lines.
func pemSize(der []byte) int {
	n := base64.StdEncoding.EncodedLen(len(der))
	return len("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n") + n + (n+63)/64
}

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
