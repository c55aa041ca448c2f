package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
)

// request returns a request of testdata/csr, which make.sh makes with OpenSSL.
func request(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "csr", name+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func derOf(t testing.TB, text []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM block")
	}
	return block.Bytes
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestI8RequestsByKeyAndSignature(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]ca.Kind{
		"rsa-2048": "", "rsa-2048-sha512": "", "rsa-2048-pss": "", "rsa-3072": "", "rsa-4096": "",
		"ec-P-256": "", "ec-P-384": "", "ed25519": "",

		"rsa-1024": ca.KindWeakKey, "rsa-2560": ca.KindWeakKey,
		"rsa-2048-e3": ca.KindWeakKey, "rsa-2048-e-large": ca.KindWeakKey, "rsa-pss-key": ca.KindWeakKey,
		"ec-P-224": ca.KindWeakKey, "ec-P-521": ca.KindWeakKey, "ec-secp256k1": ca.KindWeakKey,
		"ec-brainpoolP256r1": ca.KindWeakKey, "ec-P-256-explicit": ca.KindWeakKey, "ed448": ca.KindWeakKey,

		"rsa-2048-sha1": ca.KindBadSignature, "rsa-2048-md5": ca.KindBadSignature, "ec-P-256-sha1": ca.KindBadSignature,
		"rsa-2048-pss-long-salt": ca.KindBadSignature,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := request(t, name)
			for form, text := range map[string][]byte{"PEM": text, "DER": derOf(t, text)} {
				r, err := ca.ParseRequest("csr", text)
				if kind != "" {
					wantKind(t, err, kind, "csr")
					continue
				}
				if err != nil {
					t.Fatalf("%s: %v", form, err)
				}
				if r.CommonName != "device-1" || r.KeySHA256 != keySHA256(t, r.PublicKey) || r.OtherNames {
					t.Fatalf("%s: read as %+v", form, r)
				}
			}
		})
	}
}

func TestI8RequestsByTheirWrapping(t *testing.T) {
	t.Parallel()
	text := request(t, "ec-P-256")
	der := derOf(t, text)
	padded := append(bytes.Repeat([]byte("\n"), ca.MaxRequestSize-len(text)), text...)
	for _, test := range []struct {
		name string
		text []byte
		kind ca.Kind
	}{
		{"as it is", text, ""},
		{"NEW CERTIFICATE REQUEST", pemOf("NEW CERTIFICATE REQUEST", der), ""},
		{"text before", append([]byte("Certificate Request:\n    Data:\n        Version: 1 (0x0)\n"), text...), ""},
		{"space after", append(bytes.Clone(text), " \r\n\t\n"...), ""},
		{"CRLF", bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")), ""},
		{"16 KiB", padded, ""},

		{"a byte over 16 KiB", append([]byte("\n"), padded...), ca.KindTooLarge},
		{"17 KiB of DER", append([]byte{0x30}, make([]byte, 17<<10)...), ca.KindTooLarge},
		{"nothing", nil, ca.KindMalformed},
		{"space", []byte("  \n"), ca.KindMalformed},
		{"no PEM", []byte("hello"), ca.KindMalformed},
		{"base64 alone", bytes.Join(bytes.Split(text, []byte("\n"))[1:5], nil), ca.KindMalformed},
		{"two requests", append(bytes.Clone(text), text...), ca.KindMalformed},
		{"text after", append(bytes.Clone(text), "and more"...), ca.KindMalformed},
		{"bytes after DER", append(bytes.Clone(der), 0), ca.KindMalformed},
		{"bytes after DER in PEM", pemOf("CERTIFICATE REQUEST", append(bytes.Clone(der), 0)), ca.KindMalformed},
		{"DER cut off", der[:len(der)-1], ca.KindMalformed},
		{"a certificate", pemOf("CERTIFICATE", made().Root().Raw), ca.KindMalformed},
		{"a certificate called a request", pemOf("CERTIFICATE REQUEST", made().Root().Raw), ca.KindMalformed},
		{"a private key", pemOf("EC PRIVATE KEY", der), ca.KindMalformed},
		{"an empty block", pemOf("CERTIFICATE REQUEST", nil), ca.KindMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, err := ca.ParseRequest("csr", test.text)
			if test.kind != "" {
				wantKind(t, err, test.kind, "csr")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if info := sha256.Sum256(mustRequest(t, der).RawTBSCertificateRequest); !bytes.Equal(r.InfoSHA256, info[:]) {
				t.Error("another CertificationRequestInfo")
			}
		})
	}
}

func mustRequest(t testing.TB, der []byte) *x509.CertificateRequest {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestI8ProofOfPossession(t *testing.T) {
	t.Parallel()
	good := derOf(t, request(t, "ec-P-256"))
	for name, at := range map[string]int{"the last octet of the signature": len(good) - 1, "an octet of the common name": bytes.Index(good, []byte("device-1"))} {
		der := bytes.Clone(good)
		der[at] ^= 1
		_, err := ca.ParseRequest("csr", der)
		wantKind(t, err, ca.KindBadSignature, "csr")
		if e, _ := errors.AsType[*ca.Error](err); strings.Contains(e.Text(), "x509") {
			t.Errorf("%s: the text shows the cause: %s", name, e.Text())
		}
	}
	// Another's request, with one's own key's signature over it.
	_, err := ca.ParseRequest("csr", craft(t, mustRequest(t, good).RawSubjectPublicKeyInfo, newKey(t)))
	wantKind(t, err, ca.KindBadSignature, "csr")
}

func TestI5ARequestSignedAnewIsTheSameRequest(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	var infos, whole [][]byte
	for range 2 {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "device-1"}}, key)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ca.ParseRequest("csr", der)
		if err != nil {
			t.Fatal(err)
		}
		infos, whole = append(infos, r.InfoSHA256), append(whole, der)
	}
	if !bytes.Equal(infos[0], infos[1]) || bytes.Equal(whole[0], whole[1]) {
		t.Error("two signatures of one request must give one InfoSHA256")
	}
}

