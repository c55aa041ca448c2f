package mqtts_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// material is everything that a server with an authority of its own makes.
func (f *fleet) material(t testing.TB) mqtts.Material {
	t.Helper()
	client := usage(x509.ExtKeyUsageClientAuth)
	return mqtts.Material{
		Expired: f.issuer.issue(t, "device-1", client, expired), NotYetValid: f.issuer.issue(t, "device-1", client, notYetValid),
		WrongUsage: f.issuer.issue(t, "device-1", usage(x509.ExtKeyUsageServerAuth)), Revoked: f.issuer.issue(t, "device-2", client),
		Resume: true,
	}
}

// strict is mutual with a look at revocation, resumed sessions included.
func (f *fleet) strict(revoked *tls.Certificate) *tls.Config {
	c := f.mutual()
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if s.PeerCertificates[0].SerialNumber.Cmp(mustLeaf(revoked).SerialNumber) == 0 {
			return errors.New("revoked")
		}
		return nil
	}
	return c
}

func mustLeaf(c *tls.Certificate) *x509.Certificate {
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		panic(err)
	}
	return leaf
}

func (f *fleet) negative(t testing.TB, url string, m mqtts.Material) mqtts.Target {
	target := f.target(url)
	target.Negative, target.Material = true, m
	target.Timeout, target.StepTimeout = time.Minute, 20*time.Second // on a machine with much else to do
	return target
}

var checkNames = []mqtts.CheckName{
	"no_client_certificate", "foreign_ca", "same_name_rogue_ca", "expired", "not_yet_valid",
	"wrong_usage", "revoked", "plaintext", "old_tls", "resume_after_revocation",
}

// expectChecks compares the results of a negative run, in order: "" stands for
// pass.
func expectChecks(t *testing.T, r *mqtts.Report, verdict mqtts.Verdict, want map[mqtts.CheckName]mqtts.CheckResult) {
	t.Helper()
	if r.Verdict != verdict || len(r.Checks) != len(checkNames) {
		t.Errorf("verdict %s with %d checks, want %s", r.Verdict, len(r.Checks), verdict)
	}
	for i, c := range r.Checks {
		result := want[c.Name]
		if result == "" {
			result = mqtts.CheckPass
		}
		if c.Name != checkNames[i] || c.Expect != mqtts.ExpectRefused || c.Result != result {
			t.Errorf("check %s: %s, want %s: %+v %+v", c.Name, c.Result, result, c.Observed, c.Diagnosis)
		}
		for _, d := range c.Diagnosis {
			if d.Message == "" || d.Fix == "" || unfilled.MatchString(d.Message+d.Fix) {
				t.Errorf("check %s: diagnosis %+v", c.Name, d)
			}
		}
		if failed := c.Result == mqtts.CheckFail; failed != slices.ContainsFunc(c.Diagnosis, func(d mqtts.Diagnosis) bool { return d.Severity == mqtts.SeverityError }) {
			t.Errorf("check %s is %s with %+v", c.Name, c.Result, c.Diagnosis)
		}
	}
}

func codeOf(c *mqtts.Check) mqtts.Code {
	if c == nil || len(c.Diagnosis) == 0 {
		return ""
	}
	return c.Diagnosis[0].Code
}

