package mqtts

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
)

// errUntrusted aborts the handshake in step verify.
var errUntrusted = errors.New("the broker's certificate is not trusted")

// handshake runs steps client_hello to session_keys. It returns nil when one of
// them failed. In TLS 1.3 session_keys is provisional: see converse.
func (a *attempt) handshake() *tls.Conn {
	a.wire.arm(a.target.StepTimeout)
	channel := tls.Client(a.wire, a.config())
	if err := channel.Handshake(); err != nil {
		a.handshakeFailed(err)
		return nil
	}
	state := channel.ConnectionState()
	a.describe(state)
	a.wire.allow(maxSessionBytes)
	a.warnAboutRequest(state.DidResume)
	if len(a.target.ALPN) > 0 && state.NegotiatedProtocol == "" {
		a.explain(CodeALPNIgnored, facts{"alpn": strings.Join(a.target.ALPN, ", ")})
	}
	a.pass(a.keysText())
	return channel
}

// config returns the client's TLS configuration.
func (a *attempt) config() *tls.Config {
	return &tls.Config{
		ServerName: a.target.ServerName,
		MinVersion: a.target.MinTLS,
		MaxVersion: a.target.MaxTLS,
		Time:       a.target.Now,
		NextProtos: a.target.ALPN,
		// The chain is verified in VerifyConnection, which tells every cause
		// apart and is stricter. It runs on resumption, too.
		InsecureSkipVerify:   true,
		VerifyConnection:     a.verifyConnection,
		GetClientCertificate: a.clientCertificate,
		ClientSessionCache:   &ticketCounter{inner: a.target.SessionCache, attempt: a},
	}
}

// A ticketCounter is a session cache that notes NewSessionTickets: in TLS 1.3 a
// broker sends them only once it has accepted the client (RFC 8446 section
// 4.6.1). Without an inner cache nothing is ever resumed.
type ticketCounter struct {
	inner   tls.ClientSessionCache
	attempt *attempt
}

func (c *ticketCounter) Get(key string) (*tls.ClientSessionState, bool) {
	if c.inner == nil {
		return nil, false
	}
	return c.inner.Get(key)
}

func (c *ticketCounter) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		c.attempt.tickets.Add(1)
	}
	if c.inner != nil {
		c.inner.Put(key, s)
	}
}

// clientCertificate answers CertificateRequest. The certificate is sent whether
// or not the broker lists its issuer: the verdict is the broker's.
func (a *attempt) clientCertificate(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	a.requested, a.acceptable = true, info.AcceptableCAs
	if a.target.Certificate == nil {
		return new(tls.Certificate), nil
	}
	a.sent = true
	return a.target.Certificate, nil
}

// onServerHello ends step client_hello.
func (a *attempt) onServerHello() {
	if a.step() == StepClientHello {
		a.pass("the broker answered with a ServerHello")
		a.wire.arm(a.target.StepTimeout)
	}
}

// verifyConnection ends step server_certificate and is step verify.
func (a *attempt) verifyConnection(state tls.ConnectionState) error {
	a.describe(state)
	a.pass(certificatesText(state))
	a.wire.arm(a.target.StepTimeout)
	j := a.judge(state)
	a.staple = j.staple
	a.tls.Staple = j.staple
	a.certificate = j.describe()
	a.note(j.findings...)
	if j.failed() {
		a.untrusted = true
		a.fail("not trusted: "+j.causes(), false)
		return errUntrusted
	}
	a.pass(j.text())
	return nil
}

func certificatesText(state tls.ConnectionState) string {
	if state.DidResume {
		return "session resumed; the certificate is that of the first connection"
	}
	n := len(state.PeerCertificates)
	if n == 1 {
		return "1 certificate, " + tls.VersionName(state.Version)
	}
	return fmt.Sprintf("%d certificates, %s", n, tls.VersionName(state.Version))
}

// describe records what the handshake agreed on.
func (a *attempt) describe(s tls.ConnectionState) {
	a.tls = &TLS{
		Version:                    tls.VersionName(s.Version),
		CipherSuite:                tls.CipherSuiteName(s.CipherSuite),
		ALPN:                       s.NegotiatedProtocol,
		ClientCertificateRequested: a.requested,
		ClientCertificateSent:      a.sent,
		Resumed:                    s.DidResume,
		Staple:                     a.staple,
	}
	if s.CurveID != 0 {
		a.tls.Group = s.CurveID.String()
		a.tls.PostQuantum = strings.Contains(a.tls.Group, "MLKEM")
	}
}

