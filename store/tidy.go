package store

import (
	"context"
	"fmt"
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
	if done.IdempotencyKeys, err = s.tidyAllKeys(ctx, now, keepAnswers); err != nil {
		return done, s.explain("delete old idempotency keys", err)
	}
	if done.Sessions, err = s.tidyRows(ctx, tidySessions, now); err != nil {
		return done, s.explain("delete expired sessions", err)
	}
	if done.Failures, err = s.tidyRows(ctx, tidyFailures, now); err != nil {
		return done, s.explain("delete old failures", err)
	}
	if done, err = s.tidyTokens(ctx, done, now, now.Add(-keepAnswers)); err != nil {
		return done, err
	}
	return s.tidyEnded(ctx, done, now.Add(-keepAnswers))
}

// tidyFor is how long one call of Tidy looks at the largest table.
const tidyFor = 3 * time.Minute

// tidyAllKeys goes on with the idempotency keys where the last call ended, or
// begins again, and rests after each chunk, so that it never takes more than a
// part in restAfterCount of one processor.
func (s *Store) tidyAllKeys(ctx context.Context, now time.Time, keepAnswers time.Duration) (all int64, err error) {
	s.tidying.Lock()
	defer s.tidying.Unlock()
	for began := time.Now(); time.Since(began) < tidyFor; {
		chunk := time.Now()
		n, more, err := s.tidyKeys(ctx, &s.tidied, now, keepAnswers)
		if all += n; err != nil {
			return all, err
		}
		if !more {
			s.tidied = idempotencyKey{}
			return all, nil
		}
		if goOn, err := restAfter(ctx, chunk); !goOn {
			return all, err
		}
	}
	return all, nil
}