// TestNegative has a broker that does everything right: in each version of TLS
// and MQTT all is refused, at the step and with the alert that were seen.
func TestNegative(t *testing.T) {
	f := newFleet(t)
	m := f.material(t)
	url := broker{tls: f.strict(m.Revoked)}.start(t)
	for _, v := range versions {
		t.Run(fmt.Sprintf("%s/%s", tls.VersionName(v.tls), v.mqtt), func(t *testing.T) {
			target := f.negative(t, url, m)
			target.Version, target.MinTLS, target.MaxTLS = v.mqtt, v.tls, v.tls
			r := verify(t, target)
			expectChecks(t, r, mqtts.VerdictPass, nil)
			alerts := map[mqtts.CheckName]int{
				"no_client_certificate": map[uint16]int{tls.VersionTLS12: 40, tls.VersionTLS13: 116}[v.tls],
				"foreign_ca":            48, "same_name_rogue_ca": 48, "expired": 45, "not_yet_valid": 45, "wrong_usage": 42,
				"revoked": 42, "resume_after_revocation": 42, "old_tls": 70,
			}
			for _, c := range r.Checks {
				o := c.Observed
				switch want, has := alerts[c.Name]; {
				case c.Name == mqtts.CheckPlaintext:
					if o.Alert != nil || o.Step != mqtts.StepConnect || o.Error == "" {
						t.Errorf("%s: %+v", c.Name, o)
					}
				case !has || o.Alert == nil || *o.Alert != want || o.AlertName == "" || o.ReasonCode != nil:
					t.Errorf("%s: %+v, want alert %d", c.Name, o, want)
				case c.Name == mqtts.CheckOldTLS:
					if o.Step != mqtts.StepClientHello || o.AfterFinished {
						t.Errorf("%s: %+v", c.Name, o)
					}
				case o.Step != mqtts.StepSessionKeys || o.AfterFinished != (v.tls == tls.VersionTLS13) ||
					!o.CertificateRequested || o.CertificateSent != (c.Name != mqtts.CheckNoClientCertificate):
					t.Errorf("%s: %+v", c.Name, o)
				}
			}
		})
	}
}

// TestNegativeAccepted has a broker that lets everybody in, whatever they show.
func TestNegativeAccepted(t *testing.T) {
	f := newFleet(t)
	m := f.material(t)
	open := f.mutual()
	open.ClientAuth, open.MinVersion = tls.RequestClientCert, tls.VersionTLS10
	open.CipherSuites = append([]uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}, suites()...)
	fails := map[mqtts.CheckName]mqtts.Code{
		"no_client_certificate": mqtts.CodeClientCertificateNotEnforced, "foreign_ca": mqtts.CodeForeignAccepted,
		"same_name_rogue_ca": mqtts.CodeForeignAccepted, "expired": mqtts.CodeExpiredAccepted, "not_yet_valid": mqtts.CodeNotYetValidAccepted,
		"wrong_usage": mqtts.CodeWrongUsageAccepted, "revoked": mqtts.CodeRevokedAccepted, "old_tls": mqtts.CodeOldTLSAccepted,
		"resume_after_revocation": mqtts.CodeRevokedAccepted, // by a full handshake, too
	}
	want := map[mqtts.CheckName]mqtts.CheckResult{}
	for name := range fails {
		want[name] = mqtts.CheckFail
	}
	r := verify(t, f.negative(t, broker{tls: open}.start(t), m))
	expectChecks(t, r, mqtts.VerdictFail, want)
	for name, code := range fails {
		c := r.Check(name)
		if codeOf(c) != code {
			t.Errorf("%s: %+v", name, c.Diagnosis)
		}
		if o := c.Observed; name != "old_tls" && (o.ReasonCode == nil || *o.ReasonCode != 0 || o.Step != mqtts.StepConnack || o.Error != "") {
			t.Errorf("%s: %+v", name, o)
		}
	}
	if d := r.Check(mqtts.CheckOldTLS).Diagnosis; len(d) == 0 || !strings.Contains(d[0].Message, "accepts TLS 1.1, which") {
		t.Errorf("old TLS: %+v", d)
	}
	if r.Has(mqtts.CodeForeignAccepted) || r.Failed() != nil {
		t.Errorf("the positive run: %+v", r.Diagnosis)
	}
}

func suites() (ids []uint16) {
	for _, s := range tls.CipherSuites() {
		ids = append(ids, s.ID)
	}
	return ids
}

// TestRevokedUnlisted: a certificate that the CRL given does not list may not be
// revoked at all, which is said.
func TestRevokedUnlisted(t *testing.T) {
	f := newFleet(t)
	m := mqtts.Material{Revoked: f.issuer.issue(t, "device-2", usage(x509.ExtKeyUsageClientAuth))}
	target := f.negative(t, broker{tls: f.mutual()}.start(t), m)
	for said, revoked := range map[bool]*tls.Certificate{true: f.device, false: m.Revoked} {
		target.CRLs = []*x509.RevocationList{f.issuer.crl(t, time.Hour, revoked)}
		c := verify(t, target).Check(mqtts.CheckRevoked)
		if codeOf(c) != mqtts.CodeRevokedAccepted || strings.Contains(c.Diagnosis[0].Message, "does not list it") != said {
			t.Errorf("%+v", c.Diagnosis)
		}
	}
}

