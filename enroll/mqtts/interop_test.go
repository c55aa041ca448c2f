package mqtts_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
	"github.com/fleetca/fleetca/enroll/mqtts/brokerkit"
)

// A lab is every certificate of the matrix.
type lab struct {
	*fleet
	crls    []*x509.RevocationList // current, of both authorities
	revoked *tls.Certificate
	foreign *authority
	rogue   *authority // the names of the fleet's authorities, and other keys
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{fleet: newFleet(t)}
	l.foreign = newAuthority(t, "Foreign Issuer", newAuthority(t, "Foreign Root", nil))
	l.rogue = newAuthority(t, "Fleet Issuer", newAuthority(t, "Fleet Root", nil))
	l.revoked = l.issuer.issue(t, "device-2", forClients)
	l.crls = []*x509.RevocationList{l.issuer.crl(t, time.Hour, l.revoked), l.root.crl(t, time.Hour)}
	return l
}

var forClients = usage(x509.ExtKeyUsageClientAuth)

// A phase is a configuration of a broker. They follow on each other by reloads.
type phase struct {
	name   string
	change func(t *testing.T, l *lab, s *brokerkit.Setup)
}

var phases = []phase{
	{"as it should be", func(*testing.T, *lab, *brokerkit.Setup) {}},
	{"intermediate not sent", func(_ *testing.T, l *lab, s *brokerkit.Setup) {
		s.Certificate = &tls.Certificate{Certificate: l.broker.Certificate[:1], PrivateKey: l.broker.PrivateKey}
	}},
	{"root sent as well", func(_ *testing.T, l *lab, s *brokerkit.Setup) {
		s.Certificate = &tls.Certificate{Certificate: append(slices.Clone(l.broker.Certificate), l.root.certificate.Raw), PrivateKey: l.broker.PrivateKey}
	}},
	{"certificate expired", func(t *testing.T, l *lab, s *brokerkit.Setup) {
		s.Certificate = l.issuer.issue(t, "broker.test", usage(x509.ExtKeyUsageServerAuth), expired)
	}},
	{"CRL expired", func(t *testing.T, l *lab, s *brokerkit.Setup) {
		s.CRLs = []*x509.RevocationList{l.issuer.crl(t, -time.Minute, l.revoked), l.root.crl(t, time.Hour)}
	}},
	{"CRL of the issuer missing", func(_ *testing.T, l *lab, s *brokerkit.Setup) { s.CRLs = l.crls[1:] }},
	{"key of another certificate", func(t *testing.T, l *lab, s *brokerkit.Setup) {
		other := l.issuer.issue(t, "broker.test", usage(x509.ExtKeyUsageServerAuth))
		s.Certificate = &tls.Certificate{Certificate: l.broker.Certificate, PrivateKey: other.PrivateKey}
	}},
}

// A situation is what is done to a broker, and what must be diagnosed. An empty
// code says that the run passes.
type situation struct {
	name   string
	phase  string // of the broker; the first when empty
	change func(t *testing.T, l *lab, b *brokerkit.Broker, target *mqtts.Target)
	step   mqtts.StepName
	code   mqtts.Code
}

// as connects as another client.
func as(certificate func(t *testing.T, l *lab) *tls.Certificate) func(*testing.T, *lab, *brokerkit.Broker, *mqtts.Target) {
	return func(t *testing.T, l *lab, _ *brokerkit.Broker, target *mqtts.Target) {
		target.Certificate = certificate(t, l)
	}
}

// asOwn connects as a client of the fleet's issuer.
func asOwn(changes ...change) func(*testing.T, *lab, *brokerkit.Broker, *mqtts.Target) {
	return as(func(t *testing.T, l *lab) *tls.Certificate { return l.issuer.issue(t, "device-1", changes...) })
}

// trusting connects with the root of another authority as trust bundle.
func trusting(other func(l *lab) *authority) func(*testing.T, *lab, *brokerkit.Broker, *mqtts.Target) {
	return func(_ *testing.T, l *lab, _ *brokerkit.Broker, target *mqtts.Target) {
		target.Roots = []*x509.Certificate{other(l).root}
	}
}