// restAfter rests for long after what began at a time. It returns whether to go
// on: not where the workers stop, and nobody is to wait for a rest.
func restAfter(ctx context.Context, began time.Time) (goOn bool, err error) {
	stopping, _ := ctx.Value(stoppingKey{}).(chan struct{}) // nil for no job
	select {
	case <-time.After(restAfterCount * time.Since(began)):
		return true, nil
	case <-stopping:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// tidyTokens deletes tokens that expired long ago.
func (s *Store) tidyTokens(ctx context.Context, done enroll.Tidied, now, long time.Time) (_ enroll.Tidied, err error) {
	expired := micros(long)
	done.APITokens, err = s.tidyPages(ctx, `SELECT id FROM api_tokens WHERE id > $1 ORDER BY id LIMIT $2`, func(ctx context.Context, q tx, after, last string) (int64, error) {
		return q.exec(ctx, `DELETE FROM api_tokens WHERE id > $1 AND id <= $2 AND expires_at <= $3`, after, last, expired)
	})
	if err != nil {
		return done, s.explain("delete old API tokens", err)
	}
	// A token is kept as long as one of its certificates lives, so that the
	// request that spent it gets it again (I5).
	done.EnrollmentTokens, err = s.tidyPages(ctx, `SELECT id FROM enrollment_tokens WHERE id > $1 ORDER BY id LIMIT $2`, func(ctx context.Context, q tx, after, last string) (int64, error) {
		const old = ` FROM enrollment_tokens WHERE id > $1 AND id <= $2 AND expires_at <= $3 AND NOT EXISTS (
			SELECT 1 FROM token_uses JOIN certificates ON certificates.serial = token_uses.serial
			WHERE token_uses.token_id = enrollment_tokens.id AND certificates.not_after >= $4)`
		if _, err := q.exec(ctx, `DELETE FROM token_uses WHERE token_id IN (SELECT id`+old+`)`, after, last, expired, micros(now)); err != nil {
			return 0, err
		}
		return q.exec(ctx, `DELETE`+old, after, last, expired, micros(now))
	})
	return done, s.explain("delete old enrollment tokens", err)
}

// tidyFew is how many rows each statement below deletes of what expired before
// $1. The limit stands in the text: PostgreSQL would plan an unknown one for a
// tenth of the table, and a large one by reading it whole.
const tidyFew = 100

var (
	tidySessions = fmt.Sprintf(`DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT %d)`, tidyFew)
	tidyFailures = fmt.Sprintf(`DELETE FROM login_failures WHERE subject IN (SELECT subject FROM login_failures WHERE forget_at <= $1 ORDER BY forget_at LIMIT %d)`, tidyFew)
)

// tidyRows runs a statement that deletes a chunk until it finds none.
func (s *Store) tidyRows(ctx context.Context, text string, expired time.Time) (all int64, err error) {
	for {
		var n int64
		err := s.write(ctx, func(ctx context.Context, q tx) (err error) {
			n, err = q.exec(ctx, text, micros(expired))
			return err
		})
		if all += n; err != nil || n < tidyFew {
			return all, err
		}
	}
}

// tidyPages walks a table in chunks, by the ids that a query gives, and calls
// remove for each: for the rows after one id, up to the last of the chunk.
func (s *Store) tidyPages(ctx context.Context, ids string, remove func(ctx context.Context, q tx, after, last string) (int64, error)) (all int64, err error) {
	for after := ""; ; {
		chunk, err := collect(ctx, s.db, func(row scanner) (id string, err error) {
			err = row.Scan(&id)
			return id, err
		}, ids, after, int64(tidyChunk))
		if err != nil || len(chunk) == 0 {
			return all, err
		}
		last := chunk[len(chunk)-1]
		var n int64
		if err := s.write(ctx, func(ctx context.Context, q tx) (err error) {
			n, err = remove(ctx, q, after, last)
			return err
		}); err != nil {
			return all, err
		}
		all, after = all+n, last
	}
}

// tidyCRLs deletes the CRLs of each of an issuer's shards before the newest
// scheduled one, from which the next one's entries are counted (ReserveCRL).
// The highest number ever reserved is a row of its own.
func (s *Store) tidyCRLs(ctx context.Context, issuerID string) (n int64, err error) {
	err = s.write(ctx, func(ctx context.Context, q tx) (err error) {
		n, err = q.exec(ctx, `DELETE FROM crls WHERE issuer_id = $1 AND number < (SELECT MAX(newest.number) FROM crls newest
			WHERE newest.issuer_id = $1 AND newest.shard = crls.shard AND newest.scheduled = 1)`, issuerID)
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
// are more. Nearly always none of a chunk is old: then it only reads.
func (s *Store) tidyKeys(ctx context.Context, last *idempotencyKey, now time.Time, keepAnswers time.Duration) (n int64, more bool, err error) {
	var old int64
	chunk, err := collect(ctx, s.db, func(row scanner) (k idempotencyKey, err error) {
		var isOld int64
		err = row.Scan(&k.scope, &k.hash, &isOld)
		old += isOld
		return k, err
	}, `SELECT scope, key_sha256,
			CASE WHEN COALESCE((SELECT not_after FROM certificates WHERE certificates.serial = idempotency.serial), created_at + $4) < $5 THEN 1 ELSE 0 END
		FROM idempotency WHERE (scope, key_sha256) > ($1, $2) ORDER BY scope, key_sha256 LIMIT $3`,
		last.scope, nonNil(last.hash), int64(tidyChunk), keepAnswers.Microseconds(), micros(now))
	if err != nil || len(chunk) == 0 {
		return 0, false, err
	}
	end := chunk[len(chunk)-1]
	if old > 0 {
		err = s.write(ctx, func(ctx context.Context, q tx) (err error) {
			n, err = q.exec(ctx, `DELETE FROM idempotency WHERE (scope, key_sha256) > ($1, $2) AND (scope, key_sha256) <= ($3, $4)
				AND COALESCE((SELECT not_after FROM certificates WHERE certificates.serial = idempotency.serial), created_at + $5) < $6`,
				last.scope, nonNil(last.hash), end.scope, end.hash, keepAnswers.Microseconds(), micros(now))
			return err
		})
	}
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
