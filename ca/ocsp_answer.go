package ca

import (
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// An OCSPStatus is what an OCSP answer says: of a certificate, or why it says
// nothing of one.
type OCSPStatus string

// The statuses of OCSP answers: certStatus, and OCSPResponseStatus (RFC 6960,
// 4.2.1).
const (
	OCSPGood         OCSPStatus = "good"
	OCSPRevoked      OCSPStatus = "revoked"          // or held
	OCSPUnknown      OCSPStatus = "unknown"          // never issued
	OCSPSeveral      OCSPStatus = "several"          // an answer about more than one certificate
	OCSPMalformed    OCSPStatus = "malformedRequest" //
	OCSPInternal     OCSPStatus = "internalError"    // it cannot be signed
	OCSPTryLater     OCSPStatus = "tryLater"         // nothing is cached, and the ledger does not answer
	OCSPUnauthorized OCSPStatus = "unauthorized"     // of an issuer that is not ours (RFC 5019, 2.2.3)
)

// OCSPStatuses returns every one.
func OCSPStatuses() []OCSPStatus {
	return []OCSPStatus{OCSPGood, OCSPRevoked, OCSPUnknown, OCSPSeveral, OCSPMalformed, OCSPInternal, OCSPTryLater, OCSPUnauthorized}
}

// An OCSPAnswer is an OCSPResponse, as it goes out. It is not to be changed.
type OCSPAnswer struct {
	DER        []byte
	Status     OCSPStatus
	ThisUpdate time.Time // zero for errors
	NextUpdate time.Time // zero for errors
	// Cacheable says that the same question gets the same answer: it is about
	// one certificate that was issued, and has no nonce.
	Cacheable bool
	ETag      string // quoted, of a cacheable one

	single []byte // SingleResponse
	renew  time.Time
}

// ocspErrors are the answers without a signature, by their status.
var ocspErrors = map[OCSPStatus]*OCSPAnswer{
	OCSPMalformed:    {Status: OCSPMalformed, DER: []byte{0x30, 3, 0x0a, 1, 1}},
	OCSPInternal:     {Status: OCSPInternal, DER: []byte{0x30, 3, 0x0a, 1, 2}},
	OCSPTryLater:     {Status: OCSPTryLater, DER: []byte{0x30, 3, 0x0a, 1, 3}},
	OCSPUnauthorized: {Status: OCSPUnauthorized, DER: []byte{0x30, 3, 0x0a, 1, 6}},
}

// A singleResponse is what is said of one certificate (RFC 6960, 4.2.1).
type singleResponse struct {
	id         *ocspCertID
	status     OCSPStatus
	reason     Reason
	revokedAt  time.Time
	thisUpdate time.Time
	nextUpdate time.Time
}

func (s *singleResponse) encode() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // CertID
			b.AddBytes(ocspHashes[s.id.algorithm].identifier)
			b.AddASN1OctetString(s.id.nameHash)
			b.AddASN1OctetString(s.id.keyHash)
			b.AddASN1(cbasn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(s.id.serial) })
		})
		switch s.status {
		case OCSPGood:
			b.AddASN1(cbasn1.Tag(0).ContextSpecific(), func(*cryptobyte.Builder) {})
		case OCSPRevoked:
			b.AddASN1(cbasn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1GeneralizedTime(s.revokedAt.UTC())
				if code := s.reason.Code(); code != 0 {
					b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(code)) })
				}
			})
		default:
			b.AddASN1(cbasn1.Tag(2).ContextSpecific(), func(*cryptobyte.Builder) {})
		}
		b.AddASN1GeneralizedTime(s.thisUpdate.UTC())
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(s.nextUpdate.UTC()) })
	})
	return b.Bytes()
}

// oidOCSPBasic is id-pkix-ocsp-basic (RFC 6960, 4.2.1).
var oidOCSPBasic = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}

// answer signs a BasicOCSPResponse with the responder's certificate in it.
func (p *ocspSigner) answer(producedAt time.Time, nonce []byte, singles ...[]byte) ([]byte, error) {
	var data cryptobyte.Builder
	data.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(2).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1OctetString(p.keyHash[:]) })
		b.AddASN1GeneralizedTime(producedAt.UTC())
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, s := range singles {
				b.AddBytes(s)
			}
		})
		if nonce == nil {
			return
		}
		b.AddASN1(cbasn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(nonceOID)) })
					b.AddASN1OctetString(nonce)
				})
			})
		})
	})
	tbs, err := data.Bytes()
	if err != nil {
		return nil, err
	}
	signature, err := ecdsaSHA256.sign(p.key, tbs)
	if err != nil {
		return nil, err
	}
	var basic, b cryptobyte.Builder
	basic.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(ecdsaSHA256.algorithm)
		b.AddASN1BitString(signature)
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(p.certificate.DER) })
		})
	})
	response, err := basic.Bytes()
	if err != nil {
		return nil, err
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(0) // successful
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidOCSPBasic)
				b.AddASN1OctetString(response)
			})
		})
	})
	return b.Bytes()
}

// etagOf returns a quoted entity tag (RFC 9110, 8.8.3).
func etagOf(der []byte) string {
	sum := sha256.Sum256(der)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}
