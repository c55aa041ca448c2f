package enroll

import (
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A Change is what every change of state carries into its transaction.
type Change struct {
	Event       Event        // exactly one (I19)
	Jobs        []Job        // started only if the transaction commits
	Idempotency *Idempotency // nil when the caller gave no key
}

// Idempotency makes a repeated request answer as the first (I5). The store
// refuses a second commit under the same scope and key: with a *Replay when
// RequestHash is the same, with KindIdempotency when it is not.
type Idempotency struct {
	Scope       string // principal and operation
	Key         string // the caller's Idempotency-Key; stored as SHA-256
	RequestHash []byte // SHA-256 of what makes two requests the same
	Answer      []byte // the first answer, kept; nil where the certificate itself is the answer
	// SerialNumber is of the certificate that is the answer, when it was
	// issued before; the store fills it in for one that is issued now.
	SerialNumber ca.SerialNumber
}

// A Replay is the error of a commit that was made before. It holds the first
// one's result.
type Replay struct {
	SerialNumber ca.SerialNumber // of the certificate; empty when none was issued
	Answer       []byte          // as first given in Idempotency.Answer
}

func (*Replay) Error() string { return "committed before under the same idempotency key" }

// A JobKind names a kind of background work.
type JobKind string

// A Job is one repeatable step of background work on a row (design decision 4).
type Job struct {
	Kind    JobKind
	Subject string        // ID of the row
	After   time.Duration // not before this long from now
	Broker  string        // only a server that drives this broker takes it; any server when empty
}
