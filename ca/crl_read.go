package ca

import (
	"crypto/x509"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// A crlParts is a CRL of ours taken apart (RFC 5280, 5.1), its entries still
// in one piece: one of a million is read in the time of one.
type crlParts struct {
	tbs       []byte // what is signed
	algorithm []byte // AlgorithmIdentifier, DER
	signature []byte
	entries   []byte // revokedCertificates, without tag and length
	number    int64
	idp       []byte // value of the issuing distribution point; nil for none
}

var errMalformedCRL = errors.New("it is not a CRL of ours")

// parts takes a CRL apart. The entries are slices of its DER.
func (c *CRL) parts() (*crlParts, error) {
	p, err := readCRL(c.DER)
	if err != nil {
		return nil, fmt.Errorf("parse CRL %d of %s: %w", c.Number, c.Scope(), err)
	}
	return p, nil
}

func readCRL(der []byte) (*crlParts, error) {
	var p crlParts
	input := cryptobyte.String(der)
	var list, tbs, algorithm, rest, extensions cryptobyte.String
	var hasExtensions bool
	if !input.ReadASN1(&list, cbasn1.SEQUENCE) || !input.Empty() || !list.ReadASN1Element(&tbs, cbasn1.SEQUENCE) ||
		!list.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) || !list.ReadASN1BitStringAsBytes(&p.signature) || !list.Empty() {
		return nil, errMalformedCRL
	}
	p.tbs, p.algorithm = tbs, algorithm
	if !tbs.ReadASN1(&rest, cbasn1.SEQUENCE) || !rest.SkipASN1(cbasn1.INTEGER) || !rest.SkipASN1(cbasn1.SEQUENCE) ||
		!rest.SkipASN1(cbasn1.SEQUENCE) || !skipTime(&rest) || !skipTime(&rest) {
		return nil, errMalformedCRL
	}
	var entries cryptobyte.String
	if !rest.ReadOptionalASN1(&entries, nil, cbasn1.SEQUENCE) ||
		!rest.ReadOptionalASN1(&extensions, &hasExtensions, cbasn1.Tag(0).ContextSpecific().Constructed()) || !rest.Empty() {
		return nil, errMalformedCRL
	}
	p.entries = entries
	if hasExtensions && !p.readExtensions(extensions) {
		return nil, errMalformedCRL
	}
	return &p, nil
}

func skipTime(s *cryptobyte.String) bool {
	return s.SkipOptionalASN1(cbasn1.UTCTime) && s.SkipOptionalASN1(cbasn1.GeneralizedTime)
}

func (p *crlParts) readExtensions(all cryptobyte.String) bool {
	var list cryptobyte.String
	if !all.ReadASN1(&list, cbasn1.SEQUENCE) || !all.Empty() {
		return false
	}
	for !list.Empty() {
		var ext, oid, value cryptobyte.String
		if !list.ReadASN1(&ext, cbasn1.SEQUENCE) || !ext.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) ||
			!ext.SkipOptionalASN1(cbasn1.BOOLEAN) || !ext.ReadASN1(&value, cbasn1.OCTET_STRING) {
			return false
		}
		switch string(oid) {
		case "\x55\x1d\x14": // CRL number, RFC 5280, 5.2.3
			if !value.ReadASN1Integer(&p.number) {
				return false
			}
		case "\x55\x1d\x1c": // IDP, RFC 5280, 5.2.5
			p.idp = value
		}
	}
	return true
}

// check verifies the signature.
func (p *crlParts) check(issuer *x509.Certificate) error {
	kind, err := signatureOf(issuer.PublicKey)
	if err != nil {
		return err
	}
	if string(kind.algorithm) != string(p.algorithm) {
		return errors.New("it is signed with another algorithm than its issuer uses")
	}
	return issuer.CheckSignature(kind.x509, p.tbs, p.signature)
}

// DistributionPoints returns the URLs in the CRL's IDP.
func (c *CRL) DistributionPoints() (map[string]bool, error) {
	p, err := c.parts()
	if err != nil {
		return nil, err
	}
	urls := map[string]bool{}
	if p.idp == nil {
		return urls, nil
	}
	var idp, point, names, name cryptobyte.String
	der := cryptobyte.String(p.idp)
	if !der.ReadASN1(&idp, cbasn1.SEQUENCE) || !idp.ReadASN1(&point, cbasn1.Tag(0).ContextSpecific().Constructed()) ||
		!point.ReadASN1(&names, cbasn1.Tag(0).ContextSpecific().Constructed()) {
		return nil, fmt.Errorf("parse the IDP of CRL %d of %s", c.Number, c.Scope())
	}
	for names.ReadASN1(&name, cbasn1.Tag(6).ContextSpecific()) {
		urls[string(name)] = true
	}
	return urls, nil
}

// Listed returns which of some serial numbers the CRL lists. It reads the CRL
// once, without taking it apart.
func (c *CRL) Listed(serials ...SerialNumber) (map[SerialNumber]bool, error) {
	p, err := c.parts()
	if err != nil {
		return nil, err
	}
	wanted := make(map[string]SerialNumber, len(serials))
	for _, s := range serials {
		wanted[string(s.Int().Bytes())] = s
	}
	listed := make(map[SerialNumber]bool, len(serials))
	for rest := p.entries; len(rest) > 0; {
		var serial []byte
		if _, serial, rest, err = nextEntry(rest); err != nil {
			return nil, fmt.Errorf("parse CRL %d of %s: %w", c.Number, c.Scope(), err)
		}
		if s, ok := wanted[string(serial)]; ok {
			listed[s] = true
		}
	}
	return listed, nil
}
