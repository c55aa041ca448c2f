package store

import (
	"context"
	"errors"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// tidyChunk is how many rows of a large table one transaction looks at.
const tidyChunk = 500

// Tidy implements enroll.Store.
func (s *Store) Tidy(ctx context.Context, now time.Time, keepAnswers time.Duration) (enroll.Tidied, error) {
	var done enroll.Tidied
	issuers, err := collect(ctx, s.db, func(row scanner) (id string, err error) {
		err = row.Scan(&id)
		return id, err
	}, `SELECT id FROM issuers ORDER BY id`)
	if err != nil {
		return done, s.explain("read the issuers", err)
	}
	for _, id := range issuers {
		n, err := s.tidyCRLs(ctx, id)
		if err != nil {
			return done, s.explain("delete old CRLs", err)
		}
		done.CRLs += n
	}
	var last idempotencyKey
	for more := true; more; {
		var n int64
		if n, more, err = s.tidyKeys(ctx, &last, now, keepAnswers); err != nil {
			return done, s.explain("delete old idempotency keys", err)
		}
		done.IdempotencyKeys += n
	}
	return done, nil
}

// tidyCRLs deletes an issuer's CRLs before its newest scheduled one, from which
// the next one's entries are counted (ReserveCRL). The highest number ever
// reserved is a row of its own.
func (s *Store) tidyCRLs(ctx context.Context, issuerID string) (n int64, err error) {
	err = s.write(ctx, func(ctx context.Context, q tx) error {
		n = 0
		newest, err := value[int64](ctx, q, `SELECT number FROM crls WHERE issuer_id = $1 AND scheduled = 1 ORDER BY number DESC LIMIT 1`, issuerID)
		if errors.Is(err, errNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		n, err = q.exec(ctx, `DELETE FROM crls WHERE issuer_id = $1 AND number < $2`, issuerID, newest)
		return err
	})
	return n, err
}

// An idempotencyKey is where in the table a chunk ended.
type idempotencyKey struct {
	scope string
	hash  []byte
}

// tidyKeys looks at the rows after last, moves it on, and reports whether there
// are more.
func (s *Store) tidyKeys(ctx context.Context, last *idempotencyKey, now time.Time, keepAnswers time.Duration) (n int64, more bool, err error) {
	chunk, err := collect(ctx, s.db, func(row scanner) (k idempotencyKey, err error) {
		err = row.Scan(&k.scope, &k.hash)
		return k, err
	}, `SELECT scope, key_sha256 FROM idempotency WHERE (scope, key_sha256) > ($1, $2) ORDER BY scope, key_sha256 LIMIT $3`,
		last.scope, nonNil(last.hash), int64(tidyChunk))
	if err != nil || len(chunk) == 0 {
		return 0, false, err
	}
	end := chunk[len(chunk)-1]
	err = s.write(ctx, func(ctx context.Context, q tx) (err error) {
		n, err = q.exec(ctx, `DELETE FROM idempotency WHERE (scope, key_sha256) > ($1, $2) AND (scope, key_sha256) <= ($3, $4)
			AND COALESCE((SELECT not_after FROM certificates WHERE certificates.serial = idempotency.serial), created_at + $5) < $6`,
			last.scope, nonNil(last.hash), end.scope, end.hash, keepAnswers.Microseconds(), micros(now))
		return err
	})
	*last = end
	return n, len(chunk) == tidyChunk, err
}

// nonNil returns an empty slice for nil, which would be NULL.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