// situations are the rows of the matrix.
var situations = []situation{
	{name: "good"},
	{name: "no client certificate", change: as(func(*testing.T, *lab) *tls.Certificate { return nil }),
		step: mqtts.StepSessionKeys, code: mqtts.CodeClientCertificateRequired},
	{name: "client of a foreign CA", change: as(func(t *testing.T, l *lab) *tls.Certificate { return l.foreign.issue(t, "device-1", forClients) }),
		step: mqtts.StepSessionKeys, code: mqtts.CodeClientUnknownCA},
	{name: "client of a rogue CA with the same name", change: as(func(t *testing.T, l *lab) *tls.Certificate { return l.rogue.issue(t, "device-1", forClients) }),
		step: mqtts.StepSessionKeys, code: mqtts.CodeClientUnknownCA},
	{name: "client certificate expired", change: asOwn(forClients, expired),
		step: mqtts.StepSessionKeys, code: mqtts.CodeClientCertificateExpired},
	{name: "client certificate not yet valid", change: asOwn(forClients, notYetValid),
		step: mqtts.StepSessionKeys, code: mqtts.CodeClientCertificateNotYet},
	{name: "client certificate for servers", change: asOwn(usage(x509.ExtKeyUsageServerAuth)),
		step: mqtts.StepSessionKeys, code: mqtts.CodeClientWrongUsage},
	{name: "client certificate revoked", change: as(func(_ *testing.T, l *lab) *tls.Certificate { return l.revoked }),
		step: mqtts.StepSessionKeys, code: mqtts.CodeClientCertificateRevoked},
	{name: "broker's CRL expired", phase: "CRL expired",
		step: mqtts.StepSessionKeys, code: mqtts.CodeBrokerCRLExpiredOrClock},
	{name: "broker without the issuer's CRL", phase: "CRL of the issuer missing",
		step: mqtts.StepSessionKeys, code: mqtts.CodeClientCRLMissing},
	{name: "wrong name", change: func(_ *testing.T, _ *lab, _ *brokerkit.Broker, target *mqtts.Target) {
		target.ServerName = "other.test"
	},
		step: mqtts.StepVerify, code: mqtts.CodeServerNameMismatch},
	{name: "wrong IP address", change: func(_ *testing.T, _ *lab, _ *brokerkit.Broker, target *mqtts.Target) { target.ServerName = "192.0.2.1" },
		step: mqtts.StepVerify, code: mqtts.CodeServerNameMismatch},
	{name: "root not in the trust bundle, and sent", phase: "root sent as well", change: trusting(func(l *lab) *authority { return l.foreign }),
		step: mqtts.StepVerify, code: mqtts.CodeServerUnknownCA},
	{name: "root not in the trust bundle, nor sent", change: trusting(func(l *lab) *authority { return l.foreign }),
		step: mqtts.StepVerify, code: mqtts.CodeServerUnknownCA},
	{name: "root in the trust bundle with another key", change: trusting(func(l *lab) *authority { return l.rogue }),
		step: mqtts.StepVerify, code: mqtts.CodeServerSameNameOtherKey},
	{name: "intermediate not sent", phase: "intermediate not sent",
		step: mqtts.StepVerify, code: mqtts.CodeServerMissingIntermediate},
	{name: "broker's certificate expired", phase: "certificate expired",
		step: mqtts.StepVerify, code: mqtts.CodeServerCertificateExpired},
	{name: "broker's key of another certificate", phase: "key of another certificate",
		step: mqtts.StepClientHello, code: mqtts.CodeServerBrokenKey},
	{name: "bad password", change: func(_ *testing.T, _ *lab, _ *brokerkit.Broker, target *mqtts.Target) { target.Password = "wrong" },
		step: mqtts.StepConnack, code: mqtts.CodeConnackNotAuthorized},
	{name: "TLS to a plaintext listener", change: func(_ *testing.T, _ *lab, b *brokerkit.Broker, target *mqtts.Target) { target.URL = b.Plain },
		step: mqtts.StepClientHello, code: mqtts.CodePlaintextListener},
	{name: "websocket", change: func(_ *testing.T, _ *lab, b *brokerkit.Broker, target *mqtts.Target) { target.URL = b.WSS }},
	{name: "websocket, no client certificate", change: func(_ *testing.T, _ *lab, b *brokerkit.Broker, target *mqtts.Target) {
		target.URL, target.Certificate = b.WSS, nil
	}, step: mqtts.StepSessionKeys, code: mqtts.CodeClientCertificateRequired},
	{name: "websocket, client certificate revoked", change: func(_ *testing.T, l *lab, b *brokerkit.Broker, target *mqtts.Target) {
		target.URL, target.Certificate = b.WSS, l.revoked
	}, step: mqtts.StepSessionKeys, code: mqtts.CodeClientCertificateRevoked},
}

