package ca

import (
	"crypto"
	_ "crypto/sha1" // CertIDs use it (RFC 5019, 2.1.1); nothing rests on it
	_ "crypto/sha256"
	_ "crypto/sha512"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Limits of an OCSP request.
const (
	// MaxOCSPRequestSize is the longest request that is looked at, in octets.
	MaxOCSPRequestSize = 8 << 10
	maxOCSPCertIDs     = 16
	maxOCSPSerial      = 64  // octets; what is longer than a serial number is unknown
	maxNonce           = 128 // RFC 9654, 2.1
)

// An ocspHash is a hash algorithm of CertIDs (RFC 6960, 4.1.1).
type ocspHash struct {
	hash       crypto.Hash
	oid        string // DER, without tag and length
	identifier []byte // AlgorithmIdentifier with the NULL that everybody writes
}

var ocspHashes = []ocspHash{
	{crypto.SHA1, "\x2b\x0e\x03\x02\x1a", unhex("300906052b0e03021a0500")},
	{crypto.SHA256, "\x60\x86\x48\x01\x65\x03\x04\x02\x01", unhex("300d06096086480165030402010500")},
	{crypto.SHA384, "\x60\x86\x48\x01\x65\x03\x04\x02\x02", unhex("300d06096086480165030402020500")},
	{crypto.SHA512, "\x60\x86\x48\x01\x65\x03\x04\x02\x03", unhex("300d06096086480165030402030500")},
}

// An ocspCertID names a certificate in a request: by hashes of its issuer's
// name and key, and its serial number.
type ocspCertID struct {
	algorithm int // index of ocspHashes; -1 for another
	nameHash  []byte
	keyHash   []byte
	serial    []byte // INTEGER, without tag and length
}

// An ocspRequest is an OCSPRequest (RFC 6960, 4.1.1). A signature and a
// requestor's name are let be: everybody may ask.
type ocspRequest struct {
	ids   [maxOCSPCertIDs]ocspCertID
	n     int
	nonce []byte // extnValue as it came; nil for none
}

// nonceOID is id-pkix-ocsp-nonce (RFC 9654, 2.1), DER without tag and length.
const nonceOID = "\x2b\x06\x01\x05\x05\x07\x30\x01\x02"

// parse reads a request, and reports whether it is well-formed.
func (r *ocspRequest) parse(der []byte) bool {
	if len(der) > MaxOCSPRequestSize {
		return false
	}
	input := cryptobyte.String(der)
	var request, tbs, version, list, extensions cryptobyte.String
	var hasVersion, hasExtensions bool
	context := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
	if !input.ReadASN1(&request, cbasn1.SEQUENCE) || !input.Empty() || !request.ReadASN1(&tbs, cbasn1.SEQUENCE) ||
		!request.SkipOptionalASN1(context(0)) || !request.Empty() { // optionalSignature
		return false
	}
	if !tbs.ReadOptionalASN1(&version, &hasVersion, context(0)) || hasVersion && string(version) != "\x02\x01\x00" ||
		!tbs.SkipOptionalASN1(context(1)) || // requestorName
		!tbs.ReadASN1(&list, cbasn1.SEQUENCE) || list.Empty() ||
		!tbs.ReadOptionalASN1(&extensions, &hasExtensions, context(2)) || !tbs.Empty() {
		return false
	}
	for !list.Empty() {
		if r.n == len(r.ids) || !r.ids[r.n].parse(&list) {
			return false
		}
		r.n++
	}
	return !hasExtensions || r.parseExtensions(extensions)
}

// parse reads a Request off the list.
func (id *ocspCertID) parse(list *cryptobyte.String) bool {
	var request, certID, algorithm, oid, extensions cryptobyte.String
	var has bool
	if !list.ReadASN1(&request, cbasn1.SEQUENCE) || !request.ReadASN1(&certID, cbasn1.SEQUENCE) ||
		!request.ReadOptionalASN1(&extensions, &has, cbasn1.Tag(0).ContextSpecific().Constructed()) || !request.Empty() ||
		!certID.ReadASN1(&algorithm, cbasn1.SEQUENCE) || !algorithm.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) ||
		!certID.ReadASN1((*cryptobyte.String)(&id.nameHash), cbasn1.OCTET_STRING) ||
		!certID.ReadASN1((*cryptobyte.String)(&id.keyHash), cbasn1.OCTET_STRING) ||
		!certID.ReadASN1((*cryptobyte.String)(&id.serial), cbasn1.INTEGER) || !certID.Empty() ||
		len(id.serial) == 0 || len(id.serial) > maxOCSPSerial {
		return false
	}
	id.algorithm = -1
	for n := range ocspHashes {
		if string(oid) == ocspHashes[n].oid {
			id.algorithm = n
		}
	}
	return !has || eachExtension(extensions, func(_ string, critical bool, _ []byte) bool { return !critical })
}

// parseExtensions reads requestExtensions: the nonce, and nothing critical
// that is not known here (RFC 6960, 4.4).
func (r *ocspRequest) parseExtensions(all cryptobyte.String) bool {
	return eachExtension(all, func(oid string, critical bool, value []byte) bool {
		if oid != nonceOID {
			return !critical
		}
		if r.nonce != nil {
			return false
		}
		r.nonce = value
		octets, inner := cryptobyte.String(value), cryptobyte.String(value)
		if octets.ReadASN1(&inner, cbasn1.OCTET_STRING) && octets.Empty() {
			return len(inner) > 0 && len(inner) <= maxNonce
		}
		return len(value) > 0 && len(value) <= maxNonce // from before RFC 8954: not wrapped
	})
}

// eachExtension calls f for every one of some Extensions, until it says no.
func eachExtension(all cryptobyte.String, f func(oid string, critical bool, value []byte) bool) bool {
	var list cryptobyte.String
	if !all.ReadASN1(&list, cbasn1.SEQUENCE) || !all.Empty() || list.Empty() {
		return false
	}
	for !list.Empty() {
		var ext, oid, value cryptobyte.String
		var critical bool
		if !list.ReadASN1(&ext, cbasn1.SEQUENCE) || !ext.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) ||
			ext.PeekASN1Tag(cbasn1.BOOLEAN) && !ext.ReadASN1Boolean(&critical) ||
			!ext.ReadASN1(&value, cbasn1.OCTET_STRING) || !ext.Empty() || !f(string(oid), critical, value) {
			return false
		}
	}
	return true
}
