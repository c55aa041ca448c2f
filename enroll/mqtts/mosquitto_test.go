package mqtts_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// mosquittoBinary finds Mosquitto, or skips; with FLEETCA_TEST_ALL=1 its absence
// fails the test.
func mosquittoBinary(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("FLEETCA_TEST_ALL") == "1" {
		t.Fatal("mosquitto is not on PATH: install the package mosquitto")
	}
	t.Skip("mosquitto is not on PATH: install the package mosquitto")
	return ""
}

// A mosquitto is the configuration of one Mosquitto process.
type mosquitto struct {
	plaintext bool
	crls      []*x509.RevocationList
	extra     []string // lines of configuration
	files     map[string]string
	reloaded  func(dir string) // changes files, which are then reloaded
}

// start runs Mosquitto on a free loopback port until the test ends.
func (m mosquitto) start(t *testing.T, f *fleet) string {
	t.Helper()
	binary, dir := mosquittoBinary(t), t.TempDir()
	os.Chmod(dir, 0o755)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	l.Close()
	lines := []string{"persistence false", "log_dest stderr", "log_type all", fmt.Sprintf("listener %d 127.0.0.1", address.Port)}
	if os.Getuid() == 0 {
		lines = append([]string{"user root"}, lines...)
	}
	if !m.plaintext {
		key, err := x509.MarshalPKCS8PrivateKey(f.broker.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines,
			"cafile "+writePEM(t, dir, "ca.pem", "CERTIFICATE", f.root.certificate.Raw),
			"certfile "+writePEM(t, dir, "broker.pem", "CERTIFICATE", f.broker.Certificate...),
			"keyfile "+writePEM(t, dir, "key.pem", "PRIVATE KEY", key),
			"require_certificate true")
	}
	if len(m.crls) > 0 {
		var ders [][]byte
		for _, crl := range m.crls {
			ders = append(ders, crl.Raw)
		}
		lines = append(lines, "crlfile "+writePEM(t, dir, "crl.pem", "X509 CRL", ders...))
	}
	for name, content := range m.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range m.extra {
		lines = append(lines, strings.ReplaceAll(line, "DIR", dir))
	}
	config := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(binary, "-c", config)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("mosquitto:\n%s", log.String())
		}
	})
	for range 200 {
		if c, err := net.Dial("tcp", address.String()); err == nil {
			c.Close()
			if m.reloaded != nil {
				time.Sleep(300 * time.Millisecond) // SIGHUP ends a Mosquitto that is still starting
				m.reloaded(dir)
				cmd.Process.Signal(syscall.SIGHUP)
				time.Sleep(200 * time.Millisecond)
			}
			return "mqtts://" + address.String()
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("mosquitto did not start:\n%s", log.String())
	return ""
}

// TestMosquitto has what a real broker answers, in both TLS versions and both
// MQTT versions.
func TestMosquitto(t *testing.T) {
	mosquittoBinary(t)
	f := newFleet(t)
	client := usage(x509.ExtKeyUsageClientAuth)
	foreign := newAuthority(t, "Foreign Issuer", newAuthority(t, "Foreign Root", nil))
	rogue := newAuthority(t, "Fleet Issuer", newAuthority(t, "Fleet Root", nil))
	revoked := f.issuer.issue(t, "device-2", client)
	rootCRL := f.root.crl(t, time.Hour)
	good := mosquitto{crls: []*x509.RevocationList{f.issuer.crl(t, time.Hour, revoked), rootCRL}, extra: []string{"allow_anonymous true"}}
	url := good.start(t, f)
	stale := mosquitto{crls: []*x509.RevocationList{f.issuer.crl(t, -time.Minute), rootCRL}, extra: []string{"allow_anonymous true"}}.start(t, f)
	missing := mosquitto{crls: []*x509.RevocationList{rootCRL}, extra: []string{"allow_anonymous true"}}.start(t, f)
	denied := mosquitto{extra: []string{"allow_anonymous false"}}.start(t, f)
	acl := mosquitto{extra: []string{"allow_anonymous true", "acl_file DIR/acl"}, files: map[string]string{"acl": "topic read fleetca/#\n"}}.start(t, f)
	alerts := func(tls12, tls13 int) map[uint16]int {
		return map[uint16]int{tls.VersionTLS12: tls12, tls.VersionTLS13: tls13}
	}
	cases := []struct {
		name, url   string
		certificate *tls.Certificate
		alerts      map[uint16]int
		step        mqtts.StepName
		code        mqtts.Code
	}{
		{"good", url, f.device, nil, "", ""},
		{"none", url, nil, alerts(40, 116), mqtts.StepSessionKeys, mqtts.CodeClientCertificateRequired},
		{"foreign", url, foreign.issue(t, "device-1", client), both(48), mqtts.StepSessionKeys, mqtts.CodeClientUnknownCA},
		{"rogue", url, rogue.issue(t, "device-1", client), both(48), mqtts.StepSessionKeys, mqtts.CodeClientUnknownCA},
		{"expired", url, f.issuer.issue(t, "device-1", client, expired), both(45), mqtts.StepSessionKeys, mqtts.CodeClientCertificateExpired},
		{"not yet valid", url, f.issuer.issue(t, "device-1", client, notYetValid), both(42), mqtts.StepSessionKeys, mqtts.CodeClientCertificateNotYet},
		{"wrong usage", url, f.issuer.issue(t, "device-1", usage(x509.ExtKeyUsageServerAuth)), both(43), mqtts.StepSessionKeys, mqtts.CodeClientWrongUsage},
		{"revoked", url, revoked, both(44), mqtts.StepSessionKeys, mqtts.CodeClientCertificateRevoked},
		{"broker's CRL expired", stale, f.device, both(45), mqtts.StepSessionKeys, mqtts.CodeBrokerCRLExpiredOrClock},
		{"issuer's CRL missing", missing, f.device, both(48), mqtts.StepSessionKeys, mqtts.CodeClientCRLMissing},
		{"not authorized", denied, f.device, nil, mqtts.StepConnack, mqtts.CodeConnackNotAuthorized},
		{"access list", acl, f.device, nil, mqtts.StepPublishSubscribe, mqtts.CodePublishNotDelivered},
	}
	for _, c := range cases {
		for _, v := range versions {
			t.Run(fmt.Sprintf("%s/%s/%s", c.name, tls.VersionName(v.tls), v.mqtt), func(t *testing.T) {
				t.Parallel()
				target := f.target(c.url)
				target.Version, target.MinTLS, target.MaxTLS, target.Certificate = v.mqtt, v.tls, v.tls, c.certificate
				if c.code == mqtts.CodePublishNotDelivered {
					target.StepTimeout = 500 * time.Millisecond
				}
				r := verify(t, target)
				expect(t, r, c.step, c.code)
				if c.alerts != nil && (r.Refusal() == nil || r.Refusal().Alert != c.alerts[v.tls]) {
					t.Errorf("refusal %+v, want alert %d", r.Refusal(), c.alerts[v.tls])
				}
			})
		}
	}
}

// TestMosquittoSuites has a broker with nothing but a cipher suite that
// crypto/tls does not know.
func TestMosquittoSuites(t *testing.T) {
	f := newFleet(t)
	target := f.target(mosquitto{extra: []string{"ciphers ECDHE-ECDSA-AES128-CCM8", "allow_anonymous true"}}.start(t, f))
	target.MaxTLS = tls.VersionTLS12
	r := verify(t, target)
	expect(t, r, mqtts.StepClientHello, mqtts.CodeTLSCipherMismatch)
	if len(r.Diagnosis) != 1 || !strings.Contains(r.Diagnosis[0].Message, "It takes 0xC0AE in TLS 1.2") {
		t.Errorf("diagnosis %+v", r.Diagnosis)
	}
}

// TestMosquittoBrokenKey reloads a broker with a certificate that its key is
// not of.
func TestMosquittoBrokenKey(t *testing.T) {
	f := newFleet(t)
	other := f.issuer.issue(t, "broker.test")
	url := mosquitto{extra: []string{"allow_anonymous true"}, reloaded: func(dir string) {
		writePEM(t, dir, "broker.pem", "CERTIFICATE", other.Certificate...)
	}}.start(t, f)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		target := f.target(url)
		target.MinTLS, target.MaxTLS = version, version
		expect(t, verify(t, target), mqtts.StepClientHello, mqtts.CodeServerBrokenKey)
	}
}

