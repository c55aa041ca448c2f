package mqtts

// A propertyKind is how the value of a property is encoded.
type propertyKind byte

const (
	kindByte propertyKind = iota + 1
	kindUint16
	kindUint32
	kindLength
	kindString
	kindBinary
	kindPair
)

// Identifiers of the properties that are used here (MQTT 5.0 section 2.2.2.2).
const (
	propReasonString      = 0x1F
	propMaximumQoS        = 0x24
	propUserProperty      = 0x26
	propMaximumPacketSize = 0x27
	propSubscriptionID    = 0x0B
)

// propertyKinds are all properties of MQTT 5.0, table 2-4.
var propertyKinds = map[byte]propertyKind{
	0x01: kindByte, 0x02: kindUint32, 0x03: kindString, 0x08: kindString, 0x09: kindBinary,
	propSubscriptionID: kindLength, 0x11: kindUint32, 0x12: kindString, 0x13: kindUint16,
	0x15: kindString, 0x16: kindBinary, 0x17: kindByte, 0x18: kindUint32, 0x19: kindByte,
	0x1A: kindString, 0x1C: kindString, propReasonString: kindString, 0x21: kindUint16,
	0x22: kindUint16, 0x23: kindUint16, propMaximumQoS: kindByte, 0x25: kindByte,
	propUserProperty: kindPair, propMaximumPacketSize: kindUint32, 0x28: kindByte,
	0x29: kindByte, 0x2A: kindByte,
}

// properties are the ones of a packet that a verification looks at.
type properties struct {
	reason     string // Reason String
	maximumQoS *byte  // Maximum QoS; nil: 2
}

// properties reads a property list: its length, then identifiers and values.
// Unknown identifiers and ones given twice are errors (MQTT-2.2.2-1,
// section 3.x.2.2).
func (c *cursor) properties() properties {
	var p properties
	list := cursor{rest: c.take(c.length(), "properties"), err: c.err}
	seen := make(map[byte]bool)
	for list.err == nil && len(list.rest) > 0 {
		id := list.byte("property identifier")
		if seen[id] && id != propUserProperty && id != propSubscriptionID {
			list.err = malformed("property 0x%02x is given twice", id)
			break
		}
		seen[id] = true
		p.read(&list, id)
	}
	if c.err == nil {
		c.err = list.err
	}
	return p
}

func (p *properties) read(list *cursor, id byte) {
	switch propertyKinds[id] {
	case kindByte:
		v := list.byte("property")
		if id == propMaximumQoS {
			p.maximumQoS = &v
		}
	case kindUint16:
		list.uint16("property")
	case kindUint32:
		list.uint32("property")
	case kindLength:
		list.length()
	case kindString:
		s := list.string("property")
		if id == propReasonString {
			p.reason = s
		}
	case kindBinary:
		list.binary("property")
	case kindPair:
		list.string("property")
		list.string("property")
	default:
		if list.err == nil {
			list.err = malformed("unknown property 0x%02x", id)
		}
	}
}
