package store

import (
	"context"
	"errors"

	"github.com/fleetca/fleetca/enroll"
)

const selectRotation = `SELECT id, broker, state, steps, sessions_before, sessions_after, sessions_dropped,
	old_serial, new_serial, at, csr, session_ids, version FROM rotations`

func scanRotation(row scanner) (*enroll.Rotation, error) {
	r := &enroll.Rotation{}
	return r, row.Scan(&r.ID, &r.Broker, &r.State, fromJSON{&r.Steps}, &r.SessionsBefore, &r.SessionsAfter, &r.SessionsDropped,
		&r.OldSerial, &r.NewSerial, atTime{&r.At}, &r.CSR, fromJSON{&r.SessionIDs}, &r.Version)
}

// CreateRotation implements enroll.RotationStore.
func (s *Store) CreateRotation(ctx context.Context, r enroll.Rotation, c enroll.Change) error {
	return s.change(ctx, "create rotation", c, func(ctx context.Context, q tx) error {
		if _, err := value[string](ctx, q, `SELECT id FROM brokers WHERE id = $1`, r.Broker); errors.Is(err, errNoRows) {
			return notFound("broker", "broker", r.Broker)
		} else if err != nil {
			return err
		}
		n, err := q.exec(ctx, `INSERT INTO rotations (id, broker, state, steps, sessions_before, sessions_after, sessions_dropped,
				old_serial, new_serial, at, csr, session_ids, version)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING`,
			r.ID, r.Broker, r.State, listText(r.Steps), int64(r.SessionsBefore), int64(r.SessionsAfter), int64(r.SessionsDropped),
			r.OldSerial, r.NewSerial, micros(r.At), r.CSR, listText(r.SessionIDs), r.Version)
		if err == nil && n == 0 {
			return conflict("broker", "wait for the rotation that runs", "a rotation of broker %q is running", r.Broker)
		}
		return err
	})
}

// Rotation implements enroll.RotationStore.
func (s *Store) Rotation(ctx context.Context, id string) (*enroll.Rotation, error) {
	r, err := one(ctx, s.db, scanRotation, selectRotation+` WHERE id = $1`, id)
	switch {
	case errors.Is(err, errNoRows):
		return nil, notFound("id", "rotation", id)
	case err != nil:
		return nil, s.explain("read rotation", err)
	}
	return r, nil
}

// Rotations implements enroll.RotationStore; newest first, of every broker
// when none is named.
func (s *Store) Rotations(ctx context.Context, broker string, p enroll.Page) ([]*enroll.Rotation, string, error) {
	l := listing[*enroll.Rotation]{
		name: "rotations", query: selectRotation, byTime: "at", id: "id", newest: true,
		scan: scanRotation, keyOf: func(r *enroll.Rotation) key { return key{micros(r.At), r.ID} },
	}
	l.equals("broker", broker)
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list rotations", err)
}

// SaveRotation implements enroll.RotationStore. It stores all but broker and at.
// One that was rolled back ends with the broker seen to serve the old certificate.
func (s *Store) SaveRotation(ctx context.Context, r *enroll.Rotation, c enroll.Change) error {
	err := s.change(ctx, "save rotation", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE rotations SET state = $3, steps = $4, sessions_before = $5, sessions_after = $6, sessions_dropped = $7,
				old_serial = $8, new_serial = $9, csr = $10, session_ids = $11, version = version + 1
			WHERE id = $1 AND version = $2`,
			r.ID, r.Version, r.State, listText(r.Steps), int64(r.SessionsBefore), int64(r.SessionsAfter), int64(r.SessionsDropped),
			r.OldSerial, r.NewSerial, r.CSR, listText(r.SessionIDs))
		switch {
		case err != nil:
			return err
		case n == 1 && r.State == enroll.RotationRolledBack:
			_, err = q.exec(ctx, `UPDATE brokers SET served_sha256 = COALESCE((SELECT sha256 FROM certificates WHERE serial = $2), ''), served_at = $3 WHERE id = $1`,
				r.Broker, r.OldSerial, micros(c.Event.At))
			return err
		case n == 1:
			return nil
		}
		return staleOrMissing(ctx, q, "rotation", `SELECT version FROM rotations WHERE id = $1`, r.ID)
	})
	if err == nil {
		r.Version++
	}
	return err
}