func TestI9RequestedNamesAreReported(t *testing.T) {
	t.Parallel()
	for name, names := range map[string]x509.CertificateRequest{
		"e-mail": {EmailAddresses: []string{"a@b.test"}},
		"URI":    {URIs: []*url.URL{{Scheme: "urn", Opaque: "x"}}},
	} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &names, newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		if r, err := ca.ParseRequest("csr", der); err != nil || !r.OtherNames {
			t.Errorf("%s: other names are not reported: %+v, %v", name, r, err)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"a.test"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := ca.ParseRequest("csr", der); err != nil || len(r.DNSNames) != 1 || len(r.IPs) != 1 || r.OtherNames {
		t.Errorf("read as %+v, %v", r, err)
	}
}

// craft returns a request for a public key in an encoding of its own, signed
// with SHA-256 by key, whoever's that is.
func craft(t testing.TB, spki []byte, key crypto.Signer) []byte {
	t.Helper()
	info := craftInfo(t, spki)
	digest := sha256.Sum256(info)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return craftSigned(t, info, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, signature)
}

func craftInfo(t testing.TB, spki []byte) []byte {
	t.Helper()
	subject, err := asn1.Marshal(pkix.Name{CommonName: "device-1"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	info, err := asn1.Marshal(struct {
		Version    int
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Attributes []asn1.RawValue `asn1:"tag:0"`
	}{0, asn1.RawValue{FullBytes: subject}, asn1.RawValue{FullBytes: spki}, nil})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func craftSigned(t testing.TB, info []byte, algorithm asn1.ObjectIdentifier, signature []byte) []byte {
	t.Helper()
	der, err := asn1.Marshal(struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: info}, pkix.AlgorithmIdentifier{Algorithm: algorithm}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestI8OneKeyHasOneHash: a key in two encodings would have two KeySHA256, and
// slip past blocked keys and duplicates.
func TestI8OneKeyHasOneHash(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	plain, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.ParseRequest("csr", craft(t, plain, key)); err != nil {
		t.Fatalf("control: %v", err)
	}
	odd := oddEncoding(t, key)
	if csr := mustRequest(t, craft(t, odd, key)); csr.CheckSignature() != nil || !key.PublicKey.Equal(csr.PublicKey) {
		t.Skip("crypto/x509 refuses this encoding by itself now")
	}
	_, err = ca.ParseRequest("csr", craft(t, odd, key))
	wantKind(t, err, ca.KindMalformed, "csr")
}

// oddEncoding returns a SubjectPublicKeyInfo with an element too many.
func oddEncoding(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	plain, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var spki struct {
		Algorithm asn1.RawValue
		Key       asn1.RawValue
		More      int `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(plain, &spki); err != nil {
		t.Fatal(err)
	}
	spki.More = 7
	odd, err := asn1.Marshal(spki)
	if err != nil {
		t.Fatal(err)
	}
	return odd
}

// TestI8KeysOfSmallOrderProveNothing: the signature here verifies with the
// neutral element as public key, and nobody has a private key for it.
func TestI8KeysOfSmallOrderProveNothing(t *testing.T) {
	t.Parallel()
	neutral := make(ed25519.PublicKey, ed25519.PublicKeySize)
	neutral[0] = 1
	spki, err := x509.MarshalPKIXPublicKey(neutral)
	if err != nil {
		t.Fatal(err)
	}
	signature := append(bytes.Clone(neutral), make([]byte, 32)...)
	der := craftSigned(t, craftInfo(t, spki), asn1.ObjectIdentifier{1, 3, 101, 112}, signature)
	if err := mustRequest(t, der).CheckSignature(); err != nil {
		t.Fatalf("control: %v", err)
	}
	_, err = ca.ParseRequest("csr", der)
	wantKind(t, err, ca.KindWeakKey, "csr")
}

// FuzzParseRequest: no input makes ParseRequest panic, and what it accepts
// verifies when read again, with a key that the policy allows.
func FuzzParseRequest(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "csr", "*.pem"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		f.Add(derOf(f, text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ca.ParseRequest("csr", text)
		if err != nil {
			if _, ok := errors.AsType[*ca.Error](err); !ok {
				t.Fatalf("an error without a kind: %v", err)
			}
			return
		}
		der := text
		if block, _ := pem.Decode(text); block != nil && text[0] != 0x30 {
			der = block.Bytes
		}
		csr := mustRequest(t, der)
		if err := csr.CheckSignature(); err != nil || len(text) > ca.MaxRequestSize || r.KeySHA256 != keySHA256(t, csr.PublicKey) {
			t.Fatalf("accepted: %v", err)
		}
		again, err := ca.ParseRequest("csr", pemOf("CERTIFICATE REQUEST", der))
		if len(der) < ca.MaxRequestSize/2 && (err != nil || !bytes.Equal(again.InfoSHA256, r.InfoSHA256)) {
			t.Fatalf("PEM and DER disagree: %v", err)
		}
	})
}
