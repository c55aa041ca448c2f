package main

import (
	"cmp"
	"errors"
	"io/fs"
	"regexp"

	"github.com/fleetca/fleetca/ca"
)

// Exit codes of every command. verify uses all four; the others 0, 1 and 2.
const (
	exitPass         = 0 // done, or verified
	exitFail         = 1 // tried, and it did not hold
	exitUsage        = 2 // the command line or a file it names is wrong; nothing was done or dialled
	exitInconclusive = 3 // tried, and neither held nor failed
)

// A commandError is an error with the exit code and the hint line that a
// person sees. The zero code means exitFail.
type commandError struct {
	err  error
	code int
	hint string // the next step to take; empty when the error says it
}

func (e *commandError) Error() string { return e.err.Error() }

func (e *commandError) Unwrap() error { return e.err }

// usageError returns err as one that exits with exitUsage and ends in hint.
func usageError(err error, hint string) error {
	return &commandError{err: err, code: exitUsage, hint: hint}
}

// hinted returns err as one that exits with exitFail and ends in hint.
func hinted(err error, hint string) error {
	return &commandError{err: err, code: exitFail, hint: hint}
}

// inTheWay adds to the error of a file that exists what to do about it.
func inTheWay(err error, hint string) error {
	if errors.Is(err, fs.ErrExist) {
		return hinted(err, "it is in the way and is not overwritten: "+hint)
	}
	return err
}

// usageErrorOf returns an error about an argument as a usage error, with its
// own hint.
func usageErrorOf(err error) error {
	if e, ok := errors.AsType[*ca.Error](err); ok {
		return usageError(err, e.Hint)
	}
	return err
}

// exitCode returns the code that the process ends with after err.
func exitCode(err error) int {
	if err == nil {
		return exitPass
	}
	if e, ok := errors.AsType[*commandError](err); ok && e.code != 0 {
		return e.code
	}
	return exitFail
}

// hintOf returns the hint that err carries, for a person; or "".
func hintOf(err error) string {
	return callInHint.ReplaceAllStringFunc(rawHint(err), func(call string) string { return cmp.Or(commandOf[call], call) })
}

// callInHint is a call of the REST API that a hint tells a program to make, and
// commandOf the command that a person runs for it, where there is one.
var (
	callInHint = regexp.MustCompile(`GET /api/v1/[^\s;,]+`)
	commandOf  = map[string]string{
		"GET /api/v1/brokers":                   "fleetca broker list",
		"GET /api/v1/certificates":              "fleetca cert list",
		"GET /api/v1/certificates/SERIAL":       "fleetca cert show SERIAL",
		"GET /api/v1/devices":                   "fleetca device list",
		"GET /api/v1/devices?q=":                "fleetca device list TERM",
		"GET /api/v1/issuers":                   "fleetca issuer list",
		"GET /api/v1/manufacturers":             "fleetca manufacturer list",
		"GET /api/v1/manufacturers/ID/manifest": "fleetca manufacturer devices ID",
		"GET /api/v1/profiles":                  "fleetca profile list",
		"GET /api/v1/revocations?device=ID":     "fleetca device show ID",
		"GET /api/v1/tokens":                    "fleetca token list",
		"GET /api/v1/users":                     "fleetca user list",
		"GET /api/v1/work-orders":               "fleetca order list",
		"GET /api/v1/work-orders/ID/tokens":     "fleetca token list --work-order ID",
	}
)

func rawHint(err error) string {
	if e, ok := errors.AsType[*commandError](err); ok {
		return e.hint
	}
	if e, ok := errors.AsType[*ca.Error](err); ok {
		return e.Hint
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return "see that " + path.Path + " is what you mean, and that this user may use it"
	}
	return ""
}
