package mqtts

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// websocketPaths are where brokers serve MQTT over websockets by default.
var websocketPaths = []string{"/mqtt", "/ws", "/"}

// explainHTTP explains a server that answered CONNECT with HTTP, or with silence
// where it speaks HTTP: it tells an MQTT-over-websocket listener (MQTT 5.0
// section 6), which takes the upgrade, from other servers. No credentials are
// sent. It returns false when the server does not speak HTTP.
func (a *attempt) explainHTTP() bool {
	code, first := CodeNotMQTTHTTP, ""
	for _, path := range websocketPaths {
		line := a.upgrade(path)
		if !strings.HasPrefix(line, "HTTP/") {
			break
		}
		if first == "" {
			first = line
		}
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == "101" {
			code, first = CodeWebsocketListener, line
			break
		}
	}
	if first == "" {
		return false
	}
	answer := fmt.Sprintf("%q", printable(strings.TrimSpace(first), 60))
	a.explain(code, facts{"answer": answer})
	a.fail("HTTP inside TLS: "+answer, false)
	return true
}

// errOtherBroker ends a second handshake whose certificate is not the verified
// one.
var errOtherBroker = errors.New("another certificate than before")

// upgrade connects again, asks for the websocket at path and returns the first
// line of the answer.
func (a *attempt) upgrade(path string) string {
	timeout := min(probeTimeout, a.target.StepTimeout)
	conn, err := a.connect(timeout)
	if err != nil {
		return ""
	}
	w := newWire(a.ctx, conn, nil)
	defer w.Close()
	w.arm(timeout)
	channel := tls.Client(w, &tls.Config{
		ServerName: a.target.ServerName, MinVersion: a.target.MinTLS, MaxVersion: a.target.MaxTLS,
		InsecureSkipVerify:   true, // VerifyConnection wants the certificate that was verified
		VerifyConnection:     a.sameBroker,
		GetClientCertificate: a.clientCertificate,
	})
	request := "GET " + path + " HTTP/1.1\r\nHost: " + a.target.ServerName + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	if _, err := channel.Write([]byte(request)); err != nil {
		return ""
	}
	line, _ := bufio.NewReader(io.LimitReader(channel, 1024)).ReadString('\n')
	return line
}

func (a *attempt) sameBroker(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 || a.certificate == nil {
		return errOtherBroker
	}
	sum := sha256.Sum256(s.PeerCertificates[0].Raw)
	if hex.EncodeToString(sum[:]) != a.certificate.SHA256 {
		return errOtherBroker
	}
	return nil
}
