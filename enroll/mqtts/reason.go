package mqtts

import "fmt"

// returnCodes are the CONNACK codes of MQTT 3.1.1, table 3.1.
var returnCodes = map[byte]string{
	0: "accepted", 1: "unacceptable protocol version", 2: "identifier rejected",
	3: "server unavailable", 4: "bad user name or password", 5: "not authorized",
}

// reasonCodes are the reason codes of MQTT 5.0, table 2-6, that a broker sends.
var reasonCodes = map[byte]string{
	0x00: "success", 0x01: "granted QoS 1", 0x02: "granted QoS 2", 0x10: "no matching subscribers",
	0x80: "unspecified error", 0x81: "malformed packet", 0x82: "protocol error",
	0x83: "implementation specific error", 0x84: "unsupported protocol version",
	0x85: "client identifier not valid", 0x86: "bad user name or password", 0x87: "not authorized",
	0x88: "server unavailable", 0x89: "server busy", 0x8A: "banned", 0x8B: "server shutting down",
	0x8C: "bad authentication method", 0x8D: "keep alive timeout", 0x8E: "session taken over",
	0x8F: "topic filter invalid", 0x90: "topic name invalid", 0x91: "packet identifier in use",
	0x93: "receive maximum exceeded", 0x94: "topic alias invalid", 0x95: "packet too large",
	0x96: "message rate too high", 0x97: "quota exceeded", 0x98: "administrative action",
	0x99: "payload format invalid", 0x9A: "retain not supported", 0x9B: "QoS not supported",
	0x9C: "use another server", 0x9D: "server moved", 0x9E: "shared subscriptions not supported",
	0x9F: "connection rate exceeded", 0xA0: "maximum connect time",
	0xA1: "subscription identifiers not supported", 0xA2: "wildcard subscriptions not supported",
}

// connackName names a CONNACK code. The two versions share no code but 0, so
// that the code alone tells which table it is from.
func connackName(code byte) string {
	if s, ok := returnCodes[code]; ok {
		return s
	}
	return reasonName(code)
}

// reasonName names a reason code of the other packets.
func reasonName(code byte) string {
	if s, ok := reasonCodes[code]; ok {
		return s
	}
	return "unknown reason"
}

// reasonText returns a reason code for a person, with the broker's own words
// when it sent some.
func reasonText(code byte, name, words string) string {
	s := fmt.Sprintf("reason code 0x%02x, %s", code, name)
	if words != "" {
		s += fmt.Sprintf(" (%q)", printable(words, 120))
	}
	return s
}

// connackCodes map CONNACK codes to causes; others are CodeConnackRefused.
var connackCodes = map[byte]Code{
	1: CodeConnackUnsupportedVersion, 0x84: CodeConnackUnsupportedVersion,
	2: CodeConnackClientIDRejected, 0x85: CodeConnackClientIDRejected,
	3: CodeConnackServerUnavailable, 0x88: CodeConnackServerUnavailable,
	0x89: CodeConnackServerUnavailable, 0x8B: CodeConnackServerUnavailable,
	0x97: CodeConnackServerUnavailable, 0x9F: CodeConnackServerUnavailable,
	4: CodeConnackBadCredentials, 0x86: CodeConnackBadCredentials, 0x8C: CodeConnackBadCredentials,
	5: CodeConnackNotAuthorized, 0x87: CodeConnackNotAuthorized, 0x8A: CodeConnackNotAuthorized,
}

// connackCode returns the cause of a refusing CONNACK code.
func connackCode(code byte) Code {
	if c, ok := connackCodes[code]; ok {
		return c
	}
	return CodeConnackRefused
}

// unsupportedVersion tells a code that refuses the MQTT version.
func unsupportedVersion(code byte) bool {
	return connackCode(code) == CodeConnackUnsupportedVersion
}
