package mqtts

import (
	"bufio"
	"crypto/tls"
	"errors"
	"sync"
	"time"
)

// A session reads MQTT packets off a channel in a goroutine of its own, so that
// reading is under way before anything is written: a broker that refuses us
// sends its alert and resets the connection, and a write that comes later
// fails, while the alert can still be read.
type session struct {
	channel *tls.Conn
	wire    *wire
	events  chan event
	done    chan struct{}
	reader  sync.WaitGroup

	mu   sync.Mutex
	head []byte // first bytes that came inside TLS
}

// An event is a packet, or the error that ended reading.
type event struct {
	frame frame
	err   error
}

func newSession(channel *tls.Conn, w *wire) *session {
	s := &session{channel: channel, wire: w, events: make(chan event, 1), done: make(chan struct{})}
	s.reader.Go(s.read)
	return s
}

func (s *session) read() {
	r := bufio.NewReaderSize(s, 1024)
	for {
		f, err := readFrame(r)
		select {
		case s.events <- event{f, err}:
		case <-s.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// Read implements io.Reader for the goroutine that reads.
func (s *session) Read(p []byte) (int, error) {
	n, err := s.channel.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if room := headBytes - len(s.head); room > 0 {
		s.head = append(s.head, p[:min(n, room)]...)
	}
	return n, err
}

// first returns the first bytes that came inside TLS.
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
	_, err := s.channel.Write(packet)
	return err
}

// close says goodbye when polite, closes the connection and waits for the
// reader.
func (s *session) close(polite bool) {
	close(s.done)
	if polite {
		_ = s.write(encodeDisconnect()) // a goodbye: nobody needs to hear it
		_ = s.channel.Close()
	}
	s.wire.Conn.Close()
	s.reader.Wait()
}
