package mqtts

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// ParseCRL parses the DER of a CRL as x509.ParseRevocationList does, but leaves
// its entries where they are, in Raw: a fleet's CRL has hundreds of thousands of
// them, of which a verification looks for a handful.
func ParseCRL(der []byte) (*x509.RevocationList, error) {
	t, err := splitCRL(der)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(t.before)
			if t.listed {
				b.AddASN1(asn1.SEQUENCE, func(*cryptobyte.Builder) {})
			}
			b.AddBytes(t.after)
		})
		b.AddBytes(t.signature)
	})
	short, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	list, err := x509.ParseRevocationList(short)
	if err != nil {
		return nil, err
	}
	list.Raw, list.RawTBSRevocationList = der, t.signed
	return list, nil
}

// A crlText is a CertificateList cut around its entries (RFC 5280 section 5.1).
type crlText struct {
	signed    []byte // TBSCertList
	before    []byte // of it: version to nextUpdate
	listed    bool   // it has a list of entries, be it empty
	entries   cryptobyte.String
	after     []byte // of it: crlExtensions
	signature []byte // signatureAlgorithm and signatureValue
}

var errNotCRL = errors.New("not a CRL")

func splitCRL(der []byte) (t crlText, err error) {
	input, outer := cryptobyte.String(der), cryptobyte.String(nil)
	var signed, body cryptobyte.String
	if !input.ReadASN1(&outer, asn1.SEQUENCE) || !outer.ReadASN1Element(&signed, asn1.SEQUENCE) {
		return t, errNotCRL
	}
	t.signed, t.signature = signed, outer
	if !signed.ReadASN1(&body, asn1.SEQUENCE) {
		return t, errNotCRL
	}
	start := body
	ok := body.SkipOptionalASN1(asn1.INTEGER) && body.SkipASN1(asn1.SEQUENCE) && body.SkipASN1(asn1.SEQUENCE) && // version, algorithm, issuer
		skipTime(&body) && (!isTime(body) || skipTime(&body)) // thisUpdate, nextUpdate
	if !ok {
		return t, errNotCRL
	}
	t.before = start[:len(start)-len(body)]
	if t.listed = body.PeekASN1Tag(asn1.SEQUENCE); t.listed && !body.ReadASN1(&t.entries, asn1.SEQUENCE) {
		return t, errNotCRL
	}
	t.after = body
	return t, nil
}

func isTime(s cryptobyte.String) bool {
	return s.PeekASN1Tag(asn1.UTCTime) || s.PeekASN1Tag(asn1.GeneralizedTime)
}

func skipTime(s *cryptobyte.String) bool {
	return isTime(*s) && s.ReadAnyASN1(new(cryptobyte.String), new(asn1.Tag))
}

// A revocation is one entry of a CRL.
type revocation struct {
	at     time.Time
	reason int
}

// findRevocation looks a serial number up among the entries of a CRL. It returns
// nil when it is not there.
func findRevocation(crl *x509.RevocationList, serial *big.Int) (*revocation, error) {
	t, err := splitCRL(crl.Raw)
	if err != nil {
		return nil, err
	}
	want := serial.Bytes() // positive, as RFC 5280 section 4.1.2.2 has it
	for !t.entries.Empty() {
		var entry, number cryptobyte.String
		if !t.entries.ReadASN1(&entry, asn1.SEQUENCE) || !entry.ReadASN1(&number, asn1.INTEGER) {
			return nil, errNotCRL
		}
		if bytes.Equal(bytes.TrimLeft(number, "\x00"), want) {
			return readRevocation(entry)
		}
	}
	return nil, nil
}

// readRevocation reads what follows the serial number of an entry (RFC 5280
// section 5.3).
func readRevocation(entry cryptobyte.String) (*revocation, error) {
	r := new(revocation)
	read := entry.ReadASN1GeneralizedTime
	if entry.PeekASN1Tag(asn1.UTCTime) {
		read = entry.ReadASN1UTCTime
	}
	if !read(&r.at) {
		return nil, errNotCRL
	}
	var extensions cryptobyte.String
	if entry.Empty() || !entry.ReadASN1(&extensions, asn1.SEQUENCE) {
		return r, nil
	}
	for !extensions.Empty() {
		var extension, value cryptobyte.String
		if !extensions.ReadASN1(&extension, asn1.SEQUENCE) {
			return nil, errNotCRL
		}
		var id cryptobyte.String
		if !extension.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) || !extension.SkipOptionalASN1(asn1.BOOLEAN) || !extension.ReadASN1(&value, asn1.OCTET_STRING) {
			return nil, errNotCRL
		}
		if string(id) == "\x55\x1d\x15" && !value.ReadASN1Enum(&r.reason) { // 2.5.29.21, reasonCode
			return nil, fmt.Errorf("%w: reason code", errNotCRL)
		}
	}
	return r, nil
}
