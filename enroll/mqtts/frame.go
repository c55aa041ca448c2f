package mqtts

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// A packetType is the type of a control packet (MQTT 5.0 section 2.1.2).
type packetType byte

const (
	typeConnect    packetType = 1
	typeConnack    packetType = 2
	typePublish    packetType = 3
	typePuback     packetType = 4
	typeSubscribe  packetType = 8
	typeSuback     packetType = 9
	typePingresp   packetType = 13
	typeDisconnect packetType = 14
)

func (t packetType) String() string {
	names := [16]string{"reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP",
		"SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"}
	return names[t&15]
}

// maxFrame is the largest packet body that is read. A verification has use for
// small ones only; CONNECT announces it to MQTT 5 brokers as Maximum Packet Size.
const maxFrame = 64 << 10

// errMalformed is wrapped by every error about bytes that are not MQTT.
var errMalformed = errors.New("malformed packet")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
}

// A frame is one control packet, undecoded (MQTT 5.0 section 2.1).
type frame struct {
	kind  packetType
	flags byte
	body  []byte
}

// readFrame reads one packet. An error that wraps errMalformed says that the
// bytes are not MQTT; io.EOF, that the stream ended between packets;
// io.ErrUnexpectedEOF, that it ended within one.
func readFrame(r *bufio.Reader) (frame, error) {
	head, err := r.ReadByte()
	if err != nil {
		return frame{}, err
	}
	f := frame{kind: packetType(head >> 4), flags: head & 15}
	if err := f.checkHeader(); err != nil {
		return f, err
	}
	n, err := readLength(r)
	if err != nil {
		return f, err
	}
	if n > maxFrame {
		return f, malformed("%v announces %d bytes", f.kind, n)
	}
	f.body = make([]byte, n)
	if _, err := io.ReadFull(r, f.body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return f, err
	}
	return f, nil
}

// checkHeader refuses types and reserved flags that a broker never sends
// (MQTT 5.0 sections 2.1.2 and 2.1.3), before their length is believed.
func (f frame) checkHeader() error {
	switch f.kind {
	case typeConnack, typePuback, typeSuback, typePingresp, typeDisconnect:
		if f.flags != 0 {
			return malformed("%v with reserved flags 0x%x", f.kind, f.flags)
		}
	case typePublish:
		if f.flags>>1&3 == 3 {
			return malformed("PUBLISH with QoS 3")
		}
	default:
		return malformed("first byte 0x%02x (%v), which a broker does not send here", byte(f.kind)<<4|f.flags, f.kind)
	}
	return nil
}

// readLength reads a variable byte integer (MQTT 5.0 section 1.5.5).
func readLength(r io.ByteReader) (int, error) {
	n := 0
	for shift := 0; shift < 28; shift += 7 {
		b, err := r.ReadByte()
		if errors.Is(err, io.EOF) {
			return 0, io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
		n |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			return n, nil
		}
	}
	return 0, malformed("remaining length of more than four bytes")
}

// appendLength appends n as a variable byte integer.
func appendLength(b []byte, n int) []byte {
	for n > 0x7f {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

// encodeFrame returns a whole packet.
func encodeFrame(kind packetType, flags byte, body []byte) []byte {
	b := appendLength([]byte{byte(kind)<<4 | flags}, len(body))
	return append(b, body...)
}

// appendString appends a UTF-8 string or binary data (MQTT 5.0 sections 1.5.4
// and 1.5.6). Target.Validate has bounded its length.
func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// A cursor reads the fields of a packet. After the first error it returns zero
// values; err is looked at once, at the end.
type cursor struct {
	rest []byte
	err  error
}

func (c *cursor) take(n int, what string) []byte {
	if c.err != nil {
		return nil
	}
	if n > len(c.rest) {
		c.err = malformed("%s: %d bytes wanted, %d left", what, n, len(c.rest))
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) byte(what string) byte {
	if b := c.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16(what string) uint16 {
	if b := c.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// ReadByte makes a cursor an io.ByteReader for readLength.
func (c *cursor) ReadByte() (byte, error) {
	b := c.byte("variable byte integer")
	return b, c.err
}

func (c *cursor) length() int {
	n, err := readLength(c)
	if c.err == nil {
		c.err = err
	}
	return n
}

func (c *cursor) binary(what string) []byte { return c.take(int(c.uint16(what)), what) }

func (c *cursor) string(what string) string {
	b := c.binary(what)
	if c.err == nil && !validUTF8(b) {
		c.err = malformed("%s is not UTF-8 without NUL", what)
	}
	return string(b)
}

// validUTF8 applies MQTT-1.5.4-1 and MQTT-1.5.4-2.
func validUTF8(b []byte) bool {
	for _, x := range b {
		if x == 0 {
			return false
		}
	}
	return utf8.Valid(b)
}
