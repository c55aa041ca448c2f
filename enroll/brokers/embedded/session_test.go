package embedded

import (
	"crypto/tls"
	"encoding/hex"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
)

func TestSessions(t *testing.T) {
	s := newSite(t)
	one, two := s.clients.Device("one"), s.clients.Device("two")
	s.mustPaho(one, "a")
	client := s.mustDial(two, connect(5, "b"))
	sessions, err := s.Sessions(t.Context())
	if err != nil || len(sessions) != 2 {
		t.Fatalf("%v, %v", sessions, err)
	}
	got := sessions[1]
	want := brokers.Session{
		ID: got.ID, ClientID: "b", Identity: "two", SerialNumber: hex.EncodeToString(two.Leaf.SerialNumber.Bytes()),
		RemoteAddr: client.conn.LocalAddr().String(), ConnectedAt: got.ConnectedAt,
	}
	if got != want || got.ID == sessions[0].ID || time.Since(got.ConnectedAt) > time.Minute {
		t.Errorf("got %+v, want %+v", got, want)
	}
	_ = client.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	eventually(t, "gone", func() bool { return len(s.sessionIDs()) == 1 })
	s.mustDial(two, connect(5, "b"))
	if again := s.sessionIDs(); len(again) != 2 || slices.Contains(again, got.ID) {
		t.Errorf("sessions %v; %s was used again", again, got.ID)
	}
}

// Connections that say nothing keep nobody out, and do not stay.
func TestSilentConnections(t *testing.T) {
	s := newSite(t, func(s *site) {
		s.limits = limits{waiting: 3, patience: 0, handshake: 300 * time.Millisecond, connect: 300 * time.Millisecond,
			write: time.Second, farewell: time.Second, linger: 50 * time.Millisecond}
	})
	device := s.clients.Device("d")
	var silent []net.Conn
	for range 10 {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	live := s.mustDial(device, connect(4, "live"))
	afterHandshake, err := tls.Dial("tcp", s.Addr().String(), s.tls(&device, tls.VersionTLS12))
	if err != nil {
		t.Fatal(err)
	}
	silent = append(silent, afterHandshake)
	for _, c := range silent {
		_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
		if _, err := c.Read(make([]byte, 100)); err == nil || os.IsTimeout(err) {
			t.Errorf("a silent connection was left open: %v", err)
		}
	}
	if s.Counts().Shed == 0 {
		t.Error("none was shed")
	}
	live.publish("x", "y", 1, false)
}

// When all that wait are young, they are let finish, and the next is told to
// come again.
func TestCrowd(t *testing.T) {
	s := newSite(t, func(s *site) { s.limits.waiting, s.limits.patience = 2, time.Hour })
	var crowd []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		crowd = append(crowd, c)
	}
	_ = crowd[2].SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := crowd[2].Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the third was not shed: %v", err)
	}
	_ = crowd[0].Close()
	device := s.clients.Device("d")
	eventually(t, "let in", func() bool {
		_, _, err := s.dial(s.tls(&device, tls.VersionTLS13), connect(4, "c"))
		return err == nil
	})
}

// Everything survives a restart: the certificate, the list, its number.
func TestRestart(t *testing.T) {
	s := newSite(t)
	good, revoked := s.clients.Device("good"), s.clients.Device("revoked")
	s.revoke(revoked)
	before, _ := s.Active(t.Context())
	live := s.mustDial(good, connect(5, "c"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if pk := live.until(packets.Disconnect); pk.ReasonCode != packets.ErrServerShuttingDown.Code {
		t.Errorf("reason %#x", pk.ReasonCode)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	if err := s.Start(); err == nil {
		t.Error("started again after Close")
	}
	s.open()
	s.start()
	if after, err := s.Active(t.Context()); err != nil || !after.Equal(before) {
		t.Errorf("another certificate: %v", err)
	}
	if _, _, err := s.dial(s.tls(&revoked, tls.VersionTLS12), connect(4, "c")); alert(err) != 42 {
		t.Errorf("revoked after restart: %v", err)
	}
	s.mustDial(good, connect(4, "c"))
	if err := s.LoadCRL(t.Context(), s.clients.Bundle(brokertest.List{Number: 1})); err == nil {
		t.Error("an older list was loaded after the restart")
	}
}

// Close ends connections in every state, with clients that do nothing.
func TestClose(t *testing.T) {
	s := newSite(t)
	device := s.clients.Device("d")
	plain, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	shaken, err := tls.Dial("tcp", s.Addr().String(), s.tls(&device, tls.VersionTLS12))
	if err != nil {
		t.Fatal(err)
	}
	defer shaken.Close()
	s.mustDial(device, connect(4, "a"))
	s.mustDial(device, connect(5, "b"))
	began := time.Now()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if ids := s.sessionIDs(); len(ids) != 0 {
		t.Errorf("sessions %v", ids)
	}
	unstarted, err := New(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := unstarted.Close(); err != nil || unstarted.Addr() != nil {
		t.Error(err)
	}
}
