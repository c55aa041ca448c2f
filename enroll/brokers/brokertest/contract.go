package brokertest

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/fleetca/fleetca/enroll/brokers"
)

// Run checks what every driver must do, on a broker without a certificate and
// without a revocation list that trusts the clients of this CA.
func Run(t *testing.T, open func(t *testing.T, clients *CA) brokers.Driver) {
	t.Run("install", func(t *testing.T) { install(t, open(t, NewCA(t, "devices"))) })
	t.Run("refused chains", func(t *testing.T) { refusedChains(t, open(t, NewCA(t, "devices"))) })
	t.Run("crl", func(t *testing.T) {
		clients := NewCA(t, "devices")
		loadCRL(t, open(t, clients), clients)
	})
	t.Run("nobody to disconnect", func(t *testing.T) {
		driver := open(t, NewCA(t, "devices"))
		if closed, err := driver.Disconnect(t.Context(), "nobody"); closed != 0 || err != nil {
			t.Fatalf("Disconnect: %d, %v", closed, err)
		}
		if sessions, err := driver.Sessions(t.Context()); len(sessions) != 0 || err != nil {
			t.Fatalf("Sessions: %v, %v", sessions, err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		driver := open(t, NewCA(t, "devices"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := driver.CertificateRequest(ctx, Loopback); !errors.Is(err, context.Canceled) {
			t.Errorf("CertificateRequest: %v", err)
		}
		if err := driver.Install(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("Install: %v", err)
		}
	})
}

func install(t *testing.T, driver brokers.Driver) {
	issuer := NewCA(t, "brokers")
	if _, err := driver.Active(t.Context()); !errors.Is(err, brokers.ErrNoGeneration) {
		t.Fatalf("Active before the first install: %v", err)
	}
	if err := driver.Rollback(t.Context()); !errors.Is(err, brokers.ErrNoGeneration) {
		t.Fatalf("Rollback before the first install: %v", err)
	}
	first := Install(t, driver, issuer)
	if err := driver.Rollback(t.Context()); !errors.Is(err, brokers.ErrNoGeneration) {
		t.Fatalf("Rollback of the first: %v", err)
	}
	second := Install(t, driver, issuer)
	wantActive(t, driver, second[0])
	for range 2 { // a repeated install and a repeated rollback change nothing
		if err := driver.Install(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		wantActive(t, driver, second[0])
	}
	for range 2 {
		if err := driver.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantActive(t, driver, first[0])
	}
	if err := driver.Install(t.Context(), second); err != nil { // what was left can be taken up again
		t.Fatal(err)
	}
	wantActive(t, driver, second[0])
}

// Install asks the driver for a request, has the CA issue, and installs.
func Install(t testing.TB, driver brokers.Driver, issuer *CA) [][]byte {
	t.Helper()
	csr := must(driver.CertificateRequest(t.Context(), Loopback))(t)
	chain := issuer.Server(csr)
	if err := driver.Install(t.Context(), chain); err != nil {
		t.Fatal(err)
	}
	return chain
}

func wantActive(t *testing.T, driver brokers.Driver, leaf []byte) {
	t.Helper()
	active, err := driver.Active(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(active.Raw, leaf) {
		t.Fatalf("active is %x", active.SerialNumber)
	}
}

func refusedChains(t *testing.T, driver brokers.Driver) {
	issuer := NewCA(t, "brokers")
	good := Install(t, driver, issuer)
	csr := must(driver.CertificateRequest(t.Context(), Loopback))(t)
	next := issuer.Server(csr)
	request := must(x509.ParseCertificateRequest(csr))(t)
	past := issuer.Issue(x509.Certificate{
		NotBefore: issuer.Certificate.NotBefore, NotAfter: issuer.Certificate.NotBefore.Add(1),
		DNSNames: Loopback[:1], ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, request.PublicKey)
	client := issuer.Issue(x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, request.PublicKey)
	stranger := issuer.Issue(x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, NewKey(t).Public())
	for name, chain := range map[string][][]byte{
		"empty":              nil,
		"garbage":            {[]byte("garbage")},
		"expired":            {past.Raw, issuer.Certificate.Raw},
		"key not staged":     {stranger.Raw, issuer.Certificate.Raw},
		"does not link":      {next[0], NewCA(t, "brokers").Certificate.Raw},
		"CA first":           {issuer.Certificate.Raw, next[0]},
		"not for servers":    {client.Raw, issuer.Certificate.Raw},
		"garbage after leaf": {next[0], []byte("garbage")},
	} {
		if err := driver.Install(t.Context(), chain); err == nil {
			t.Errorf("%s: installed", name)
		}
		wantActive(t, driver, good[0])
	}
	if err := driver.Install(t.Context(), next); err != nil {
		t.Fatal("the good chain after all the bad ones:", err)
	}
	wantActive(t, driver, next[0])
}

func loadCRL(t *testing.T, driver brokers.Driver, clients *CA) {
	if err := driver.LoadCRL(t.Context(), clients.Bundle(List{Number: 5})); err != nil {
		t.Fatal(err)
	}
	for name, bundle := range map[string]brokers.Bundle{
		"empty":   {Scopes: []brokers.Scope{clients.Scope()}},
		"older":   clients.Bundle(List{Number: 4}),
		"foreign": {PEM: NewCA(t, "foreign").CRL(List{Number: 9}), Scopes: []brokers.Scope{clients.Scope()}},
	} {
		err := driver.LoadCRL(t.Context(), bundle)
		if refusal, ok := errors.AsType[*brokers.GuardError](err); !ok || refusal.Problem == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := clients.Bundle(List{Number: 6})
	for range 2 {
		if err := driver.LoadCRL(t.Context(), good); err != nil {
			t.Fatal(err)
		}
	}
}
