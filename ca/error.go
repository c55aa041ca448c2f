package ca

import (
	"errors"
	"fmt"
	"strings"
)

// A Kind classifies an Error. It is the NAME in the problem type
// urn:fleetca:problem:NAME (RFC 9457); one table in package api gives each its
// status and title.
type Kind string

// Kinds that this package gives. Package enroll adds its own.
const (
	KindMalformed      Kind = "malformed"          // cannot be parsed
	KindTooLarge       Kind = "too-large"          // longer than its limit
	KindBadSignature   Kind = "bad-csr-signature"  // proof of possession does not hold
	KindWeakKey        Kind = "weak-key"           // key type or size outside the policy
	KindBlockedKey     Kind = "blocked-key"        // a compromised key, or one of the authority's own
	KindNameNotAllowed Kind = "name-not-allowed"   // name outside what policy gives
	KindProfile        Kind = "unknown-profile"    // no such profile, or not for this request
	KindIssuerInactive Kind = "issuer-inactive"    // no active issuer signs for this profile
	KindReason         Kind = "unknown-reason"     // not a revocation reason of RFC 5280, 5.3.1
	KindRevoked        Kind = "already-revoked"    // revoked before, and a revocation is final
	KindNotHeld        Kind = "not-held"           // release of what is not on hold
	KindClock          Kind = "clock-unreliable"   // the wall clock went backwards; nothing is signed
	KindRefusedCRL     Kind = "crl-refused"        // a CRL failed the check before its release
	KindKey            Kind = "issuer-key-failure" // a signing key is missing, encrypted otherwise, or wrong
)

// An Error is an error with a kind, and with what a person needs to mend it.
// It is the only error type that clients see the text of.
type Error struct {
	Kind    Kind
	Field   string // the request field at fault, in the request's own spelling; may be empty
	Message string // what is wrong, without the next step and without the cause
	Hint    string // the next step; may be empty
	Err     error  // the cause, never shown to clients
}

// Errorf returns an Error of a kind about a field. A format that ends in ": %w"
// gives it a cause, which stays out of its Message.
func Errorf(kind Kind, field, hint, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	e := &Error{Kind: kind, Field: field, Hint: hint, Message: err.Error(), Err: errors.Unwrap(err)}
	if e.Err != nil {
		e.Message = strings.TrimSuffix(e.Message, ": "+e.Err.Error())
	}
	return e
}

// Error returns everything, for logs and for the command line.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Text() + ": " + e.Err.Error()
	}
	return e.Text()
}

// Text returns what clients may see in one line: without the cause.
func (e *Error) Text() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an *Error of the same kind, so that
// errors.Is(err, &Error{Kind: k}) asks for a kind.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Kind == e.Kind && t.Message == ""
}

// IsKind returns a value for errors.Is that matches every Error of the kind.
func IsKind(k Kind) error { return &Error{Kind: k} }
