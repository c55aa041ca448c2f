package store

import (
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// fixedSize is what the arguments of one issuance take beside its certificate
// and its audit event, about, in bytes.
const fixedSize = 1300

// perArgument is what an argument takes in a message beside itself.
const perArgument = 8

// makeRoom makes room for a statement's arguments where pgx encodes them, and
// where it puts them into a message. Both buffers begin small with each
// statement, and grew some twenty times until the arguments of a batch fitted.
func makeRoom(conn *pgx.Conn, values []any, batch []*issuance) []any {
	bytes := fixedSize * len(batch)
	for _, is := range batch {
		bytes += len(is.cert.DER) + len(is.canonical)
	}
	conn.PgConn().Frontend().Send(room(bytes + perArgument*len(values)))
	values[0] = roomy{values[0], bytes}
	return values
}

// A room is a message of no bytes, which makes room for the next, in bytes.
type room int

// Frontend implements pgproto3.FrontendMessage.
func (room) Frontend() {}

// Decode implements pgproto3.FrontendMessage.
func (room) Decode([]byte) error { return nil }

// Encode implements pgproto3.FrontendMessage.
func (n room) Encode(dst []byte) ([]byte, error) { return slices.Grow(dst, int(n)), nil }

// A roomy is the first argument of a statement, with what all of them take, in
// bytes.
type roomy struct {
	first any
	bytes int
}

// planRoomy is a pgtype.TryWrapEncodePlanFunc.
func planRoomy(value any) (plan pgtype.WrappedEncodePlanNextSetter, next any, ok bool) {
	if r, ok := value.(roomy); ok {
		return new(roomyPlan), r.first, true
	}
	return nil, nil, false
}

// A roomyPlan makes the room, and encodes the argument as it would have been.
type roomyPlan struct{ next pgtype.EncodePlan }

func (p *roomyPlan) SetNext(next pgtype.EncodePlan) { p.next = next }

func (p *roomyPlan) Encode(value any, buf []byte) ([]byte, error) {
	r := value.(roomy) //nolint:forcetypeassert // that it was planned for
	return p.next.Encode(r.first, slices.Grow(buf, r.bytes))
}
