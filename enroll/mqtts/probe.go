package mqtts

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
)

// probeTimeout bounds the wait for an answer to the plaintext probe.
const probeTimeout = 1500 * time.Millisecond

// wantsProbe tells an attempt that got not a byte of TLS: nothing at all or, where
// a WebSocket was asked for, HTTP.
func (a *attempt) wantsProbe() bool {
	head := a.wire.first()
	nothing := len(head) == 0 || a.endpoint.websocket() && begins(head, "HTTP/")
	return a.step() == StepClientHello && a.stopped && nothing && a.ctx.Err() == nil
}

// probe connects again and sends a CONNECT without TLS, without credentials and
// with a client id of its own: a listener that answers it is a plaintext one.
// What it finds replaces the diagnosis of step client_hello.
func (a *attempt) probe() {
	w, done, err := a.again(probeTimeout)
	if err != nil {
		return
	}
	defer done()
	if _, err := w.Write(a.plaintextHello(w)); err != nil {
		return
	}
	f, err := readFrame(bufio.NewReader(io.LimitReader(w, 4<<10)))
	if err == nil && f.kind == typeConnack {
		_, _ = w.Write(encodeDisconnect()) // a goodbye
	}
	if head := w.first(); isForeign(head) {
		a.rediagnose(head)
	}
}

// plaintextHello returns what asks a listener without TLS for MQTT, without
// credentials and with a client id of its own: a CONNECT, or the request for a
// WebSocket.
func (a *attempt) plaintextHello(w *wire) []byte {
	if a.endpoint.websocket() {
		return newWebsocket(w).request(a.endpoint.authority(), a.endpoint.Path)
	}
	return encodeConnect(mqtt311, "probe-"+randomHex(6), "", "")
}

// isForeign tells first bytes that are no record of a TLS handshake.
func isForeign(head []byte) bool {
	return len(head) > 0 && head[0] != recordAlert && head[0] != recordHandshake
}

// rediagnose replaces what is known of step client_hello.
func (a *attempt) rediagnose(head []byte) {
	a.diagnoses = nil
	code, answer := speaks(head)
	a.explain(code, facts{"answer": answer})
	s := &a.steps[a.current]
	s.Detail = printable("not TLS: the listener answers without it: "+answer, 300)
}

// notTLS explains a listener that answered the ClientHello in another protocol.
func (a *attempt) notTLS(head []byte) {
	code, answer := speaks(head)
	a.explain(code, facts{"answer": answer})
	a.fail("not TLS: the listener answered "+answer, false)
}

// speaks tells the protocol by the first bytes, and shows them. A few bytes of
// a slow listener are enough.
func speaks(head []byte) (Code, string) {
	line, _, _ := bytes.Cut(head, []byte("\r\n"))
	quoted := fmt.Sprintf("%q", printable(string(line), 60))
	switch {
	case isUpgrade(string(line)):
		return CodePlaintextListener, quoted
	case begins(head, "HTTP/"):
		return CodeNotMQTTHTTP, quoted
	case begins(head, "SSH-"):
		return CodeNotMQTTSSH, quoted
	case head[0] == byte(typeConnack)<<4 && len(head) >= 2 && head[1] < 0x80:
		return CodePlaintextListener, fmt.Sprintf("CONNACK %x", head[:min(len(head), 2+int(head[1]))])
	}
	if strings.ContainsFunc(string(line), func(r rune) bool { return !isPrint(r) }) {
		quoted = fmt.Sprintf("% x", head[:min(len(head), 16)])
	}
	return CodeNotTLS, quoted
}

// begins tells whether head starts with prefix, or is the beginning of it.
func begins(head []byte, prefix string) bool {
	n := min(len(head), len(prefix))
	return n >= 2 && string(head[:n]) == prefix[:n]
}