func (a *attempt) keysText() string {
	parts := []string{a.tls.Version, a.tls.CipherSuite}
	if a.tls.Group != "" {
		parts = append(parts, a.tls.Group)
	}
	switch {
	case a.tls.Resumed:
		parts = append(parts, "session resumed")
	case a.sent:
		parts = append(parts, "client certificate requested and sent")
	case a.requested:
		parts = append(parts, "client certificate requested, none sent")
	default:
		parts = append(parts, "client certificate not requested")
	}
	return strings.Join(parts, ", ")
}

// warnAboutRequest notes a listener without mutual TLS.
func (a *attempt) warnAboutRequest(resumed bool) {
	if a.requested || resumed {
		return
	}
	fs := facts{"given": ""}
	if a.own.leaf != nil {
		fs["given"] = " Ours was not sent."
	}
	d := a.diagnosis(CodeClientCertificateNotRequested, StepSessionKeys, fs)
	if a.own.leaf == nil {
		d.Severity = SeverityInfo
	}
	a.note(d)
}

// handshakeFailed explains an error of Handshake.
func (a *attempt) handshakeFailed(err error) {
	if a.untrusted {
		return
	}
	if a.tls != nil {
		a.tls.ClientCertificateRequested, a.tls.ClientCertificateSent = a.requested, a.sent
	}
	alert, isAlert := remoteAlert(err)
	switch {
	case a.wasInterrupted():
		a.interrupt()
	case isAlert:
		a.handshakeAlert(alert)
	case a.step() == StepClientHello && isForeign(a.wire.first()):
		a.notTLS(a.wire.first())
	case isTimeout(err):
		a.explain(CodeTLSHandshakeTimeout, nil)
		a.fail("no answer within "+a.target.limit(), false)
	case isClosed(err):
		a.handshakeClosed(err)
	default:
		a.handshakeBroken(err)
	}
}

// preHelloAlerts are the causes of alerts before our certificate was asked for.
var preHelloAlerts = map[int]Code{
	alertHandshakeFailure: CodeTLSCipherMismatch, alertInsufficientSecurity: CodeTLSCipherMismatch,
	alertProtocolVersion: CodeTLSVersionMismatch, alertInternalError: CodeBrokerInternalError,
	alertUnrecognizedName: CodeServerNameUnknown, alertNoApplicationProtocol: CodeALPNMismatch,
}

// handshakeAlert explains an alert that came within the handshake.
func (a *attempt) handshakeAlert(alert int) {
	if a.requested {
		a.refuseClient(alert, alertText(alert), false)
		return
	}
	code, ok := preHelloAlerts[alert]
	if !ok {
		code = CodeTLSAlert
	}
	a.explain(code, facts{"error": alertText(alert)})
	a.fail(alertText(alert), false)
}

// handshakeClosed explains a stream that ended within the handshake.
func (a *attempt) handshakeClosed(err error) {
	text := a.wire.closeText(err)
	if a.requested {
		a.refuseClient(0, text, false)
		return
	}
	when := "before it answered the ClientHello"
	if a.step() != StepClientHello {
		when = "in the middle of the TLS handshake"
	}
	a.explain(CodeTLSHandshakeClosed, facts{"when": when, "error": text})
	a.fail(text, true)
}

// handshakeBroken explains an error that crypto/tls found itself. Two causes
// have no type of their own and are told by their text.
func (a *attempt) handshakeBroken(err error) {
	text := errorText(err)
	code := CodeTLSProtocolViolation
	switch {
	case strings.Contains(text, "invalid signature by the server certificate"):
		code = CodeServerBrokenKey
		a.rewind(StepVerify)
	case strings.Contains(text, "unsupported protocol version"):
		code = CodeTLSVersionMismatch
	case a.sent && a.step() == StepSessionKeys:
		code = CodeClientCertificateUnusable
	}
	a.explain(code, facts{"error": strings.TrimPrefix(text, "tls: ")})
	a.fail(strings.TrimPrefix(text, "tls: "), false)
}
