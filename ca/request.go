package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"net"
	"slices"
)

// MaxRequestSize is the longest certification request that is looked at, as
// given (PEM or DER), in octets (I8).
const MaxRequestSize = 16 << 10

// A Request is a certification request (PKCS #10, RFC 2986) whose proof of
// possession and key were checked.
type Request struct {
	PublicKey  crypto.PublicKey
	CommonName string   // as requested; policy decides what is issued
	DNSNames   []string // as requested
	IPs        []net.IP // as requested
	OtherNames bool     // asks for e-mail or URI names, which no profile gives
	KeySHA256  string   // of the SubjectPublicKeyInfo, lower-case hex
	InfoSHA256 []byte   // of the CertificationRequestInfo: a request signed anew keeps it
}

// ParseRequest reads a certification request, PEM or DER, and checks it: at
// most MaxRequestSize, nothing after it, a key that the policy allows, and the
// signature by that key. What is wrong is reported for the field.
func ParseRequest(field string, text []byte) (*Request, error) {
	if len(text) > MaxRequestSize {
		return nil, Errorf(KindTooLarge, field, "send a plain PKCS #10 request without large extensions",
			"is %d octets long, more than %d", len(text), MaxRequestSize)
	}
	der, err := requestDER(field, text)
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil && otherCurve(der) {
		return nil, Errorf(KindWeakKey, field, keyHint, "its key is on a curve that is not allowed")
	}
	if err != nil {
		return nil, Errorf(KindMalformed, field, "make it with openssl req -new, or your TLS library",
			"is not a certification request (RFC 2986): %w", err)
	}
	// The key first: a size cap before any arithmetic with it.
	if err := checkKey(field, csr.PublicKey); err != nil {
		return nil, err
	}
	// One key has one encoding, and so one KeySHA256: blocked keys and duplicates
	// are found by it.
	if !isDER(csr) {
		return nil, Errorf(KindMalformed, field, "make it with openssl req -new, or your TLS library",
			"holds its public key in another encoding than DER")
	}
	if err := checkProof(field, csr); err != nil {
		return nil, err
	}
	info := sha256.Sum256(csr.RawTBSCertificateRequest)
	return &Request{
		PublicKey: csr.PublicKey, CommonName: csr.Subject.CommonName,
		DNSNames: csr.DNSNames, IPs: csr.IPAddresses,
		OtherNames: len(csr.EmailAddresses)+len(csr.URIs) > 0,
		KeySHA256:  hexSHA256(csr.RawSubjectPublicKeyInfo), InfoSHA256: info[:],
	}, nil
}

// p256Header is what a P-256 SubjectPublicKeyInfo in DER begins with (RFC 5480,
// 2): all but the two coordinates, 32 octets each.
var p256Header = []byte("\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04")

// isDER reports whether a request has its public key in its one encoding.
func isDER(csr *x509.CertificateRequest) bool {
	spki := csr.RawSubjectPublicKeyInfo
	if bytes.HasPrefix(spki, p256Header) && len(spki) == len(p256Header)+64 { // what most devices have
		return true
	}
	again, err := x509.MarshalPKIXPublicKey(csr.PublicKey)
	return err == nil && bytes.Equal(again, spki)
}

// requestDER returns the DER of a request given as PEM or DER.
func requestDER(field string, text []byte) ([]byte, error) {
	if len(text) > 0 && text[0] == 0x30 { // SEQUENCE: DER
		return text, nil
	}
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, Errorf(KindMalformed, field, "send the text between and with -----BEGIN CERTIFICATE REQUEST----- and -----END CERTIFICATE REQUEST-----",
			"holds no PEM block")
	case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
		return nil, Errorf(KindMalformed, field, "send a CERTIFICATE REQUEST", "holds a PEM block %.40q", block.Type)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, Errorf(KindMalformed, field, "send one request alone", "has something after the request")
	}
	return block.Bytes, nil
}

