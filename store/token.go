package store

import (
	"context"
	"errors"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const selectAPIToken = `SELECT id, name, role, hash, created_at, expires_at, disabled FROM api_tokens`

func scanAPIToken(row scanner) (*enroll.APIToken, error) {
	t := &enroll.APIToken{}
	return t, row.Scan(&t.ID, &t.Name, &t.Role, &t.Hash, atTime{&t.CreatedAt}, atTime{&t.ExpiresAt}, asBool{&t.Disabled})
}

// CreateAPIToken implements enroll.TokenStore.
func (s *Store) CreateAPIToken(ctx context.Context, t enroll.APIToken, c enroll.Change) error {
	return s.change(ctx, "create API token", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `INSERT INTO api_tokens (id, name, role, hash, created_at, expires_at, disabled)
			VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`,
			t.ID, t.Name, t.Role, t.Hash, micros(t.CreatedAt), micros(t.ExpiresAt), bit(t.Disabled))
		if err == nil && n == 0 {
			return conflict("token", "make another token", "the token exists")
		}
		return err
	})
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
