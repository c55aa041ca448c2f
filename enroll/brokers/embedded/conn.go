package embedded

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A conn is one TLS connection as the MQTT server sees it. It adds what keeps a
// client from holding up others: every write has a deadline, and closing
// neither waits for the client nor loses the last bytes sent to it.
type conn struct {
	*tls.Conn
	raw    net.Conn
	limits *limits

	id       string // of the session
	identity string
	serial   string

	closing sync.Once
	closed  atomic.Bool
	hurried atomic.Int64 // time by which all writes must be done, Unix nanoseconds; 0 for none
}

// Write writes within the limit, or closes the connection: a TLS connection is
// of no use after half a record.
func (c *conn) Write(data []byte) (int, error) {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(c.limits.write))
	if hurried := c.hurried.Load(); hurried != 0 {
		_ = c.Conn.SetWriteDeadline(time.Unix(0, hurried))
	}
	n, err := c.Conn.Write(data)
	if err != nil && c.hurried.Load() == 0 {
		_ = c.raw.Close()
	}
	return n, err
}

// SetDeadline sets that of reads. The MQTT server sets both, from the
// keep-alive of the client, which may be none.
func (c *conn) SetDeadline(t time.Time) error {
	err := c.raw.SetReadDeadline(t)
	if c.closed.Load() {
		return c.raw.SetReadDeadline(past)
	}
	return err
}

// past is a deadline that makes reads return.
var past = time.Unix(1, 0)

// hurry gives all writes, also the one going on, little time from now on.
func (c *conn) hurry() {
	deadline := time.Now().Add(c.limits.farewell)
	if c.hurried.CompareAndSwap(0, deadline.UnixNano()) {
		_ = c.Conn.SetWriteDeadline(deadline)
	}
}

// Close sends close_notify and makes all reads return, now and later. The
// socket itself is closed by [conn.finish], or here if the peer takes nothing
// more: crypto/tls sets a deadline of its own for close_notify.
func (c *conn) Close() error {
	c.closing.Do(func() {
		c.hurry()
		giveUp := time.AfterFunc(c.limits.farewell, func() { _ = c.raw.Close() })
		_ = c.Conn.CloseWrite()
		giveUp.Stop()
		c.closed.Store(true)
		_ = c.raw.SetReadDeadline(past)
	})
	return nil
}

// finish closes the socket, after reading away what the client still sends:
// closing a socket with unread data resets the connection (RFC 1122 section
// 4.2.2.13), and a reset may overtake the alert or DISCONNECT that says why.
// It is called when nothing else reads.
func (c *conn) finish() {
	defer c.raw.Close()
	_ = c.Close()
	if tcp, ok := c.raw.(*net.TCPConn); !ok || tcp.CloseWrite() != nil {
		return
	}
	if c.raw.SetReadDeadline(time.Now().Add(c.limits.linger)) == nil {
		_, _ = io.CopyN(io.Discard, c.raw, 1<<20)
	}
}
