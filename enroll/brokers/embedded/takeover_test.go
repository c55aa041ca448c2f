package embedded

import (
	"bufio"
	"crypto/tls"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// A client identifier of another identity is not taken over, while its session
// lives and while it is kept; one's own is.
func TestTakeover(t *testing.T) {
	s := newSite(t)
	one, two := s.clients.Device("one"), s.clients.Device("two")
	persistent := connect(4, "shared")
	persistent.Connect.Clean = false
	holder := s.mustDial(one, persistent)
	holder.subscribe("x")
	refused := func() {
		t.Helper()
		for version, code := range map[byte]byte{4: 2, 5: packets.ErrClientIdentifierNotValid.Code} {
			_, answer, err := s.dial(s.tls(&two, tls.VersionTLS13), connect(version, "shared"))
			if err != nil || answer.FixedHeader.Type != packets.Connack || answer.ReasonCode != code {
				t.Errorf("MQTT %d: %v, reason %#x", version, err, answer.ReasonCode)
			}
		}
	}
	refused()
	if ids := s.sessionIDs(); len(ids) != 1 {
		t.Fatalf("sessions %v", ids)
	}
	first := s.sessionIDs()[0]
	s.mustDial(one, persistent) // its own: the earlier one is closed
	eventually(t, "taken over", func() bool { return len(s.sessionIDs()) == 1 && s.sessionIDs()[0] != first })
	if _, err := s.Disconnect(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	refused() // subscriptions and queue are still one's, who is not held up by those that try
	s.mustDial(one, connect(4, "shared"))
	if _, err := s.Disconnect(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	s.mustDial(two, connect(4, "shared")) // a clean session leaves nothing behind
}

// Two identities that ask for one client identifier at the same moment: one gets
// it, and keeps it.
func TestTakeoverRace(t *testing.T) {
	s := newSite(t)
	devices := []tls.Certificate{s.clients.Device("one"), s.clients.Device("two")}
	for range 20 {
		var clients [2]*raw
		for i := range clients {
			tcp, err := tls.Dial("tcp", s.Addr().String(), s.tls(&devices[i], tls.VersionTLS12))
			if err != nil {
				t.Fatal(err)
			}
			defer tcp.Close()
			_ = tcp.SetDeadline(time.Now().Add(5 * time.Second))
			clients[i] = &raw{t: t, conn: tcp, reader: bufio.NewReader(tcp), version: 4}
		}
		var answers [2]byte
		var both sync.WaitGroup
		for i, client := range clients {
			both.Go(func() {
				_ = client.send(connect(4, "shared"))
				answer, err := client.receive()
				if err != nil {
					t.Error(err)
				}
				answers[i] = answer.ReasonCode
			})
		}
		both.Wait()
		slices.Sort(answers[:])
		if answers != [2]byte{0, 2} || len(s.sessionIDs()) != 1 {
			t.Fatalf("answers %v, sessions %v", answers, s.sessionIDs())
		}
		for _, identity := range []string{"one", "two"} {
			if _, err := s.Disconnect(t.Context(), identity); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The claim alone keeps identities apart while the server does not know either
// client yet; the earlier of one identity gives it up to the later.
func TestClaim(t *testing.T) {
	s := newSessions()
	nobody := func(string) (string, bool) { return "", false }
	client := &mqtt.Client{ID: "shared"}
	one, again, two := &conn{identity: "one"}, &conn{identity: "one"}, &conn{identity: "two"}
	for _, c := range []*conn{one, again, two} {
		s.add(c)
	}
	for i, step := range []struct {
		got, want bool
	}{
		{s.claim(one, client, nobody), true},
		{s.claim(two, client, nobody), false},
		{s.claim(again, client, nobody), true},
	} {
		if step.got != step.want {
			t.Errorf("step %d: %v", i, step.got)
		}
	}
	s.remove(one) // not the holder any more
	if s.claim(two, client, nobody) {
		t.Error("the later session's claim went with the earlier one")
	}
	s.remove(again)
	if !s.claim(two, client, nobody) {
		t.Error("the claim outlived its session")
	}
}
