package embedded

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
	"github.com/fleetca/fleetca/enroll/leaktest"
)

// Nothing is left running after a test that closed its broker.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A site is a broker that runs, with a certificate and a revocation list.
type site struct {
	*Broker
	t       *testing.T
	servers *brokertest.CA
	clients *brokertest.CA
	dir     string
	log     *lines
	number  int64 // of the last revocation list
	clock   clock
}

// newSite starts a broker. The changes are made to it before it starts.
func newSite(t *testing.T, changes ...func(*site)) *site {
	t.Helper()
	s := &site{
		t: t, dir: t.TempDir(), log: new(lines),
		servers: brokertest.NewCA(t, "brokers"), clients: brokertest.NewCA(t, "devices"),
	}
	s.open()
	for _, change := range changes {
		change(s)
	}
	brokertest.Install(t, s, s.servers)
	s.revoke()
	s.start()
	return s
}

func (s *site) open() {
	s.t.Helper()
	b, err := New(Config{
		Addr: "127.0.0.1:0", Dir: s.dir, ClientCAs: []*x509.Certificate{s.clients.Certificate},
		Log: slog.New(slog.NewTextHandler(leaktest.Tee(s.log), &slog.HandlerOptions{Level: slog.LevelDebug})), Now: s.clock.now,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Broker = b
	s.t.Cleanup(func() { _ = b.Close() })
}

func (s *site) start() {
	s.t.Helper()
	if err := s.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// revoke loads the next revocation list, with these certificates on it.
func (s *site) revoke(certificates ...tls.Certificate) {
	s.t.Helper()
	s.number++
	list := brokertest.List{Number: s.number}
	for _, certificate := range certificates {
		list.Revoked = append(list.Revoked, certificate.Leaf)
	}
	if err := s.LoadCRL(s.t.Context(), s.clients.Bundle(list)); err != nil {
		s.t.Fatal(err)
	}
}

// tls is what a client that trusts the broker's CA begins a handshake with.
func (s *site) tls(certificate *tls.Certificate, version uint16) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(s.servers.Certificate)
	return &tls.Config{
		RootCAs: roots, ServerName: "localhost", MinVersion: version, MaxVersion: version,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if certificate == nil {
				return new(tls.Certificate), nil
			}
			return certificate, nil // sent even if the broker did not ask for its issuer
		},
	}
}

// sessionIDs are the identifiers on the broker's list.
func (s *site) sessionIDs() []string {
	s.t.Helper()
	sessions, err := s.Sessions(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	var ids []string
	for _, session := range sessions {
		ids = append(ids, session.ID)
	}
	return ids
}

// paho connects a client of MQTT 3.1.1.
func (s *site) paho(certificate tls.Certificate, clientID string, change ...func(*paho.ClientOptions)) (paho.Client, error) {
	options := paho.NewClientOptions().AddBroker("ssl://" + s.Addr().String()).SetClientID(clientID).
		SetTLSConfig(s.tls(&certificate, tls.VersionTLS13)).SetAutoReconnect(false).SetProtocolVersion(4).
		SetConnectTimeout(5 * time.Second)
	for _, change := range change {
		change(options)
	}
	client := paho.NewClient(options)
	token := client.Connect()
	if !token.WaitTimeout(5 * time.Second) {
		return nil, os.ErrDeadlineExceeded
	}
	if token.Error() != nil {
		return nil, token.Error()
	}
	s.t.Cleanup(func() { client.Disconnect(0) })
	return client, nil
}

func (s *site) mustPaho(certificate tls.Certificate, clientID string, change ...func(*paho.ClientOptions)) paho.Client {
	s.t.Helper()
	client, err := s.paho(certificate, clientID, change...)
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

// A raw client speaks MQTT packet by packet.
type raw struct {
	t       *testing.T
	conn    net.Conn
	reader  *bufio.Reader
	version byte
}

// dial does the handshake and sends CONNECT; it returns the answer. In TLS 1.3
// a refusal arrives after the handshake, with the first read.
func (s *site) dial(config *tls.Config, connect packets.Packet) (*raw, packets.Packet, error) {
	s.t.Helper()
	tcp, err := net.DialTimeout("tcp", s.Addr().String(), 5*time.Second)
	if err != nil {
		return nil, packets.Packet{}, err
	}
	conn := tls.Client(tcp, config)
	s.t.Cleanup(func() { _ = tcp.Close() })
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	if err := conn.Handshake(); err != nil {
		return nil, packets.Packet{}, err
	}
	client := &raw{s.t, conn, bufio.NewReader(conn), connect.ProtocolVersion}
	if err := client.send(connect); err != nil {
		_ = err // the reason is read below
	}
	answer, err := client.receive()
	if err != nil {
		_ = tcp.Close()
	}
	return client, answer, err
}

// mustDial fails the test unless the broker accepts.
func (s *site) mustDial(certificate tls.Certificate, connect packets.Packet) *raw {
	s.t.Helper()
	client, answer, err := s.dial(s.tls(&certificate, tls.VersionTLS13), connect)
	if err != nil || answer.FixedHeader.Type != packets.Connack || answer.ReasonCode != 0 {
		s.t.Fatalf("no session: %v, reason %#x", err, answer.ReasonCode)
	}
	return client
}

// connect is a CONNECT packet, of MQTT 3.1.1 (4) or 5.
func connect(version byte, clientID string) packets.Packet {
	return packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: version,
		Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: clientID, Clean: true, Keepalive: 60},
	}
}

func (r *raw) send(pk packets.Packet) error {
	pk.ProtocolVersion = r.version
	var buf bytes.Buffer
	encode := map[byte]func(*bytes.Buffer) error{
		packets.Connect: pk.ConnectEncode, packets.Publish: pk.PublishEncode,
		packets.Subscribe: pk.SubscribeEncode, packets.Disconnect: pk.DisconnectEncode,
		packets.Pubrel: pk.PubrelEncode,
	}[pk.FixedHeader.Type]
	if err := encode(&buf); err != nil {
		r.t.Fatal(err)
	}
	_, err := r.conn.Write(buf.Bytes())
	return err
}

func (r *raw) receive() (packets.Packet, error) {
	pk := packets.Packet{ProtocolVersion: r.version}
	first, err := r.reader.ReadByte()
	if err != nil {
		return pk, err
	}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	length, _, err := packets.DecodeLength(r.reader)
	if err != nil {
		return pk, err
	}
	pk.FixedHeader.Remaining = length
	body := make([]byte, length)
	if _, err := io.ReadFull(r.reader, body); err != nil {
		return pk, err
	}
	decode := map[byte]func([]byte) error{
		packets.Connack: pk.ConnackDecode, packets.Publish: pk.PublishDecode, packets.Suback: pk.SubackDecode,
		packets.Puback: pk.PubackDecode, packets.Pubrec: pk.PubrecDecode, packets.Pubcomp: pk.PubcompDecode,
		packets.Disconnect: pk.DisconnectDecode,
	}[pk.FixedHeader.Type]
	if decode == nil {
		return pk, fmt.Errorf("packet type %d", pk.FixedHeader.Type)
	}
	err = decode(body)
	return pk, err
}

// until reads up to a packet of this type.
func (r *raw) until(kind byte) packets.Packet {
	r.t.Helper()
	for {
		pk, err := r.receive()
		if err != nil {
			r.t.Fatalf("waiting for packet type %d: %v", kind, err)
		}
		if pk.FixedHeader.Type == kind {
			return pk
		}
	}
}

// subscribe returns the reason codes of the SUBACK.
func (r *raw) subscribe(filters ...string) []byte {
	r.t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1}
	for _, filter := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: filter, Qos: 0})
	}
	if err := r.send(pk); err != nil {
		r.t.Fatal(err)
	}
	return r.until(packets.Suback).ReasonCodes
}