// A cell is a situation in one TLS and one MQTT version, and what came of it.
type cell struct {
	situation
	tls  uint16
	mqtt string

	target mqtts.Target
	report *mqtts.Report
}

func (c cell) tlsText() string { return strings.TrimPrefix(tls.VersionName(c.tls), "TLS ") }

// mqttVersions are the MQTT versions of the matrix. With "auto" the verifier
// finds out what a broker without version 5 speaks.
var mqttVersions = []string{mqtts.Version311, mqtts.Version5, mqtts.VersionAuto}

// TestInterop is the matrix: what the verifier says in every situation at every
// broker. INTEROP.md is written from it with -update, and held against it
// without.
func TestInterop(t *testing.T) {
	l, doc := newLab(t), readInterop(t)
	for _, kind := range brokerkit.Kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			t.Parallel()
			kind.Require(t)
			cells, runs := l.matrix(t, kind)
			doc.compare(t, kind, observed{cells, runs})
		})
	}
	t.Cleanup(func() { doc.save(t) })
}

// matrix runs every cell at one broker, and the negative runs.
func (l *lab) matrix(t *testing.T, kind brokerkit.Kind) (all []cell, runs []refusal) {
	setup := brokerkit.Setup{Certificate: l.broker, ClientCAs: l.roots(), CRLs: l.crls}
	b := kind.Start(t, setup)
	for i, p := range phases {
		changed := setup
		p.change(t, l, &changed)
		if i > 0 {
			if err := b.Reload(changed); err != nil && !errors.Is(err, brokerkit.ErrReloadRefused) {
				t.Fatalf("%s: %v", p.name, err)
			}
		}
		all = append(all, l.run(t, b, p, i == 0)...)
		if i == 0 {
			runs = l.refusals(t, b)
		}
	}
	expectRefusals(t, kind, runs)
	slices.SortStableFunc(all, func(a, b cell) int { return place(a.name) - place(b.name) })
	for _, c := range all {
		t.Run(fmt.Sprintf("%s/TLS %s/MQTT %s", c.name, c.tlsText(), c.mqtt), func(t *testing.T) {
			checkReport(t, c.report)
			step, code := expectation(kind, c)
			expect(t, c.report, step, code)
		})
	}
	return all, runs
}

// place returns where a situation stands.
func place(name string) int {
	return slices.IndexFunc(situations, func(s situation) bool { return s.name == name })
}

// run runs the cells of one phase, many at a time.
func (l *lab) run(t *testing.T, b *brokerkit.Broker, p phase, first bool) []cell {
	var cells []cell
	for _, s := range situations {
		if s.phase != p.name && (s.phase != "" || !first) {
			continue
		}
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, m := range mqttVersions {
				target := l.target(b.MQTTS)
				target.MinTLS, target.MaxTLS, target.Version = version, version, m
				target.Username, target.Password = brokerkit.User, brokerkit.Password
				target.Timeout, target.StepTimeout = 20*time.Second, 6*time.Second
				if s.change != nil {
					s.change(t, l, b, &target)
				}
				cells = append(cells, cell{situation: s, tls: version, mqtt: m, target: target})
			}
		}
	}
	var running sync.WaitGroup
	limit := make(chan struct{}, 8)
	for i := range cells {
		limit <- struct{}{}
		running.Go(func() {
			defer func() { <-limit }()
			cells[i].report = mqtts.Verify(t.Context(), cells[i].target)
		})
	}
	running.Wait()
	return cells
}

// An exception is where a broker differs from a situation's expectation, and
// why, for INTEROP.md.
type exception struct {
	brokers    string   // how their names begin
	situations []string // how their names begin
	mqtt       []string // versions; all when empty
	step       mqtts.StepName
	code       mqtts.Code
	why        string
}

