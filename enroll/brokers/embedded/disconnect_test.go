package embedded

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/mochi-mqtt/server/v2/packets"
)

// All sessions of one identity end, whatever they are doing, and only they; a
// client of MQTT 5 learns why, and one of 3.1.1 is sent no packet that it does
// not know.
func TestDisconnect(t *testing.T) {
	s := newSite(t, func(s *site) { s.limits.farewell = 300 * time.Millisecond })
	bad, good := s.clients.Device("bad"), s.clients.Device("good")
	lost := make(chan error, 1)
	s.mustPaho(bad, "paho", func(o *paho.ClientOptions) {
		o.SetConnectionLostHandler(func(_ paho.Client, err error) { lost <- err })
	})
	five := s.mustDial(bad, connect(5, "five"))
	three := s.mustDial(bad, connect(4, "three"))
	keep := s.mustDial(good, connect(5, "keep"))
	silent, err := tls.Dial("tcp", s.Addr().String(), s.tls(&bad, tls.VersionTLS12)) // no CONNECT yet
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	eventually(t, "known", func() bool { return len(s.sessions.of("bad")) == 4 })
	stuck := s.mustDial(bad, connect(5, "stuck")) // reads nothing any more
	stuck.subscribe("flood")
	_ = stuck.conn.(*tls.Conn).NetConn().(*net.TCPConn).SetReadBuffer(4096)
	for range 16 {
		keep.publish("flood", strings.Repeat("x", 500_000), 0, false)
	}
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	publishing.Go(func() { // a client that writes all the time must see the reason all the same
		for {
			select {
			case <-stop:
				return
			default:
				if five.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: "x", Payload: make([]byte, 5000)}) != nil {
					return
				}
			}
		}
	})

	began := time.Now()
	closed, err := s.Disconnect(t.Context(), "bad")
	if closed != 4 || err != nil {
		t.Fatalf("closed %d, %v", closed, err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if sessions, _ := s.Sessions(t.Context()); len(sessions) != 1 || sessions[0].Identity != "good" {
		t.Errorf("left: %v", sessions)
	}
	select {
	case <-lost:
	case <-time.After(5 * time.Second):
		t.Error("paho did not notice")
	}
	if pk := five.until(packets.Disconnect); pk.ReasonCode != packets.ErrAdministrativeAction.Code {
		t.Errorf("reason %#x", pk.ReasonCode)
	}
	close(stop)
	publishing.Wait()
	if pk, err := three.receive(); err == nil {
		t.Errorf("a client of MQTT 3.1.1 was sent packet type %d", pk.FixedHeader.Type)
	}
	if code := keep.publish("x", "y", 1, false); code != 0 && code != packets.CodeNoMatchingSubscribers.Code {
		t.Errorf("the other identity: reason %#x", code)
	}
	if closed, err := s.Disconnect(t.Context(), "bad"); closed != 0 || err != nil {
		t.Errorf("again: closed %d, %v", closed, err)
	}
}

// Revocation as it is used: list first, then the sessions. However the two fall
// between a device's handshake and its CONNECT, it does not stay.
func TestRevokeWhileConnecting(t *testing.T) {
	s := newSite(t)
	for i := range 12 {
		device := s.clients.Device(fmt.Sprintf("d%d", i))
		tcp, err := tls.Dial("tcp", s.Addr().String(), s.tls(&device, tls.VersionTLS12))
		if err != nil {
			t.Fatal(err)
		}
		client := &raw{t: t, conn: tcp, version: 4}
		var both sync.WaitGroup
		both.Go(func() { _ = client.send(connect(4, "c")) })
		both.Go(func() {
			s.revoke(device)
			if _, err := s.Disconnect(t.Context(), device.Leaf.Subject.CommonName); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		eventually(t, "gone", func() bool { return len(s.sessions.all()) == 0 })
		_ = tcp.Close()
	}
}

// A certificate that is revoked between its handshake and CONNECT is refused.
func TestRevokeBeforeConnect(t *testing.T) {
	s := newSite(t)
	device := s.clients.Device("d")
	for version, code := range map[byte]byte{4: 5, 5: packets.ErrNotAuthorized.Code} {
		s.revoke()
		tcp, err := tls.Dial("tcp", s.Addr().String(), s.tls(&device, tls.VersionTLS12))
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		_ = tcp.SetDeadline(time.Now().Add(5 * time.Second))
		s.revoke(device)
		client := &raw{t: t, conn: tcp, reader: bufio.NewReader(tcp), version: version}
		_ = client.send(connect(version, "c"))
		if answer, err := client.receive(); err != nil || answer.ReasonCode != code {
			t.Errorf("MQTT %d: %v, reason %#x", version, err, answer.ReasonCode)
		}
	}
	eventually(t, "gone", func() bool { return len(s.sessions.all()) == 0 })
}
