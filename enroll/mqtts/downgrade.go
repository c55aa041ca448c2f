package mqtts

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
)

// plaintext tries MQTT without TLS on the TLS port: without credentials and with
// a client id of its own. Any answer of MQTT's means that it is spoken there.
func (n *negative) plaintext() *outcome {
	return n.raw(StepConnect, func(a *attempt, w *wire, o *outcome) error {
		if _, err := w.Write(a.plaintextHello(w)); err != nil {
			return err
		}
		code, answer, err := readPlaintext(w)
		if err != nil {
			return err
		}
		o.accepted, o.facts = code == CodePlaintextListener, facts{"answer": answer}
		if o.accepted {
			o.observed.Step = StepConnack
			if head := w.first(); head[0] == byte(typeConnack)<<4 && len(head) >= 4 {
				reason := int(head[3])
				o.observed.ReasonCode = &reason
			}
			return nil
		}
		o.refused, o.observed.Error = true, "answered "+answer+", which is not MQTT"
		return nil
	})
}

// readPlaintext reads what a listener answers without TLS. An alert is an error.
func readPlaintext(w *wire) (Code, string, error) {
	r := bufio.NewReader(io.LimitReader(w, 4<<10))
	head, err := r.Peek(1)
	if err != nil {
		return "", "", err
	}
	if head[0] == recordAlert {
		_, _, err := readServerHello(r)
		return "", "", err
	}
	if _, err := r.Peek(4); err != nil && head[0] == byte(typeConnack)<<4 {
		return "", "", err // less than a CONNACK
	}
	if bytes.HasPrefix(w.first(), []byte("HTTP")) {
		_, _ = r.ReadString('\n')
	}
	code, answer := speaks(w.first())
	return code, answer, nil
}

// oldTLS offers TLS 1.0 and 1.1, which RFC 8996 forbids. A ServerHello accepts.
func (n *negative) oldTLS() *outcome {
	return n.raw(StepClientHello, func(_ *attempt, w *wire, o *outcome) error {
		if _, err := w.Write(oldClientHello(tls.VersionTLS11, n.target.ServerName)); err != nil {
			return err
		}
		version, _, err := readServerHello(bufio.NewReader(w))
		if err != nil {
			return err
		}
		if version != tls.VersionTLS10 && version != tls.VersionTLS11 {
			o.error = fmt.Sprintf("it answered with %s, which was not offered", tls.VersionName(version))
			return nil
		}
		o.accepted, o.facts = true, facts{"version": tls.VersionName(version)}
		return nil
	})
}

// raw connects without the TLS of the standard library and lets talk find out
// whether the broker takes what it says. Its error is how the broker refused.
func (n *negative) raw(step StepName, talk func(*attempt, *wire, *outcome) error) *outcome {
	o := &outcome{observed: Observed{Step: step}}
	a := &attempt{run: n.run, ledger: newLedger(), version: mqtt311}
	w, done, err := a.again(n.target.StepTimeout)
	if err != nil {
		o.observed.Step, o.error = StepTCP, errorText(err)
		o.observed.Error = o.error
		return o
	}
	defer done()
	if err := talk(a, w, o); err != nil {
		o.refusedBy(w, err)
	}
	if o.error != "" {
		o.observed.Error = o.error
	}
	return o
}

// refusedBy takes an error of reading or writing as a refusal, or as none.
func (o *outcome) refusedBy(w *wire, err error) {
	alert, isAlert := errors.AsType[alertError](err)
	switch {
	case isAlert:
		n := int(alert)
		o.refused = true
		o.observed.Alert, o.observed.AlertName, o.observed.Error = &n, alertName(n), alertText(n)
	case isClosed(err):
		o.refused, o.silent, o.observed.Error = true, len(w.first()) == 0, w.closeText(err)
	case isTimeout(err):
		o.error = "no answer in time"
	default:
		o.error = errorText(err)
	}
}

// An alertError is an alert that was read outside of crypto/tls.
type alertError int

func (e alertError) Error() string { return alertText(int(e)) }
