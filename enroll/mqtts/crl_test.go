package mqtts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"reflect"
	"testing"
	"time"
)

// makeCRL signs a CRL of n entries: serial numbers 1 to n, some with a reason.
func makeCRL(t testing.TB, n int) ([]byte, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Issuer"}, BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCRLSign, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	list := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range n {
		if i == 3 {
			at = time.Date(2055, 1, 2, 3, 4, 5, 0, time.UTC) // GeneralizedTime
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(int64(i) + 1), RevocationTime: at, ReasonCode: i % 7})
	}
	der, err = x509.CreateRevocationList(rand.Reader, list, issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	return der, issuer
}

// TestParseCRL holds the short way against the standard library's.
func TestParseCRL(t *testing.T) {
	for _, n := range []int{0, 1, 50} {
		der, issuer := makeCRL(t, n)
		want, err := x509.ParseRevocationList(der)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseCRL(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := got.CheckSignatureFrom(issuer); err != nil {
			t.Error(err)
		}
		for serial := range n + 2 {
			e, err := findRevocation(got, big.NewInt(int64(serial)))
			if err != nil || (e != nil) != (serial >= 1 && serial <= n) {
				t.Fatalf("serial %d of %d: %+v, %v", serial, n, e, err)
			}
			if e != nil && (!e.at.Equal(want.RevokedCertificateEntries[serial-1].RevocationTime) || e.reason != want.RevokedCertificateEntries[serial-1].ReasonCode) {
				t.Errorf("serial %d: %+v, want %+v", serial, e, want.RevokedCertificateEntries[serial-1])
			}
		}
		want.RevokedCertificateEntries = nil
		want.RevokedCertificates = nil //nolint:staticcheck // the deprecated copy of the entries
		got.RevokedCertificateEntries = nil
		got.RevokedCertificates = nil //nolint:staticcheck // as above
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d entries:\n%+v\n%+v", n, got, want)
		}
	}
}

// FuzzParseCRL: what x509 takes, ours takes, and finds the same entries.
func FuzzParseCRL(f *testing.F) {
	for _, n := range []int{0, 1, 5} {
		der, _ := makeCRL(f, n)
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		want, wantErr := x509.ParseRevocationList(der)
		got, err := ParseCRL(der)
		if wantErr != nil {
			if got != nil {
				_, _ = findRevocation(got, big.NewInt(1)) // must not panic
			}
			return
		}
		if err != nil {
			t.Fatalf("x509 takes it, ours does not: %v", err)
		}
		seen := map[string]bool{}
		for _, entry := range want.RevokedCertificateEntries {
			serial := entry.SerialNumber.String()
			if entry.SerialNumber.Sign() <= 0 {
				continue // of no certificate that crypto/x509 parses
			}
			if e, err := findRevocation(got, entry.SerialNumber); err != nil || e == nil || !seen[serial] && !e.at.Equal(entry.RevocationTime) {
				t.Fatalf("serial %s: %+v, %v", serial, e, err)
			}
			seen[serial] = true
		}
	})
}

func BenchmarkFindRevocation(b *testing.B) {
	der, _ := makeCRL(b, 100_000)
	crl, err := ParseCRL(der)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(der)))
	b.ReportAllocs()
	for b.Loop() {
		if e, err := findRevocation(crl, big.NewInt(100_000)); e == nil || err != nil {
			b.Fatal(err)
		}
	}
}
