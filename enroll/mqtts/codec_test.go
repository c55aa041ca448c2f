package mqtts

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// unhex returns the bytes of spaced hex.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// oracle decodes a packet of ours with another codec.
func oracle(t testing.TB, v version, packet []byte) packets.Packet {
	t.Helper()
	r := bufio.NewReader(bytes.NewReader(packet))
	head, err := r.ReadByte()
	if err != nil {
		t.Fatal(err)
	}
	pk := packets.Packet{ProtocolVersion: byte(v)}
	if err := pk.FixedHeader.Decode(head); err != nil {
		t.Fatal(err)
	}
	n, _, err := packets.DecodeLength(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err != nil || len(body) != n {
		t.Fatalf("%d bytes after a length of %d, %v", len(body), n, err)
	}
	pk.FixedHeader.Remaining = n
	if err := oracleBody(&pk, body); err != nil {
		t.Fatalf("%x: %v", packet, err)
	}
	return pk
}

func oracleBody(pk *packets.Packet, body []byte) error {
	switch pk.FixedHeader.Type {
	case packets.Connect:
		return pk.ConnectDecode(body)
	case packets.Connack:
		return pk.ConnackDecode(body)
	case packets.Publish:
		return pk.PublishDecode(body)
	case packets.Puback:
		return pk.PubackDecode(body)
	case packets.Subscribe:
		return pk.SubscribeDecode(body)
	case packets.Suback:
		return pk.SubackDecode(body)
	case packets.Disconnect:
		return pk.DisconnectDecode(body)
	}
	return errors.New("no such packet")
}

func TestEncode(t *testing.T) {
	for _, v := range []version{mqtt311, mqtt5} {
		pk := oracle(t, v, encodeConnect(v, "client", "user", "secret"))
		c := pk.Connect
		if pk.ProtocolVersion != byte(v) || c.ClientIdentifier != "client" || string(c.Username) != "user" || string(c.Password) != "secret" || !c.Clean || c.WillFlag {
			t.Errorf("CONNECT %v: %+v", v, pk)
		}
		if code := pk.ConnectValidate(); code != packets.CodeSuccess {
			t.Errorf("CONNECT %v: %v", v, code)
		}
		if pk = oracle(t, v, encodeConnect(v, "client", "", "")); pk.Connect.UsernameFlag || pk.Connect.PasswordFlag {
			t.Errorf("CONNECT %v without credentials: %+v", v, pk.Connect)
		}
		pk = oracle(t, v, encodeSubscribe(v, 7, "a/b", 1))
		if pk.PacketID != 7 || len(pk.Filters) != 1 || pk.Filters[0].Filter != "a/b" || pk.Filters[0].Qos != 1 {
			t.Errorf("SUBSCRIBE %v: %+v", v, pk)
		}
		for qos := byte(0); qos < 2; qos++ {
			pk = oracle(t, v, encodePublish(v, publication{topic: "a/b", qos: qos, id: 9, payload: []byte("hello")}))
			if pk.TopicName != "a/b" || pk.FixedHeader.Qos != qos || pk.FixedHeader.Retain || string(pk.Payload) != "hello" || qos == 1 && pk.PacketID != 9 {
				t.Errorf("PUBLISH %v: %+v", v, pk)
			}
		}
		if pk = oracle(t, v, encodePuback(9)); pk.PacketID != 9 {
			t.Errorf("PUBACK %v: %+v", v, pk)
		}
		oracle(t, v, encodeDisconnect())
	}
}

// TestDecodeMochi decodes what another codec encoded.
func TestDecodeMochi(t *testing.T) {
	for _, v := range []version{mqtt311, mqtt5} {
		pk := packets.Packet{ProtocolVersion: byte(v), FixedHeader: packets.FixedHeader{Type: packets.Connack}, SessionPresent: true,
			Properties: packets.Properties{ReasonString: "because", MaximumQosFlag: true, MaximumQos: 1}}
		ack, err := decodeConnack(bodyOf(t, &pk, pk.ConnackEncode), v)
		if err != nil || !ack.sessionPresent || ack.code != 0 || v == mqtt5 && (ack.reason != "because" || ack.maximumQoS != 1) {
			t.Errorf("CONNACK %v: %+v, %v", v, ack, err)
		}
		pk = packets.Packet{ProtocolVersion: byte(v), FixedHeader: packets.FixedHeader{Type: packets.Suback}, PacketID: 7, ReasonCodes: []byte{0x80}}
		a, err := decodeSuback(bodyOf(t, &pk, pk.SubackEncode), v)
		if err != nil || a.id != 7 || a.code != 0x80 {
			t.Errorf("SUBACK %v: %+v, %v", v, a, err)
		}
		pk = packets.Packet{ProtocolVersion: byte(v), FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 3, TopicName: "a/b", Payload: []byte("x")}
		p, err := decodePublish(2, bodyOf(t, &pk, pk.PublishEncode), v)
		if err != nil || p.topic != "a/b" || p.id != 3 || string(p.payload) != "x" {
			t.Errorf("PUBLISH %v: %+v, %v", v, p, err)
		}
		pk = packets.Packet{ProtocolVersion: byte(v), FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: 3, ReasonCode: 0x87}
		a, err = decodePuback(bodyOf(t, &pk, pk.PubackEncode), v)
		if err != nil || a.id != 3 || v == mqtt5 && a.code != 0x87 {
			t.Errorf("PUBACK %v: %+v, %v", v, a, err)
		}
	}
}

// bodyOf encodes a packet and returns what readFrame makes of it.
func bodyOf(t testing.TB, pk *packets.Packet, encode func(*bytes.Buffer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := encode(&b); err != nil {
		t.Fatal(err)
	}
	f, err := readFrame(bufio.NewReader(&b))
	if err != nil || byte(f.kind) != pk.FixedHeader.Type {
		t.Fatalf("%+v, %v", f, err)
	}
	return f.body
}

func TestDecodeConnack(t *testing.T) {
	cases := []struct {
		body string
		v    version
		code byte
		ok   bool
	}{
		{"00 00", mqtt311, 0, true},
		{"01 00", mqtt311, 0, true},
		{"00 05", mqtt311, 5, true},
		{"00 87", mqtt311, 0x87, true},    // a code of version 5 in 3.1.1
		{"00 87 00", mqtt311, 0x87, true}, // and its properties
		{"00 00 00", mqtt311, 0, false},   // acceptance has to be of the version asked for
		{"00 00 00", mqtt5, 0, true},      //
		{"00 01", mqtt5, 1, true},         // two bytes to version 5
		{"00 00", mqtt5, 0, true},         //
		{"00 87 06 1f 00 03 61 62 63", mqtt5, 0x87, true},
		{"02 00", mqtt311, 0, false}, // reserved flags
		{"00", mqtt311, 0, false},
		{"", mqtt5, 0, false},
		{"00 00 01", mqtt5, 0, false},                                      // properties cut off
		{"00 00 02 24 03", mqtt5, 0, false},                                // maximum QoS 3
		{"00 00 04 24 01 24 01", mqtt5, 0, false},                          // twice
		{"00 00 02 7f 00", mqtt5, 0, false},                                // unknown property
		{"00 00 04 1f 00 01 00", mqtt5, 0, false},                          // NUL
		{"00 00 04 1f 00 01 ff", mqtt5, 0, false},                          // not UTF-8
		{"00 00 00 00", mqtt5, 0, false},                                   // a byte too many
		{"00 00 ff ff ff ff 7f", mqtt5, 0, false},                          // endless length
		{"00 00 0e 26 0001 61 0001 62 26 0001 61 0001 62", mqtt5, 0, true}, // user properties repeat
	}
	for _, c := range cases {
		ack, err := decodeConnack(unhex(t, c.body), c.v)
		if (err == nil) != c.ok || c.ok && ack.code != c.code {
			t.Errorf("%s of %v: %+v, %v", c.body, c.v, ack, err)
		}
		if err != nil && !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v is not errMalformed", c.body, err)
		}
	}
}

func TestReadFrame(t *testing.T) {
	cases := []struct {
		in   string
		want error // nil: a frame
	}{
		{"20 02 00 00", nil}, {"d0 00", nil}, {"32 05 00 01 61 00 01", nil}, {"20 82 00 00 00", nil},
		{"", io.EOF}, {"20", io.ErrUnexpectedEOF}, {"20 02", io.ErrUnexpectedEOF}, {"20 02 00", io.ErrUnexpectedEOF},
		{"21 02 00 00", errMalformed}, {"00 00", errMalformed}, {"10 00", errMalformed}, {"36 00", errMalformed}, {"f0 00", errMalformed},
		{"20 ff ff ff ff 01", errMalformed}, {"20 ff ff ff 7f", errMalformed},
	}
	for _, c := range cases {
		_, err := readFrame(bufio.NewReader(bytes.NewReader(unhex(t, c.in))))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.in, err, c.want)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, s := range []string{"20020000", "9003000180", "3005000161", "20ffffff7f", "d000", "e0028700", "485454502f"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(bytes.NewReader(in))
		for {
			frame, err := readFrame(r)
			if err != nil {
				return
			}
			if len(frame.body) > len(in) || frame.checkHeader() != nil {
				t.Fatalf("%x: %+v", in, frame)
			}
		}
	})
}

