package mqtts_test

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// TestListeners has what is no broker, or none that can be talked to.
func TestListeners(t *testing.T) {
	f := newFleet(t)
	plain := &tls.Config{Certificates: []tls.Certificate{*f.broker}}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	old := f.mutual()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	other := tls.Config{Certificates: []tls.Certificate{*f.broker}, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256}, MaxVersion: tls.VersionTLS12}
	cases := []struct {
		name, url string
		step      mqtts.StepName
		code      mqtts.Code
	}{
		{"closed port", "mqtts://" + closed.Addr().String(), mqtts.StepTCP, mqtts.CodeTCPRefused},
		{"no such name", "mqtts://broker.invalid", mqtts.StepTCP, mqtts.CodeDNSFailure},
		{"plaintext broker", broker{}.start(t), mqtts.StepClientHello, mqtts.CodePlaintextListener},
		{"plaintext, answers at once", listen(t, func(c net.Conn) { c.Write([]byte{0x20, 2, 0, 1}); drain(c) }), mqtts.StepClientHello, mqtts.CodePlaintextListener},
		{"HTTP", listen(t, func(c net.Conn) {
			c.Read(make([]byte, 1))
			c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			drain(c)
		}), mqtts.StepClientHello, mqtts.CodeNotMQTTHTTP},
		{"SSH", listen(t, func(c net.Conn) { c.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n")); drain(c) }), mqtts.StepClientHello, mqtts.CodeNotMQTTSSH},
		{"NATS banner", listen(t, func(c net.Conn) { c.Write([]byte("INFO {\"server_id\":\"x\"}\r\n")); drain(c) }), mqtts.StepClientHello, mqtts.CodeNotTLS},
		{"HTTPS", listen(t, overTLS(plain, func(c *tls.Conn) {
			c.Read(make([]byte, 1))
			c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			drain(c)
		})), mqtts.StepConnack, mqtts.CodeNotMQTTHTTP},
		{"TLS 1.1", broker{tls: old}.start(t), mqtts.StepClientHello, mqtts.CodeTLSVersionMismatch},
		{"no common suite", broker{tls: &other}.start(t), mqtts.StepClientHello, mqtts.CodeTLSCipherMismatch},
		{"no mutual TLS", broker{tls: plain}.start(t), "", mqtts.CodeClientCertificateNotRequested},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			target := f.target(c.url)
			target.StepTimeout = 2 * time.Second // some wait for the rest of a record
			expect(t, verify(t, target), c.step, c.code)
		})
	}
}

// TestRefusedHello checks what the broker would have taken, and a key that takes
// nothing.
func TestRefusedHello(t *testing.T) {
	f := newFleet(t)
	old, modern := f.mutual(), f.mutual()
	old.MaxVersion, modern.MinVersion = tls.VersionTLS12, tls.VersionTLS13
	rsaOnly := f.mutual() // with a certificate of ECDSA: nothing fits
	rsaOnly.MaxVersion, rsaOnly.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	cases := []struct {
		name     string
		config   *tls.Config
		min, max uint16
		code     mqtts.Code
		takes    string
	}{
		{"1.2 only", old, tls.VersionTLS13, tls.VersionTLS13, mqtts.CodeTLSVersionMismatch, "takes TLS 1.2."},
		{"1.3 only", modern, tls.VersionTLS12, tls.VersionTLS12, mqtts.CodeTLSVersionMismatch, "takes TLS 1.3."},
		{"no key that fits", rsaOnly, tls.VersionTLS12, tls.VersionTLS13, mqtts.CodeServerBrokenKey, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			target := f.target(broker{tls: c.config}.start(t))
			target.MinTLS, target.MaxTLS = c.min, c.max
			r := verify(t, target)
			expect(t, r, mqtts.StepClientHello, c.code)
			if len(r.Diagnosis) != 1 || !strings.Contains(r.Diagnosis[0].Message, c.takes) {
				t.Errorf("diagnosis %+v", r.Diagnosis)
			}
		})
	}
}