// TestNegativeNotRequested has a listener without mutual TLS: everything that is
// tried gets in, and it is said why.
func TestNegativeNotRequested(t *testing.T) {
	f := newFleet(t)
	plain := &tls.Config{Certificates: []tls.Certificate{*f.broker}}
	r := verify(t, f.negative(t, broker{tls: plain}.start(t), mqtts.Material{}))
	expectChecks(t, r, mqtts.VerdictFail, map[mqtts.CheckName]mqtts.CheckResult{
		"no_client_certificate": "fail", "foreign_ca": "fail", "same_name_rogue_ca": "fail", "expired": "skipped", "not_yet_valid": "skipped",
		"wrong_usage": "skipped", "revoked": "skipped", "resume_after_revocation": "skipped",
	})
	if !r.Has(mqtts.CodeClientCertificateNotRequested) || codeOf(r.Check(mqtts.CheckNoClientCertificate)) != mqtts.CodeClientCertificateNotEnforced {
		t.Errorf("%+v", r)
	}
	if o := r.Check(mqtts.CheckForeignCA).Observed; o.CertificateRequested || o.CertificateSent {
		t.Errorf("%+v", o)
	}
}

// TestNegativeControlFailed: without a positive control nothing counts, and
// nothing more is dialled.
func TestNegativeControlFailed(t *testing.T) {
	f := newFleet(t)
	m := f.material(t)
	var connections atomic.Int32
	config := f.mutual()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		connections.Add(1)
		return nil, nil
	}
	target := f.negative(t, broker{tls: config}.start(t), m)
	target.Certificate = f.issuer.issue(t, "device-1", usage(x509.ExtKeyUsageServerAuth))
	target.Version = mqtts.Version311
	r := verify(t, target)
	all := map[mqtts.CheckName]mqtts.CheckResult{}
	for _, name := range checkNames {
		all[name] = mqtts.CheckInconclusive
	}
	expectChecks(t, r, mqtts.VerdictFail, all)
	expect(t, r, mqtts.StepSessionKeys, mqtts.CodeClientWrongUsage)
	if c := r.Check(mqtts.CheckRevoked); codeOf(c) != mqtts.CodeControlFailed || c.Observed != nil || connections.Load() != 1 {
		t.Errorf("%+v after %d connections", c, connections.Load())
	}
}

// TestNegativeAtMQTT has a broker that lets TLS pass and refuses in CONNACK: that
// is a refusal, and a warning.
func TestNegativeAtMQTT(t *testing.T) {
	f := newFleet(t)
	config := f.mutual()
	config.ClientAuth = tls.RequestClientCert
	deny := func(cl *mqtt.Client, _ packets.Packet) bool {
		channel, ok := cl.Net.Conn.(*tls.Conn)
		peers := channel.ConnectionState().PeerCertificates
		return !ok || len(peers) == 0 || !peers[0].Equal(mustLeaf(f.device))
	}
	r := verify(t, f.negative(t, broker{tls: config, deny: deny}.start(t), f.material(t)))
	expectChecks(t, r, mqtts.VerdictPass, nil)
	for _, name := range checkNames[:7] {
		c := r.Check(name)
		if codeOf(c) != mqtts.CodeRefusedAtMQTT || c.Observed.Step != mqtts.StepConnack || c.Observed.ReasonCode == nil || *c.Observed.ReasonCode == 0 {
			t.Errorf("%s: %+v %+v", name, c.Observed, c.Diagnosis)
		}
	}
}

