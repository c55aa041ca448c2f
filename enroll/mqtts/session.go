package mqtts

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"sync"
	"time"
)

// A session reads MQTT packets off a channel in a goroutine of its own, so that
// reading is under way before anything is written: a broker that refuses us
// sends its alert and resets the connection, and a write that comes later
// fails, while the alert can still be read.
type session struct {
	channel *tls.Conn
	stream  io.ReadWriter // channel, or the WebSocket inside it
	socket  *websocket    // nil: MQTT goes into TLS itself
	wire    *wire
	events  chan event
	done    chan struct{}
	reader  sync.WaitGroup

	mu   sync.Mutex
	head []byte // first bytes of MQTT that came
}

// An event is a packet, or the error that ended reading.
type event struct {
	frame frame
	err   error
}

func newSession(channel *tls.Conn, w *wire, overWebsocket bool) *session {
	s := &session{channel: channel, stream: channel, wire: w, events: make(chan event, 1), done: make(chan struct{})}
	if overWebsocket {
		s.socket = newWebsocket(channel)
		s.stream = s.socket
	}
	s.reader.Go(s.read)
	return s
}

// read hands on what comes: with a WebSocket first the end of its upgrade, which
// is an event without a packet.
func (s *session) read() {
	if s.socket != nil && !s.hand(frame{}, s.socket.awaitUpgrade()) {
		return
	}
	r := bufio.NewReaderSize(s, 1024)
	for s.hand(readFrame(r)) {
	}
}

// hand puts an event where await finds it, and tells whether to read on.
func (s *session) hand(f frame, err error) bool {
	select {
	case s.events <- event{f, err}:
		return err == nil
	case <-s.done:
		return false
	}
}

// Read implements io.Reader for the goroutine that reads.
func (s *session) Read(p []byte) (int, error) {
	n, err := s.stream.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if room := headBytes - len(s.head); room > 0 {
		s.head = append(s.head, p[:min(n, room)]...)
	}
	return n, err
}

// first returns the first bytes of MQTT that came.
func (s *session) first() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]byte(nil), s.head...)
}

// errLate ends a step whose time is over while packets keep coming.
var errLate = errors.New("time is over")

// await returns the next packet, or the error that ended reading. The wire's
// deadline bounds the wait.
func (s *session) await(until time.Time) (frame, error) {
	if time.Now().After(until) {
		return frame{}, errLate
	}
	e := <-s.events
	return e.frame, e.err
}

// write sends a packet.
func (s *session) write(packet []byte) error {
	_, err := s.stream.Write(packet)
	return err
}

// close says goodbye when polite, closes the connection and waits for the
// reader.
func (s *session) close(polite bool) {
	close(s.done)
	if polite {
		_ = s.write(encodeDisconnect()) // a goodbye: nobody needs to hear it
		if s.socket != nil {
			_ = s.socket.frame(opClose, []byte{0x03, 0xe8}) // 1000, normal closure
		}
		_ = s.channel.Close()
	}
	s.wire.Conn.Close()
	s.reader.Wait()
}
