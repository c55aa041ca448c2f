package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// limits bound what a client may take before and after it is known.
type limits struct {
	waiting   int           // connections that have not been admitted to a session
	patience  time.Duration // a waiting connection this old makes room for a new one
	handshake time.Duration // for the TLS handshake
	connect   time.Duration // from then on, for CONNECT
	write     time.Duration // for one write
	farewell  time.Duration // for the last writes of a connection that is ended
	linger    time.Duration // for reading away what a refused client still sends
}

var defaultLimits = limits{
	waiting:   1024,
	patience:  2 * time.Second,
	handshake: 10 * time.Second,
	connect:   10 * time.Second,
	write:     10 * time.Second,
	farewell:  time.Second,
	linger:    300 * time.Millisecond,
}

// A listener accepts TCP connections and hands those that pass the handshake to
// the MQTT server. It implements the server's own kind of listener.
type listener struct {
	broker *Broker
	tcp    net.Listener
	ctx    context.Context // ends with the listener
	cancel context.CancelFunc
	work   sync.WaitGroup // one for each connection, and one for accepting

	mu      sync.Mutex
	waiting []waiting // oldest first
}

type waiting struct {
	raw   net.Conn
	since time.Time
}

func newListener(b *Broker, tcp net.Listener) *listener {
	l := &listener{broker: b, tcp: tcp}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// ID implements the server's listener.
func (l *listener) ID() string { return "mqtts" }

// Address implements the server's listener.
func (l *listener) Address() string { return l.tcp.Addr().String() }

// Protocol implements the server's listener.
func (l *listener) Protocol() string { return "mqtts" }

// Init implements the server's listener: the socket is open already. Accepting
// counts as work from now on, because Serve runs on a goroutine of the server.
func (l *listener) Init(*slog.Logger) error {
	l.work.Add(1)
	return nil
}

// Serve accepts connections until the listener is closed. Nothing that a client
// does, or does not do, keeps it from accepting the next one.
func (l *listener) Serve(establish listeners.EstablishFn) {
	defer l.work.Done()
	for {
		raw, err := l.tcp.Accept()
		switch {
		case l.ctx.Err() != nil:
			if err == nil {
				_ = raw.Close()
			}
			return
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // no descriptors left, or the client is gone again
			l.broker.log.Warn("accept mqtts connection", "error", err)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-l.ctx.Done():
			}
			continue
		}
		if !l.enter(raw) {
			l.broker.counters.shed.Add(1)
			_ = raw.Close()
			continue
		}
		l.work.Add(1)
		go func() {
			defer l.work.Done()
			defer l.leave(raw)
			l.handle(raw, establish)
		}()
	}
}

// enter lets a connection wait for its session. When too many do, the one that
// has waited longest makes room, if it has had time enough for an honest
// handshake; else the new one must try again.
func (l *listener) enter(raw net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if len(l.waiting) >= l.broker.limits.waiting {
		if now.Sub(l.waiting[0].since) < l.broker.limits.patience {
			return false
		}
		l.broker.counters.shed.Add(1)
		_ = l.waiting[0].raw.Close()
		l.waiting = l.waiting[1:]
	}
	l.waiting = append(l.waiting, waiting{raw, now})
	return true
}

// leave says that a connection waits no longer: it has a session, or is gone.
func (l *listener) leave(raw net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, w := range l.waiting {
		if w.raw == raw {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			return
		}
	}
}

// handle does the handshake and then serves the session, until its end.
func (l *listener) handle(raw net.Conn, establish listeners.EstablishFn) {
	b := l.broker
	c := &conn{Conn: tls.Server(raw, b.tls), raw: raw, limits: &b.limits}
	defer c.finish()

	ctx, cancel := context.WithTimeout(l.ctx, b.limits.handshake)
	err := c.HandshakeContext(ctx)
	cancel()
	if err != nil {
		if l.ctx.Err() == nil {
			b.logRefusal(raw.RemoteAddr(), c.ConnectionState(), err)
		}
		return
	}
	state := c.ConnectionState()
	b.counters.accepted.Add(1)
	if state.DidResume {
		b.counters.resumed.Add(1)
	}
	leaf := state.PeerCertificates[0]
	c.identity, c.serial = leaf.Subject.CommonName, serialNumber(leaf)
	b.sessions.add(c)
	defer b.sessions.remove(c)
	if l.ctx.Err() != nil { // closed since; nobody else will end this one
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(b.limits.connect))
	if err := establish(l.ID(), c); err != nil {
		b.log.Debug("mqtts connection ended", "identity", c.identity, "session", c.id, "cause", err)
	}
}

// Close stops accepting, ends every connection, and waits for all of them. It
// does so itself: the server's function ends one after the other.
func (l *listener) Close(listeners.CloseFn) {
	l.cancel()
	_ = l.tcp.Close()
	for _, c := range l.broker.sessions.all() {
		go l.broker.end(c, packets.ErrServerShuttingDown)
	}
	l.work.Wait()
}
