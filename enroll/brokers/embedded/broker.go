package embedded

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fleetca/fleetca/enroll/brokers"
)

// A Config says where a broker listens and what it trusts.
type Config struct {
	// Addr is the TCP address to listen on, as in net.Listen. A port of 0 is
	// any free one; empty is 127.0.0.1:8883.
	Addr string
	// Dir is the folder of the certificate generations; see
	// [brokers.Generations].
	Dir string
	// CRLFile keeps the last good revocation bundle, which is read again at
	// start. Empty is crl.pem in Dir.
	CRLFile string
	// ClientCAs are the trust anchors for client certificates: the issuing CAs
	// themselves, so that a leaf verifies with or without its chain.
	ClientCAs []*x509.Certificate
	// Log receives refused clients and what goes wrong; nil discards it.
	Log *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// A Broker is an MQTT broker inside this program. Make one with [New].
type Broker struct {
	config Config
	log    *slog.Logger
	limits limits

	generations *brokers.Generations
	trust       *trust
	pair        atomic.Pointer[brokers.Pair]
	tls         *tls.Config

	server   *mqtt.Server
	sessions *sessions
	counters counters

	mu       sync.Mutex // guards the listener's life
	listener *listener
	closed   bool
}

var _ brokers.Driver = (*Broker)(nil)

// New makes a broker. It reads the installed certificate and the last good
// revocation bundle, if there are any; [Broker.Install] and [Broker.LoadCRL]
// may also follow later. It does not listen yet.
func New(config Config) (*Broker, error) {
	if config.Dir == "" {
		return nil, errors.New("open embedded broker: no folder for the certificate")
	}
	if config.Addr == "" {
		config.Addr = "127.0.0.1:8883"
	}
	if config.CRLFile == "" {
		config.CRLFile = filepath.Join(config.Dir, "crl.pem")
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	generations, err := brokers.OpenGenerations(config.Dir, config.Now)
	if err != nil {
		return nil, fmt.Errorf("open embedded broker: %w", err)
	}
	b := &Broker{
		config:      config,
		log:         config.Log,
		limits:      defaultLimits,
		generations: generations,
		trust:       newTrust(brokers.CRLFile(config.CRLFile), config.Now),
		sessions:    newSessions(),
	}
	b.SetClientCAs(config.ClientCAs)
	if err := b.trust.reload(); err != nil {
		b.log.Error("no revocation list is in force: every client is refused until one is loaded", "error", err)
	}
	pair, err := generations.Active()
	switch {
	case err == nil:
		b.pair.Store(pair)
	case !errors.Is(err, brokers.ErrNoGeneration):
		b.log.Error("no certificate is in force: every client is refused until one is installed", "error", err)
	}
	b.tls = b.baseConfig()
	if b.server, err = newServer(b); err != nil {
		return nil, fmt.Errorf("open embedded broker: %w", err)
	}
	return b, nil
}

// Start listens and serves. It works without a certificate and without a
// revocation list, and refuses every handshake until it has both.
func (b *Broker) Start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.listener != nil {
		return errors.New("start embedded broker: it was started before")
	}
	tcp, err := net.Listen("tcp", b.config.Addr)
	if err != nil {
		return fmt.Errorf("start embedded broker: %w", err)
	}
	b.listener = newListener(b, tcp)
	if err := b.server.AddListener(b.listener); err != nil {
		return errors.Join(fmt.Errorf("start embedded broker: %w", err), tcp.Close())
	}
	if err := b.server.Serve(); err != nil {
		return errors.Join(fmt.Errorf("start embedded broker: %w", err), tcp.Close())
	}
	return nil
}

// Addr returns the address that the broker listens on, nil before Start.
func (b *Broker) Addr() net.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listener == nil {
		return nil
	}
	return b.listener.tcp.Addr()
}

// Close ends all sessions and returns when no connection is left. A closed
// broker is not started again.
func (b *Broker) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	if err := b.server.Close(); err != nil {
		return fmt.Errorf("close embedded broker: %w", err)
	}
	return nil
}

// SetClientCAs replaces the trust anchors for client certificates. Live
// sessions stay; the next handshakes are judged by the new ones. A CA whose
// revocation list is not loaded admits nobody.
func (b *Broker) SetClientCAs(anchors []*x509.Certificate) {
	b.trust.setAnchors(slices.Clone(anchors))
}

// TrustClients implements [brokers.Driver]: the issuers themselves are the
// anchors, so that a leaf verifies with or without its chain.
func (b *Broker) TrustClients(ctx context.Context, all brokers.ClientCAs) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.SetClientCAs(all.Issuers)
	return nil
}

// Kind is "embedded".
func (b *Broker) Kind() string { return "embedded" }

// CertificateRequest implements [brokers.Driver].
func (b *Broker) CertificateRequest(ctx context.Context, names []string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return b.generations.Request(names)
}

// Install implements [brokers.Driver].
func (b *Broker) Install(ctx context.Context, chain [][]byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.generations.Install(chain, b.serve)
}

// Rollback implements [brokers.Driver].
func (b *Broker) Rollback(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.generations.Rollback(b.serve)
}

// serve presents this pair from the next handshake on.
func (b *Broker) serve(pair *brokers.Pair) error {
	b.pair.Store(pair)
	return nil
}

// Active implements [brokers.Driver]: the certificate in memory, not the one on
// disk.
func (b *Broker) Active(ctx context.Context) (*x509.Certificate, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pair := b.pair.Load()
	if pair == nil {
		return nil, fmt.Errorf("active certificate: %w", brokers.ErrNoGeneration)
	}
	return pair.Leaf, nil
}

// LoadCRL implements [brokers.Driver].
func (b *Broker) LoadCRL(ctx context.Context, bundle brokers.Bundle) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.trust.load(bundle); err != nil {
		return fmt.Errorf("load revocation lists: %w", err)
	}
	return nil
}

// Sessions implements [brokers.Driver].
func (b *Broker) Sessions(ctx context.Context) ([]brokers.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return b.sessions.list(), nil
}

// Disconnect implements [brokers.Driver]. A client of MQTT 5 is told the reason
// 0x98, administrative action. Connections of the identity that have not sent
// CONNECT yet are closed, too, and not counted.
func (b *Broker) Disconnect(ctx context.Context, identity string) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	closed := 0
	connections := b.sessions.of(identity)
	for _, c := range connections {
		if c.live {
			closed++
		}
		go b.end(c.conn, packets.ErrAdministrativeAction)
	}
	for _, c := range connections {
		select {
		case <-c.done:
		case <-ctx.Done():
			return closed, fmt.Errorf("disconnect %q: %w", identity, ctx.Err())
		}
	}
	return closed, nil
}

// end tells a client of MQTT 5 why, and closes the connection. It returns
// within about a second, also when the client no longer reads.
func (b *Broker) end(c *conn, reason packets.Code) {
	c.hurry()
	if client := b.sessions.client(c); client != nil {
		_ = b.server.DisconnectClient(client, reason) // it returns the reason as error
	}
	_ = c.Close()
}
