package ca

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// serialOctets is the length of every serial number, the most that RFC 5280,
// 4.1.2.2 allows.
const serialOctets = 20

// A SerialNumber is a certificate's serial number (RFC 5280, 4.1.2.2) in
// lower-case hex, two digits an octet, without a sign octet.
type SerialNumber string

// NewSerialNumber returns a serial number: positive, 20 octets, of which the
// last 16 are random, 128 bits from the operating system's CSPRNG (crypto/rand
// ends the process when that has no randomness to give: no randomness, no
// issuance). The first four are the time in seconds, so that new ones stand
// together in an index, however large it is.
func NewSerialNumber() SerialNumber {
	var b [serialOctets]byte
	rand.Read(b[4:])
	binary.BigEndian.PutUint32(b[:4], uint32(time.Now().Unix()))
	b[0] = b[0]&0x3f | 0x40 // positive, and never shorter than 20 octets; it repeats after 34 years
	return SerialNumber(hex.EncodeToString(b[:]))
}

// SerialNumberOf returns n as a SerialNumber.
func SerialNumberOf(n *big.Int) SerialNumber {
	return SerialNumber(hex.EncodeToString(n.Bytes()))
}

// ParseSerialNumber reads a serial number in hex; colons and a leading zero
// octet, as OpenSSL prints them, and upper case are accepted.
func ParseSerialNumber(s string) (SerialNumber, error) {
	t := strings.ToLower(strings.ReplaceAll(s, ":", ""))
	b, err := hex.DecodeString(t)
	b = bytes.TrimLeft(b, "\x00")
	if err != nil || len(b) == 0 || len(b) > serialOctets {
		return "", Errorf(KindMalformed, "serialNumber", "give it as hex, as in the certificate's serialNumber",
			"%.80q is not a serial number", s)
	}
	return SerialNumber(hex.EncodeToString(b)), nil
}

// Int returns the number, for crypto/x509.
func (s SerialNumber) Int() *big.Int {
	b, err := hex.DecodeString(string(s))
	if err != nil {
		panic(fmt.Sprintf("serial number %q was not made by this package", string(s)))
	}
	return new(big.Int).SetBytes(b)
}
