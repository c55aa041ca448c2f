package mosquitto

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
)

// TestShards: of an issuer with several lists in one bundle, each certificate is
// held against the one that it names, also after the status URL moved. A bundle
// that lacks a shard is not loaded.
func TestShards(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	shard := func(url string) *brokertest.CA {
		one := *s.clients
		one.URL = url
		return &one
	}
	first, second := s.clients, shard("http://crl.test/clients/1.crl")
	moved := shard("http://moved.test/clients/1.crl")
	devices := map[string]tls.Certificate{
		"first": first.Device("first"), "second": second.Device("second"), "moved": moved.Device("moved"),
		"first revoked": first.Device("bad1"), "second revoked": second.Device("bad2"), "moved revoked": moved.Device("bad3"),
	}
	scope := second.Scope()
	scope.DistributionPoints = append(scope.DistributionPoints, moved.URL)
	s.number++
	list := func(names ...string) brokertest.List {
		l := brokertest.List{Number: s.number}
		for _, name := range names {
			l.Revoked = append(l.Revoked, devices[name].Leaf)
		}
		return l
	}
	one, two := list("first revoked"), list("second revoked", "moved revoked")
	two.IDP = brokertest.IDP(second.URL, moved.URL)
	bundle := brokers.Bundle{PEM: append(first.CRL(one), second.CRL(two)...), Scopes: []brokers.Scope{first.Scope(), scope}}
	lacking := brokers.Bundle{PEM: first.CRL(one), Scopes: bundle.Scopes}
	if err := s.LoadCRL(t.Context(), lacking); err == nil || !strings.Contains(err.Error(), moved.URL) {
		t.Errorf("a bundle without the second shard: %v", err)
	}
	if err := s.LoadCRL(t.Context(), bundle); err != nil {
		t.Fatal(err)
	}
	for name, device := range devices {
		if strings.HasSuffix(name, "revoked") {
			s.refused(device)
		} else if err := s.admits(s.tls(device)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	elsewhere := shard("http://crl.test/clients/2.crl").Client(x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if s.admits(s.tls(elsewhere)) == nil {
		t.Error("control: a certificate that no list speaks for is admitted")
	}
}
