package mqtts_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// An authority issues certificates for tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	above       [][]byte // DER of the authorities up to, but without, the root
	root        *x509.Certificate
}

var lastSerial atomic.Int64

// A change alters a certificate before it is signed.
type change func(*x509.Certificate)

func newAuthority(t testing.TB, name string, parent *authority, changes ...change) *authority {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true, IsCA: true,
		KeyUsage:  x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	key, der := sign(t, template, parent, changes)
	a := &authority{key: key}
	var err error
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.root = a.certificate
	if parent != nil {
		a.above, a.root = append([][]byte{der}, parent.above...), parent.root
	}
	return a
}

// sign makes a key and a certificate for it; a nil parent signs itself.
func sign(t testing.TB, template *x509.Certificate, parent *authority, changes []change) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(0xabc000 + lastSerial.Add(1))
	for _, change := range changes {
		change(template)
	}
	issuer, issuerKey := template, key
	if parent != nil {
		issuer, issuerKey = parent.certificate, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// issue returns a leaf with its chain. Without changes it is a good certificate
// for a broker on loopback and for a device alike.
func (a *authority) issue(t testing.TB, name string, changes ...change) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{name, "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(12 * time.Hour),
	}
	key, der := sign(t, template, a, changes)
	return &tls.Certificate{Certificate: append([][]byte{der}, a.above...), PrivateKey: key}
}

func expired(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
}

func notYetValid(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour)
}

func usage(u ...x509.ExtKeyUsage) change { return func(c *x509.Certificate) { c.ExtKeyUsage = u } }

func names(dns []string, ips ...net.IP) change {
	return func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = dns, ips }
}

func leafOf(t testing.TB, c *tls.Certificate) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// crl signs a CRL of the certificates given.
func (a *authority) crl(t testing.TB, next time.Duration, revoked ...*tls.Certificate) *x509.RevocationList {
	t.Helper()
	list := &x509.RevocationList{
		Number: big.NewInt(lastSerial.Add(1)), ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: time.Now().Add(next),
	}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: leafOf(t, c).SerialNumber, RevocationTime: time.Now().Add(-time.Hour), ReasonCode: 1})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.certificate, a.key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// A fleet is the certificates that most tests use.
type fleet struct {
	root, issuer *authority
	broker       *tls.Certificate
	device       *tls.Certificate
	clientCAs    *x509.CertPool
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	f := &fleet{root: newAuthority(t, "Fleet Root", nil)}
	f.issuer = newAuthority(t, "Fleet Issuer", f.root)
	f.broker = f.issuer.issue(t, "broker.test", usage(x509.ExtKeyUsageServerAuth))
	f.device = f.issuer.issue(t, "device-1", usage(x509.ExtKeyUsageClientAuth))
	f.clientCAs = x509.NewCertPool()
	f.clientCAs.AddCert(f.root.certificate)
	return f
}

func (f *fleet) roots() []*x509.Certificate { return []*x509.Certificate{f.root.certificate} }

// writePEM writes blocks of one type into a file and returns its path.
func writePEM(t testing.TB, dir, name, kind string, ders ...[]byte) string {
	t.Helper()
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, out, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func keyOf(t testing.TB, c *tls.Certificate) *ecdsa.PrivateKey {
	t.Helper()
	key, ok := c.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("key is a %T", c.PrivateKey)
	}
	return key
}
