package mqtts

import "encoding/binary"

// A version is the protocol level in CONNECT (MQTT 5.0 section 3.1.2.2).
type version byte

const (
	mqtt311 version = 4
	mqtt5   version = 5
)

func (v version) String() string {
	if v == mqtt5 {
		return Version5
	}
	return Version311
}

// encodeConnect returns CONNECT with a clean session and no will (section 3.1).
// The keep-alive is longer than any run, so that no PINGREQ is due.
func encodeConnect(v version, clientID, username, password string) []byte {
	const keepAlive = 60
	flags := byte(1 << 1) // clean start
	if username != "" {
		flags |= 1 << 7
	}
	if password != "" {
		flags |= 1 << 6
		if v == mqtt311 {
			flags |= 1 << 7 // MQTT-3.1.2-22: a user name, be it empty
		}
	}
	b := appendString(nil, "MQTT")
	b = append(b, byte(v), flags)
	b = binary.BigEndian.AppendUint16(b, keepAlive)
	if v == mqtt5 {
		b = appendLength(b, 5)
		b = append(b, propMaximumPacketSize)
		b = binary.BigEndian.AppendUint32(b, maxFrame)
	}
	b = appendString(b, clientID)
	if flags&(1<<7) != 0 {
		b = appendString(b, username)
	}
	if flags&(1<<6) != 0 {
		b = appendString(b, password)
	}
	return encodeFrame(typeConnect, 0, b)
}

// A connack is CONNACK (section 3.2).
type connack struct {
	sessionPresent bool
	code           byte
	maximumQoS     byte
	reason         string // Reason String of version 5
}

// decodeConnack decodes the answer to a CONNECT of version v. Brokers without
// version 5 answer it with a CONNACK of two bytes, which is taken; some answer
// 3.1.1 with the codes, and the properties, of version 5, which is taken when it
// refuses.
func decodeConnack(body []byte, v version) (connack, error) {
	c := cursor{rest: body}
	flags := c.byte("acknowledge flags")
	ack := connack{sessionPresent: flags&1 != 0, code: c.byte("reason code"), maximumQoS: 2}
	if c.err == nil && flags&^1 != 0 {
		c.err = malformed("CONNACK with reserved flags 0x%02x", flags) // MQTT-3.2.2-1
	}
	if len(c.rest) > 0 {
		p := c.properties()
		ack.reason = p.reason
		if p.maximumQoS != nil {
			ack.maximumQoS = *p.maximumQoS
		}
	}
	if c.err == nil && len(c.rest) > 0 {
		c.err = malformed("CONNACK with %d bytes too many", len(c.rest))
	}
	if c.err == nil && v == mqtt311 && ack.code == 0 && len(body) != 2 {
		c.err = malformed("CONNACK of %d bytes; MQTT 3.1.1 has 2", len(body))
	}
	if c.err == nil && ack.maximumQoS > 2 {
		c.err = malformed("CONNACK with maximum QoS %d", ack.maximumQoS)
	}
	return ack, c.err
}

// encodeSubscribe returns SUBSCRIBE to one topic (section 3.8).
func encodeSubscribe(v version, id uint16, topic string, qos byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	if v == mqtt5 {
		b = appendLength(b, 0)
	}
	b = appendString(b, topic)
	b = append(b, qos)
	return encodeFrame(typeSubscribe, 2, b)
}

// An acknowledgement is SUBACK of one topic, or PUBACK (sections 3.9 and 3.4).
type acknowledgement struct {
	id     uint16
	code   byte
	reason string
}

// decodeSuback decodes SUBACK to a SUBSCRIBE of one topic.
func decodeSuback(body []byte, v version) (acknowledgement, error) {
	c := cursor{rest: body}
	a := acknowledgement{id: c.uint16("packet identifier")}
	if v == mqtt5 {
		a.reason = c.properties().reason
	}
	a.code = c.byte("reason code")
	if c.err == nil && len(c.rest) > 0 {
		c.err = malformed("SUBACK with %d codes for one topic", 1+len(c.rest))
	}
	if c.err == nil && a.code > 2 && a.code < 0x80 {
		c.err = malformed("SUBACK with reserved code 0x%02x", a.code)
	}
	return a, c.err
}

// decodePuback decodes PUBACK. Version 5 leaves out a code of 0, and properties
// when there are none.
func decodePuback(body []byte, v version) (acknowledgement, error) {
	c := cursor{rest: body}
	a := acknowledgement{id: c.uint16("packet identifier")}
	if v == mqtt5 && len(c.rest) > 0 {
		a.code = c.byte("reason code")
		if len(c.rest) > 0 {
			a.reason = c.properties().reason
		}
	}
	if c.err == nil && len(c.rest) > 0 {
		c.err = malformed("PUBACK with %d bytes too many", len(c.rest))
	}
	return a, c.err
}

// A publication is PUBLISH (section 3.3).
type publication struct {
	topic   string
	qos     byte
	id      uint16 // 0 with QoS 0
	payload []byte
}

// encodePublish returns PUBLISH, not retained.
func encodePublish(v version, p publication) []byte {
	b := appendString(nil, p.topic)
	if p.qos > 0 {
		b = binary.BigEndian.AppendUint16(b, p.id)
	}
	if v == mqtt5 {
		b = appendLength(b, 0)
	}
	return encodeFrame(typePublish, p.qos<<1, append(b, p.payload...))
}

// decodePublish decodes PUBLISH of the given header flags.
func decodePublish(flags byte, body []byte, v version) (publication, error) {
	c := cursor{rest: body}
	p := publication{topic: c.string("topic name"), qos: flags >> 1 & 3}
	if p.qos == 3 {
		return p, malformed("PUBLISH with QoS 3") // MQTT-3.3.1-4
	}
	if p.qos > 0 {
		p.id = c.uint16("packet identifier")
		if c.err == nil && p.id == 0 {
			c.err = malformed("PUBLISH with packet identifier 0") // MQTT-2.2.1-3
		}
	}
	if v == mqtt5 {
		c.properties()
	}
	p.payload = c.rest
	return p, c.err
}

// encodePuback returns PUBACK with success: two bytes in both versions.
func encodePuback(id uint16) []byte {
	return encodeFrame(typePuback, 0, binary.BigEndian.AppendUint16(nil, id))
}

// encodeDisconnect returns DISCONNECT, normal disconnection (section 3.14).
func encodeDisconnect() []byte { return encodeFrame(typeDisconnect, 0, nil) }

// decodeDisconnect decodes a broker's DISCONNECT, which only version 5 has, but
// some brokers send in 3.1.1, too.
func decodeDisconnect(body []byte) (acknowledgement, error) {
	c := cursor{rest: body}
	var a acknowledgement
	if len(c.rest) > 0 {
		a.code = c.byte("reason code")
	}
	if len(c.rest) > 0 {
		a.reason = c.properties().reason
	}
	if c.err == nil && len(c.rest) > 0 {
		c.err = malformed("DISCONNECT with %d bytes too many", len(c.rest))
	}
	return a, c.err
}
