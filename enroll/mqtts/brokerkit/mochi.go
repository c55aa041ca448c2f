package brokerkit

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// startMochi runs a mochi broker with a listener of each sort.
func startMochi(t testing.TB, s Setup) *Broker {
	t.Helper()
	free := ports(t, 3)
	var current atomic.Pointer[tls.Config]
	current.Store(mutual(s))
	config := &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.Load(), nil },
	}
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := server.AddHook(new(accountHook), nil); err != nil {
		t.Fatal(err)
	}
	address := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", free[i]) }
	for _, l := range []listeners.Listener{
		listeners.NewTCP(listeners.Config{ID: "mqtts", Address: address(0), TLSConfig: config}),
		// A copy: net/http adds its ALPN protocols.
		listeners.NewWebsocket(listeners.Config{ID: "wss", Address: address(1), TLSConfig: config.Clone()}),
		listeners.NewTCP(listeners.Config{ID: "plain", Address: address(2)}),
	} {
		if err := server.AddListener(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return &Broker{
		MQTTS: mqttsURL(free[0]), WSS: fmt.Sprintf("wss://%s/mqtt", address(1)), Plain: mqttsURL(free[2]),
		reload: func(s Setup) error {
			current.Store(mutual(s))
			return nil
		},
	}
}

// mutual requires clients' certificates, and holds CRLs against them on every
// connection, resumed ones as well.
func mutual(s Setup) *tls.Config {
	pool := x509.NewCertPool()
	for _, c := range s.ClientCAs {
		pool.AddCert(c)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{*s.Certificate}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}
	if s.CRLs != nil {
		config.VerifyConnection = func(state tls.ConnectionState) error { return checkCRLs(state.VerifiedChains, s.CRLs) }
	}
	return config
}

// checkCRLs wants a current CRL of the leaf's issuer that does not list it.
func checkCRLs(chains [][]*x509.Certificate, crls []*x509.RevocationList) error {
	leaf, issuer := chains[0][0], chains[0][1]
	for _, crl := range crls {
		if !bytes.Equal(crl.RawIssuer, issuer.RawSubject) || crl.CheckSignatureFrom(issuer) != nil {
			continue
		}
		if time.Now().After(crl.NextUpdate) {
			return errors.New("the CRL expired")
		}
		for _, entry := range crl.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
				return errors.New("the certificate is revoked")
			}
		}
		return nil
	}
	return errors.New("no CRL of the issuer")
}

// An accountHook admits the account, and clients without one.
type accountHook struct{ mqtt.HookBase }

// ID implements mqtt.Hook.
func (*accountHook) ID() string { return "account" }

// Provides implements mqtt.Hook.
func (*accountHook) Provides(b byte) bool {
	return b == mqtt.OnConnectAuthenticate || b == mqtt.OnACLCheck
}

// OnConnectAuthenticate implements mqtt.Hook.
func (*accountHook) OnConnectAuthenticate(_ *mqtt.Client, pk packets.Packet) bool {
	return !pk.Connect.UsernameFlag || string(pk.Connect.Username) == User && string(pk.Connect.Password) == Password
}

// OnACLCheck implements mqtt.Hook.
func (*accountHook) OnACLCheck(*mqtt.Client, string, bool) bool { return true }
