package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// A verifyBench is a broker of one self-signed certificate, and files for the
// command line.
type verifyBench struct {
	address                      string
	ca, cert, key, otherKey, dir string
	connections                  atomic.Int32
}

// newVerifyBench starts a broker that speaks just enough MQTT 3.1.1.
func newVerifyBench(t *testing.T) *verifyBench {
	t.Helper()
	b := &verifyBench{dir: t.TempDir()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	b.cert = b.write(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	b.ca = b.cert
	b.key = b.writeKey(t, "key.pem", key)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.otherKey = b.writeKey(t, "other-key.pem", other)
	b.listen(t, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequestClientCert})
	return b
}

func (b *verifyBench) write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *verifyBench) writeKey(t *testing.T, name string, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return b.write(t, name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (b *verifyBench) listen(t *testing.T, config *tls.Config) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.address = l.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.connections.Add(1)
			serving.Go(func() {
				defer c.Close()
				serveMQTT311(tls.Server(c, config))
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
}

// serveMQTT311 accepts anybody and sends the first message back.
func serveMQTT311(c net.Conn) {
	buf := make([]byte, 4096)
	if n, _ := c.Read(buf); n == 0 {
		return
	}
	c.Write([]byte{0x20, 2, 0, 0})
	if n, _ := c.Read(buf); n < 4 { // SUBSCRIBE
		return
	}
	c.Write([]byte{0x90, 3, buf[2], buf[3], 1})
	n, _ := c.Read(buf) // PUBLISH
	c.Write(buf[:n])
	io.Copy(io.Discard, c)
}

func TestVerifyPasses(t *testing.T) {
	b := newVerifyBench(t)
	password := b.write(t, "password", []byte("hunter2\n"))
	args := []string{"verify", "mqtts://" + b.address, "--ca", b.ca, "--cert", b.cert, "--key", b.key, "--mqtt", "3.1.1",
		"--username", "someone", "--password-file", password}
	var stdout, stderr bytes.Buffer
	if code := run(args, &stdout, &stderr); code != exitPass || stderr.Len() != 0 {
		t.Fatalf("exit %d\n%s%s", code, stdout.String(), stderr.String())
	}
	for _, want := range []string{"publish_subscribe", "secure channel ready", "PASS"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("%q is not in\n%s", want, stdout.String())
		}
	}
	if strings.Contains(stdout.String(), "hunter2") || strings.Contains(stdout.String(), "\x1b") {
		t.Errorf("a password or an escape sequence in\n%s", stdout.String())
	}

	stdout.Reset()
	if code := run(append(args, "--json", "--publish=false"), &stdout, &stderr); code != exitPass {
		t.Fatalf("exit %d\n%s", code, stderr.String())
	}
	var report mqtts.Report
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	if report.Verdict != mqtts.VerdictPass || len(report.Steps) != 8 || report.Step(mqtts.StepPublishSubscribe).Result != mqtts.ResultSkipped {
		t.Errorf("%+v", report)
	}
}

func TestVerifyFails(t *testing.T) {
	b := newVerifyBench(t)
	var stdout, stderr bytes.Buffer
	code := run([]string{"verify", b.address, "--ca", b.dir, "--server-name", "elsewhere.test"}, &stdout, &stderr)
	if code != exitFail || !strings.Contains(stdout.String(), "FAIL") {
		t.Errorf("exit %d\n%s", code, stdout.String())
	}
	if want := "fleetca: verification failed at verify: server_name_mismatch\n"; stderr.String() != want {
		t.Errorf("stderr %q, want %q", stderr.String(), want)
	}
}

// TestVerifyUsage checks that a wrong command line or file exits with 2, says so
// on stderr with a hint, prints nothing else and dials nothing.
func TestVerifyUsage(t *testing.T) {
	b := newVerifyBench(t)
	url := "mqtts://" + b.address
	missing, empty := filepath.Join(b.dir, "missing.pem"), b.write(t, "empty.pem", nil)
	folder := filepath.Join(b.dir, "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name string
		args []string
		want string
	}{
		{"no broker", []string{"--ca", b.ca}, "one broker"},
		{"no bundle", []string{url}, "--ca"},
		{"missing bundle", []string{url, "--ca", missing}, missing},
		{"empty bundle", []string{url, "--ca", empty}, empty},
		{"empty folder", []string{url, "--ca", folder}, folder},
		{"key as bundle", []string{url, "--ca", b.key}, b.key},
		{"certificate without key", []string{url, "--ca", b.ca, "--cert", b.cert}, "--key"},
		{"key without certificate", []string{url, "--ca", b.ca, "--key", b.key}, "--cert"},
		{"mismatched pair", []string{url, "--ca", b.ca, "--cert", b.cert, "--key", b.otherKey}, "do not fit"},
		{"missing certificate", []string{url, "--ca", b.ca, "--cert", missing, "--key", b.key}, missing},
		{"plaintext scheme", []string{"mqtt://" + b.address, "--ca", b.ca}, "mqtts://"},
		{"port", []string{"mqtts://127.0.0.1:70000", "--ca", b.ca}, "70000"},
		{"TLS version", []string{url, "--ca", b.ca, "--tls", "1.1"}, "1.1"},
		{"MQTT version", []string{url, "--ca", b.ca, "--mqtt", "4"}, `"4"`},
		{"timeout", []string{url, "--ca", b.ca, "--timeout", "0s"}, "--timeout"},
		{"topic", []string{url, "--ca", b.ca, "--topic", "a/#"}, "wildcards"},
		{"password file", []string{url, "--ca", b.ca, "--password-file", missing}, missing},
		{"CRL", []string{url, "--ca", b.ca, "--crl", b.key}, b.key},
		{"unknown flag", []string{url, "--ca", b.ca, "--nonsense"}, "nonsense"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(append([]string{"verify"}, c.args...), &stdout, &stderr)
			if code != exitUsage || stdout.Len() != 0 {
				t.Errorf("exit %d, stdout %q", code, stdout.String())
			}
			if !strings.Contains(stderr.String(), c.want) || !strings.Contains(stderr.String(), "hint:") {
				t.Errorf("stderr %q lacks %q or a hint", stderr.String(), c.want)
			}
		})
	}
	if n := b.connections.Load(); n != 0 {
		t.Errorf("dialled %d times", n)
	}
}
