package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A recordable is an enroll.Change made ready outside the transaction.
type recordable struct {
	enroll.Change
	canonical []byte
	leafHash  []byte
}

// prepare checks a change and computes what its audit event is stored as.
func prepare(c enroll.Change, onEvent func(enroll.Event) []enroll.Job) (*recordable, error) {
	if c.Event.ID == "" || c.Event.Action == "" || c.Event.At.IsZero() {
		return nil, errors.New("a change of state carries no audit event")
	}
	r := &recordable{Change: c, canonical: c.Event.Canonical()}
	leaf := enroll.LeafHash(r.canonical)
	r.leafHash = leaf[:]
	if onEvent != nil {
		r.Jobs = append(slices.Clip(r.Jobs), onEvent(c.Event)...)
	}
	return r, nil
}

// change runs do and everything that the Change carries in one durable
// transaction. doing says what it is, for errors.
func (s *Store) change(ctx context.Context, doing string, c enroll.Change, do func(ctx context.Context, q tx) error) error {
	r, err := prepare(c, s.onEvent)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	err = s.write(ctx, func(ctx context.Context, q tx) error {
		if i := r.Idempotency; i != nil {
			if err := s.claimKey(ctx, q, i, i.SerialNumber); err != nil {
				return err
			}
		}
		if do != nil {
			if err := do(ctx, q); err != nil {
				return err
			}
		}
		return r.record(ctx, q)
	})
	return s.explain(doing, err)
}

// record stores the audit event and the jobs.
func (r *recordable) record(ctx context.Context, q tx) error {
	e := r.Event
	if _, err := q.exec(ctx, `INSERT INTO events (id, at, actor, action, subject, canonical, leaf_hash)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		e.ID, micros(e.At), e.Actor, e.Action, e.Subject, r.canonical, r.leafHash); err != nil {
		return fmt.Errorf("record audit event: %w", err)
	}
	if len(r.Jobs) == 0 {
		return nil
	}
	if err := q.insertJobs(ctx, r.Jobs); err != nil {
		return fmt.Errorf("insert jobs: %w", err)
	}
	return nil
}

// claimKey takes an idempotency key for this transaction, or returns why it
// cannot: *enroll.Replay or enroll.KindIdempotency. A nil key is free.
func (s *Store) claimKey(ctx context.Context, q tx, i *enroll.Idempotency, serial ca.SerialNumber) error {
	if i == nil {
		return nil
	}
	key := sha256.Sum256([]byte(i.Key))
	n, err := q.exec(ctx, `INSERT INTO idempotency (scope, key_sha256, request_hash, serial, answer, created_at)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (scope, key_sha256) DO NOTHING`,
		i.Scope, key[:], i.RequestHash, serial, i.Answer, micros(s.now()))
	if err != nil {
		return fmt.Errorf("claim idempotency key: %w", err)
	}
	if n == 1 {
		return nil
	}
	err = keyRefusal(ctx, q, i)
	if err == nil {
		return conflict("", "try again", "the idempotency key changed meanwhile")
	}
	return err
}

// keyRefusal says why an idempotency key cannot be claimed: a *enroll.Replay
// for the same request, KindIdempotency for another; nil when it is free.
func keyRefusal(ctx context.Context, q querier, i *enroll.Idempotency) error {
	if i == nil {
		return nil
	}
	key := sha256.Sum256([]byte(i.Key))
	var request []byte
	replay, err := one(ctx, q, func(row scanner) (*enroll.Replay, error) {
		r := &enroll.Replay{}
		return r, row.Scan(&request, &r.SerialNumber, &r.Answer)
	}, `SELECT request_hash, serial, answer FROM idempotency WHERE scope = $1 AND key_sha256 = $2`, i.Scope, key[:])
	switch {
	case errors.Is(err, errNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look up idempotency key: %w", err)
	case !bytes.Equal(request, i.RequestHash):
		return ca.Errorf(enroll.KindIdempotency, "", "use a new Idempotency-Key for a new request",
			"this Idempotency-Key was used for another request")
	}
	return replay
}

// Replayed implements enroll.TokenStore.
func (s *Store) Replayed(ctx context.Context, i *enroll.Idempotency) (*enroll.Replay, error) {
	err := s.explain("look up idempotency key", keyRefusal(ctx, s.db, i))
	if replay, ok := errors.AsType[*enroll.Replay](err); ok {
		return replay, nil
	}
	return nil, err
}
