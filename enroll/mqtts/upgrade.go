package mqtts

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// upgrade turns the channel into a WebSocket, as the beginning of step connect.
// What comes first tells whether the broker accepted our certificate, as it does
// in place of CONNACK.
func (a *attempt) upgrade(s *session) bool {
	_, _ = s.channel.Write(s.socket.request(a.endpoint.authority(), a.endpoint.Path)) // reading says why it failed
	_, err := s.await(time.Now().Add(a.target.StepTimeout))
	switch {
	case err == nil:
		return true
	case a.lost(err):
	case isClosed(err) && a.requested && !a.acceptedChannel():
		a.refuseClient(0, a.wire.closeText(err), true)
	default:
		a.upgradeRefused(err)
	}
	return false
}

// upgradeRefused explains what came in place of the upgrade.
func (a *attempt) upgradeRefused(err error) {
	text, takes := errorText(err), ""
	refused, isAnswer := errors.AsType[*upgradeError](err)
	switch {
	case isAnswer && refused.status != "" && !a.quiet:
		takes = a.otherPath()
	case isAnswer:
	case isTimeout(err), errors.Is(err, errLate):
		text = "no answer within " + a.target.limit()
	case isClosed(err):
		text = a.wire.closeText(err)
	}
	a.explain(CodeWebsocketRefused, facts{"error": text, "path": a.endpoint.Path, "takes": takes})
	a.fail("no WebSocket: "+text, isClosed(err))
}

// otherPath tries the usual paths, and says which one the broker takes.
func (a *attempt) otherPath() string {
	for _, path := range websocketPaths {
		if path != a.endpoint.Path && isUpgrade(a.tryUpgrade(path)) {
			return " It takes it at " + path + "."
		}
	}
	return ""
}

// websocketPaths are where brokers serve MQTT over WebSocket by default.
var websocketPaths = []string{"/mqtt", "/ws", "/"}

// explainHTTP explains a server that answered CONNECT with HTTP, or with silence
// where it speaks HTTP: it tells an MQTT-over-WebSocket listener (MQTT 5.0
// section 6), which takes the upgrade, from other servers. No credentials are
// sent. It returns false when the server does not speak HTTP, and for a URL that
// asks for a WebSocket anyway.
func (a *attempt) explainHTTP() bool {
	if a.endpoint.websocket() || a.quiet {
		return false
	}
	code, first, at := CodeNotMQTTHTTP, "", ""
	for _, path := range websocketPaths {
		line := a.tryUpgrade(path)
		if !strings.HasPrefix(line, "HTTP/") {
			break
		}
		if first == "" {
			first = line
		}
		if isUpgrade(line) {
			code, first, at = CodeWebsocketListener, line, path
			break
		}
	}
	if first == "" {
		return false
	}
	answer := fmt.Sprintf("%q", printable(strings.TrimSpace(first), 60))
	a.explain(code, facts{"answer": answer, "path": at})
	a.fail("HTTP inside TLS: "+answer, false)
	return true
}

// isUpgrade tells the first line of an answer that takes an upgrade.
func isUpgrade(line string) bool {
	fields := strings.Fields(line)
	return len(fields) > 1 && strings.HasPrefix(fields[0], "HTTP/") && fields[1] == "101"
}

// errOtherBroker ends a second handshake whose certificate is not the verified
// one.
var errOtherBroker = errors.New("another certificate than before")

// tryUpgrade connects again, asks for a WebSocket at path and returns the first
// line of the answer.
func (a *attempt) tryUpgrade(path string) string {
	w, done, err := a.again(probeTimeout)
	if err != nil {
		return ""
	}
	defer done()
	channel := tls.Client(w, &tls.Config{
		ServerName: a.target.ServerName, MinVersion: a.target.MinTLS, MaxVersion: a.target.MaxTLS,
		InsecureSkipVerify:   true, // VerifyConnection wants the certificate that was verified
		VerifyConnection:     a.sameBroker,
		GetClientCertificate: a.clientCertificate,
		NextProtos:           slices.Clone(a.target.ALPN),
	})
	if _, err := channel.Write(newWebsocket(channel).request(a.endpoint.authority(), path)); err != nil {
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
