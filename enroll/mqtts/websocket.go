package mqtts

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1" // of the handshake: RFC 6455 section 1.3 asks for it, nothing rests on it
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strings"
	"sync"
)

// A websocket carries MQTT's bytes inside binary frames (RFC 6455; MQTT 5.0
// section 6). Reading and writing may go on at once; one goroutine reads.
type websocket struct {
	channel io.ReadWriter // TLS
	reader  *bufio.Reader
	key     string

	left  uint64 // payload bytes of the frame under way that were not read yet
	final bool   // that frame ends its message
	begun bool   // a message is under way

	mu sync.Mutex // of writes: a frame is written whole
}

func newWebsocket(channel io.ReadWriter) *websocket {
	nonce := make([]byte, 16)
	rand.Read(nonce) // never fails
	return &websocket{channel: channel, reader: bufio.NewReaderSize(channel, 4<<10),
		key: base64.StdEncoding.EncodeToString(nonce), final: true}
}

// request returns the request for the upgrade (RFC 6455 section 4.1).
func (s *websocket) request(authority, path string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n", path, authority, s.key)
}

// An upgradeError is an answer that is no upgrade to MQTT.
type upgradeError struct {
	answer string // for a person
	status string // of HTTP, "" when the answer was none
}

func (e *upgradeError) Error() string { return e.answer }

// maxHeaderLines bounds the header of the answer; each line is bounded by the
// reader's buffer.
const maxHeaderLines = 64

// awaitUpgrade reads the answer to the request (RFC 6455 section 4.2.2). Its
// error is an *upgradeError, or what ended the stream.
func (s *websocket) awaitUpgrade() error {
	line, err := s.line()
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "HTTP/1.") {
		return &upgradeError{answer: fmt.Sprintf("it answered %q, which is not HTTP", printable(line, 60))}
	}
	header := textproto.MIMEHeader{}
	for range maxHeaderLines {
		field, err := s.line()
		if err != nil {
			return err
		}
		if field == "" {
			return s.checkUpgrade(line, header)
		}
		if name, value, ok := strings.Cut(field, ":"); ok {
			header.Add(name, strings.TrimSpace(value))
		}
	}
	return &upgradeError{answer: fmt.Sprintf("its answer has more than %d header fields", maxHeaderLines)}
}

func (s *websocket) line() (string, error) {
	line, err := s.reader.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) || errors.Is(err, io.EOF) && len(line) > 0 {
		return "", &upgradeError{answer: fmt.Sprintf("it answered %q, which is not HTTP", printable(string(line), 60))}
	}
	return strings.TrimRight(string(line), "\r\n"), err
}

// checkUpgrade is RFC 6455 section 4.1 and MQTT-6.0.0-4.
func (s *websocket) checkUpgrade(line string, header textproto.MIMEHeader) error {
	_, status, _ := strings.Cut(line, " ")
	if code, _, _ := strings.Cut(status, " "); code != "101" {
		return &upgradeError{answer: fmt.Sprintf("it answered HTTP %s", printable(status, 60)), status: status}
	}
	sum := sha1.Sum([]byte(s.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	switch {
	case !strings.EqualFold(header.Get("Upgrade"), "websocket") || !strings.Contains(strings.ToLower(header.Get("Connection")), "upgrade"):
		return &upgradeError{answer: "it switched to another protocol than WebSocket", status: status}
	case header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]):
		return &upgradeError{answer: "its answer does not fit our request (Sec-WebSocket-Accept): a cache in between?", status: status}
	case header.Get("Sec-WebSocket-Extensions") != "":
		return &upgradeError{answer: "it chose an extension that was not offered", status: status}
	case header.Get("Sec-WebSocket-Protocol") != "mqtt":
		return &upgradeError{answer: fmt.Sprintf("it chose the subprotocol %q in place of \"mqtt\"",
			printable(header.Get("Sec-WebSocket-Protocol"), 40)), status: status}
	}
	return nil
}

// Opcodes of frames (RFC 6455 section 5.2).
const (
	opContinuation = 0x0
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// Read implements io.Reader: the payload of binary messages, whose borders mean
// nothing to MQTT (MQTT-6.0.0-2).
func (s *websocket) Read(p []byte) (int, error) {
	for s.left == 0 {
		if err := s.nextFrame(); err != nil {
			return 0, err
		}
	}
	n, err := s.reader.Read(p[:min(uint64(len(p)), s.left)])
	s.left -= uint64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// nextFrame reads the header of the next frame, and all of a control frame.
func (s *websocket) nextFrame() error {
	head := make([]byte, 2)
	if _, err := io.ReadFull(s.reader, head); err != nil {
		return err
	}
	final, op, length := head[0]&0x80 != 0, head[0]&0x0f, uint64(head[1]&0x7f)
	switch {
	case head[0]&0x70 != 0:
		return malformed("WebSocket frame with reserved bits 0x%02x", head[0])
	case head[1]&0x80 != 0:
		return malformed("WebSocket frame with a mask, which a server does not use")
	case op >= opClose && (!final || length > 125):
		return malformed("WebSocket control frame of more than 125 bytes or in parts")
	}
	if extra := map[uint64]int{126: 2, 127: 8}[length]; extra > 0 {
		wide := make([]byte, 8)
		if _, err := io.ReadFull(s.reader, wide[8-extra:]); err != nil {
			return cutOff(err)
		}
		length = binary.BigEndian.Uint64(wide)
	}
	switch {
	case op >= opClose:
		return s.control(op, int(length))
	case op == opBinary && s.begun, op == opContinuation && !s.begun:
		return malformed("WebSocket frame out of order")
	case op != opBinary && op != opContinuation:
		return malformed("WebSocket frame of type %d, where MQTT is binary", op) // MQTT-6.0.0-1
	case length > 1<<62:
		return malformed("WebSocket frame of %d bytes", length)
	}
	s.begun, s.left = !final, length
	return nil
}

// cutOff is the error of a frame that ended too early.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A closeFrame ends the stream in good order (RFC 6455 section 5.5.1).
type closeFrame struct {
	code   uint16
	reason string
}

func (e *closeFrame) Error() string {
	if e.reason == "" {
		return fmt.Sprintf("WebSocket closed with code %d", e.code)
	}
	return fmt.Sprintf("WebSocket closed with code %d (%q)", e.code, printable(e.reason, 100))
}

// Is makes a closeFrame an end of the stream.
func (e *closeFrame) Is(target error) bool { return target == io.EOF }

// control handles a control frame: a ping is answered, a pong is not asked for.
func (s *websocket) control(op byte, length int) error {
	payload := make([]byte, length)
	if _, err := io.ReadFull(s.reader, payload); err != nil {
		return cutOff(err)
	}
	switch op {
	case opPing:
		return s.frame(opPong, payload)
	case opPong:
		return nil
	case opClose:
		e := &closeFrame{code: 1005} // none given
		if length >= 2 {
			e.code, e.reason = binary.BigEndian.Uint16(payload), string(payload[2:])
		}
		return e
	}
	return malformed("WebSocket frame of type %d", op)
}

// Write implements io.Writer: p goes into one binary message.
func (s *websocket) Write(p []byte) (int, error) {
	if err := s.frame(opBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// frame writes a whole frame, masked as a client's must be (RFC 6455 section
// 5.3).
func (s *websocket) frame(op byte, payload []byte) error {
	b := []byte{0x80 | op}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := make([]byte, 4)
	rand.Read(mask) // never fails
	b = append(b, mask...)
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.channel.Write(b)
	return err
}
