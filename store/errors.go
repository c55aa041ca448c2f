package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// explain turns what a transaction or a query gave into what callers get: our
// own errors as they are, the driver's as a *ca.Error whose text is ours.
// doing says what was being done.
func (s *Store) explain(doing string, err error) error {
	var own *ca.Error
	var replay *enroll.Replay
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own), errors.As(err, &replay):
		return err
	}
	if commit, ok := errors.AsType[*commitError](err); ok {
		return unavailable(fmt.Errorf("%s: %w", doing, commit),
			"repeat the request with the same idempotency key",
			"whether this took effect is unknown: the database did not confirm it")
	}
	if late, ok := errors.AsType[*lateError](err); ok {
		return unavailable(fmt.Errorf("%s: %w", doing, late),
			"try again in a moment; look at the database where it goes on", "the database took too long, and nothing was changed")
	}
	if errors.Is(err, context.Canceled) { // by the caller; a deadline passed because the database was slow
		return fmt.Errorf("%s: %w", doing, err)
	}
	return s.explainFault(doing, err)
}

// explainFault returns the error for a failure of the database itself.
func (s *Store) explainFault(doing string, err error) error {
	cause := fmt.Errorf("%s: %w", doing, err)
	switch s.db.fault(err) {
	case faultBusy, faultRetry:
		return unavailable(cause, "try again in a moment", "the database is busy")
	case faultFull:
		return unavailable(cause, "free space on the disk of the database; nothing needs a restart", "the disk of the database is full")
	case faultReadOnly:
		return unavailable(cause, "make the database writable for this process; nothing needs a restart", "the database is read-only")
	case faultGone:
		return unavailable(cause, "check that the database is running and can be reached", "the database does not answer")
	case faultCorrupt:
		return unavailable(cause, "stop the server and restore the database from a backup", "the database is damaged")
	case faultConstraint:
		return &ca.Error{Kind: enroll.KindConflict, Message: "this contradicts what is stored", Hint: "look at the current state and try again", Err: cause}
	}
	return cause
}

// unavailable returns an error of enroll.KindUnavailable.
func unavailable(cause error, hint, message string) *ca.Error {
	return &ca.Error{Kind: enroll.KindUnavailable, Message: message, Hint: hint, Err: cause}
}

// notFound returns the error for a missing row.
func notFound(field, what, id string) *ca.Error {
	listing := map[string]string{
		"API token": "tokens", "CRL of issuer": "crls", "enrollment token": "work-orders/ID/tokens", "verification": "brokers/ID/verifications",
	}[what]
	if listing == "" {
		listing = strings.ReplaceAll(what, " ", "-") + "s"
	}
	hint := "GET /api/v1/" + listing + " lists them"
	return ca.Errorf(ca.KindNotFound, field, hint, "there is no %s %.64q", what, id)
}

// conflict returns an error of enroll.KindConflict.
func conflict(field, hint, format string, args ...any) *ca.Error {
	return ca.Errorf(enroll.KindConflict, field, hint, format, args...)
}
