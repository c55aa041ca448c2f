package mqtts_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// BenchmarkVerify is a full positive run on loopback.
func BenchmarkVerify(b *testing.B) {
	f := newFleet(b)
	target := f.target(broker{tls: f.mutual()}.start(b))
	b.ReportAllocs()
	for b.Loop() {
		if r := mqtts.Verify(context.Background(), target); r.Verdict != mqtts.VerdictPass {
			b.Fatalf("%+v", r)
		}
	}
}

// BenchmarkNegative is a full run with all its checks.
func BenchmarkNegative(b *testing.B) {
	f := newFleet(b)
	m := f.material(b)
	target := f.negative(b, broker{tls: f.strict(m.Revoked)}.start(b), m)
	b.ReportAllocs()
	for b.Loop() {
		if r := mqtts.Verify(context.Background(), target); r.Verdict != mqtts.VerdictPass {
			b.Fatalf("%+v", r)
		}
	}
}

// BenchmarkFloor is what a positive run cannot do without: the same handshake,
// and the same packets there and back, by the standard library and another codec.
func BenchmarkFloor(b *testing.B) {
	f := newFleet(b)
	address := strings.TrimPrefix(broker{tls: f.mutual()}.start(b), "mqtts://")
	roots := x509.NewCertPool()
	roots.AddCert(f.root.certificate)
	config := &tls.Config{RootCAs: roots, ServerName: "broker.test", Certificates: []tls.Certificate{*f.device}}
	connect := packets.Packet{ProtocolVersion: 5, FixedHeader: packets.FixedHeader{Type: packets.Connect},
		Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), Clean: true, Keepalive: 60, ClientIdentifier: "floor"}}
	subscribe := packets.Packet{ProtocolVersion: 5, FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
		Filters: packets.Subscriptions{{Filter: "floor", Qos: 1}}}
	publish := packets.Packet{ProtocolVersion: 5, FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 1, TopicName: "floor", Payload: []byte("floor")}
	var first, second, third bytes.Buffer
	if err := errors.Join(connect.ConnectEncode(&first), subscribe.SubscribeEncode(&second), publish.PublishEncode(&third)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := tls.Dial("tcp", address, config)
		if err != nil {
			b.Fatal(err)
		}
		for _, packet := range [][]byte{first.Bytes(), second.Bytes(), third.Bytes()} {
			c.Write(packet)
			if _, err := c.Read(make([]byte, 4096)); err != nil {
				b.Fatal(err)
			}
		}
		io.WriteString(c, "\xe0\x00")
		c.Close()
	}
}