// TestResumeAfterRevocation has a broker that looks at revocation in full
// handshakes only: a session from before the revocation still gets in.
func TestResumeAfterRevocation(t *testing.T) {
	f := newFleet(t)
	m := f.material(t)
	var revoked atomic.Bool
	config := f.mutual()
	config.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
		if revoked.Load() && string(raw[0]) == string(m.Revoked.Certificate[0]) {
			return errors.New("revoked")
		}
		return nil
	}
	url := broker{tls: config}.start(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			revoked.Store(false)
			m.Sessions = tls.NewLRUClientSessionCache(4)
			before := f.target(url)
			before.Certificate, before.SessionCache = m.Revoked, m.Sessions
			before.MinTLS, before.MaxTLS = version, version
			expect(t, verify(t, before), "", "")
			revoked.Store(true)
			target := f.negative(t, url, m)
			target.MinTLS, target.MaxTLS = version, version
			r := verify(t, target)
			expectChecks(t, r, mqtts.VerdictFail, map[mqtts.CheckName]mqtts.CheckResult{"resume_after_revocation": "fail"})
			c := r.Check(mqtts.CheckResumeAfterRevocation)
			if codeOf(c) != mqtts.CodeRevokedAcceptedByResumption || !c.Observed.Resumed {
				t.Errorf("%+v %+v", c.Observed, c.Diagnosis)
			}
		})
	}
}

// TestNegativeSilence has brokers that close without a word. Whether that refuses
// is known only when the good certificate still gets in afterwards.
func TestNegativeSilence(t *testing.T) {
	f := newFleet(t)
	run := func(t *testing.T, dies bool) *mqtts.Report {
		config := f.mutual()
		config.ClientAuth = tls.RequestClientCert
		config.SessionTicketsDisabled = true
		var connections atomic.Int32
		url := listen(t, overTLS(config, func(c *tls.Conn) {
			n := connections.Add(1)
			peers := c.ConnectionState().PeerCertificates
			if dies && n > 1 || len(peers) == 0 || !peers[0].Equal(mustLeaf(f.device)) {
				return
			}
			serve311(c, nil)
		}))
		target := f.negative(t, url, mqtts.Material{})
		target.Version = mqtts.Version311
		return verify(t, target)
	}
	skipped := map[mqtts.CheckName]mqtts.CheckResult{"expired": "skipped", "not_yet_valid": "skipped", "wrong_usage": "skipped", "revoked": "skipped", "resume_after_revocation": "skipped"}
	expectChecks(t, run(t, false), mqtts.VerdictPass, skipped)
	for _, name := range []mqtts.CheckName{"no_client_certificate", "foreign_ca", "same_name_rogue_ca", "plaintext"} {
		skipped[name] = mqtts.CheckInconclusive
	}
	r := run(t, true)
	expectChecks(t, r, mqtts.VerdictInconclusive, skipped)
	if codeOf(r.Check(mqtts.CheckForeignCA)) != mqtts.CodeControlFailed {
		t.Errorf("%+v", r.Check(mqtts.CheckForeignCA))
	}
}

// TestNegativeUndecided has a broker that answers the control alone: that it is
// silent to the others refuses nothing, and the run's timeout holds.
func TestNegativeUndecided(t *testing.T) {
	f := newFleet(t)
	var connections atomic.Int32
	config := f.mutual()
	url := listen(t, func(c net.Conn) {
		if connections.Add(1) > 1 {
			drain(c)
			return
		}
		channel := tls.Server(c, config)
		if channel.Handshake() == nil {
			serve311(channel, nil)
		}
	})
	target := f.negative(t, url, mqtts.Material{})
	target.Version, target.Timeout, target.StepTimeout = mqtts.Version311, time.Second, 150*time.Millisecond
	start := time.Now()
	r := verify(t, target)
	if took := time.Since(start); took > 1500*time.Millisecond {
		t.Errorf("took %v", took)
	}
	want := map[mqtts.CheckName]mqtts.CheckResult{"expired": "skipped", "not_yet_valid": "skipped", "wrong_usage": "skipped", "revoked": "skipped", "resume_after_revocation": "skipped"}
	for _, name := range []mqtts.CheckName{"no_client_certificate", "foreign_ca", "same_name_rogue_ca", "plaintext", "old_tls"} {
		want[name] = mqtts.CheckInconclusive
	}
	expectChecks(t, r, mqtts.VerdictInconclusive, want)
	if codeOf(r.Check(mqtts.CheckForeignCA)) != mqtts.CodeCheckUndecided {
		t.Errorf("%+v", r.Check(mqtts.CheckForeignCA))
	}
}