var exceptions = []exception{
	{brokers: "Mosquitto", situations: []string{"websocket, client certificate revoked"},
		why: "Version 2.0.11 does not look at crlfile on a websocket listener: a revoked client is admitted."},
	{brokers: "Mosquitto", why: "Version 2.0.11 dies of a SIGHUP (a segmentation fault) that comes soon after websocket clients left: the one with the websocket listener is left alone."},

	{brokers: "RabbitMQ", situations: []string{"broker without the issuer's CRL"}, step: mqtts.StepSessionKeys, code: mqtts.CodeBrokerCRLExpiredOrClock,
		why: "Erlang answers a missing CRL with alert 42, as an expired one."},
	{brokers: "RabbitMQ", situations: []string{"bad password"}, step: mqtts.StepConnack, code: mqtts.CodeConnackBadCredentials,
		why: "Reason code 4 tells a bad password from a client that may not connect."},
	{brokers: "RabbitMQ", situations: []string{"broker's key of another"}, step: mqtts.StepVerify, code: mqtts.CodeServerBrokenKey,
		why: "Erlang signs with the wrong key: the signature is found wrong, where OpenSSL has no key to sign with."},

	{brokers: "NATS", situations: []string{"client certificate revoked", "websocket, client certificate revoked", "broker's CRL expired", "broker without the issuer's CRL"},
		why: "NATS knows no CRLs: a revoked client is admitted until its certificate expires."},
	{brokers: "NATS", situations: []string{"broker's key of another"},
		why: "NATS refuses to load a key that does not fit, and keeps the old pair."},

	{brokers: "ejabberd", situations: []string{"client of a", "client certificate revoked", "broker's CRL expired", "broker without the issuer's CRL"},
		why: "With tls_verify ejabberd asks for a certificate and takes any."},
	{brokers: "ejabberd", situations: []string{"no client certificate"}, code: mqtts.CodeClientCertificateNotEnforced,
		why: "Nor does it miss one."},
	{brokers: "ejabberd", situations: []string{"client certificate expired"}, code: mqtts.CodeClientCertificateExpired,
		why: "An expired one is admitted."},
	{brokers: "ejabberd", situations: []string{"client certificate not yet valid"}, code: mqtts.CodeClientCertificateNotYet,
		why: "And one of the future."},
	{brokers: "ejabberd", situations: []string{"client certificate for servers"}, code: mqtts.CodeClientWrongUsage,
		why: "And one for servers only."},
	{brokers: "ejabberd", situations: []string{"websocket, no", "websocket, client"}, code: mqtts.CodeClientCertificateNotRequested,
		why: "Its websocket listener asks for no certificate."},
	{brokers: "ejabberd", situations: []string{"broker's key of another"}, step: mqtts.StepClientHello, code: mqtts.CodeTLSHandshakeClosed,
		why: "It does not load a key that does not fit, and closes every connection without a word."},

	{brokers: "mochi", situations: []string{"client certificate revoked", "websocket, client certificate revoked", "broker without the issuer's CRL"}, step: mqtts.StepSessionKeys, code: mqtts.CodeBrokerCRLExpiredOrClock,
		why: "crypto/tls answers whatever a server's own check finds with alert 42."},
	{brokers: "mochi", situations: []string{"bad password"}, mqtt: []string{mqtts.Version5, mqtts.VersionAuto}, step: mqtts.StepConnack, code: mqtts.CodeConnackBadCredentials,
		why: "In version 5 reason code 0x86 tells a bad password from a client that may not connect."},
	{brokers: "mochi", situations: []string{"broker's key of another"}, step: mqtts.StepVerify, code: mqtts.CodeServerBrokenKey,
		why: "crypto/tls signs with the wrong key."},
}

// covers tells whether e is about a cell.
func (e *exception) covers(kind brokerkit.Kind, c cell) bool {
	named := func(prefix string) bool { return strings.HasPrefix(c.name, prefix) }
	return strings.HasPrefix(kind.Name, e.brokers) && slices.ContainsFunc(e.situations, named) && (len(e.mqtt) == 0 || slices.Contains(e.mqtt, c.mqtt))
}

// expectation returns the step and code of a cell.
func expectation(kind brokerkit.Kind, c cell) (mqtts.StepName, mqtts.Code) {
	step, code := c.step, c.code
	for _, e := range exceptions {
		if e.covers(kind, c) {
			step, code = e.step, e.code
			break
		}
	}
	if reachesMQTT := step == "" || step == mqtts.StepConnack; reachesMQTT && c.mqtt == mqtts.Version5 && !kind.MQTT5 {
		return mqtts.StepConnack, mqtts.CodeMQTT3Only
	}
	return step, code
}
