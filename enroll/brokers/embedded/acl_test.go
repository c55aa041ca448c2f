package embedded

import (
	"bytes"
	"crypto/tls"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

func TestReach(t *testing.T) {
	for _, test := range []struct {
		topic                        string
		publish, subscribe, delivery bool // of the identity "me"
	}{
		{"x", true, true, true},
		{"devices", true, true, true},
		{"Devices/you/x", true, true, true},
		{"/devices/you", true, true, true},
		{"devices/", false, false, false},
		{"devices/me", false, false, false},
		{"devices/me/", true, true, true},
		{"devices/me/x", true, true, true},
		{"devices/mee/x", false, false, false},
		{"devices/you/x", false, false, false},
		{"devices//x", false, false, false},
		{"devices/me/#", true, true, true}, // not a topic; the server refuses it
		{"devices/#", false, false, false},
		{"devices/+/x", false, false, false},
		{"#", true, true, true},
		{"+/you/#", true, true, true}, // filtered on delivery
		{"$share/g/devices/you/x", false, false, false},
		{"$SHARE/g/devices/you/x", false, false, false},
		{"$share/g/devices/me/x", false, true, true},
		{"$share/g/#", false, true, true},
		{"$share/g", false, false, true},
		{"$SYS/broker/uptime", false, true, true},
	} {
		if got := mayPublish("me", test.topic); got != test.publish {
			t.Errorf("publish %q: %v", test.topic, got)
		}
		if got := maySubscribe("me", test.topic); got != test.subscribe {
			t.Errorf("subscribe %q: %v", test.topic, got)
		}
		if got := mayRead("me", test.topic); got != test.delivery && !strings.HasPrefix(test.topic, "$share/") && !strings.HasPrefix(test.topic, "$SHARE/") {
			t.Errorf("deliver %q: %v", test.topic, got)
		}
	}
}

// What one device sends below its own topics reaches no other: not as a
// message, retained, as a will, nor through any kind of wildcard.
func TestTopicsApart(t *testing.T) {
	s := newSite(t)
	mine, yours := s.clients.Device("me"), s.clients.Device("you")
	for _, version := range []byte{4, 5} {
		me := s.mustDial(mine, connect(version, "me"))
		you := s.mustDial(yours, connect(version, "you"))
		you.publish("devices/you/retained", "secret", 1, true)
		denied := packets.ErrNotAuthorized.Code
		if version == 4 {
			denied = packets.ErrUnspecifiedError.Code
		}
		filters := []string{"devices/you/#", "devices/#", "devices/+/retained", "$share/g/devices/you/x", "#", "+/you/#", "$share/g/#", "devices/me/#"}
		want := []byte{denied, denied, denied, denied, 0, 0, 0, 0}
		if got := me.subscribe(filters...); !bytes.Equal(got, want) {
			t.Errorf("MQTT %d: reasons %x, want %x", version, got, want)
		}
		will := connect(version, "dying")
		will.Connect.WillFlag, will.Connect.WillTopic, will.Connect.WillPayload = true, "devices/you/will", []byte("secret")
		_ = s.mustDial(yours, will).conn.Close()
		eventually(t, "dead", func() bool { return len(s.sessionIDs()) == 2 })
		you.publish("devices/you/x", "secret", 2, false)
		you.publish("open", "public", 1, true)
		me.publish("devices/me/x", "end", 1, false) // after all the others
		for _, topic := range me.messages("end") {
			if strings.HasPrefix(topic, "devices/you") {
				t.Errorf("MQTT %d: got %q", version, topic)
			}
		}
		_ = me.conn.Close()
		_ = you.conn.Close()
		eventually(t, "closed", func() bool { return len(s.sessionIDs()) == 0 })
	}
}

// What is published out of reach goes nowhere, by whatever way.
func TestPublishOutOfReach(t *testing.T) {
	s := newSite(t)
	mine, yours := s.clients.Device("me"), s.clients.Device("you")
	you := s.mustDial(yours, connect(5, "you"))
	you.subscribe("devices/you/#")
	for _, qos := range []byte{1, 2} {
		me := s.mustDial(mine, connect(5, "me"))
		if code := me.publish("devices/you/x", "no", qos, true); code != packets.ErrNotAuthorized.Code {
			t.Errorf("QoS %d: reason %#x", qos, code)
		}
		_ = me.conn.Close()
	}
	three := s.mustDial(mine, connect(4, "three"))
	three.publish("devices/you/x", "no", 0, false)
	for _, topic := range []string{"devices/you/will", "devices/#", "$SYS/will", "+"} {
		for version, code := range map[byte]byte{4: 5, 5: packets.ErrNotAuthorized.Code} {
			will := connect(version, "will")
			will.Connect.WillFlag, will.Connect.WillTopic, will.Connect.WillPayload = true, topic, []byte("no")
			_, answer, err := s.dial(s.tls(&mine, tls.VersionTLS12), will)
			if err != nil || answer.ReasonCode != code {
				t.Errorf("will for %q, MQTT %d: %v, reason %#x", topic, version, err, answer.ReasonCode)
			}
		}
	}
	three.publish("open", "x", 1, false)
	you.publish("devices/you/x", "end", 1, false)
	if got := you.messages("end"); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

// A member of a shared subscription who may not read a topic does not swallow
// the messages of those who may.
func TestSharedSubscription(t *testing.T) {
	s := newSite(t)
	thief := s.mustDial(s.clients.Device("thief"), connect(5, "thief"))
	thief.subscribe("$share/g/+/me/x")
	me := s.mustDial(s.clients.Device("me"), connect(5, "me"))
	me.subscribe("$share/g/+/me/x", "end")
	for range 20 {
		me.publish("devices/me/x", "m", 0, false)
	}
	me.publish("end", "end", 0, false)
	if got := me.messages("end"); len(got) != 20 {
		t.Errorf("%d of 20 messages", len(got))
	}
}

// Messages wait for a device that keeps its session, at QoS 1 and 2, and
// retained ones for whoever comes.
func TestKeptSession(t *testing.T) {
	s := newSite(t)
	device := s.clients.Device("d")
	persistent := connect(4, "d")
	persistent.Connect.Clean = false
	client := s.mustDial(device, persistent)
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
		Filters: packets.Subscriptions{{Filter: "command", Qos: 2}}}
	if err := client.send(pk); err != nil {
		t.Fatal(err)
	}
	client.until(packets.Suback)
	_ = client.conn.Close()
	eventually(t, "gone", func() bool { return len(s.sessionIDs()) == 0 })
	sender := s.mustDial(s.clients.Device("operator"), connect(5, "operator"))
	sender.publish("command", "one", 1, false)
	sender.publish("command", "two", 2, true)
	client = s.mustDial(device, persistent)
	var got []string
	for range 2 {
		got = append(got, string(client.until(packets.Publish).Payload))
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("got %v", got)
	}
	late := s.mustDial(s.clients.Device("late"), connect(4, "late"))
	late.subscribe("command")
	if pk := late.until(packets.Publish); string(pk.Payload) != "two" || !pk.FixedHeader.Retain {
		t.Errorf("retained: %q", pk.Payload)
	}
}

// What devices say is in no log, and the MQTT server's own words only at the
// debug level.
func TestQuietLog(t *testing.T) {
	s := newSite(t)
	client := s.mustDial(s.clients.Device("d"), connect(4, "c"))
	client.publish("x", "payload-that-is-private", 1, false)
	if err := client.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 3,
		TopicName: "devices/other/x", Payload: []byte("payload-that-is-private")}); err != nil {
		t.Fatal(err)
	}
	_, _ = client.receive() // closed: MQTT 3.1.1 has no other way to refuse
	eventually(t, "gone", func() bool { return len(s.sessionIDs()) == 0 })
	time.Sleep(20 * time.Millisecond)
	log := s.log.take()
	if strings.Contains(log, "private") {
		t.Errorf("a payload was logged:\n%s", log)
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, "component=mqtt") && !strings.Contains(line, "level=DEBUG") {
			t.Errorf("not quiet: %s", line)
		}
	}
}
