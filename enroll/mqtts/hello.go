package mqtts

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
)

// oldSuites are cipher suites of TLS 1.2 and older that authenticate by
// certificate, most of them unknown to crypto/tls.
var oldSuites = []uint16{
	0xc02c, 0xc02b, 0xc030, 0xc02f, 0xcca9, 0xcca8, 0xc0af, 0xc0ae, 0xc0ad, 0xc0ac, // ECDHE, AEAD
	0xc024, 0xc023, 0xc028, 0xc027, 0xc00a, 0xc009, 0xc014, 0xc013, 0xc008, 0xc012, 0xc007, 0xc011, // ECDHE, CBC and RC4
	0xc05d, 0xc05c, 0xc061, 0xc060, 0xc073, 0xc072, 0xc077, 0xc076, 0xc087, 0xc086, 0xc08b, 0xc08a, // ECDHE, ARIA and Camellia
	0x009f, 0x009e, 0xccaa, 0xc09f, 0xc09e, 0x006b, 0x0067, 0x0039, 0x0033, 0x0016, // DHE with RSA
	0xc053, 0xc052, 0xc07d, 0xc07c, 0x00c4, 0x00be, 0x0088, 0x0045, // the same, ARIA and Camellia
	0x00a3, 0x00a2, 0x006a, 0x0040, 0x0038, 0x0032, 0x0013, // DHE with DSS
	0xc02e, 0xc02d, 0xc032, 0xc031, 0xc026, 0xc025, 0xc02a, 0xc029, 0xc005, 0xc004, 0xc00f, 0xc00e, // ECDH
	0x009d, 0x009c, 0xc0a1, 0xc0a0, 0xc09d, 0xc09c, 0x003d, 0x003c, 0x0035, 0x002f, 0x000a, 0x0005, 0x0004, // RSA
	0xc051, 0xc050, 0x00c0, 0x00ba, 0x0084, 0x0041, // the same, ARIA and Camellia
	0x00ff, // renegotiation info, RFC 5746
}

// oldClientHello returns a ClientHello of the version newest, TLS 1.2 or older,
// and of those before it, with every suite (RFC 5246 section 7.4.1.2).
func oldClientHello(newest uint16, serverName string) []byte {
	body := words16(newest)
	random := make([]byte, 32)
	rand.Read(random) // never fails
	body = append(body, random...)
	body = append(body, 0) // no session
	body = append(body, list16(words16(oldSuites...))...)
	body = append(body, 1, 0) // no compression

	var ext []byte
	if net.ParseIP(serverName) == nil {
		ext = extension(ext, 0, list16(append([]byte{0}, list16([]byte(serverName))...)))
	}
	ext = extension(ext, 10, list16(words16(29, 23, 24, 25, 30, 256, 257)))                                 // supported groups
	ext = extension(ext, 11, []byte{1, 0})                                                                  // uncompressed points
	ext = extension(ext, 13, list16(words16(0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0804, 0x0805, 0x0806, // signatures
		0x0401, 0x0501, 0x0601, 0x0203, 0x0201, 0x0402, 0x0202)))
	body = append(body, list16(ext)...)

	message := append([]byte{1, 0}, list16(body)...) // client_hello, a length of three bytes
	return append([]byte{recordHandshake, 3, 1}, list16(message)...)
}

func words16(ws ...uint16) []byte {
	var b []byte
	for _, w := range ws {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return b
}

// list16 puts a length of two bytes before b.
func list16(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func extension(to []byte, kind uint16, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(to, kind), list16(data)...)
}

// errNoServerHello is the error of a record that is neither a ServerHello nor an
// alert.
var errNoServerHello = errors.New("it answered with something that is no TLS")

// readServerHello reads the first record and returns the version and suite of
// the ServerHello in it (RFC 5246 section 7.4.1.3). An alert in its place is an
// alertError.
func readServerHello(r io.Reader) (version, suite uint16, err error) {
	header := make([]byte, 5)
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, 0, err
	}
	if kind := header[0]; kind != recordHandshake && kind != recordAlert {
		return 0, 0, errNoServerHello
	}
	record := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(r, record); err != nil {
		return 0, 0, err
	}
	if header[0] == recordAlert {
		if len(record) != 2 {
			return 0, 0, errNoServerHello
		}
		return 0, 0, alertError(record[1])
	}
	version, suite, ok := parseServerHello(record)
	if !ok {
		return 0, 0, errNoServerHello
	}
	return version, suite, nil
}

func parseServerHello(record []byte) (version, suite uint16, ok bool) {
	c := cursor{rest: record}
	kind := c.byte("message type")
	c.take(3, "message length")
	version = c.uint16("version")
	c.take(32, "random")
	c.take(int(c.byte("session length")), "session")
	suite = c.uint16("cipher suite")
	return version, suite, c.err == nil && kind == handshakeServerHello
}
