package mqtts_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// TestServerCertificate has every way in which step verify fails, and checks
// that the broker then gets neither a certificate nor a byte of MQTT.
func TestServerCertificate(t *testing.T) {
	f := newFleet(t)
	server := usage(x509.ExtKeyUsageServerAuth)
	other := newAuthority(t, "Other Issuer", newAuthority(t, "Other Root", nil))
	rogue := newAuthority(t, "Fleet Issuer", newAuthority(t, "Fleet Root", nil))
	oldIssuer := newAuthority(t, "Old Issuer", f.root, expired)
	clientsOnly := newAuthority(t, "Clients Only", f.root, usage(x509.ExtKeyUsageClientAuth))
	narrow := newAuthority(t, "Narrow", f.root, func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"elsewhere.test"}
	})
	notCA := newAuthority(t, "Not An Authority", f.root, func(c *x509.Certificate) { c.IsCA = false })
	revoked := f.issuer.issue(t, "broker.test", server)
	alone := func(c *tls.Certificate) *tls.Certificate {
		return &tls.Certificate{Certificate: c.Certificate[:1], PrivateKey: c.PrivateKey}
	}
	with := func(c *tls.Certificate, root *authority) *tls.Certificate {
		return &tls.Certificate{Certificate: append(c.Certificate, root.certificate.Raw), PrivateKey: c.PrivateKey}
	}
	noNames := names(nil)
	cases := []struct {
		name        string
		certificate *tls.Certificate
		change      func(*mqtts.Target)
		codes       []mqtts.Code
	}{
		{"unknown CA, unrelated root sent", with(other.issue(t, "broker.test"), newAuthority(t, "Unrelated Root", nil)), nil, []mqtts.Code{mqtts.CodeServerUnknownCA}},
		{"unknown CA, root not sent", other.issue(t, "broker.test"), nil, []mqtts.Code{mqtts.CodeServerUnknownCA}},
		{"self-signed", selfSigned(t), nil, []mqtts.Code{mqtts.CodeServerUnknownCA}},
		{"issuer not sent", alone(f.broker), nil, []mqtts.Code{mqtts.CodeServerMissingIntermediate}},
		{"unknown CA, leaf alone", alone(other.issue(t, "broker.test")), nil, []mqtts.Code{mqtts.CodeServerMissingIntermediate}},
		{"rogue of the same names", rogue.issue(t, "broker.test"), nil, []mqtts.Code{mqtts.CodeServerSameNameOtherKey}},
		{"expired", f.issuer.issue(t, "broker.test", server, expired), nil, []mqtts.Code{mqtts.CodeServerCertificateExpired}},
		{"not yet valid", f.issuer.issue(t, "broker.test", server, notYetValid), nil, []mqtts.Code{mqtts.CodeServerCertificateNotYet}},
		{"issuer expired", oldIssuer.issue(t, "broker.test", server), nil, []mqtts.Code{mqtts.CodeServerCertificateExpired}},
		{"wrong name", f.issuer.issue(t, "other.test", server), nil, []mqtts.Code{mqtts.CodeServerNameMismatch}},
		{"wrong address", f.issuer.issue(t, "broker.test", server, names([]string{"broker.test"}, net.IPv4(10, 0, 0, 1))),
			func(g *mqtts.Target) { g.ServerName = "127.0.0.1" }, []mqtts.Code{mqtts.CodeServerNameMismatch}},
		{"address as DNS name", f.issuer.issue(t, "broker.test", server, names([]string{"127.0.0.1"})),
			func(g *mqtts.Target) { g.ServerName = "127.0.0.1" }, []mqtts.Code{mqtts.CodeServerNameMismatch}},
		{"another common name only", f.issuer.issue(t, "other.test", server, noNames), nil, []mqtts.Code{mqtts.CodeServerCommonNameOnly}},
		{"address as common name only", f.issuer.issue(t, "127.0.0.1", server, noNames),
			func(g *mqtts.Target) { g.ServerName = "127.0.0.1" }, []mqtts.Code{mqtts.CodeServerCommonNameOnly}},
		{"client usage", f.issuer.issue(t, "broker.test", usage(x509.ExtKeyUsageClientAuth)), nil, []mqtts.Code{mqtts.CodeServerWrongUsage}},
		{"no extended usage", f.issuer.issue(t, "broker.test", usage()), nil, []mqtts.Code{mqtts.CodeServerWrongUsage}},
		{"no signatures", f.issuer.issue(t, "broker.test", server, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }),
			nil, []mqtts.Code{mqtts.CodeServerWrongUsage}},
		{"issuer for clients only", clientsOnly.issue(t, "broker.test", server), nil, []mqtts.Code{mqtts.CodeServerWrongUsage}},
		{"issuer's constraints", narrow.issue(t, "broker.test", server), nil, []mqtts.Code{mqtts.CodeServerChainInvalid}},
		{"issuer is no CA", notCA.issue(t, "broker.test", server), nil, []mqtts.Code{mqtts.CodeServerChainInvalid}},
		{"revoked", revoked, func(g *mqtts.Target) { g.CRLs = []*x509.RevocationList{f.issuer.crl(t, time.Hour, revoked)} },
			[]mqtts.Code{mqtts.CodeServerRevoked}},
		{"issuer revoked", f.broker, func(g *mqtts.Target) {
			g.CRLs = []*x509.RevocationList{f.root.crl(t, time.Hour, &tls.Certificate{Certificate: [][]byte{f.issuer.certificate.Raw}})}
		}, []mqtts.Code{mqtts.CodeServerRevoked}},
		{"several causes", f.issuer.issue(t, "other.test", expired, usage(x509.ExtKeyUsageClientAuth)), nil,
			[]mqtts.Code{mqtts.CodeServerCertificateExpired, mqtts.CodeServerNameMismatch, mqtts.CodeServerWrongUsage}},
		{"the future", f.broker, func(g *mqtts.Target) { g.Now = func() time.Time { return time.Now().AddDate(1, 0, 0) } },
			[]mqtts.Code{mqtts.CodeServerCertificateExpired}},
	}
	for _, c := range cases {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(c.name+"/"+tls.VersionName(version), func(t *testing.T) {
				t.Parallel()
				var spoken atomic.Bool
				config := f.mutual()
				config.Certificates = []tls.Certificate{*c.certificate}
				config.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error {
					spoken.Store(true)
					return nil
				}
				target := f.target(listen(t, overTLS(config, func(conn *tls.Conn) {
					if n, _ := conn.Read(make([]byte, 1)); n > 0 {
						spoken.Store(true)
					}
				})))
				target.MinTLS, target.MaxTLS = version, version
				if c.change != nil {
					c.change(&target)
				}
				r := verify(t, target)
				for _, code := range c.codes {
					expect(t, r, mqtts.StepVerify, code)
				}
				if n := countErrors(r); n != len(c.codes) {
					t.Errorf("%d errors: %+v", n, r.Diagnosis)
				}
				state := r.Step(mqtts.StepVerify).State
				if want := (mqtts.State{TCP: "established", TLS: "failed", MQTT: "disconnected"}); state != want {
					t.Errorf("state %+v", state)
				}
				if spoken.Load() || r.MQTT != nil || r.Refusal() != nil || r.ServerCertificate == nil {
					t.Errorf("spoken %v, report %+v", spoken.Load(), r)
				}
			})
		}
	}
}