// TestNegativeBusy has a broker that has no time for anybody but the control: that
// refuses nothing.
func TestNegativeBusy(t *testing.T) {
	f := newFleet(t)
	config := f.mutual()
	config.ClientAuth = tls.RequestClientCert
	url := listen(t, overTLS(config, func(c *tls.Conn) {
		peers := c.ConnectionState().PeerCertificates
		if len(peers) > 0 && peers[0].Equal(mustLeaf(f.device)) {
			serve311(c, nil)
			return
		}
		script([]byte{0x20, 2, 0, 3})(c)
	}))
	target := f.negative(t, url, mqtts.Material{})
	target.Version = mqtts.Version311
	r := verify(t, target)
	for _, name := range checkNames[:3] {
		c := r.Check(name)
		if c.Result != mqtts.CheckInconclusive || codeOf(c) != mqtts.CodeCheckUndecided || c.Observed.ReasonCode == nil || *c.Observed.ReasonCode != 3 {
			t.Errorf("%s: %s %+v %+v", name, c.Result, c.Observed, c.Diagnosis)
		}
	}
	if r.Verdict != mqtts.VerdictInconclusive {
		t.Errorf("verdict %s", r.Verdict)
	}
}

// TestPlaintextAccepted has a port that serves MQTT with and without TLS.
func TestPlaintextAccepted(t *testing.T) {
	f := newFleet(t)
	config := f.mutual()
	url := listen(t, func(c net.Conn) {
		first := make([]byte, 1)
		if n, _ := c.Read(first); n == 1 && first[0] == 0x10 {
			c.Write([]byte{0x20, 2, 0, 5})
			drain(c)
			return
		}
		channel := tls.Server(&unread{Conn: c, first: first}, config)
		if channel.Handshake() == nil {
			serve311(channel, nil)
		}
	})
	target := f.negative(t, url, mqtts.Material{})
	target.Version = mqtts.Version311
	r := verify(t, target)
	c := r.Check(mqtts.CheckPlaintext)
	if c.Result != mqtts.CheckFail || codeOf(c) != mqtts.CodePlaintextAccepted || c.Observed.ReasonCode == nil || *c.Observed.ReasonCode != 5 {
		t.Errorf("%+v %+v", c.Observed, c.Diagnosis)
	}
}

// An unread is a connection with a byte put back.
type unread struct {
	net.Conn
	first []byte
}

func (u *unread) Read(p []byte) (int, error) {
	if len(u.first) > 0 {
		n := copy(p, u.first)
		u.first = u.first[n:]
		return n, nil
	}
	return u.Conn.Read(p)
}

// TestMaterial refuses material that would make a check lie. Nothing is dialled.
func TestMaterial(t *testing.T) {
	f := newFleet(t)
	cases := map[string]mqtts.Material{
		"expired":       {Expired: f.device},
		"not yet valid": {NotYetValid: f.device},
		"wrong usage":   {WrongUsage: f.device},
		"no key":        {Foreign: &tls.Certificate{Certificate: f.device.Certificate}},
		"no revoked":    {Resume: true},
	}
	for name, m := range cases {
		target := f.negative(t, "mqtts://127.0.0.1:1", m)
		if err := target.Validate(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if r := mqtts.Verify(context.Background(), target); !r.Has(mqtts.CodeInvalidTarget) || len(r.Checks) != 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestFetchCRLs: CRLs that are fetched count as others do; when they cannot be
// had, the run goes on and cannot pass.
func TestFetchCRLs(t *testing.T) {
	f := newFleet(t)
	target := f.target(broker{tls: f.mutual()}.start(t))
	target.FetchCRLs = func(context.Context) ([]*x509.RevocationList, error) {
		return []*x509.RevocationList{f.issuer.crl(t, time.Hour, f.broker)}, nil
	}
	expect(t, verify(t, target), mqtts.StepVerify, mqtts.CodeServerRevoked)
	target.FetchCRLs = func(context.Context) ([]*x509.RevocationList, error) { return nil, errors.New("no route") }
	r := verify(t, target)
	if r.Verdict != mqtts.VerdictInconclusive || !r.Has(mqtts.CodeCRLUnavailable) || r.Step(mqtts.StepVerify).Result != mqtts.ResultWarn {
		t.Errorf("%+v", r)
	}
}
