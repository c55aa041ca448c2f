package store

import (
	"context"
	"errors"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const selectSession = `SELECT s.id, s.hash, s.user_name, u.role, s.address, s.agent, s.second_factor, s.created_at, s.seen_at, s.expires_at FROM sessions s JOIN users u ON u.name = s.user_name`

func scanSession(row scanner) (*enroll.Session, error) {
	s := &enroll.Session{}
	return s, row.Scan(sessionFields(s)...)
}

// sessionFields are where the columns of selectSession go.
func sessionFields(s *enroll.Session) []any {
	return []any{&s.ID, &s.Hash, &s.User, &s.Role, &s.Address, &s.Agent, asBool{&s.SecondFactor}, atTime{&s.CreatedAt}, atTime{&s.SeenAt}, atTime{&s.ExpiresAt}}
}

// insertSession stores a session, and removes a few that have expired, so that
// the table stays as small as the day's sign-ins.
func insertSession(ctx context.Context, q tx, s *enroll.Session) error {
	if _, err := q.exec(ctx, `DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT 16)`, micros(s.CreatedAt)); err != nil {
		return err
	}
	_, err := q.exec(ctx, `INSERT INTO sessions (id, hash, user_name, address, agent, second_factor, created_at, seen_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		s.ID, s.Hash, s.User, s.Address, s.Agent, bit(s.SecondFactor), micros(s.CreatedAt), micros(s.SeenAt), micros(s.ExpiresAt))
	return err
}

// SessionByHash implements enroll.SessionStore.
func (s *Store) SessionByHash(ctx context.Context, hash []byte) (*enroll.Session, *enroll.User, error) {
	session, err := one(ctx, s.db, scanSession, selectSession+` WHERE s.hash = $1`, hash)
	switch {
	case errors.Is(err, errNoRows):
		return nil, nil, ca.Errorf(ca.KindNotFound, "", "", "there is no such session")
	case err != nil:
		return nil, nil, s.explain("read session", err)
	}
	user, err := s.User(ctx, session.User)
	return session, user, err
}

// Session implements enroll.SessionStore.
func (s *Store) Session(ctx context.Context, id string) (*enroll.Session, error) {
	session, err := one(ctx, s.db, scanSession, selectSession+` WHERE s.id = $1`, id)
	switch {
	case errors.Is(err, errNoRows):
		return nil, notFound("id", "session", id)
	case err != nil:
		return nil, s.explain("read session", err)
	}
	return session, nil
}

// Sessions implements enroll.SessionStore.
func (s *Store) Sessions(ctx context.Context, user string, now time.Time, p enroll.Page) ([]*enroll.Session, string, error) {
	l := listing[*enroll.Session]{
		name: "sessions", query: selectSession, byTime: "s.created_at", id: "s.id", newest: true,
		scan: scanSession, keyOf: func(s *enroll.Session) key { return key{micros(s.CreatedAt), s.ID} },
		filters: []filter{{"s.expires_at > ?", []any{micros(now)}}},
	}
	l.equals("s.user_name", user)
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list sessions", err)
}

// TouchSession implements enroll.SessionStore.
func (s *Store) TouchSession(ctx context.Context, id string, at time.Time) error {
	return s.explain("keep when a session was last used", s.write(ctx, func(ctx context.Context, q tx) error {
		_, err := q.exec(ctx, `UPDATE sessions SET seen_at = $2 WHERE id = $1 AND seen_at < $2`, id, micros(at))
		return err
	}))
}

// EndSession implements enroll.SessionStore.
func (s *Store) EndSession(ctx context.Context, id string, c enroll.Change) error {
	return s.change(ctx, "end session", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `DELETE FROM sessions WHERE id = $1`, id)
		if err == nil && n == 0 {
			return notFound("id", "session", id)
		}
		return err
	})
}
