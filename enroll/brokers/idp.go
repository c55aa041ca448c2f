package brokers

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// oidIssuingDistributionPoint is id-ce-issuingDistributionPoint (RFC 5280
// section 5.2.5).
var oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

// An IssuingDistributionPoint is the CRL extension that says for which
// certificates a list speaks (RFC 5280 section 5.2.5).
type IssuingDistributionPoint struct {
	URIs []string // the URIs among the fullName; other kinds of name are left out

	OnlyUserCerts      bool // only end-entity certificates
	OnlyCACerts        bool // only CA certificates
	OnlySomeReasons    bool // only some revocation reasons
	Indirect           bool // entries of other issuers, too
	OnlyAttributeCerts bool // only attribute certificates
}

// Covers reports whether the list speaks for certificates that name this
// distribution point. The comparison is by bytes, as brokers make it.
func (p *IssuingDistributionPoint) Covers(uri string) bool {
	return slices.Contains(p.URIs, uri)
}

// Partial reports whether the list speaks for a part of its issuer's
// certificates only, or for other issuers' as well.
func (p *IssuingDistributionPoint) Partial() bool {
	return p.OnlyUserCerts || p.OnlyCACerts || p.OnlySomeReasons || p.Indirect || p.OnlyAttributeCerts
}

// FindIssuingDistributionPoint returns the issuing distribution point of a
// list, nil when it has none.
func FindIssuingDistributionPoint(list *x509.RevocationList) (*IssuingDistributionPoint, error) {
	for _, extension := range list.Extensions {
		if extension.Id.Equal(oidIssuingDistributionPoint) {
			return ParseIssuingDistributionPoint(extension.Value)
		}
	}
	return nil, nil
}

// ParseIssuingDistributionPoint parses the value of the extension, strict DER:
//
//	IssuingDistributionPoint ::= SEQUENCE {
//	  distributionPoint          [0] DistributionPointName OPTIONAL,
//	  onlyContainsUserCerts      [1] BOOLEAN DEFAULT FALSE,
//	  onlyContainsCACerts        [2] BOOLEAN DEFAULT FALSE,
//	  onlySomeReasons            [3] ReasonFlags OPTIONAL,
//	  indirectCRL                [4] BOOLEAN DEFAULT FALSE,
//	  onlyContainsAttributeCerts [5] BOOLEAN DEFAULT FALSE }
//
//	DistributionPointName ::= CHOICE {
//	  fullName                [0] GeneralNames,
//	  nameRelativeToCRLIssuer [1] RelativeDistinguishedName }
//
// A name relative to the issuer is refused: no certificate of ours has one.
func ParseIssuingDistributionPoint(der []byte) (*IssuingDistributionPoint, error) {
	input := cryptobyte.String(der)
	var sequence cryptobyte.String
	if !input.ReadASN1(&sequence, cryptobyte_asn1.SEQUENCE) || !input.Empty() {
		return nil, errors.New("parse issuing distribution point: not one SEQUENCE")
	}
	point := new(IssuingDistributionPoint)
	var name cryptobyte.String
	var present bool
	if !sequence.ReadOptionalASN1(&name, &present, contextTag(0).Constructed()) {
		return nil, errors.New("parse issuing distribution point: malformed distributionPoint")
	}
	if present {
		if err := point.parseName(name); err != nil {
			return nil, fmt.Errorf("parse issuing distribution point: %w", err)
		}
	}
	if err := point.parseFlags(sequence); err != nil {
		return nil, fmt.Errorf("parse issuing distribution point: %w", err)
	}
	return point, nil
}

func contextTag(n uint8) cryptobyte_asn1.Tag { return cryptobyte_asn1.Tag(n).ContextSpecific() }

func (p *IssuingDistributionPoint) parseName(name cryptobyte.String) error {
	var names cryptobyte.String
	if !name.ReadASN1(&names, contextTag(0).Constructed()) || !name.Empty() {
		return errors.New("distributionPoint is not one fullName")
	}
	for !names.Empty() {
		var value cryptobyte.String
		var tag cryptobyte_asn1.Tag
		if !names.ReadAnyASN1(&value, &tag) {
			return errors.New("malformed fullName")
		}
		if tag != contextTag(6) { // uniformResourceIdentifier, an IA5String
			continue
		}
		for _, c := range value {
			if c <= ' ' || c > '~' {
				return errors.New("URI with a character that is not printable ASCII")
			}
		}
		p.URIs = append(p.URIs, string(value))
	}
	return nil
}

func (p *IssuingDistributionPoint) parseFlags(sequence cryptobyte.String) error {
	for _, field := range []struct {
		tag  uint8
		name string
		set  *bool
	}{
		{1, "onlyContainsUserCerts", &p.OnlyUserCerts},
		{2, "onlyContainsCACerts", &p.OnlyCACerts},
		{3, "onlySomeReasons", &p.OnlySomeReasons},
		{4, "indirectCRL", &p.Indirect},
		{5, "onlyContainsAttributeCerts", &p.OnlyAttributeCerts},
	} {
		var value cryptobyte.String
		if !sequence.ReadOptionalASN1(&value, field.set, contextTag(field.tag)) {
			return fmt.Errorf("malformed %s", field.name)
		}
		// DER writes TRUE as ff and leaves FALSE, the default, out.
		if *field.set && field.tag != 3 && (len(value) != 1 || value[0] != 0xff) {
			return fmt.Errorf("%s is not a DER TRUE", field.name)
		}
	}
	if !sequence.Empty() {
		return errors.New("unknown or misplaced field")
	}
	return nil
}
