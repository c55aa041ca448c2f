package ca

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A crlEntries is what stands on one CRL: its revokedCertificates (RFC 5280,
// 5.1.2.6) as DER, one after the other by serial number, ready to be copied
// into the next CRL; and when each expires.
type crlEntries struct {
	der      []byte
	notAfter []int64 // Unix seconds, by entry
}

// maxEntry is the longest that appendEntry appends.
const maxEntry = 2 + 2 + serialOctets + 1 + 17 + len(reasonExtension) + 1

// reasonExtension is crlEntryExtensions with a reason code (RFC 5280, 5.3.1),
// all but its last octet, the code.
const reasonExtension = "\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01"

// appendEntry appends a revokedCertificates entry, at most maxEntry octets.
func appendEntry(b []byte, e CRLEntry) ([]byte, error) {
	serial, err := hex.DecodeString(string(e.SerialNumber))
	if err != nil || len(serial) == 0 || len(serial) > serialOctets {
		return nil, fmt.Errorf("%q is no serial number", e.SerialNumber)
	}
	start := len(b)
	b = append(b, 0x30, 0, 0x02, byte(len(serial)))
	if serial[0] >= 0x80 { // positive
		b[len(b)-1]++
		b = append(b, 0)
	}
	b = append(b, serial...)
	if at := e.RevokedAt.UTC(); at.Year() < 2050 {
		b = at.AppendFormat(append(b, 0x17, 13), "060102150405Z")
	} else {
		b = at.AppendFormat(append(b, 0x18, 15), "20060102150405Z")
	}
	if code := e.Reason.Code(); code != 0 {
		b = append(append(b, reasonExtension...), byte(code))
	}
	b[start+1] = byte(len(b) - start - 2) // below 128
	return b, nil
}

var errMalformedEntry = errors.New("a CRL entry is not one of ours")

// nextEntry splits the first entry off: the entry, its serial number without
// sign octet, and the rest.
func nextEntry(der []byte) (entry, serial, rest []byte, err error) {
	if len(der) < 5 || der[0] != 0x30 || der[1] >= 0x80 || len(der) < 2+int(der[1]) || der[2] != 0x02 || der[3] == 0 || 2+int(der[3]) > int(der[1]) {
		return nil, nil, nil, errMalformedEntry
	}
	n := 2 + int(der[1])
	serial = der[4 : 4+int(der[3])]
	if len(serial) > 1 && serial[0] == 0 {
		serial = serial[1:]
	}
	return der[:n], serial, der[n:], nil
}

// reasonOf returns an entry's reason code.
func reasonOf(entry []byte) int {
	n := len(entry) - 1
	if n >= len(reasonExtension) && string(entry[n-len(reasonExtension):n]) == reasonExtension {
		return int(entry[n])
	}
	return 0
}

// merge appends to dst the entries of l with the changes made, without those
// that expired before since, and returns them with what they are. Changes are
// by serial number; one without a reason takes its entry away.
func (l crlEntries) merge(dst []byte, changes []CRLEntry, since time.Time) ([]byte, crlEntries, error) {
	start := len(dst)
	next := crlEntries{notAfter: make([]int64, 0, len(l.notAfter)+len(changes))}
	earliest := since.Unix()
	if since.IsZero() {
		earliest = 0
	}
	add := func(c CRLEntry) (err error) {
		if c.Reason != "" && c.NotAfter.Unix() >= earliest {
			next.notAfter = append(next.notAfter, c.NotAfter.Unix())
			dst, err = appendEntry(dst, c)
		}
		return err
	}
	rest, n, c := l.der, 0, 0
	for len(rest) > 0 {
		entry, serial, after, err := nextEntry(rest)
		if err != nil {
			return nil, next, err
		}
		order := -1
		for c < len(changes) {
			if order = compareSerial(changes[c].SerialNumber, serial); order >= 0 {
				break
			}
			if err := add(changes[c]); err != nil {
				return nil, next, err
			}
			c++
		}
		if c < len(changes) && order == 0 { // said anew
			if err := add(changes[c]); err != nil {
				return nil, next, err
			}
			c++
		} else if l.notAfter[n] >= earliest {
			next.notAfter = append(next.notAfter, l.notAfter[n])
			dst = append(dst, entry...)
		}
		rest, n = after, n+1
	}
	for ; c < len(changes); c++ {
		if err := add(changes[c]); err != nil {
			return nil, next, err
		}
	}
	next.der = dst[start:]
	return dst, next, nil
}

// compareSerial compares a serial number in hex with one in octets.
func compareSerial(text SerialNumber, octets []byte) int {
	for n, b := range octets {
		if 2*n+1 >= len(text) {
			return -1
		}
		if digit := "0123456789abcdef"[b>>4]; text[2*n] != digit {
			return int(text[2*n]) - int(digit)
		}
		if digit := "0123456789abcdef"[b&15]; text[2*n+1] != digit {
			return int(text[2*n+1]) - int(digit)
		}
	}
	return len(text) - 2*len(octets)
}

// sortEntries sorts what a ledger gave, which is sorted unless the database
// has an order of its own.
func sortEntries(entries []CRLEntry) {
	bySerial := func(a, b CRLEntry) int { return bytes.Compare([]byte(a.SerialNumber), []byte(b.SerialNumber)) }
	if !slices.IsSortedFunc(entries, bySerial) {
		slices.SortFunc(entries, bySerial)
	}
}

// missing calls gone for every entry of before that after does not have. Both
// are by serial number; disorder is an error.
func missing(before, after []byte, gone func(serial SerialNumber, reason int) error) error {
	var serial []byte // the first of after that is not smaller
	var last []byte
	for len(before) > 0 {
		entry, want, rest, err := nextEntry(before)
		if err != nil {
			return err
		}
		if bytes.Compare(last, want) >= 0 {
			return errors.New("the entries of a CRL are not by serial number")
		}
		for bytes.Compare(serial, want) < 0 && len(after) > 0 {
			if _, serial, after, err = nextEntry(after); err != nil {
				return err
			}
		}
		if !bytes.Equal(serial, want) {
			if err := gone(SerialNumber(hex.EncodeToString(want)), reasonOf(entry)); err != nil {
				return err
			}
		}
		last, before = want, rest
	}
	return nil
}
