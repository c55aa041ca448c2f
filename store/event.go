package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Bounds of lists that are merged of several.
const (
	mostActions     = 200 // that begin alike
	mostRevocations = 100 // of one device
	markEvents      = 8   // newest events that tell whether a subject changed
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

// eventListing lists events, newest first.
func eventListing(filters ...filter) *listing[*enroll.Event] {
	return &listing[*enroll.Event]{
		name: "events", query: selectEvent, byTime: "at", id: "id", newest: true,
		scan: scanEvent, keyOf: eventKey, filters: filters,
	}
}

func eventKey(e *enroll.Event) key { return key{micros(e.At), e.ID} }

// Events implements enroll.EventStore. An index leads by subject, action or
// actor, whichever comes first; what it does not tell is looked at row by row.
func (s *Store) Events(ctx context.Context, f enroll.EventFilter, p enroll.Page) ([]*enroll.Event, string, error) {
	var all []*enroll.Event
	var next string
	err := s.db.snapshot(ctx, func(q querier) (err error) {
		all, next, err = events(ctx, q, f, p)
		return err
	})
	return all, next, s.explain("list events", err)
}

func events(ctx context.Context, q querier, f enroll.EventFilter, p enroll.Page) ([]*enroll.Event, string, error) {
	times := between(f)
	rest := map[string]string{"subject": f.Subject, "action": f.Action, "actor": f.Actor}
	prefix := f.ActionPrefix
	if f.Subject == "" && f.Action == "" && f.Actor == "" && prefix != "" {
		actions, err := actionsWith(ctx, q, prefix)
		if err != nil {
			return nil, "", err
		}
		var lists []*listing[*enroll.Event]
		for _, action := range actions {
			lists = append(lists, eventListing(append(slices.Clip(times), where("action = ?", action))...))
		}
		return merged(ctx, q, lists, p)
	}
	l := eventListing(times...)
	for _, column := range []string{"subject", "action", "actor"} {
		if rest[column] != "" {
			l.equals(column, rest[column])
			rest[column] = ""
			break
		}
	}
	for _, column := range []string{"subject", "action", "actor"} {
		if rest[column] != "" {
			l.rest = append(l.rest, where(column+" = ?", rest[column]))
		}
	}
	if prefix != "" {
		l.rest = append(l.rest, beginning("action", prefix)...)
	}
	if len(l.rest) > 0 {
		l.query, l.outer = `SELECT canonical, at, id, actor, action, subject FROM events`, `SELECT canonical FROM (%s) AS scanned`
	}
	return l.page(ctx, q, p)
}

// between narrows to the filter's times.
func between(f enroll.EventFilter) []filter {
	var all []filter
	if !f.From.IsZero() {
		all = append(all, where("at >= ?", micros(f.From)))
	}
	if !f.To.IsZero() {
		all = append(all, where("at < ?", micros(f.To)))
	}
	return all
}

// actionsWith returns the actions that begin so, from one to the next by the
// index.
func actionsWith(ctx context.Context, q querier, prefix string) ([]string, error) {
	bounds := beginning("action", prefix)
	from, op := bounds[0].args[0], ">="
	var all []string
	for len(all) < mostActions {
		action, err := value[string](ctx, q, `SELECT action FROM events WHERE action `+op+` $1 AND action < $2 ORDER BY action LIMIT 1`, from, bounds[1].args[0])
		if errors.Is(err, errNoRows) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("look for actions: %w", err)
		}
		all = append(all, action)
		from, op = action, ">"
	}
	return all, nil
}

// merged reads one page of several lists in one order.
func merged(ctx context.Context, q querier, lists []*listing[*enroll.Event], p enroll.Page) ([]*enroll.Event, string, error) {
	if p.Limit <= 0 {
		p.Limit = defaultPage
	}
	p.Limit = min(p.Limit, maxPage)
	if len(lists) == 0 {
		return []*enroll.Event{}, "", nil
	}
	var all []*enroll.Event
	more := false
	for _, l := range lists {
		items, next, err := l.page(ctx, q, p)
		if err != nil {
			return nil, "", err
		}
		all, more = append(all, items...), more || next != ""
	}
	slices.SortFunc(all, func(a, b *enroll.Event) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.ID, a.ID))
	})
	if len(all) <= p.Limit && !more {
		return all, "", nil
	}
	all = all[:p.Limit] // a list that has more gave that many
	return all, lists[0].encode(eventKey(all[len(all)-1])), nil
}

// DeviceEvents implements enroll.EventStore.
func (s *Store) DeviceEvents(ctx context.Context, device string, p enroll.Page) ([]*enroll.Event, string, error) {
	var all []*enroll.Event
	var next string
	err := s.db.snapshot(ctx, func(q querier) error {
		subjects := []string{"device:" + device}
		for _, of := range []struct {
			kind, text string
			args       []any
		}{
			{"certificate:", `SELECT serial FROM certificates WHERE holder_kind = 'device' AND holder_id = $1 ORDER BY recorded_at DESC, serial DESC LIMIT $2`, []any{device, int64(certificatesShown)}},
			{"revocation:", `SELECT id FROM revocations WHERE device = $1 ORDER BY at DESC, id DESC LIMIT $2`, []any{device, int64(mostRevocations)}},
		} {
			ids, err := collect(ctx, q, func(row scanner) (id string, err error) {
				err = row.Scan(&id)
				return of.kind + id, err
			}, of.text, of.args...)
			if err != nil {
				return err
			}
			subjects = append(subjects, ids...)
		}
		var lists []*listing[*enroll.Event]
		for _, subject := range subjects {
			lists = append(lists, eventListing(where("subject = ?", subject)))
		}
		var err error
		all, next, err = merged(ctx, q, lists, p)
		return err
	})
	return all, next, s.explain("list the device's events", err)
}

// NewestEvents implements enroll.EventStore. Several of the newest are looked
// at, because replicas' clocks differ: a later event may be dated before.
func (s *Store) NewestEvents(ctx context.Context, subjects []string) (map[string]string, error) {
	newest := make(map[string]string, len(subjects))
	scan := func(row scanner) (id string, err error) {
		err = row.Scan(&id)
		return id, err
	}
	for _, subject := range subjects {
		text, args := `SELECT id FROM events WHERE subject = $1 ORDER BY at DESC, id DESC LIMIT $2`, []any{subject, int64(markEvents)}
		if subject == "*" {
			text, args = `SELECT id FROM events ORDER BY at DESC, id DESC LIMIT $1`, []any{int64(markEvents)}
		}
		ids, err := collect(ctx, s.db, scan, text, args...)
		if err != nil {
			return nil, s.explain("look for the newest events", err)
		}
		newest[subject] = strings.Join(ids, " ")
	}
	return newest, nil
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