func countErrors(r *mqtts.Report) int {
	n := 0
	for _, d := range r.Diagnosis {
		if d.Severity == mqtts.SeverityError {
			n++
		}
	}
	return n
}

func selfSigned(t *testing.T) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "broker.test"}, DNSNames: []string{"broker.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	key, der := sign(t, template, nil, nil)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestUnknownRoot sends a complete chain to a root that is not in the bundle.
func TestUnknownRoot(t *testing.T) {
	f := newFleet(t)
	root := newAuthority(t, "Other Root", nil)
	c := newAuthority(t, "Other Issuer", root).issue(t, "broker.test")
	c.Certificate = append(c.Certificate, root.certificate.Raw)
	r := verify(t, f.target(broker{tls: &tls.Config{Certificates: []tls.Certificate{*c}}}.start(t)))
	expect(t, r, mqtts.StepVerify, mqtts.CodeServerUnknownCA)
	if !strings.Contains(r.Diagnosis[0].Message, "CN=Other Root") {
		t.Errorf("message %q", r.Diagnosis[0].Message)
	}
}

// TestWeakness has brokers that pass with a warning.
func TestWeakness(t *testing.T) {
	f := newFleet(t)
	server := usage(x509.ExtKeyUsageServerAuth)
	leaf := &tls.Certificate{Certificate: f.broker.Certificate[:1], PrivateKey: f.broker.PrivateKey}
	bySHA1 := func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }
	oldIssuer := newAuthority(t, "Old Issuer", f.root, bySHA1)
	cases := []struct {
		name        string
		certificate *tls.Certificate
		change      func(*mqtts.Target)
		code        mqtts.Code
	}{
		{"common name only", f.issuer.issue(t, "broker.test", server, names(nil)), nil, mqtts.CodeServerCommonNameOnly},
		{"leaf by SHA-1", f.issuer.issue(t, "broker.test", server, bySHA1), nil, mqtts.CodeServerWeakSignature},
		{"issuer by SHA-1", oldIssuer.issue(t, "broker.test", server), nil, mqtts.CodeServerWeakSignature},
		{"RSA of 1024 bits", rsaLeaf(t, f.issuer, 1024), nil, mqtts.CodeServerWeakKey},
		{"long validity", f.issuer.issue(t, "broker.test", server, func(c *x509.Certificate) { c.NotBefore = time.Now().AddDate(-3, 0, 0) }), nil, mqtts.CodeServerLongValidity},
		{"expires soon", f.issuer.issue(t, "broker.test", server, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Minute) }), nil, mqtts.CodeServerExpiresSoon},
		{"is a CA", f.issuer.issue(t, "broker.test", server, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), nil, mqtts.CodeServerCertificateIsCA},
		{"intermediate in the bundle", leaf, func(g *mqtts.Target) { g.Roots = append(g.Roots, f.issuer.certificate) }, mqtts.CodeServerIntermediateNotSent},
		{"CRL expired", f.broker, func(g *mqtts.Target) { g.CRLs = []*x509.RevocationList{f.issuer.crl(t, -time.Hour)} }, mqtts.CodeCRLExpired},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			config := f.mutual()
			config.Certificates = []tls.Certificate{*c.certificate}
			target := f.target(broker{tls: config}.start(t))
			if c.change != nil {
				c.change(&target)
			}
			r := verify(t, target)
			expect(t, r, "", c.code)
			if r.Step(mqtts.StepVerify).Result != mqtts.ResultWarn {
				t.Errorf("step %+v", r.Step(mqtts.StepVerify))
			}
		})
	}
}

