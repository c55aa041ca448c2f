package mqtts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"
)

// remake returns a chain with the subjects, serial numbers, dates and extensions
// of the one given, but with new keys and signatures, and the key of its leaf.
// The last certificate becomes a root.
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
		template := templateOf(chain[i])
		issuer, issuerKey := template, key
		if i < len(chain)-1 {
			issuer, issuerKey = made[i+1], leafKey
			template.ExtraExtensions = withoutAuthorityKey(template.ExtraExtensions, issuer)
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

// templateOf returns what x509.CreateCertificate makes the like of c from.
func templateOf(c *x509.Certificate) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: c.SerialNumber, RawSubject: c.RawSubject,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, ExtraExtensions: c.Extensions,
	}
}

var oidAuthorityKey = asn1.ObjectIdentifier{2, 5, 29, 35}

// withoutAuthorityKey takes out the authority key identifier of another issuer:
// CreateCertificate puts the right one in (RFC 5280 section 4.2.1.1).
func withoutAuthorityKey(extensions []pkix.Extension, issuer *x509.Certificate) []pkix.Extension {
	kept := make([]pkix.Extension, 0, len(extensions))
	for _, e := range extensions {
		if !e.Id.Equal(oidAuthorityKey) || len(issuer.SubjectKeyId) == 0 {
			kept = append(kept, e)
		}
	}
	return kept
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
