package brokers

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// A Bundle is what a broker needs to refuse revoked devices: the revocation
// lists of all issuers of client certificates that it trusts, one after the
// other.
type Bundle struct {
	PEM    []byte  // "X509 CRL" blocks, nothing but white space between them
	Scopes []Scope // the issuers that the lists must cover
}

// A Scope is what one list of a bundle is for: an issuer's certificates, or one
// shard of them. The scopes of one issuer share no distribution point.
type Scope struct {
	Issuer *x509.Certificate
	// DistributionPoints are all URLs in the CRL distribution points of this
	// issuer's certificates that are not yet expired (RFC 5280 section
	// 4.2.1.13), in use or from before a status URL moved. A list that leaves
	// one out makes brokers refuse good devices.
	DistributionPoints []string
}

// signed reports whether the scope's issuer signed a list; nil when it did.
func (s Scope) signed(list *x509.RevocationList) error {
	if !bytes.Equal(list.RawIssuer, s.Issuer.RawSubject) {
		return errors.New("it names another issuer")
	}
	return list.CheckSignatureFrom(s.Issuer)
}

// has reports whether a list that was admitted once was this scope's.
func (s Scope) has(list *x509.RevocationList) bool {
	if s.signed(list) != nil {
		return false
	}
	point, err := FindIssuingDistributionPoint(list)
	if err != nil || point == nil || len(s.DistributionPoints) == 0 {
		return err == nil
	}
	return slices.ContainsFunc(s.DistributionPoints, point.Covers)
}

// missing says that no list is for the scope.
func (s Scope) missing() error {
	if len(s.DistributionPoints) == 0 {
		return errors.New("the bundle has no list of this issuer")
	}
	return fmt.Errorf("the bundle has no list of this issuer that covers %q", s.DistributionPoints[len(s.DistributionPoints)-1])
}

const pemTypeCRL = "X509 CRL"

var (
	pemBegin = []byte("-----BEGIN")
	// errEmptyBundle says that a bundle has no revocation list at all.
	errEmptyBundle = errors.New("no revocation list")
)

// ParseBundle parses revocation lists in PEM form (RFC 7468 section 7). It is
// stricter than [pem.Decode], which skips what it does not understand: anything
// besides well-formed "X509 CRL" blocks and white space is an error, because
// the next reader may skip something else.
func ParseBundle(data []byte) ([]*x509.RevocationList, error) {
	var lists []*x509.RevocationList
	for {
		data = bytes.TrimSpace(data)
		if len(data) == 0 {
			break
		}
		if !bytes.HasPrefix(data, []byte("-----BEGIN "+pemTypeCRL+"-----")) {
			return nil, fmt.Errorf("parse revocation list %d: text that is not an %q block", len(lists)+1, pemTypeCRL)
		}
		block, rest := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("parse revocation list %d: malformed PEM", len(lists)+1)
		}
		consumed := data[:len(data)-len(rest)]
		if bytes.Count(consumed, pemBegin) != 1 || block.Type != pemTypeCRL || len(block.Headers) != 0 {
			return nil, fmt.Errorf("parse revocation list %d: malformed PEM", len(lists)+1)
		}
		list, err := parseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse revocation list %d: %w", len(lists)+1, err)
		}
		lists = append(lists, list)
		data = rest
	}
	if len(lists) == 0 {
		return nil, errEmptyBundle
	}
	return lists, nil
}

// parseRevocationList parses one list and refuses bytes that its signature
// does not protect, which [x509.ParseRevocationList] ignores.
func parseRevocationList(der []byte) (*x509.RevocationList, error) {
	input := cryptobyte.String(der)
	var outer, part cryptobyte.String
	if !input.ReadASN1(&outer, cryptobyte_asn1.SEQUENCE) || !input.Empty() {
		return nil, errors.New("not one DER SEQUENCE")
	}
	for _, tag := range []cryptobyte_asn1.Tag{cryptobyte_asn1.SEQUENCE, cryptobyte_asn1.SEQUENCE, cryptobyte_asn1.BIT_STRING} {
		if !outer.ReadASN1(&part, tag) {
			return nil, errors.New("not a certificate list")
		}
	}
	if !outer.Empty() {
		return nil, errors.New("data after the signature")
	}
	return x509.ParseRevocationList(der)
}

// EncodeBundle writes revocation lists in PEM form.
func EncodeBundle(lists []*x509.RevocationList) []byte {
	var buf bytes.Buffer
	for _, list := range lists {
		buf.Write(pem.EncodeToMemory(&pem.Block{Type: pemTypeCRL, Bytes: list.Raw}))
	}
	return buf.Bytes()
}