// FuzzDecode throws bytes at every decoder. What ours takes, mochi's takes, too,
// and reads the same.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"0000", "000000", "00870a1f0007626563617573", "0001000087", "000161", "00016100010068656c6c6f", "00018700", "8b00"} {
		for kind := range byte(5) {
			f.Add(kind, true, byte(2), unhex(f, s))
			f.Add(kind, false, byte(0), unhex(f, s))
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, five bool, flags byte, body []byte) {
		v := mqtt311
		if five {
			v = mqtt5
		}
		pk := packets.Packet{ProtocolVersion: byte(v)}
		pk.FixedHeader.Remaining = len(body)
		switch kind % 5 {
		case 0:
			ack, err := decodeConnack(body, v)
			pk.FixedHeader.Type = packets.Connack
			if err == nil && len(body) > 2 && v == mqtt5 {
				agree(t, &pk, body, func() bool { return pk.ReasonCode == ack.code && pk.Properties.ReasonString == ack.reason })
			}
		case 1:
			ack, err := decodeSuback(body, v)
			pk.FixedHeader.Type = packets.Suback
			if err == nil {
				agree(t, &pk, body, func() bool { return pk.PacketID == ack.id && bytes.Equal(pk.ReasonCodes, []byte{ack.code}) })
			}
		case 2:
			ack, err := decodePuback(body, v)
			pk.FixedHeader.Type = packets.Puback
			if err == nil {
				agree(t, &pk, body, func() bool { return pk.PacketID == ack.id && pk.ReasonCode == ack.code })
			}
		case 3:
			p, err := decodePublish(flags, body, v)
			pk.FixedHeader.Type, pk.FixedHeader.Qos = packets.Publish, flags>>1&3
			if err == nil {
				agree(t, &pk, body, func() bool { return pk.TopicName == p.topic && bytes.Equal(pk.Payload, p.payload) })
			}
		case 4:
			ack, err := decodeDisconnect(body)
			pk.FixedHeader.Type = packets.Disconnect
			if err == nil && v == mqtt5 && len(body) > 1 {
				agree(t, &pk, body, func() bool { return pk.ReasonCode == ack.code })
			}
		}
	})
}

