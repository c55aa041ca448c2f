package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestVerifyScripts runs fleetca verify as a person sees it, without a server.
// The scripts have certificates in their folder, and brokers: $STRICT, $OPEN
// (which takes anybody), $WSS, $SILENT, and $CRL_URL. Whoever dials $UNTOUCHED
// fails the test.
func TestVerifyScripts(t *testing.T) {
	t.Parallel()
	b := newScriptBrokers(t)
	testscript.Run(t, testscript.Params{
		Dir:  filepath.Join("testdata", "verify"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Setup: func(env *testscript.Env) error {
			for name, value := range b.env {
				env.Setenv(name, value)
			}
			return os.CopyFS(env.WorkDir, os.DirFS(b.dir))
		},
	})
}

// scriptBrokers are the brokers and files of the scripts.
type scriptBrokers struct {
	dir    string
	env    map[string]string
	issuer *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

// exits is the script command exits CODE PROGRAM ARGUMENTS.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func newScriptBrokers(t testing.TB) *scriptBrokers {
	// On a machine with much else to do.
	b := &scriptBrokers{dir: t.TempDir(), env: map[string]string{"FLEETCA_TIMEOUT": "1m", "FLEETCA_STEP_TIMEOUT": "20s"}}
	b.issuer, b.key = b.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Script CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-72 * time.Hour), NotAfter: time.Now().Add(72 * time.Hour)})
	b.write(t, "ca.pem", "CERTIFICATE", b.issuer.Raw)
	day, client := 24*time.Hour, x509.ExtKeyUsageClientAuth
	broker := b.pair(t, "broker", -time.Hour, day, x509.ExtKeyUsageServerAuth)
	b.pair(t, "device", -time.Hour, day, client)
	b.pair(t, "expired", -2*day, -day, client)
	b.pair(t, "future", day, 2*day, client)
	b.pair(t, "server", -time.Hour, day, x509.ExtKeyUsageServerAuth)
	revoked := b.pair(t, "revoked", -time.Hour, day, client)
	crl := b.crl(t, revoked)

	strict := &tls.Config{Certificates: []tls.Certificate{broker}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	strict.ClientCAs.AddCert(b.issuer)
	strict.VerifyConnection = func(s tls.ConnectionState) error {
		if s.PeerCertificates[0].Subject.CommonName == "revoked" {
			return errors.New("revoked")
		}
		return nil
	}
	open := &tls.Config{Certificates: []tls.Certificate{broker}, ClientAuth: tls.RequestClientCert}
	b.env["STRICT"], b.env["WSS"] = b.serve(t, strict)
	b.env["OPEN"], _ = b.serve(t, open)
	b.env["SILENT"] = silent(t, func() {})
	b.env["UNTOUCHED"] = silent(t, func() { t.Error("dialled after all") })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/crl" {
			http.NotFound(w, r)
			return
		}
		w.Write(crl)
	}))
	t.Cleanup(server.Close)
	b.env["CRL_URL"] = server.URL + "/crl"
	return b
}

// sign makes a key, and a certificate for it by the issuer; the first one signs
// itself.
func (b *scriptBrokers) sign(t testing.TB, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.serial++
	template.SerialNumber = big.NewInt(b.serial)
	issuer, issuerKey := b.issuer, b.key
	if issuer == nil {
		issuer, issuerKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

// pair makes NAME.pem and NAME.key.
func (b *scriptBrokers) pair(t testing.TB, name string, from, to time.Duration, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	c, key := b.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, name+".pem", "CERTIFICATE", c.Raw)
	b.write(t, name+".key", "PRIVATE KEY", der)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
}

// crl makes crl.pem, and returns its DER.
func (b *scriptBrokers) crl(t testing.TB, revoked tls.Certificate) []byte {
	t.Helper()
	leaf, err := x509.ParseCertificate(revoked.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: leaf.SerialNumber, RevocationTime: time.Now()}}}, b.issuer, b.key)
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, "crl.pem", "X509 CRL", der)
	return der
}

func (b *scriptBrokers) write(t testing.TB, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve runs a broker with an MQTTS and a WebSocket listener, and returns their
// URLs.
func (b *scriptBrokers) serve(t testing.TB, config *tls.Config) (url, websocket string) {
	t.Helper()
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	l, free := listen(t), listen(t)
	address, wsAddress := l.Addr().String(), free.Addr().String()
	free.Close()
	err := errors.Join(server.AddHook(new(allowAll), nil),
		server.AddListener(listeners.NewNet("mqtts", tls.NewListener(l, config))),
		server.AddListener(listeners.NewWebsocket(listeners.Config{ID: "wss", Address: wsAddress, TLSConfig: config})),
		server.Serve())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	for range 500 {
		if c, err := net.Dial("tcp", wsAddress); err == nil {
			c.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "mqtts://" + address, "wss://" + wsAddress + "/mqtt"
}

// silent is a listener that never says anything.
func silent(t testing.TB, dialled func()) string {
	l := listen(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			dialled()
			serving.Go(func() { defer c.Close(); io.Copy(io.Discard, c) })
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return "mqtts://" + l.Addr().String()
}

// allowAll lets every client do everything: what is tested is TLS.
type allowAll struct{ mochi.HookBase }

func (*allowAll) ID() string { return "allow-all" }

func (*allowAll) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

func (*allowAll) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

func (*allowAll) OnACLCheck(*mochi.Client, string, bool) bool { return true }
