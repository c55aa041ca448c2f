package enroll

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/fleetca/fleetca/ca"
)

// newEvent returns an audit event as of now. detail is marshalled to JSON; nil
// gives an empty object.
func newEvent(now time.Time, actor, action, subject string, detail any) Event {
	text := json.RawMessage("{}")
	if detail != nil {
		b, err := json.Marshal(detail)
		if err != nil {
			panic(fmt.Sprintf("audit detail of %s: %v", action, err)) // details are our own types
		}
		text = b
	}
	return Event{ID: newID(), At: now, Actor: actor, Action: action, Subject: subject, Detail: text}
}

// newID returns a UUIDv7, which sorts by the time it was made.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

// Canonical returns the event's bytes as the audit trail keeps them: JSON with
// the fields in the order of Event, no white space, times in UTC.
func (e Event) Canonical() []byte {
	e.At = e.At.UTC().Truncate(time.Microsecond)
	b, err := json.Marshal(e)
	if err != nil {
		panic(fmt.Sprintf("audit event %s: %v", e.ID, err)) // Detail was made by newEvent
	}
	return b
}

// LeafHash returns the RFC 6962, 2.1 Merkle leaf hash of canonical bytes:
// SHA-256 of a zero octet and the bytes.
func LeafHash(canonical []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte{0}, canonical...))
}

// CRLEvent is the event of a CRL that was signed, and is stored with it.
func CRLEvent(now time.Time, actor string, crl *ca.CRL) Event {
	return newEvent(now, actor, "crl.publish", "issuer:"+crl.IssuerID, map[string]any{
		"number": crl.Number, "entries": crl.Entries, "scheduled": crl.Scheduled, "thisUpdate": crl.ThisUpdate, "nextUpdate": crl.NextUpdate,
		"sha256": fmt.Sprintf("%x", sha256.Sum256(crl.DER)),
	})
}

// InitEvent is the first event of a store.
func InitEvent(rootSHA256 string) Event {
	return newEvent(time.Now().UTC().Truncate(time.Microsecond), "server", "authority.init", "issuer:root", map[string]any{"rootSha256": rootSHA256})
}

// TestDataEvent is the event of a store that is marked as none of a real fleet.
func TestDataEvent() Event {
	return newEvent(time.Now().UTC().Truncate(time.Microsecond), "server", "authority.test-data", "authority", nil)
}