// FuzzEncoded has another codec write packets of any fields: ours reads them, and
// reads the same.
func FuzzEncoded(f *testing.F) {
	f.Add(byte(0), true, byte(0x87), uint16(7), "because", "a/b", []byte("hello"))
	f.Add(byte(3), false, byte(1), uint16(1), "", "a", []byte{})
	f.Fuzz(func(t *testing.T, kind byte, five bool, code byte, id uint16, reason, topic string, payload []byte) {
		if len(reason) > 1000 || len(topic) == 0 || len(topic) > 1000 || len(payload) > 1000 || !validUTF8([]byte(reason)) || !validUTF8([]byte(topic)) {
			return
		}
		v := mqtt311
		if five {
			v = mqtt5
		}
		pk := packets.Packet{ProtocolVersion: byte(v), PacketID: max(1, id), ReasonCode: code, Properties: packets.Properties{
			ReasonString: reason, User: []packets.UserProperty{{Key: "k", Val: reason}, {Key: "k", Val: ""}}}}
		if !five {
			pk.Properties = packets.Properties{}
			reason = ""
		}
		switch kind % 5 {
		case 0:
			pk.FixedHeader.Type, pk.SessionPresent = packets.Connack, id&1 == 1
			ack, err := decodeConnack(bodyOf(t, &pk, pk.ConnackEncode), v)
			if err != nil || ack.code != code || ack.reason != reason || ack.sessionPresent != (id&1 == 1) {
				t.Fatalf("CONNACK %+v: %+v, %v", pk, ack, err)
			}
		case 1:
			if code > 2 && code < 0x80 {
				return // reserved, MQTT-3.9.3-2
			}
			pk.FixedHeader.Type, pk.ReasonCodes = packets.Suback, []byte{code}
			ack, err := decodeSuback(bodyOf(t, &pk, pk.SubackEncode), v)
			if err != nil || ack.code != code || ack.id != pk.PacketID || ack.reason != reason {
				t.Fatalf("SUBACK %+v: %+v, %v", pk, ack, err)
			}
		case 2:
			pk.FixedHeader.Type = packets.Puback
			ack, err := decodePuback(bodyOf(t, &pk, pk.PubackEncode), v)
			if err != nil || ack.id != pk.PacketID || five && code >= 0x80 && ack.code != code {
				t.Fatalf("PUBACK %+v: %+v, %v", pk, ack, err)
			}
		case 3:
			pk.FixedHeader.Type, pk.FixedHeader.Qos, pk.TopicName, pk.Payload = packets.Publish, code&1, topic, payload
			p, err := decodePublish(pk.FixedHeader.Qos<<1, bodyOf(t, &pk, pk.PublishEncode), v)
			if err != nil || p.topic != topic || !bytes.Equal(p.payload, payload) || p.qos == 1 && p.id != pk.PacketID {
				t.Fatalf("PUBLISH %+v: %+v, %v", pk, p, err)
			}
		case 4:
			if !five {
				return // brokers of 3.1.1 have none
			}
			pk.FixedHeader.Type = packets.Disconnect
			ack, err := decodeDisconnect(bodyOf(t, &pk, pk.DisconnectEncode))
			if err != nil || ack.code != code {
				t.Fatalf("DISCONNECT %+v: %+v, %v", pk, ack, err)
			}
		}
	})
}

