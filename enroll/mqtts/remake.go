package mqtts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"
)

// remake returns a chain with the subjects, serial numbers, dates and extensions
// of the one given, but with new keys, their identifiers, and new signatures. It
// returns the key of the leaf, too. The last certificate becomes a root.
//
// It is how a rogue looks that imitates an authority, and how a chain can be
// verified whose signatures x509.Verify takes no more.
func remake(chain []*x509.Certificate) (made []*x509.Certificate, leafKey *ecdsa.PrivateKey, err error) {
	made = make([]*x509.Certificate, len(chain))
	for i := len(chain) - 1; i >= 0; i-- {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		template, err := templateOf(chain[i], key)
		if err != nil {
			return nil, nil, err
		}
		issuer, issuerKey := template, key
		if i < len(chain)-1 {
			issuer, issuerKey = made[i+1], leafKey
		}
		der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, issuerKey)
		if err != nil {
			return nil, nil, fmt.Errorf("make a certificate like %s: %w", subjectOf(chain[i]), err)
		}
		if made[i], err = x509.ParseCertificate(der); err != nil {
			return nil, nil, fmt.Errorf("make a certificate like %s: %w", subjectOf(chain[i]), err)
		}
		leafKey = key
	}
	return made, leafKey, nil
}

// Extensions that belong to a key (RFC 5280 sections 4.2.1.1 and 4.2.1.2).
var (
	oidSubjectKey   = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidAuthorityKey = asn1.ObjectIdentifier{2, 5, 29, 35}
)

// templateOf returns what x509.CreateCertificate makes the like of c from, for
// another key.
func templateOf(c *x509.Certificate, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	public, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(public)
	t := &x509.Certificate{
		SerialNumber: c.SerialNumber, RawSubject: c.RawSubject, SubjectKeyId: sum[:20], // RFC 7093 section 2
		NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSubjectKey) && !e.Id.Equal(oidAuthorityKey) { // CreateCertificate makes them
			t.ExtraExtensions = append(t.ExtraExtensions, e)
		}
	}
	return t, nil
}

// authorityLike returns the model of an authority of that name, valid for a day
// around now.
func authorityLike(rawSubject []byte, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), RawSubject: rawSubject,
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(24 * time.Hour),
		Extensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}, // basicConstraints: CA
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, 6}},          // keyUsage: keyCertSign, cRLSign
		},
	}
}

// nameOf returns the DER of a name.
func nameOf(n pkix.Name) ([]byte, error) { return asn1.Marshal(n.ToRDNSequence()) }