// rsaLeaf issues a broker's certificate for an RSA key.
func rsaLeaf(t *testing.T, by *authority, bits int) *tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	template := leafOf(t, by.issue(t, "broker.test", usage(x509.ExtKeyUsageServerAuth)))
	der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: append([][]byte{der}, by.above...), PrivateKey: key}
}

// TestForgedSHA1 has chains whose signatures by SHA-1 are wrong, or whose
// authority has no right to sign: that they are old excuses nothing.
func TestForgedSHA1(t *testing.T) {
	f := newFleet(t)
	bySHA1 := func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }
	rogue := newAuthority(t, "Fleet Issuer", newAuthority(t, "Fleet Root", nil), bySHA1)
	narrow := newAuthority(t, "Narrow", f.root, func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"elsewhere.test"}
	})
	notCA := newAuthority(t, "Not An Authority", f.root, func(c *x509.Certificate) { c.IsCA = false })
	cases := map[mqtts.Code]*tls.Certificate{
		mqtts.CodeServerSameNameOtherKey: rogue.issue(t, "broker.test", bySHA1),
		mqtts.CodeServerChainInvalid:     narrow.issue(t, "broker.test", bySHA1),
	}
	for code, certificate := range cases {
		r := verify(t, f.target(broker{tls: &tls.Config{Certificates: []tls.Certificate{*certificate}}}.start(t)))
		expect(t, r, mqtts.StepVerify, code)
	}
	certificate := notCA.issue(t, "broker.test", bySHA1)
	r := verify(t, f.target(broker{tls: &tls.Config{Certificates: []tls.Certificate{*certificate}}}.start(t)))
	expect(t, r, mqtts.StepVerify, mqtts.CodeServerChainInvalid)
}

// TestPinnedBroker has the broker's own certificate as its only trust anchor.
func TestPinnedBroker(t *testing.T) {
	f := newFleet(t)
	c := selfSigned(t)
	config := f.mutual()
	config.Certificates = []tls.Certificate{*c}
	target := f.target(broker{tls: config}.start(t))
	target.Roots = []*x509.Certificate{leafOf(t, c)}
	expect(t, verify(t, target), "", "")
}

// TestBrokenKey has a broker whose key is not that of its certificate.
func TestBrokenKey(t *testing.T) {
	f := newFleet(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	config := f.mutual()
	config.Certificates = []tls.Certificate{{Certificate: f.broker.Certificate, PrivateKey: key}}
	url := broker{tls: config}.start(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		target := f.target(url)
		target.MinTLS, target.MaxTLS = version, version
		expect(t, verify(t, target), mqtts.StepVerify, mqtts.CodeServerBrokenKey)
	}
}

// TestManyIssuers bounds the search through a chain of look-alikes: every
// certificate has the same name, none signs another.
func TestManyIssuers(t *testing.T) {
	f := newFleet(t)
	leaf := newAuthority(t, "Look-alike", nil).issue(t, "broker.test")
	for range 300 {
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		template := &x509.Certificate{SerialNumber: big.NewInt(lastSerial.Add(1)), Subject: pkix.Name{CommonName: "Look-alike"},
			NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		leaf.Certificate = append(leaf.Certificate, der)
	}
	start := time.Now()
	r := verify(t, f.target(broker{tls: &tls.Config{Certificates: []tls.Certificate{*leaf}}}.start(t)))
	expect(t, r, mqtts.StepVerify, "")
	if time.Since(start) > 2*time.Second {
		t.Errorf("took %v", time.Since(start))
	}
}