func agree(t *testing.T, pk *packets.Packet, body []byte, same func() bool) {
	t.Helper()
	if err := oracleBody(pk, body); err == nil && !same() {
		t.Fatalf("%x: the oracle reads %+v", body, pk)
	}
}

// FuzzSpeaks classifies any first bytes without a panic and shows no control
// character.
func FuzzSpeaks(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 400", "SSH-2.0", "\x20\x02\x00\x00", "\x15\x03\x03", "\x20", "\x20\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		if len(head) == 0 {
			return
		}
		code, answer := speaks(head)
		if _, ok := rules[code]; !ok || printable(answer, 1000) != answer {
			t.Fatalf("%x: %s %q", head, code, answer)
		}
	})
}

// TestRules checks that every rule is complete and grades sensibly.
func TestRules(t *testing.T) {
	for code, r := range rules {
		if r.severity == "" || !strings.HasSuffix(r.message, ".") && !strings.HasSuffix(r.message, "}") || !strings.HasSuffix(r.fix, ".") {
			t.Errorf("%s: %+v", code, r)
		}
	}
}

func FuzzServerHello(f *testing.F) {
	hello := append([]byte{2, 0, 0, 38, 3, 3}, make([]byte, 32)...)
	f.Add(append(hello, 0, 0xc0, 0x2b, 0))
	f.Add(append(hello, 32))
	f.Fuzz(func(t *testing.T, record []byte) {
		if _, _, ok := parseServerHello(record); ok && len(record) < 41 {
			t.Fatalf("%x", record)
		}
	})
}
