package embedded

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
)

var versions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}

// alert returns the number of the TLS alert that a client received, 0 for none.
func alert(err error) int {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" {
		return 0
	}
	for number := range 256 {
		if op.Err.Error() == tls.AlertError(number).Error() {
			return number
		}
	}
	return 0
}

func TestContract(t *testing.T) {
	brokertest.Run(t, func(t *testing.T, clients *brokertest.CA) brokers.Driver {
		b, err := New(Config{Addr: "127.0.0.1:0", Dir: t.TempDir(), ClientCAs: []*x509.Certificate{clients.Certificate}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		return b
	})
}

// Who is let in and who is not, in both versions of TLS, and what the refused
// are told.
func TestHandshake(t *testing.T) {
	s := newSite(t)
	forClients := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	named := func(name string) x509.Certificate {
		return x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: forClients}
	}
	good, revoked := s.clients.Device("good"), s.clients.Device("revoked")
	withChain := good
	withChain.Certificate = append(withChain.Certificate[:1:1], s.clients.Certificate.Raw)
	expired, early := named("expired"), named("early")
	expired.NotBefore, expired.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	early.NotBefore, early.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	elsewhere := named("elsewhere")
	elsewhere.CRLDistributionPoints = []string{"http://other.test/x.crl"}
	forServers, forNothing := named("server"), named("nothing")
	forServers.ExtKeyUsage, forNothing.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, nil
	itself := tls.Certificate{Certificate: [][]byte{s.clients.Certificate.Raw}, PrivateKey: s.clients.Key, Leaf: s.clients.Certificate}
	s.revoke(revoked)

	for _, test := range []struct {
		name         string
		certificate  tls.Certificate
		alert, alt12 int // 0 is let in; in TLS 1.2 the second, if it differs
		cause        string
	}{
		{"good", good, 0, 0, ""},
		{"good, with chain", withChain, 0, 0, ""},
		{"revoked", revoked, 42, 42, "is revoked"},
		{"no certificate", tls.Certificate{}, 116, 40, "didn't provide a certificate"},
		{"foreign CA", brokertest.NewCA(t, "foreign").Device("good"), 48, 48, "unknown authority"},
		{"foreign CA of the same name", brokertest.NewCA(t, "devices").Device("good"), 48, 48, "unknown authority"},
		{"expired", s.clients.Client(expired), 45, 45, "expired"},
		{"not yet valid", s.clients.Client(early), 45, 45, "not yet valid"},
		{"for servers", s.clients.Client(forServers), 42, 42, "usage"},
		{"for nothing", s.clients.Client(forNothing), 42, 42, "clientAuth"},
		{"the CA itself", itself, 42, 42, "that of a CA"},
		{"no name", s.clients.Client(named("")), 42, 42, "no common name"},
		{"a name with a level", s.clients.Client(named("a/b")), 42, 42, "topic level"},
		{"a name that is a wildcard", s.clients.Client(named("#")), 42, 42, "topic level"},
		{"outside of the list's scope", s.clients.Client(elsewhere), 42, 42, "does not speak for"},
	} {
		for name, version := range versions {
			t.Run(test.name+" "+name, func(t *testing.T) {
				s.log.take()
				counts := s.Counts()
				_, answer, err := s.dial(s.tls(&test.certificate, version), connect(4, "c"))
				want := test.alert
				if version == tls.VersionTLS12 {
					want = test.alt12
				}
				if want == 0 {
					if err != nil || answer.FixedHeader.Type != packets.Connack || answer.ReasonCode != 0 {
						t.Fatalf("no session: %v, reason %d", err, answer.ReasonCode)
					}
					return
				}
				if err == nil || alert(err) != want {
					t.Fatalf("answer %d, error %v; want alert %d", answer.FixedHeader.Type, err, want)
				}
				eventually(t, "counted", func() bool { return s.Counts().Refused == counts.Refused+1 })
				var log string
				eventually(t, "logged", func() bool { log += s.log.take(); return strings.Contains(log, test.cause) })
				if strings.Count(log, "level=INFO") != 1 || strings.Contains(log, "PRIVATE") {
					t.Errorf("log:\n%s", log)
				}
			})
		}
	}
}

// Without a current list of the leaf's issuer nobody enters.
func TestFailClosed(t *testing.T) {
	refused := func(t *testing.T, s *site, certificate tls.Certificate, cause string) {
		t.Helper()
		for name, version := range versions {
			s.log.take()
			_, _, err := s.dial(s.tls(&certificate, version), connect(5, "c"))
			if err == nil {
				t.Errorf("%s: let in", name)
			}
			var log string
			eventually(t, "logged", func() bool { log += s.log.take(); return strings.Contains(log, cause) })
		}
	}
	t.Run("no certificate, no list", func(t *testing.T) {
		s := &site{t: t, dir: t.TempDir(), log: new(lines), servers: brokertest.NewCA(t, "brokers"), clients: brokertest.NewCA(t, "devices")}
		s.open()
		s.start()
		device := s.clients.Device("d")
		refused(t, s, device, "no certificate yet")
		brokertest.Install(t, s, s.servers)
		refused(t, s, device, "no revocation list")
		s.revoke()
		s.mustDial(device, connect(4, "c"))
	})
	t.Run("expired list", func(t *testing.T) {
		s := newSite(t)
		device := s.clients.Device("d")
		live := s.mustDial(device, connect(4, "live"))
		s.clock.move(2 * time.Hour)
		refused(t, s, device, "expired at")
		if code := live.publish("x", "y", 1, false); code != 0 { // who is in stays in
			t.Errorf("reason %#x", code)
		}
	})
	t.Run("an anchor that is not a CA", func(t *testing.T) {
		s := newSite(t)
		device := s.clients.Device("d")
		s.SetClientCAs([]*x509.Certificate{device.Leaf})
		refused(t, s, device, "itself a trust anchor")
	})
	t.Run("second issuer without list", func(t *testing.T) {
		s := newSite(t)
		second := brokertest.NewCA(t, "more-devices")
		device := second.Device("d")
		refused(t, s, device, "unknown authority")
		s.SetClientCAs([]*x509.Certificate{s.clients.Certificate, second.Certificate})
		refused(t, s, device, "no revocation list")
		s.mustDial(s.clients.Device("d"), connect(4, "c"))
		both := brokers.Bundle{
			PEM:    append(s.clients.CRL(brokertest.List{Number: 50}), second.CRL(brokertest.List{Number: 1})...),
			Scopes: []brokers.Scope{s.clients.Scope(), second.Scope()},
		}
		if err := s.LoadCRL(t.Context(), both); err != nil {
			t.Fatal(err)
		}
		s.mustDial(device, connect(4, "c"))
	})
}

// A device without a distribution point, from before its issuer had any, is let
// in also when its issuer has several lists; and refused when any names it, or
// has lapsed.
func TestNoDistributionPoint(t *testing.T) {
	s := newSite(t)
	shard := *s.clients
	shard.URL = "http://crl.test/devices/1.crl"
	old := *s.clients
	old.URL = ""
	good, revoked, elsewhere := old.Device("good"), old.Device("revoked"), old.Device("elsewhere")
	if len(good.Leaf.CRLDistributionPoints) != 0 {
		t.Fatal("it has a distribution point")
	}
	load := func(first, second brokertest.List) {
		t.Helper()
		bundle := brokers.Bundle{PEM: append(s.clients.CRL(first), shard.CRL(second)...), Scopes: []brokers.Scope{s.clients.Scope(), shard.Scope()}}
		if err := s.LoadCRL(t.Context(), bundle); err != nil {
			t.Fatal(err)
		}
	}
	enters := func(certificate tls.Certificate) bool {
		t.Helper()
		_, answer, err := s.dial(s.tls(&certificate, tls.VersionTLS13), connect(4, certificate.Leaf.Subject.CommonName))
		return err == nil && answer.FixedHeader.Type == packets.Connack && answer.ReasonCode == 0
	}
	load(brokertest.List{Number: 50, Revoked: []*x509.Certificate{revoked.Leaf}}, brokertest.List{Number: 50, Revoked: []*x509.Certificate{elsewhere.Leaf}})
	if !enters(good) || enters(revoked) || enters(elsewhere) {
		t.Errorf("good %v, revoked %v, revoked on another list %v", enters(good), enters(revoked), enters(elsewhere))
	}
	if with := shard.Device("with"); !enters(with) {
		t.Error("a device of the shard is refused")
	}
	load(brokertest.List{Number: 51}, brokertest.List{Number: 51, NextUpdate: time.Now().Add(10 * time.Minute)})
	s.clock.move(20 * time.Minute)
	if enters(good) {
		t.Error("let in, although a list that may name it has lapsed")
	}
	if with := s.clients.Device("other"); !enters(with) {
		t.Error("a device of the list that has not is refused")
	}
}

// A session is resumed for a good device, also after the broker's certificate
// was replaced, and for nobody else.
func TestResumption(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			device := s.clients.Device("d")
			config := s.tls(&device, version)
			config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			enter := func() (bool, error) {
				client, answer, err := s.dial(config, connect(4, "c"))
				if err != nil {
					return false, err
				}
				if answer.ReasonCode != 0 {
					t.Fatalf("reason %d", answer.ReasonCode)
				}
				client.publish("x", "y", 1, false) // reads the session ticket of TLS 1.3, too
				_ = client.conn.Close()
				return client.conn.(*tls.Conn).ConnectionState().DidResume, nil
			}
			wantEnter := func(resumed bool) {
				t.Helper()
				if did, err := enter(); err != nil || did != resumed {
					t.Fatalf("resumed %v, %v", did, err)
				}
			}
			wantRefused := func(cause string) {
				t.Helper()
				s.log.take()
				_, err := enter()
				if got := alert(err); got != 42 {
					t.Fatalf("alert %d: %v", got, err)
				}
				var log string
				eventually(t, "logged", func() bool { log += s.log.take(); return strings.Contains(log, cause) })
				if !strings.Contains(log, "resumed=true") {
					t.Errorf("not a resumed handshake:\n%s", log)
				}
			}
			kept := version == tls.VersionTLS13 // in 1.2 a refusal costs the client its ticket
			wantEnter(false)
			wantEnter(true)
			brokertest.Install(t, s, s.servers)
			wantEnter(true)
			if n := s.Counts().Resumed; n != 2 {
				t.Errorf("%d resumed handshakes were counted", n)
			}
			s.clock.move(2 * time.Hour)
			wantRefused("expired at")
			s.clock.move(-2 * time.Hour)
			wantEnter(kept)
			s.revoke(device)
			wantRefused("is revoked")
			s.revoke()
			wantEnter(kept)
			s.SetClientCAs(nil)
			if _, err := enter(); err == nil {
				t.Error("resumed although its CA is not trusted any more")
			}
		})
	}
}
