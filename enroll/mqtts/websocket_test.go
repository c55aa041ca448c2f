package mqtts_test

import (
	"bufio"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// TestWSS runs the steps, and the checks, through a WebSocket.
func TestWSS(t *testing.T) {
	f := newFleet(t)
	m := f.material(t)
	url := broker{tls: f.strict(m.Revoked), wss: true}.start(t) + "/mqtt?token=1"
	for _, v := range versions {
		t.Run(fmt.Sprintf("%s/%s", tls.VersionName(v.tls), v.mqtt), func(t *testing.T) {
			target := f.negative(t, url, m)
			target.Version, target.MinTLS, target.MaxTLS = v.mqtt, v.tls, v.tls
			r := verify(t, target)
			expectChecks(t, r, mqtts.VerdictPass, nil)
			if last := r.Step(mqtts.StepPublishSubscribe); last.Result != mqtts.ResultPass || r.MQTT.Raw[:2] != "20" {
				t.Errorf("%+v, %+v", last, r.MQTT)
			}
			o := r.Check(mqtts.CheckForeignCA).Observed
			if o.Alert == nil || *o.Alert != 48 || o.Step != mqtts.StepSessionKeys || o.AfterFinished != (v.tls == tls.VersionTLS13) {
				t.Errorf("%+v", o)
			}
			if o = r.Check(mqtts.CheckPlaintext).Observed; !strings.Contains(o.Error, "HTTP/1.0 400") {
				t.Errorf("%+v", o)
			}
		})
	}
}

// accept returns the right Sec-WebSocket-Accept.
func accept(request *http.Request) string {
	sum := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// upgrading answers the request for the upgrade with an answer in which KEY is
// the right key, and plays serve afterwards.
func upgrading(answer string, serve func(*tls.Conn)) func(*tls.Conn) {
	return func(c *tls.Conn) {
		request, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		io.WriteString(c, strings.ReplaceAll(strings.ReplaceAll(answer, "KEY", accept(request)), "\n", "\r\n"))
		serve(c)
	}
}

const upgraded = "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: keep-alive, Upgrade\nSec-WebSocket-Accept: KEY\nSec-WebSocket-Protocol: mqtt\n\n"

// TestWebsocketRefused has what comes in place of the upgrade.
func TestWebsocketRefused(t *testing.T) {
	f := newFleet(t)
	inside := func(serve func(*tls.Conn)) string {
		return strings.Replace(listen(t, overTLS(f.mutual(), serve)), "mqtts", "wss", 1)
	}
	quiet := func(*tls.Conn) {}
	onePath := func(c *tls.Conn) {
		request, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil || request.URL.Path != "/ws" {
			io.WriteString(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
	}
	cases := []struct {
		name, url string
		code      mqtts.Code
		step      mqtts.StepName
		says      string
	}{
		{"another path", inside(onePath), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "HTTP 404 Not Found. It takes it at /ws."},
		{"no upgrade", inside(upgrading("HTTP/1.1 200 OK\nContent-Length: 0\n\n", quiet)), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "HTTP 200 OK"},
		{"another key", inside(upgrading(strings.Replace(upgraded, "KEY", "nonsense", 1), drainTLS)), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "Sec-WebSocket-Accept"},
		{"no subprotocol", inside(upgrading(strings.Replace(upgraded, "Sec-WebSocket-Protocol: mqtt\n", "", 1), drainTLS)), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "subprotocol"},
		{"an extension", inside(upgrading(strings.Replace(upgraded, "\n\n", "\nSec-WebSocket-Extensions: x\n\n", 1), drainTLS)), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "extension"},
		{"another protocol", inside(upgrading(strings.Replace(upgraded, ": websocket", ": h2c", 1), drainTLS)), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "another protocol"},
		{"endless header", inside(upgrading("HTTP/1.1 101 Switching Protocols\n", func(c *tls.Conn) { endless([]byte("A: b\r\n"))(c) })), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "header fields"},
		{"endless line", inside(upgrading("HTTP/1.1 101 ", func(c *tls.Conn) { endless([]byte("xxxxxxxx"))(c) })), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "not HTTP"},
		{"MQTT in its place", inside(func(c *tls.Conn) { c.Read(make([]byte, 9)); c.Write([]byte{0x20, 2, 0, 1, '\n'}); drain(c) }), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "not HTTP"},
		{"silence", inside(drainTLS), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "no answer within"},
		{"hangs up", inside(func(c *tls.Conn) { c.Read(make([]byte, 1)) }), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "closed"},
		{"MQTTS", strings.Replace(broker{tls: f.mutual()}.start(t), "mqtts", "wss", 1), mqtts.CodeWebsocketRefused, mqtts.StepConnect, "mqtts://"},

		{"closed after the upgrade", inside(upgrading(upgraded, func(c *tls.Conn) { c.Write([]byte{0x88, 5, 0x03, 0xea, 'n', 'o', '!'}) })), mqtts.CodeClientRejectedSilently, mqtts.StepConnack, "code 1002"},
		{"text", inside(upgrading(upgraded, func(c *tls.Conn) { c.Write([]byte{0x81, 2, 'h', 'i'}); drain(c) })), mqtts.CodeMQTTProtocolViolation, mqtts.StepConnack, "binary"},
		{"masked", inside(upgrading(upgraded, func(c *tls.Conn) { c.Write([]byte{0x82, 0x84, 0, 0, 0, 0, 0x20, 2, 0, 0}); drain(c) })), mqtts.CodeMQTTProtocolViolation, mqtts.StepConnack, "mask"},
		{"reserved bits", inside(upgrading(upgraded, func(c *tls.Conn) { c.Write([]byte{0xc2, 4, 0x20, 2, 0, 0}); drain(c) })), mqtts.CodeMQTTProtocolViolation, mqtts.StepConnack, "reserved"},
		{"endless length", inside(upgrading(upgraded, func(c *tls.Conn) { c.Write([]byte{0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255}); drain(c) })), mqtts.CodeMQTTProtocolViolation, mqtts.StepConnack, "bytes"},
		{"endless pings", inside(upgrading(upgraded, func(c *tls.Conn) { go drain(c); endless([]byte{0x89, 1, 'x'})(c) })), "", mqtts.StepConnack, ""},
		{"not authorized", inside(upgrading(upgraded, func(c *tls.Conn) { c.Write([]byte{0x82, 4, 0x20, 2, 0, 5}); drain(c) })), mqtts.CodeConnackNotAuthorized, mqtts.StepConnack, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			target := f.target(c.url + "/")
			target.Version, target.Timeout, target.StepTimeout = mqtts.Version311, 2*time.Second, 500*time.Millisecond
			r := verify(t, target)
			expect(t, r, c.step, c.code)
			if d := r.Diagnosis[0]; !strings.Contains(d.Message+d.Fix, c.says) {
				t.Errorf("%q / %q lacks %q", d.Message, d.Fix, c.says)
			}
		})
	}
}

func drainTLS(c *tls.Conn) { drain(c) }

// TestWebsocketFragments has a broker whose frames begin and end anywhere: one
// packet in many frames with a ping between, many packets in one.
func TestWebsocketFragments(t *testing.T) {
	f := newFleet(t)
	serve := upgrading(upgraded, func(c *tls.Conn) {
		buf := make([]byte, 4096)
		c.Read(buf) // CONNECT
		for _, frame := range [][]byte{{0x02, 1, 0x20}, {0x89, 2, 'h', 'i'}, {0x00, 0}, {0x00, 2, 2, 0}, {0x80, 1, 0}} {
			c.Write(frame)
		}
		drain(c)
	})
	target := f.target(strings.Replace(listen(t, overTLS(f.mutual(), serve)), "mqtts", "wss", 1))
	target.Version, target.SkipPublish = mqtts.Version311, true
	r := verify(t, target)
	expect(t, r, "", "")
	if r.MQTT.Raw != "20020000" {
		t.Errorf("raw %s", r.MQTT.Raw)
	}
}

// TestWebsocketListener verifies a WebSocket listener as though it were MQTTS:
// the URL that would do is named.
func TestWebsocketListener(t *testing.T) {
	f := newFleet(t)
	url := broker{tls: f.mutual(), wss: true}.start(t)
	target := f.target(strings.Replace(url, "wss", "mqtts", 1))
	target.StepTimeout = 400 * time.Millisecond
	r := verify(t, target)
	expect(t, r, mqtts.StepConnack, mqtts.CodeWebsocketListener)
	if want := url + "/mqtt"; !strings.Contains(r.Diagnosis[0].Fix, want) {
		t.Errorf("%q lacks %q", r.Diagnosis[0].Fix, want)
	}
}

// TestPlaintextWebsocket verifies a WebSocket listener without TLS.
func TestPlaintextWebsocket(t *testing.T) {
	f := newFleet(t)
	target := f.target(broker{wss: true}.start(t))
	r := verify(t, target)
	expect(t, r, mqtts.StepClientHello, mqtts.CodePlaintextListener)
}

// TestALPN offers an application protocol to brokers that take it, ignore it and
// insist on another.
func TestALPN(t *testing.T) {
	f := newFleet(t)
	serving := func(protocols ...string) string {
		config := f.mutual()
		config.NextProtos = protocols
		return broker{tls: config}.start(t)
	}
	cases := []struct {
		url  string
		step mqtts.StepName
		code mqtts.Code
		alpn string
	}{
		{serving("mqtt"), "", "", "mqtt"},
		{serving(), "", mqtts.CodeALPNIgnored, ""},
		{serving("x-amzn-mqtt-ca"), mqtts.StepClientHello, mqtts.CodeALPNMismatch, ""},
	}
	for _, c := range cases {
		target := f.target(c.url)
		target.ALPN = []string{"mqtt"}
		r := verify(t, target)
		expect(t, r, c.step, c.code)
		if r.TLS != nil && r.TLS.ALPN != c.alpn {
			t.Errorf("ALPN %q, want %q", r.TLS.ALPN, c.alpn)
		}
	}
}