// checkProof verifies the request's own signature: proof of possession
// (RFC 2986, section 3).
func checkProof(field string, csr *x509.CertificateRequest) error {
	switch csr.SignatureAlgorithm {
	case x509.UnknownSignatureAlgorithm:
		return Errorf(KindBadSignature, field, "sign the request with SHA-256 or stronger", "is signed with an algorithm that is not known here")
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.DSAWithSHA256, x509.ECDSAWithSHA1:
		return Errorf(KindBadSignature, field, "sign the request with SHA-256 or stronger", "is signed with %v", csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return Errorf(KindBadSignature, field, "sign the request with the private key whose public key it holds",
			"its signature does not verify with its own public key: %w", err)
	}
	return nil
}

const keyHint = "use P-256, P-384, Ed25519, or RSA of 2048, 3072 or 4096 bits with exponent 65537"

// checkKey holds a public key against the key policy (I8): RSA of 2048, 3072
// or 4096 bits with e = 65537, P-256, P-384, Ed25519, nothing else.
func checkKey(field string, key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); !slices.Contains([]int{2048, 3072, 4096}, bits) {
			return Errorf(KindWeakKey, field, keyHint, "an RSA key of %d bits is not allowed", bits)
		}
		if k.E != 65537 {
			return Errorf(KindWeakKey, field, keyHint, "an RSA key with exponent %d is not allowed", k.E)
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return Errorf(KindWeakKey, field, keyHint, "a key on curve %s is not allowed", k.Curve.Params().Name)
		}
	case ed25519.PublicKey:
		if smallOrder(k) {
			return Errorf(KindWeakKey, field, keyHint, "this Ed25519 key is a point of small order: anyone can sign for it")
		}
	default:
		return Errorf(KindWeakKey, field, keyHint, "this kind of key is not allowed")
	}
	return nil
}

// oidECPublicKey is the algorithm of keys on named curves (RFC 5480, 2.1.1).
var oidECPublicKey = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}

// otherCurve reports whether a request that crypto/x509 does not read has a
// key on another curve than its own: Brainpool, secp256k1, one of its own making.
func otherCurve(der []byte) bool {
	var request struct { // RFC 2986, 4; what follows the key is not looked at
		Info struct {
			Version int
			Subject asn1.RawValue
			Key     struct{ Algorithm pkix.AlgorithmIdentifier }
		}
	}
	if _, err := asn1.Unmarshal(der, &request); err != nil {
		return false
	}
	algorithm := request.Info.Key.Algorithm
	var curve asn1.ObjectIdentifier
	_, err := asn1.Unmarshal(algorithm.Parameters.FullBytes, &curve)
	return algorithm.Algorithm.Equal(oidECPublicKey) && (err != nil || !slices.ContainsFunc(knownCurves, curve.Equal))
}

// knownCurves are those that crypto/x509 reads: P-224, P-256, P-384, P-521.
var knownCurves = []asn1.ObjectIdentifier{{1, 3, 132, 0, 33}, {1, 2, 840, 10045, 3, 1, 7}, {1, 3, 132, 0, 34}, {1, 3, 132, 0, 35}}

// smallOrders are the y coordinates, little-endian, of the Ed25519 points of
// order 1, 2, 4 and 8, with the encodings of 0 and 1 that lie past the prime.
// No private key belongs to them, and some signatures verify with them
// whatever was signed: they prove possession of nothing.
var smallOrders = [][]byte{
	unhex("0000000000000000000000000000000000000000000000000000000000000000"),
	unhex("0100000000000000000000000000000000000000000000000000000000000000"),
	unhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
	unhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
	unhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// smallOrder reports whether an Ed25519 key is a point of small order.
func smallOrder(key ed25519.PublicKey) bool {
	y := bytes.Clone(key)
	y[len(y)-1] &= 0x7f // the rest is the sign of x
	return slices.ContainsFunc(smallOrders, func(small []byte) bool { return bytes.Equal(y, small) })
}
