package mqtts_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// A broker is an in-process mochi broker.
type broker struct {
	tls      *tls.Config // nil: plaintext
	deny     func(cl *mqtt.Client, pk packets.Packet) bool
	acl      func(topic string, write bool) bool
	settings func(*mqtt.Capabilities)
	wss      bool // MQTT over WebSocket, on any path
}

// start runs the broker until the test ends and returns its URL.
func (b broker) start(t testing.TB) string {
	t.Helper()
	capabilities := mqtt.NewDefaultServerCapabilities()
	if b.settings != nil {
		b.settings(capabilities)
	}
	server := mqtt.New(&mqtt.Options{Capabilities: capabilities, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := server.AddHook(&accessHook{broker: b}, nil); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address, url := listener.Addr().String(), "mqtts://"
	var serve listeners.Listener
	if b.wss {
		listener.Close()
		url = "wss://"
		serve = listeners.NewWebsocket(listeners.Config{ID: "wss", Address: address, TLSConfig: b.tls})
	} else {
		if b.tls != nil {
			listener = tls.NewListener(listener, b.tls)
		}
		serve = listeners.NewNet("mqtts", listener)
	}
	if err := server.AddListener(serve); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	if b.wss {
		awaitListener(t, address)
	}
	return url + address
}

// awaitListener waits until address takes connections.
func awaitListener(t testing.TB, address string) {
	t.Helper()
	for range 500 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nothing listens on %s", address)
}

type accessHook struct {
	mqtt.HookBase
	broker broker
}

func (h *accessHook) ID() string { return "access" }

func (h *accessHook) Provides(b byte) bool {
	return bytes.Contains([]byte{mqtt.OnConnectAuthenticate, mqtt.OnACLCheck}, []byte{b})
}

func (h *accessHook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	return h.broker.deny == nil || !h.broker.deny(cl, pk)
}

func (h *accessHook) OnACLCheck(_ *mqtt.Client, topic string, write bool) bool {
	return h.broker.acl == nil || h.broker.acl(topic, write)
}

// mutual is the TLS configuration of a broker that requires client certificates.
func (f *fleet) mutual() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{*f.broker}, ClientCAs: f.clientCAs,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}
}

// refusing is mutual with a certificate check that always fails.
func (f *fleet) refusing() *tls.Config {
	c := f.mutual()
	c.VerifyConnection = func(tls.ConnectionState) error { return errors.New("revoked") }
	return c
}

// listen accepts connections and hands each to serve, in goroutines that the end
// of the test waits for. It returns the URL.
func listen(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return "mqtts://" + l.Addr().String()
}

// overTLS turns serve into a handler behind a handshake.
func overTLS(config *tls.Config, serve func(*tls.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		channel := tls.Server(c, config)
		if channel.Handshake() == nil {
			serve(channel)
		}
	}
}

// drain reads until the peer closes.
func drain(c net.Conn) { io.Copy(io.Discard, c) }

// reset closes c so that the peer sees RST.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}
