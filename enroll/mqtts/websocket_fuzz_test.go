package mqtts

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
)

// A duplex reads one thing and writes another.
type duplex struct {
	io.Reader
	written bytes.Buffer
}

func (d *duplex) Write(p []byte) (int, error) { return d.written.Write(p) }

// FuzzWebsocket reads frames of any bytes: what comes out is no more than went
// in, and an error is about the stream or its bytes.
func FuzzWebsocket(f *testing.F) {
	for _, s := range []string{"820420020000", "0201208002020080 0100", "8903787878", "8805 03e86e6f21", "8a00", "827e0004 20020000",
		"827f0000000000000004 20020000", "827fffffffffffffffff", "c20100", "81026869", "828400000000 20020000", "09000100", "0000"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		d := &duplex{Reader: bytes.NewReader(in)}
		out, err := io.ReadAll(io.LimitReader(newWebsocket(d), 1<<20))
		if len(out)+d.written.Len() > 5*len(in) {
			t.Fatalf("%x: %d bytes out, %d written", in, len(out), d.written.Len())
		}
		if err != nil && !errors.Is(err, errMalformed) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%x: %v", in, err)
		}
		// What is read must not depend on how the frames are cut up.
		again, _ := io.ReadAll(io.LimitReader(newWebsocket(&duplex{Reader: oneByteReader{bytes.NewReader(in)}}), 1<<20))
		if !bytes.Equal(again, out) {
			t.Fatalf("%x: %x a byte at a time, %x at once", in, again, out)
		}
	})
}

// oneByteReader reads a byte at a time.
type oneByteReader struct{ io.Reader }

func (r oneByteReader) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }

// FuzzUpgrade reads any answer to the request for an upgrade. What is taken for
// one, net/http takes too, as status 101.
func FuzzUpgrade(f *testing.F) {
	const answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	for _, s := range []string{answer, "HTTP/1.1 404 Not Found\r\n\r\n", "HTTP/1.1 101\r\n\r\n", "SSH-2.0-x\r\n", "\x20\x02\x00\x00", "HTTP/1.0 101 x\nA:b\n\n", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s := newWebsocket(&duplex{Reader: bytes.NewReader(in)})
		s.key = "AAAAAAAAAAAAAAAAAAAAAA=="
		if err := s.awaitUpgrade(); err != nil {
			if printable(err.Error(), 1000) != err.Error() {
				t.Fatalf("%q: %q", in, err)
			}
			return
		}
		response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), nil)
		if err != nil || response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Sec-Websocket-Protocol") != "mqtt" {
			t.Fatalf("%q is taken for an upgrade: %v", in, err)
		}
	})
}

// TestUpgradeSeed makes sure that the fuzzer begins with an answer that is taken.
func TestUpgradeSeed(t *testing.T) {
	s := newWebsocket(&duplex{Reader: bytes.NewReader([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"))})
	s.key = "AAAAAAAAAAAAAAAAAAAAAA=="
	if err := s.awaitUpgrade(); err != nil {
		t.Fatal(err)
	}
}
