package mqtts_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// TestConnackCodes has the reason codes of both versions, one a cause.
func TestConnackCodes(t *testing.T) {
	f := newFleet(t)
	cases := []struct {
		version string
		code    byte
		cause   mqtts.Code
	}{
		{mqtts.Version311, 2, mqtts.CodeConnackClientIDRejected}, {mqtts.Version5, 0x85, mqtts.CodeConnackClientIDRejected},
		{mqtts.Version311, 3, mqtts.CodeConnackServerUnavailable}, {mqtts.Version5, 0x89, mqtts.CodeConnackServerUnavailable},
		{mqtts.Version311, 4, mqtts.CodeConnackBadCredentials}, {mqtts.Version5, 0x86, mqtts.CodeConnackBadCredentials},
		{mqtts.Version311, 5, mqtts.CodeConnackNotAuthorized}, {mqtts.Version5, 0x87, mqtts.CodeConnackNotAuthorized},
		{mqtts.Version311, 1, mqtts.CodeConnackUnsupportedVersion}, {mqtts.Version5, 0x82, mqtts.CodeConnackRefused},
	}
	for _, c := range cases {
		answer := []byte{0x20, 2, 0, c.code}
		if c.version == mqtts.Version5 {
			answer = []byte{0x20, 3, 0, c.code, 0}
		}
		target := f.target(listen(t, overTLS(f.mutual(), script(answer))))
		target.Version = c.version
		r := verify(t, target)
		expect(t, r, mqtts.StepConnack, c.cause)
		if r.MQTT.ReasonCode != int(c.code) || r.MQTT.Raw != fmt.Sprintf("%x", answer) || r.MQTT.Reason == "" {
			t.Errorf("MQTT %+v", r.MQTT)
		}
	}
}

// TestNoConnack: what has no reason code says so.
func TestNoConnack(t *testing.T) {
	f := newFleet(t)
	r := verify(t, f.target(listen(t, overTLS(f.mutual(), script([]byte{0x20, 1, 0})))))
	expect(t, r, mqtts.StepConnack, mqtts.CodeConnackMalformed)
	if r.MQTT.ReasonCode != -1 || r.MQTT.Raw != "200100" {
		t.Errorf("MQTT %+v", r.MQTT)
	}
}

func TestSessionPresent(t *testing.T) {
	f := newFleet(t)
	target := f.target(listen(t, overTLS(f.mutual(), script([]byte{0x20, 2, 1, 0}))))
	target.Version, target.SkipPublish = mqtts.Version311, true
	r := verify(t, target)
	expect(t, r, "", mqtts.CodeSessionPresentUnexpected)
	if !r.MQTT.SessionPresent || r.Step(mqtts.StepConnack).Result != mqtts.ResultWarn {
		t.Errorf("MQTT %+v, step %+v", r.MQTT, r.Step(mqtts.StepConnack))
	}
}

// TestAlerts has alerts that come in place of a ServerHello.
func TestAlerts(t *testing.T) {
	f := newFleet(t)
	cases := map[byte]mqtts.Code{
		80: mqtts.CodeBrokerInternalError, 112: mqtts.CodeServerNameUnknown, 50: mqtts.CodeTLSAlert, 120: mqtts.CodeALPNMismatch,
	}
	for alert, code := range cases {
		r := verify(t, f.target(listen(t, func(c net.Conn) {
			c.Read(make([]byte, 4096))
			c.Write(record(21, []byte{2, alert}))
			drain(c)
		})))
		expect(t, r, mqtts.StepClientHello, code)
	}
}

// TestRefusedClient puts a broker behind a proxy that answers our certificate, in
// TLS 1.2, with an alert of its choice.
func TestRefusedClient(t *testing.T) {
	f := newFleet(t)
	config := f.mutual()
	config.MaxVersion = tls.VersionTLS12
	behind := strings.TrimPrefix(broker{tls: config}.start(t), "mqtts://")
	cases := map[byte]mqtts.Code{
		40: mqtts.CodeClientCertificateRefused, 46: mqtts.CodeClientCertificateRefused, 49: mqtts.CodeClientCertificateRefused,
		42: mqtts.CodeBrokerCRLExpiredOrClock, 43: mqtts.CodeClientWrongUsage, 44: mqtts.CodeClientCertificateRevoked,
		45: mqtts.CodeBrokerCRLExpiredOrClock, 48: mqtts.CodeClientCRLMissing, 80: mqtts.CodeBrokerInternalError,
	}
	for alert, code := range cases {
		target := f.target(listen(t, func(c net.Conn) { refuseCertificate(t, c, behind, alert) }))
		target.MaxTLS = tls.VersionTLS12
		r := verify(t, target)
		expect(t, r, mqtts.StepSessionKeys, code)
		if s := r.Step(mqtts.StepSessionKeys); !strings.Contains(s.Detail, fmt.Sprintf("alert %d ", alert)) {
			t.Errorf("step %+v", s)
		}
	}
}

