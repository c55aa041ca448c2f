package embedded

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
)

// connected returns a conn after its handshake, and the client's end.
func connected(t *testing.T) (*conn, *tls.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	outer, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	inner, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = outer.Close(), inner.Close() })
	certificate := brokertest.NewCA(t, "a").Device("server")
	limits := limits{write: 200 * time.Millisecond, farewell: 100 * time.Millisecond, linger: 100 * time.Millisecond}
	c := &conn{Conn: tls.Server(inner, &tls.Config{Certificates: []tls.Certificate{certificate}}), raw: inner, limits: &limits}
	client := tls.Client(outer, &tls.Config{InsecureSkipVerify: true}) // the test is about sockets
	shaken := make(chan error, 1)
	go func() { shaken <- client.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	return c, client
}

// within fails the test when something takes longer than a second.
func within(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(time.Second):
		t.Fatalf("%s took more than a second", what)
	}
}

// A closed connection does not read on, whatever deadline is set after.
func TestConnCloseEndsReads(t *testing.T) {
	c, _ := connected(t)
	_ = c.Close()
	_ = c.SetDeadline(time.Time{})
	within(t, "read", func() {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("it read something")
		}
	})
}

// A peer that reads nothing holds up a write, a Close and the end only for the
// time given.
func TestConnStuck(t *testing.T) {
	fill := func(c *conn) {
		for range 100 {
			if _, err := c.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
		t.Error("100 MiB were written to nobody")
	}
	t.Run("write", func(t *testing.T) {
		c, _ := connected(t)
		within(t, "write", func() { fill(c) })
	})
	t.Run("close", func(t *testing.T) {
		c, _ := connected(t)
		c.limits.write = time.Hour
		go func() { fill(c) }()
		time.Sleep(100 * time.Millisecond)
		within(t, "close", func() { _ = c.Close() })
		within(t, "finish", c.finish)
	})
}
