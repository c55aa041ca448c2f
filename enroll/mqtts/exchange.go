package mqtts

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// packetID identifies our SUBSCRIBE and our PUBLISH: there is one of each.
const packetID = 1

// errDenied is wrapped by an acknowledgement, or a DISCONNECT, that refuses.
var errDenied = errors.New("denied")

// exchange is step publish_subscribe: subscribe to the topic, publish to it, and
// read the same message back. QoS 1 where the broker has it, so that MQTT 5
// brokers say why they do not deliver.
func (a *attempt) exchange(s *session, qos byte) {
	until := time.Now().Add(a.target.StepTimeout)
	a.wire.arm(a.target.StepTimeout)
	payload := []byte("fleetca verification " + randomHex(16))

	err := s.write(encodeSubscribe(a.version, packetID, a.target.Topic, qos))
	if err == nil {
		err = a.awaitSuback(s, until)
	}
	if err != nil {
		a.exchangeFailed(s, CodeSubscribeDenied, err)
		return
	}
	p := publication{topic: a.target.Topic, qos: qos, id: packetID, payload: payload}
	if err = s.write(encodePublish(a.version, p)); err == nil {
		err = a.awaitEcho(s, payload, until)
	}
	if err != nil {
		a.exchangeFailed(s, CodePublishNotDelivered, err)
		return
	}
	a.pass(fmt.Sprintf("message published with QoS %d came back on %s", qos, a.target.Topic))
}

// awaitSuback waits for the broker's answer to SUBSCRIBE. A broker may send
// retained messages before it (MQTT-3.8.4-3).
func (a *attempt) awaitSuback(s *session, until time.Time) error {
	for {
		f, err := s.await(until)
		if err != nil {
			return err
		}
		switch f.kind {
		case typeSuback:
			ack, err := decodeSuback(f.body, a.version)
			if err != nil {
				return err
			}
			if ack.code >= 0x80 {
				return fmt.Errorf("%w: SUBACK with %s", errDenied, reasonText(ack.code, a.subackName(ack.code), ack.reason))
			}
			return nil
		default:
			if _, err := a.other(s, f); err != nil {
				return err
			}
		}
	}
}

// subackName names a SUBACK code; 3.1.1 has a single one that refuses.
func (a *attempt) subackName(code byte) string {
	if a.version == mqtt311 && code == 0x80 {
		return "failure"
	}
	return reasonName(code)
}

// awaitEcho waits until the message comes back.
func (a *attempt) awaitEcho(s *session, payload []byte, until time.Time) error {
	for {
		f, err := s.await(until)
		if err != nil {
			return err
		}
		switch f.kind {
		case typePuback:
			ack, err := decodePuback(f.body, a.version)
			if err != nil {
				return err
			}
			if ack.code >= 0x80 {
				return fmt.Errorf("%w: PUBACK with %s", errDenied, reasonText(ack.code, reasonName(ack.code), ack.reason))
			}
		default:
			p, err := a.other(s, f)
			if err != nil {
				return err
			}
			if p != nil && bytes.Equal(p.payload, payload) {
				return nil
			}
		}
	}
}

// other handles the packets that a broker may send at any time.
func (a *attempt) other(s *session, f frame) (*publication, error) {
	switch f.kind {
	case typePublish:
		p, err := decodePublish(f.flags, f.body, a.version)
		if err == nil && p.qos == 1 {
			err = s.write(encodePuback(p.id))
		}
		return &p, err
	case typeDisconnect:
		d, err := decodeDisconnect(f.body)
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: DISCONNECT with %s", errDenied, reasonText(d.code, disconnectName(d.code), d.reason))
	case typePingresp, typePuback:
		return nil, nil
	}
	return nil, malformed("%v where none is due", f.kind)
}

// disconnectName names a DISCONNECT code, where 0 has a name of its own.
func disconnectName(code byte) string {
	if code == 0 {
		return "normal disconnection"
	}
	return reasonName(code)
}

// exchangeFailed explains the end of step publish_subscribe. Brokers withhold
// what they do not allow in several ways: by a code, by silence, by hanging up.
// All are of code withheld; only bytes that are not MQTT are not.
func (a *attempt) exchangeFailed(s *session, withheld Code, err error) {
	code, text := withheld, errorText(err)
	switch {
	case a.wasInterrupted():
		a.interrupt()
		return
	case errors.Is(err, errMalformed), errors.Is(err, errFlood):
		code = CodeMQTTProtocolViolation
	case isTimeout(err), errors.Is(err, errLate):
		text = "no answer within " + a.target.limit()
	case isClosed(err):
		text = s.wire.closeText(err)
	}
	a.explain(code, facts{"reason": text, "error": text})
	a.fail(text, isClosed(err))
}
