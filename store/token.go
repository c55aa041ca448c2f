package store

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const selectAPIToken = `SELECT id, name, role, hash, work_order, owner, created_at, expires_at, last_used_at, disabled FROM api_tokens`

func scanAPIToken(row scanner) (*enroll.APIToken, error) {
	t := &enroll.APIToken{}
	return t, row.Scan(&t.ID, &t.Name, &t.Role, &t.Hash, &t.WorkOrder, &t.Owner, atTime{&t.CreatedAt}, atTime{&t.ExpiresAt}, atSome{&t.LastUsedAt}, asBool{&t.Disabled})
}

// CreateAPIToken implements enroll.TokenStore.
func (s *Store) CreateAPIToken(ctx context.Context, t enroll.APIToken, c enroll.Change) error {
	return s.change(ctx, "create API token", c, func(ctx context.Context, q tx) error { return insertAPIToken(ctx, q, t) })
}

func insertAPIToken(ctx context.Context, q tx, t enroll.APIToken) error {
	n, err := q.exec(ctx, `INSERT INTO api_tokens (id, name, role, hash, work_order, owner, created_at, expires_at, last_used_at, disabled)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9) ON CONFLICT DO NOTHING`,
		t.ID, t.Name, t.Role, t.Hash, t.WorkOrder, t.Owner, micros(t.CreatedAt), micros(t.ExpiresAt), bit(t.Disabled))
	if err == nil && n == 0 {
		return conflict("token", "make another token", "the token exists")
	}
	return err
}

// APITokenByHash implements enroll.TokenStore.
func (s *Store) APITokenByHash(ctx context.Context, hash []byte) (*enroll.APIToken, error) {
	t, err := one(ctx, s.db, scanAPIToken, selectAPIToken+` WHERE hash = $1`, hash)
	switch {
	case errors.Is(err, errNoRows):
		return nil, ca.Errorf(ca.KindNotFound, "token", "", "there is no such token")
	case err != nil:
		return nil, s.explain("read API token", err)
	}
	return t, nil
}

// APIToken implements enroll.TokenStore.
func (s *Store) APIToken(ctx context.Context, id string) (*enroll.APIToken, error) {
	t, err := one(ctx, s.db, scanAPIToken, selectAPIToken+` WHERE id = $1`, id)
	switch {
	case errors.Is(err, errNoRows):
		return nil, notFound("id", "API token", id)
	case err != nil:
		return nil, s.explain("read API token", err)
	}
	return t, nil
}

// APITokens implements enroll.TokenStore.
func (s *Store) APITokens(ctx context.Context, p enroll.Page) ([]*enroll.APIToken, string, error) {
	l := listing[*enroll.APIToken]{
		name: "api-tokens", query: selectAPIToken, byTime: "created_at", id: "id", newest: true,
		scan: scanAPIToken, keyOf: func(t *enroll.APIToken) key { return key{micros(t.CreatedAt), t.ID} },
	}
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list API tokens", err)
}

// DisableAPIToken implements enroll.TokenStore.
func (s *Store) DisableAPIToken(ctx context.Context, id string, c enroll.Change) error {
	return s.change(ctx, "disable API token", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE api_tokens SET disabled = 1 WHERE id = $1 AND disabled = 0`, id)
		if err == nil && n == 0 {
			return conflict("id", "look at the token again", "API token %q is disabled already, or does not exist", id)
		}
		return err
	})
}

// SaveTokenUses implements enroll.TokenStore, in the order of ids, so that two
// replicas do not wait for each other.
func (s *Store) SaveTokenUses(ctx context.Context, uses map[string]time.Time) error {
	ids := slices.Sorted(maps.Keys(uses))
	return s.explain("keep when tokens were last used", s.write(ctx, func(ctx context.Context, q tx) error {
		for _, id := range ids {
			if _, err := q.exec(ctx, `UPDATE api_tokens SET last_used_at = $2 WHERE id = $1 AND last_used_at < $2`, id, micros(uses[id])); err != nil {
				return err
			}
		}
		return nil
	}))
}
