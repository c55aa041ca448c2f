package store

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A seedCertificate is a certificate of the issuer's, in which serial number,
// common name and times are replaced for every device, each by as many octets.
type seedCertificate struct {
	der    []byte
	issuer string
	cdp    string
}

// Placeholders in the template. Each stands in it once.
const (
	seedSerial = "7ec3a51d94b2f06877e1c0d3a9b5f218" // 16 octets; the first of a serial number is 40 to 7f
	seedName   = "xxxx-00000000"
	seedFrom   = "311112131415Z" // UTCTime (RFC 5280, 4.1.2.5.1)
	seedUntil  = "321112131415Z"
)

// newSeedCertificate makes the template. It is signed by a key that is thrown
// away.
func newSeedCertificate(issuer ca.Issuer) (*seedCertificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, _ := new(big.Int).SetString(seedSerial, 16)
	from, err := time.Parse("060102150405Z", seedFrom)
	if err != nil {
		return nil, err
	}
	until, err := time.Parse("060102150405Z", seedUntil)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: seedName}, NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	c := &seedCertificate{issuer: issuer.ID, cdp: issuer.CDP(0)}
	if c.cdp != "" {
		template.CRLDistributionPoints = []string{c.cdp}
	}
	parent := *issuer.Certificate
	parent.PublicKey = key.Public()
	if c.der, err = x509.CreateCertificate(rand.Reader, template, &parent, key.Public(), key); err != nil {
		return nil, err
	}
	for _, placeholder := range [][]byte{serial.Bytes(), []byte(seedName), []byte(seedFrom), []byte(seedUntil)} {
		if n := bytes.Count(c.der, placeholder); n != 1 {
			return nil, fmt.Errorf("placeholder %q stands %d times in the template", placeholder, n)
		}
	}
	return c, nil
}

// of returns a certificate's DER, and its SHA-256.
func (c *seedCertificate) of(serial []byte, name string, from, until time.Time) (der []byte, sum string) {
	der = bytes.Clone(c.der)
	first, _ := hex.DecodeString(seedSerial) // a constant
	for _, r := range []struct{ old, now []byte }{
		{first, serial}, {[]byte(seedName), []byte(name)},
		{[]byte(seedFrom), []byte(from.UTC().Format("060102150405Z"))}, {[]byte(seedUntil), []byte(until.UTC().Format("060102150405Z"))},
	} {
		copy(der[bytes.Index(c.der, r.old):], r.now)
	}
	s := sha256.Sum256(der)
	return der, hex.EncodeToString(s[:])
}
