package mqtts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// Bounds on what is read from a broker. A handshake with the largest chain that
// crypto/tls takes is below 300 KiB.
const (
	maxHandshakeBytes = 512 << 10
	maxSessionBytes   = 1 << 20
	headBytes         = 64 // of the first bytes, kept for the diagnosis
)

// errFlood is returned by reads once the bound is reached.
var errFlood = errors.New("more bytes than any broker needs")

// A wire is the TCP connection below TLS. It bounds bytes and time, keeps the
// first bytes that came, and knows how the stream ended, which crypto/tls blurs
// (RFC 8446 section 6.1: it takes a bare FIN for a close_notify).
type wire struct {
	net.Conn
	ctx   context.Context // of the run: its deadline bounds every other one
	onTLS func()          // called at the first bytes of a ServerHello, by the goroutine that reads

	mu     sync.Mutex
	head   []byte
	left   int64 // bytes that may still be read
	ended  error // how reading ended: io.EOF, ECONNRESET, ... nil while it goes on
	closed bool  // interrupted: no deadline moves any more
}

func newWire(ctx context.Context, conn net.Conn, onTLS func()) *wire {
	return &wire{Conn: conn, ctx: ctx, onTLS: onTLS, left: maxHandshakeBytes}
}

// Read implements io.Reader.
func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	left := w.left
	w.mu.Unlock()
	if left <= 0 {
		return 0, errFlood
	}
	n, err := w.Conn.Read(p[:min(int64(len(p)), left)])
	w.mu.Lock()
	w.left -= int64(n)
	if err != nil {
		w.ended = err
	}
	before := isServerHello(w.head)
	if room := headBytes - len(w.head); room > 0 {
		w.head = append(w.head, p[:min(n, room)]...)
	}
	hello := !before && isServerHello(w.head)
	w.mu.Unlock()
	if hello && w.onTLS != nil {
		w.onTLS()
	}
	return n, err
}

// isServerHello tells whether head begins like a handshake record with a
// ServerHello in it (RFC 8446 sections 5.1 and 4).
func isServerHello(head []byte) bool {
	return len(head) >= 6 && head[0] == recordHandshake && head[1] == 3 && head[5] == handshakeServerHello
}

// Types of TLS records and handshake messages.
const (
	recordAlert          = 21
	recordHandshake      = 22
	handshakeServerHello = 2
)

// allow sets how many more bytes may be read.
func (w *wire) allow(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = n
}

// first returns the first bytes that came.
func (w *wire) first() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]byte(nil), w.head...)
}

// end returns how reading ended, nil when it did not.
func (w *wire) end() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

// arm sets the deadline of reads and writes to d from now, at most the run's.
func (w *wire) arm(d time.Duration) {
	_ = w.SetDeadline(w.bound(time.Now().Add(d))) // fails on a closed connection alone, as the next read does
}

// interrupt makes reads and writes end at once, now and later.
func (w *wire) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.Conn.SetDeadline(time.Unix(1, 0))
}

// SetDeadline implements net.Conn.
func (w *wire) SetDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	return w.Conn.SetDeadline(w.bound(t))
}

// SetWriteDeadline implements net.Conn. tls.Conn.Close asks for five seconds,
// which may be more than the run has left.
func (w *wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	return w.Conn.SetWriteDeadline(w.bound(t))
}

func (w *wire) bound(t time.Time) time.Time {
	if end, ok := w.ctx.Deadline(); ok && end.Before(t) {
		return end
	}
	return t
}

// isTimeout tells an expired deadline.
func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// isClosed tells an end of the stream: FIN, RST, close_notify or a broken pipe.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED)
}

// closeText says how the stream ended, for a person.
func (w *wire) closeText(err error) string {
	if e, ok := errors.AsType[*closeFrame](err); ok {
		return e.Error()
	}
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(w.end(), syscall.ECONNRESET):
		return "connection reset"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed in the middle of a message"
	case errors.Is(err, io.EOF) && w.end() == nil:
		return "connection closed with close_notify"
	case errors.Is(err, io.EOF):
		return "connection closed without an alert"
	case errors.Is(err, syscall.EPIPE):
		return "connection closed while writing"
	}
	return errorText(err)
}

// errorText returns err for a person, without the addresses that net repeats.
func errorText(err error) string {
	if n, ok := remoteAlert(err); ok {
		return "alert " + fmt.Sprint(n) + " " + alertName(n)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		err = op.Err
	}
	return printable(err.Error(), 200)
}
