package store

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const selectEvent = `SELECT canonical FROM events`

// scanEvent reads an event from the bytes that its leaf hash covers.
func scanEvent(row scanner) (*enroll.Event, error) {
	var canonical []byte
	if err := row.Scan(&canonical); err != nil {
		return nil, err
	}
	e := &enroll.Event{}
	return e, json.Unmarshal(canonical, e)
}

// Events implements enroll.EventStore.
func (s *Store) Events(ctx context.Context, f enroll.EventFilter, p enroll.Page) ([]*enroll.Event, string, error) {
	l := listing[*enroll.Event]{
		name: "events", query: selectEvent, byTime: "at", id: "id", newest: true,
		scan: scanEvent, keyOf: func(e *enroll.Event) key { return key{micros(e.At), e.ID} },
	}
	l.equals("actor", f.Actor)
	l.equals("action", f.Action)
	l.equals("subject", f.Subject)
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list events", err)
}

// Event implements enroll.EventStore.
func (s *Store) Event(ctx context.Context, id string) (*enroll.Event, error) {
	e, err := one(ctx, s.db, scanEvent, selectEvent+` WHERE id = $1`, id)
	if errors.Is(err, errNoRows) {
		return nil, ca.Errorf(ca.KindNotFound, "id", "GET /api/v1/events lists them", "there is no event %.64q", id)
	}
	return e, s.explain("read event", err)
}

// RecordEvent implements enroll.EventStore.
func (s *Store) RecordEvent(ctx context.Context, c enroll.Change) error {
	return s.change(ctx, "record event", c, nil)
}