// TestMosquittoPlaintext verifies a listener without TLS.
func TestMosquittoPlaintext(t *testing.T) {
	f := newFleet(t)
	url := mosquitto{plaintext: true, extra: []string{"allow_anonymous true"}}.start(t, f)
	expect(t, verify(t, f.target(url)), mqtts.StepClientHello, mqtts.CodePlaintextListener)
}

// TestMosquittoChecks has a broker that refuses what it must, and one that still
// speaks TLS 1.1.
func TestMosquittoChecks(t *testing.T) {
	f := newFleet(t)
	m := f.material(t)
	crls := []*x509.RevocationList{f.issuer.crl(t, time.Hour, m.Revoked), f.root.crl(t, time.Hour)}
	strict := mosquitto{crls: crls, extra: []string{"allow_anonymous true"}}.start(t, f)
	for _, v := range versions {
		target := f.negative(t, strict, m)
		target.Version, target.MinTLS, target.MaxTLS = v.mqtt, v.tls, v.tls
		r := verify(t, target)
		expectChecks(t, r, mqtts.VerdictPass, nil)
		alerts := map[mqtts.CheckName]int{"foreign_ca": 48, "same_name_rogue_ca": 48, "expired": 45, "not_yet_valid": 42, "wrong_usage": 43, "revoked": 44, "resume_after_revocation": 44}
		for name, alert := range alerts {
			if o := r.Check(name).Observed; o.Alert == nil || *o.Alert != alert {
				t.Errorf("%s: %+v, want alert %d", name, o, alert)
			}
		}
	}
	old := mosquitto{crls: crls, extra: []string{"allow_anonymous true", "tls_version tlsv1.1", "ciphers ALL@SECLEVEL=0"}}.start(t, f)
	r := verify(t, f.negative(t, old, m))
	expectChecks(t, r, mqtts.VerdictFail, map[mqtts.CheckName]mqtts.CheckResult{"old_tls": mqtts.CheckFail})
	if codeOf(r.Check(mqtts.CheckOldTLS)) != mqtts.CodeOldTLSAccepted {
		t.Errorf("%+v", r.Check(mqtts.CheckOldTLS))
	}
}