// refuseCertificate hands a handshake of TLS 1.2 on until the client has sent its
// certificate, which it answers itself.
func refuseCertificate(t *testing.T, client net.Conn, address string, alert byte) {
	server, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer server.Close()
	buf := make([]byte, 64<<10)
	n, _ := client.Read(buf) // ClientHello
	server.Write(buf[:n])
	for { // to ServerHelloDone
		n, err = server.Read(buf)
		if err != nil {
			return
		}
		client.Write(buf[:n])
		if slices.Equal(buf[n-4:n], []byte{14, 0, 0, 0}) {
			break
		}
	}
	client.Read(buf)
	client.Write(record(21, []byte{2, alert}))
	drain(client)
}

// TestUnusableKey has a key that cannot sign, as one in hardware may.
func TestUnusableKey(t *testing.T) {
	f := newFleet(t)
	target := f.target(broker{tls: f.mutual()}.start(t))
	target.Certificate = &tls.Certificate{Certificate: f.device.Certificate, PrivateKey: lockedKey{keyOf(t, f.device)}}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		target.MinTLS, target.MaxTLS = version, version
		expect(t, verify(t, target), mqtts.StepSessionKeys, mqtts.CodeClientCertificateUnusable)
	}
}

type lockedKey struct{ crypto.Signer }

func (lockedKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the token is locked")
}

// TestStapleMissing has a certificate that names a responder, and no staple.
func TestStapleMissing(t *testing.T) {
	f := newFleet(t)
	config := f.mutual()
	config.Certificates = []tls.Certificate{*f.issuer.issue(t, "broker.test", usage(x509.ExtKeyUsageServerAuth),
		func(c *x509.Certificate) { c.OCSPServer = []string{"http://ocsp.test"} })}
	r := verify(t, f.target(broker{tls: config}.start(t)))
	expect(t, r, "", mqtts.CodeStapleMissing)
	if r.Step(mqtts.StepVerify).Result != mqtts.ResultPass { // information, not a warning
		t.Errorf("step %+v", r.Step(mqtts.StepVerify))
	}
}

// TestMustStaple has a certificate that is void without a staple. crypto/tls does
// not look.
func TestMustStaple(t *testing.T) {
	f := newFleet(t)
	for features, code := range map[string]mqtts.Code{"\x30\x03\x02\x01\x05": mqtts.CodeStapleRequired, "\x30\x03\x02\x01\x11": ""} {
		config := f.mutual()
		config.Certificates = []tls.Certificate{*f.issuer.issue(t, "broker.test", usage(x509.ExtKeyUsageServerAuth), func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte(features)}}
		})}
		r := verify(t, f.target(broker{tls: config}.start(t)))
		if code != "" {
			expect(t, r, mqtts.StepVerify, code)
		} else {
			expect(t, r, "", "")
		}
	}
}

// TestUnreachable dials an address that no connection can be made to.
func TestUnreachable(t *testing.T) {
	f := newFleet(t)
	expect(t, verify(t, f.target("mqtts://255.255.255.255:8883")), mqtts.StepTCP, mqtts.CodeTCPUnreachable)
}

// TestTCPTimeout dials a socket whose queue is full: the kernel drops what comes.
func TestTCPTimeout(t *testing.T) {
	f := newFleet(t)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	err = errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0))
	if err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 4 { // more than the queue takes
		if c, err := net.DialTimeout("tcp", address, 100*time.Millisecond); err == nil {
			defer c.Close()
		}
	}
	target := f.target("mqtts://" + address)
	target.StepTimeout = 300 * time.Millisecond
	expect(t, verify(t, target), mqtts.StepTCP, mqtts.CodeTCPTimeout)
}

// TestMD5 has a signature by MD5, which says nothing: it is never accepted. No
// library makes one, so that the algorithm is rewritten.
func TestMD5(t *testing.T) {
	f := newFleet(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	root := *f.root.certificate
	root.PublicKey, root.SignatureAlgorithm = &key.PublicKey, x509.SHA256WithRSA
	der, err := x509.CreateCertificate(rand.Reader, &root, &root, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafOf(t, f.broker)
	leaf.SignatureAlgorithm = x509.SHA256WithRSA
	der, err = x509.CreateCertificate(rand.Reader, leaf, issuer, &keyOf(t, f.broker).PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	const pkcs1 = "\x2a\x86\x48\x86\xf7\x0d\x01\x01"
	der = []byte(strings.ReplaceAll(string(der), pkcs1+"\x0b", pkcs1+"\x04"))
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: f.broker.PrivateKey}
	target := f.target(listen(t, overTLS(&tls.Config{Certificates: []tls.Certificate{certificate}}, drainTLS)))
	target.Roots = []*x509.Certificate{issuer}
	r := verify(t, target)
	expect(t, r, mqtts.StepVerify, mqtts.CodeServerWeakSignature)
	if !strings.Contains(r.Diagnosis[0].Message, "MD5") {
		t.Errorf("%+v", r.Diagnosis)
	}
}
