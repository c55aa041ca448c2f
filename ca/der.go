package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// What is long (CRLs) or made very often (OCSP answers) is encoded here as DER
// (X.690) at once, and not over structures.

// appendHeader appends the tag and the length of a value of n octets.
func appendHeader(b []byte, tag cbasn1.Tag, n int) []byte {
	b = append(b, byte(tag))
	switch {
	case n < 0x80:
		return append(b, byte(n))
	case n < 1<<8:
		return append(b, 0x81, byte(n))
	case n < 1<<16:
		return append(b, 0x82, byte(n>>8), byte(n))
	case n < 1<<24:
		return append(b, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(b, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// maxHeader is the longest that appendHeader appends.
const maxHeader = 6

// addTime adds a time as RFC 5280, 5.1.2.4 wants it: UTCTime up to 2049.
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1UTCTime(t)
	} else {
		b.AddASN1GeneralizedTime(t)
	}
}

// A signatureKind is how a kind of key signs: as crypto/x509 does by default.
type signatureKind struct {
	algorithm []byte      // AlgorithmIdentifier, DER
	hash      crypto.Hash // 0: the message itself is signed
	x509      x509.SignatureAlgorithm
}

// The kinds of signatures (RFC 5758, 3.2; RFC 4055, 5; RFC 8410, 3).
var (
	ecdsaSHA256 = &signatureKind{unhex("300a06082a8648ce3d040302"), crypto.SHA256, x509.ECDSAWithSHA256}
	ecdsaSHA384 = &signatureKind{unhex("300a06082a8648ce3d040303"), crypto.SHA384, x509.ECDSAWithSHA384}
	ecdsaSHA512 = &signatureKind{unhex("300a06082a8648ce3d040304"), crypto.SHA512, x509.ECDSAWithSHA512}
	rsaSHA256   = &signatureKind{unhex("300d06092a864886f70d01010b0500"), crypto.SHA256, x509.SHA256WithRSA}
	pureEd25519 = &signatureKind{unhex("300506032b6570"), 0, x509.PureEd25519}
)

// signatureOf returns how a key signs.
func signatureOf(key crypto.PublicKey) (*signatureKind, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return ecdsaSHA256, nil
		case elliptic.P384():
			return ecdsaSHA384, nil
		case elliptic.P521():
			return ecdsaSHA512, nil
		}
	case *rsa.PublicKey:
		return rsaSHA256, nil
	case ed25519.PublicKey:
		return pureEd25519, nil
	}
	return nil, fmt.Errorf("a %T does not sign here", key)
}

// sign signs a message.
func (k *signatureKind) sign(key crypto.Signer, message []byte) ([]byte, error) {
	if k.hash != 0 {
		h := k.hash.New()
		h.Write(message)
		message = h.Sum(nil)
	}
	return key.Sign(rand.Reader, message, k.hash)
}
