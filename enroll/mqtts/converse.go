package mqtts

import (
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

// converse runs steps connect, connack and publish_subscribe. The first thing
// that is read tells whether the broker accepted our certificate.
func (a *attempt) converse(channel *tls.Conn) {
	a.wire.arm(a.target.StepTimeout)
	s := newSession(channel, a.wire, a.endpoint.websocket())
	polite := false
	defer func() { s.close(polite) }()

	if s.socket != nil && !a.upgrade(s) {
		return
	}
	connect := encodeConnect(a.version, a.target.ClientID, a.target.Username, a.target.Password)
	if err := s.write(connect); err == nil {
		a.pass(fmt.Sprintf("CONNECT of MQTT %v sent inside %s, client id %s", a.version, a.inside(), a.target.ClientID))
	} // else reading says why
	ack, ok := a.awaitConnack(s)
	if !ok {
		return
	}
	polite = true
	if a.target.SkipPublish {
		a.skipLast()
		return
	}
	a.exchange(s, min(ack.maximumQoS, 1))
}

// inside names what MQTT is sent through.
func (a *attempt) inside() string {
	if a.endpoint.websocket() {
		return "WebSocket and TLS"
	}
	return "TLS"
}

// awaitConnack is step connack, and the late verdict on step session_keys.
func (a *attempt) awaitConnack(s *session) (connack, bool) {
	a.wire.arm(a.target.StepTimeout)
	f, err := s.await(time.Now().Add(a.target.StepTimeout))
	if err != nil {
		a.connackLost(s, err)
		return connack{}, false
	}
	if a.step() == StepConnect {
		a.pass("CONNECT sent")
	}
	raw := s.first()
	raw = raw[:min(len(raw), 2+len(f.body))]
	a.mqtt = &MQTT{Version: a.version.String(), ReasonCode: noReasonCode, Raw: hex.EncodeToString(raw)}
	if f.kind != typeConnack {
		a.connackMalformed(fmt.Sprintf("%v, not CONNACK", f.kind), raw)
		return connack{}, false
	}
	ack, err := decodeConnack(f.body, a.version)
	if err != nil {
		a.connackMalformed(err.Error(), raw)
		return ack, false
	}
	return ack, a.acceptConnack(ack)
}

// acceptConnack judges a well-formed CONNACK.
func (a *attempt) acceptConnack(ack connack) bool {
	a.answered, a.code = true, ack.code
	a.reason = reasonText(ack.code, connackName(ack.code), ack.reason)
	a.mqtt.ReasonCode, a.mqtt.Reason = int(ack.code), connackName(ack.code)
	a.mqtt.SessionPresent = ack.sessionPresent
	if ack.code != 0 {
		a.refusal = &Refusal{Step: StepConnack, ReasonCode: int(ack.code), Detail: a.reason, AfterFinished: true}
		a.explain(connackCode(ack.code), facts{"reason": a.reason, "version": a.version.String()})
		a.fail("refused: "+a.reason, false)
		return false
	}
	if ack.sessionPresent {
		a.explain(CodeSessionPresentUnexpected, nil)
	}
	a.warnAboutFlaw()
	a.pass("accepted, MQTT " + a.version.String())
	return true
}

// lost explains an error of reading that is about the channel and not about what
// was awaited: an interruption, or the late verdict on our certificate. It
// returns false for others.
func (a *attempt) lost(err error) bool {
	alert, isAlert := remoteAlert(err)
	switch {
	case a.wasInterrupted():
		a.interrupt()
	case isAlert && (a.requested || a.presented()):
		a.refuseClient(alert, alertText(alert), true)
	case isAlert:
		a.rewind(StepSessionKeys)
		a.explain(CodeTLSAlert, facts{"error": alertText(alert)})
		a.fail("rejected after finished: "+alertText(alert), false)
	default:
		return false
	}
	return true
}

// connackLost explains that reading ended before a CONNACK.
func (a *attempt) connackLost(s *session, err error) {
	head := s.first()
	switch {
	case a.lost(err):
	case len(head) > 0:
		a.connackBroken(err, head)
	case isTimeout(err), errors.Is(err, errLate):
		a.atConnack(nil)
		if a.explainHTTP() {
			return
		}
		a.explain(CodeConnackTimeout, nil)
		a.fail("no CONNACK within "+a.target.limit(), false)
	case isClosed(err):
		a.atConnack(nil)
		a.silence = err // settleSilence, once the version is out of doubt
	default:
		a.atConnack(nil)
		a.explain(CodeMQTTProtocolViolation, facts{"error": errorText(err)})
		a.fail(errorText(err), false)
	}
}

// noReasonCode stands in a report where no CONNACK came.
const noReasonCode = -1

// atConnack makes connack the step under way and records the first bytes.
func (a *attempt) atConnack(head []byte) {
	if a.step() == StepConnect {
		a.pass("CONNECT sent")
	}
	a.mqtt = &MQTT{Version: a.version.String(), ReasonCode: noReasonCode, Raw: hex.EncodeToString(head)}
}

// connackBroken explains bytes that are no CONNACK.
func (a *attempt) connackBroken(err error, head []byte) {
	a.atConnack(head)
	if begins(head, "HTTP/") {
		if !a.explainHTTP() {
			code, answer := speaks(head)
			a.explain(code, facts{"answer": answer})
			a.fail("HTTP inside TLS: "+answer, false)
		}
		return
	}
	text := ""
	switch {
	case errors.Is(err, errMalformed):
		text = err.Error()
	case isTimeout(err):
		text = "incomplete packet"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		text = "truncated packet"
	default:
		text = errorText(err)
	}
	a.connackMalformed(text, head)
}

func (a *attempt) connackMalformed(text string, raw []byte) {
	text = fmt.Sprintf("%s (% x)", text, raw[:min(len(raw), 16)])
	a.explain(CodeConnackMalformed, facts{"error": text})
	a.fail(text, false)
}

// settleSilence explains a stream that ended where CONNACK was awaited. A broker
// that asked for a certificate and never said a word most likely rejected it;
// one that had sent a session ticket in TLS 1.3 had accepted it, and rejected
// what CONNECT said.
func (a *attempt) settleSilence() {
	if a.silence == nil {
		return
	}
	text := a.wire.closeText(a.silence)
	switch {
	case !a.requested && !a.presented():
		a.explain(CodeConnackMissing, facts{"error": text})
	case a.acceptedChannel():
		a.refusal = &Refusal{Step: StepConnack, AfterFinished: true, Detail: text}
		a.explain(CodeClientRejectedSilently, facts{"error": text,
			"what": "It had accepted the TLS session, so probably it rejected user name, password, client id or MQTT version."})
	default:
		a.mqtt = nil
		a.refuseClient(0, text, true)
		return
	}
	a.fail(text, true)
}

// acceptedChannel tells that the broker showed to have accepted the TLS session:
// it took the upgrade to a WebSocket, or sent a session ticket in TLS 1.3.
func (a *attempt) acceptedChannel() bool {
	upgraded := a.endpoint.websocket() && a.step() != StepConnect
	return upgraded || a.tls.Version == tls.VersionName(tls.VersionTLS13) && a.tickets.Load() > 0
}