// publish sends a message; at QoS 1 and 2 it returns the reason code.
func (r *raw) publish(topic, payload string, qos byte, retain bool) byte {
	r.t.Helper()
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos, Retain: retain},
		TopicName:   topic, Payload: []byte(payload),
	}
	if qos > 0 {
		pk.PacketID = 7
	}
	if err := r.send(pk); err != nil {
		r.t.Fatal(err)
	}
	switch qos {
	case 1:
		return r.until(packets.Puback).ReasonCode
	case 2:
		if received := r.until(packets.Pubrec); received.ReasonCode >= 0x80 {
			return received.ReasonCode
		}
		if err := r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 7}); err != nil {
			r.t.Fatal(err)
		}
		return r.until(packets.Pubcomp).ReasonCode
	}
	return 0
}

// messages reads until a message with this payload, and returns the topics of
// all messages before it.
func (r *raw) messages(last string) []string {
	r.t.Helper()
	var topics []string
	for {
		pk := r.until(packets.Publish)
		if string(pk.Payload) == last {
			return topics
		}
		topics = append(topics, pk.TopicName)
	}
}

// lines collects what is logged.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(data)
}

func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.buf.Reset()
	return l.buf.String()
}

// clock is the time, and how far a test moved it.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) move(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += by
}

// eventually waits for something that the broker does on its own time.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s after 15 s", what)
		}
	}
}

var _ brokers.Driver = (*site)(nil)
