// Package brokertest has what tests of broker drivers need: a small PKI that
// can also make what no authority should, and the contract that every driver
// passes.
package brokertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/fleetca/fleetca/enroll/brokers"
)

// A CA is an issuing CA of a test.
type CA struct {
	t           testing.TB
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
	URL         string // distribution point in its leaves and lists; empty for none
}

// NewCA makes a self-signed CA.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	key := NewKey(t)
	template := &x509.Certificate{
		SerialNumber: newSerial(t), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	return &CA{t: t, Certificate: must(x509.ParseCertificate(der))(t), Key: key, URL: "http://crl.test/" + name + ".crl"}
}

// NewKey makes a P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

// Issue signs a leaf for a public key. The template's names, usages and times
// are kept; a serial number, one day of life and the CA's distribution point
// are added where they are missing.
func (ca *CA) Issue(template x509.Certificate, public any) *x509.Certificate {
	ca.t.Helper()
	if template.SerialNumber == nil {
		template.SerialNumber = newSerial(ca.t)
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour)
	}
	if template.CRLDistributionPoints == nil && ca.URL != "" {
		template.CRLDistributionPoints = []string{ca.URL}
	}
	template.KeyUsage |= x509.KeyUsageDigitalSignature
	der := must(x509.CreateCertificate(rand.Reader, &template, ca.Certificate, public, ca.Key))(ca.t)
	return must(x509.ParseCertificate(der))(ca.t)
}

// Device issues a client certificate with a new key.
func (ca *CA) Device(name string) tls.Certificate {
	ca.t.Helper()
	return ca.Client(x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Client issues a certificate of any shape with a new key.
func (ca *CA) Client(template x509.Certificate) tls.Certificate {
	ca.t.Helper()
	key := NewKey(ca.t)
	leaf := ca.Issue(template, key.Public())
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// Server issues a chain for a broker's certificate request.
func (ca *CA) Server(csr []byte) [][]byte {
	ca.t.Helper()
	request := must(x509.ParseCertificateRequest(csr))(ca.t)
	if err := request.CheckSignature(); err != nil {
		ca.t.Fatal(err)
	}
	leaf := ca.Issue(x509.Certificate{
		Subject: request.Subject, DNSNames: request.DNSNames, IPAddresses: request.IPAddresses,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, request.PublicKey)
	return [][]byte{leaf.Raw, ca.Certificate.Raw}
}

// Scope is the CA with its distribution point.
func (ca *CA) Scope() brokers.Scope {
	return brokers.Scope{Issuer: ca.Certificate, DistributionPoints: []string{ca.URL}}
}

// List is a revocation list to sign; zero values are filled in.
type List struct {
	Number     int64
	ThisUpdate time.Time // a minute ago
	NextUpdate time.Time // in an hour
	Revoked    []*x509.Certificate
	IDP        []byte // of the CA's URL
	NoIDP      bool
	Extra      []pkix.Extension
}

// CRL signs a revocation list and returns it as PEM.
func (ca *CA) CRL(list List) []byte {
	ca.t.Helper()
	if list.ThisUpdate.IsZero() {
		list.ThisUpdate = time.Now().Add(-time.Minute)
	}
	if list.NextUpdate.IsZero() {
		list.NextUpdate = time.Now().Add(time.Hour)
	}
	if list.IDP == nil {
		list.IDP = IDP(ca.URL)
	}
	template := &x509.RevocationList{
		Number: big.NewInt(list.Number), ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate, ExtraExtensions: list.Extra,
	}
	if !list.NoIDP {
		template.ExtraExtensions = append(template.ExtraExtensions,
			pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: list.IDP})
	}
	for _, certificate := range list.Revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: certificate.SerialNumber, RevocationTime: list.ThisUpdate, ReasonCode: 1})
	}
	der := must(x509.CreateRevocationList(rand.Reader, template, ca.Certificate, ca.Key))(ca.t)
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// Bundle is a bundle of this CA's list only.
func (ca *CA) Bundle(list List) brokers.Bundle {
	ca.t.Helper()
	return brokers.Bundle{PEM: ca.CRL(list), Scopes: []brokers.Scope{ca.Scope()}}
}

// IDP encodes an issuing distribution point with these URIs (RFC 5280 section
// 5.2.5).
func IDP(uris ...string) []byte {
	var b cryptobyte.Builder
	context := func(n uint8) cryptobyte_asn1.Tag { return cryptobyte_asn1.Tag(n).ContextSpecific() }
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(context(0).Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(context(0).Constructed(), func(b *cryptobyte.Builder) {
				for _, uri := range uris {
					b.AddASN1(context(6), func(b *cryptobyte.Builder) { b.AddBytes([]byte(uri)) })
				}
			})
		})
	})
	return b.BytesOrPanic()
}

// Loopback are the names of a broker on this machine.
var Loopback = []string{"localhost", "127.0.0.1", net.IPv6loopback.String()}

func newSerial(t testing.TB) *big.Int {
	t.Helper()
	return must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126)))(t)
}

func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
