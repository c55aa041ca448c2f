package mqtts

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// An attempt is one connection, from TCP to DISCONNECT.
type attempt struct {
	*run
	*ledger
	version version

	address     string // connected to
	tls         *TLS
	mqtt        *MQTT
	certificate *ServerCertificate
	refusal     *Refusal // of our certificate or CONNECT
	rejection   *Refusal // of our certificate, or of the lack of one, as an alert of any kind or in silence

	wire       *wire
	requested  bool         // the broker sent CertificateRequest
	sent       bool         // we answered it with a certificate
	acceptable [][]byte     // the names of authorities in it
	tickets    atomic.Int32 // NewSessionTickets that came
	staple     Staple
	untrusted  bool // step verify failed

	answered bool // a CONNACK came
	code     byte // its reason code
	reason   string
	silence  error // how the stream ended where a CONNACK was awaited
}

// attempt runs the eight steps once.
func (r *run) attempt(v version) *attempt {
	a := &attempt{run: r, ledger: newLedger(), version: v}
	conn := a.dial()
	if conn == nil {
		return a
	}
	a.wire = newWire(r.ctx, conn, a.onServerHello)
	defer conn.Close()
	stop := context.AfterFunc(r.ctx, a.wire.interrupt)
	defer stop()
	if channel := a.handshake(); channel != nil {
		a.converse(channel)
		return a
	}
	conn.Close()
	if r.quiet {
		return a
	}
	if a.wantsProbe() {
		a.probe()
	} else if code := a.refusedHello(); code != "" {
		a.tryOffers(code)
	}
	return a
}

// dial is step tcp.
func (a *attempt) dial() net.Conn {
	a.begin()
	conn, err := a.connect(a.target.StepTimeout)
	if err != nil {
		a.dialFailed(err)
		return nil
	}
	a.address = conn.RemoteAddr().String()
	a.pass("connected to " + a.address)
	return conn
}

func (a *attempt) connect(timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(a.ctx, timeout)
	defer cancel()
	d := net.Dialer{Control: a.guard, KeepAlive: -1}
	return d.DialContext(ctx, "tcp", a.target.address())
}

// again connects once more, for something that is bounded by timeout: to name a
// cause, or for a check. The end of the run ends it, too. done closes it.
func (a *attempt) again(timeout time.Duration) (w *wire, done func(), err error) {
	timeout = min(timeout, a.target.StepTimeout)
	conn, err := a.connect(timeout)
	if err != nil {
		return nil, nil, err
	}
	w = newWire(a.ctx, conn, nil)
	w.arm(timeout)
	stop := context.AfterFunc(a.ctx, w.interrupt)
	return w, func() {
		stop()
		w.Conn.Close()
	}, nil
}

// errNotAllowed marks an address that Target.Control refused.
type errNotAllowed struct{ error }

func (a *attempt) guard(network, address string, c syscall.RawConn) error {
	if a.target.Control == nil {
		return nil
	}
	if err := a.target.Control(network, address, c); err != nil {
		return errNotAllowed{err}
	}
	return nil
}

func (a *attempt) dialFailed(err error) {
	if a.wasInterrupted() {
		a.interrupt()
		return
	}
	code, detail := CodeTCPUnreachable, errorText(err)
	refused, isRefused := errors.AsType[errNotAllowed](err)
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case isRefused:
		code, detail = CodeAddressNotAllowed, refused.Error()
	case isDNS:
		code, detail = CodeDNSFailure, dns.Err
	case errors.Is(err, syscall.ECONNREFUSED):
		code, detail = CodeTCPRefused, "connection refused"
	case errors.Is(err, syscall.ECONNRESET):
		code, detail = CodeTCPRefused, "connection reset at once"
	case isTimeout(err), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		code, detail = CodeTCPTimeout, "no answer"
	}
	a.explain(code, facts{"error": detail})
	a.fail(detail, true)
}

// wasInterrupted tells that the caller cancelled the run; its deadline does not
// count, for a broker that is too slow has failed.
func (a *attempt) wasInterrupted() bool { return errors.Is(a.ctx.Err(), context.Canceled) }

// explain notes the diagnosis of code for the step under way, with what is
// always known beside fs.
func (a *attempt) explain(code Code, fs facts) { a.note(a.diagnosis(code, a.step(), fs)) }

func (a *attempt) diagnosis(code Code, step StepName, fs facts) Diagnosis {
	all := facts{
		"address": a.report.Target.Address, "name": a.target.ServerName,
		"timeout": a.target.limit(), "offered": a.offered(),
		"takes": "", "topic": a.target.Topic, "prefix": strings.TrimSuffix(TopicPrefix, "/"),
	}
	if i := strings.LastIndexByte(a.target.Topic, '/'); i > 0 {
		all["prefix"] = a.target.Topic[:i]
	}
	for k, v := range fs {
		all[k] = v
	}
	return diagnose(code, step, all)
}

// offered returns the TLS versions that were offered, for a person.
func (a *attempt) offered() string {
	lowest, highest := tls.VersionName(a.target.MinTLS), tls.VersionName(a.target.MaxTLS)
	if lowest == highest {
		return lowest
	}
	return lowest + " and " + strings.TrimPrefix(highest, "TLS ")
}

// doubtsVersion tells an attempt whose end may be due to the MQTT version: the
// broker refused it by name, or hung up without a word.
func (a *attempt) doubtsVersion() bool {
	return a.silence != nil || a.answered && unsupportedVersion(a.code)
}

// versionFacts say how version 5 was refused.
func (a *attempt) versionFacts() facts {
	if a.silence != nil {
		return facts{"reason": a.wire.closeText(a.silence)}
	}
	return facts{"reason": a.reason}
}

// blameVersion reports an attempt that version 3.1.1 succeeded after.
func (a *attempt) blameVersion() {
	d := diagnose(CodeMQTT3Only, StepConnack, a.versionFacts())
	if a.silence != nil {
		d.Severity = SeverityError
		a.fail(a.wire.closeText(a.silence), true)
		a.silence = nil
	}
	a.note(d)
}
