package store

import (
	"context"
	"errors"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// tidyEnded deletes what ended, or was never begun, long ago.
func (s *Store) tidyEnded(ctx context.Context, done enroll.Tidied, long time.Time) (_ enroll.Tidied, err error) {
	if done.Bulks, err = s.tidyBulks(ctx, long); err != nil {
		return done, s.explain("delete old bulk changes", err)
	}
	done.Rotations, err = s.tidyOld(ctx, oldRows{
		ids:    `SELECT id FROM rotations WHERE id > $1 ORDER BY id LIMIT $2`,
		old:    `SELECT 1 FROM rotations WHERE id > $1 AND id <= $2 AND state = 'planned' AND at <= $3 LIMIT 1`,
		remove: []string{`DELETE FROM rotations WHERE id > $1 AND id <= $2 AND state = 'planned' AND at <= $3`},
	}, long)
	if err != nil {
		return done, s.explain("delete old plans of rotations", err)
	}
	// Those that are kept one by one are of a count, which is as young as the
	// youngest of them.
	done.Refusals, err = s.tidyOld(ctx, oldRows{
		ids: `SELECT work_order FROM order_refusals WHERE work_order > $1 ORDER BY work_order LIMIT $2`,
		old: `SELECT 1 FROM order_refusals WHERE work_order > $1 AND work_order <= $2 AND last_at <= $3 LIMIT 1`,
		remove: []string{
			`DELETE FROM order_refused WHERE work_order > $1 AND work_order <= $2 AND at <= $3`,
			`DELETE FROM order_refusals WHERE work_order > $1 AND work_order <= $2 AND last_at <= $3`,
		},
	}, long)
	return done, s.explain("delete old refusals", err)
}

// oldRows are statements about rows by their id: the ids after $1, at most $2;
// whether any after $1 and up to $2 is of before $3; and what deletes those, the
// last of which is counted.
type oldRows struct {
	ids, old string
	remove   []string
}

// tidyOld walks a table in chunks, and deletes its old rows.
func (s *Store) tidyOld(ctx context.Context, rows oldRows, long time.Time) (all int64, err error) {
	for after := ""; ; {
		began := time.Now()
		chunk, err := collect(ctx, s.db, scanText, rows.ids, after, int64(tidyChunk))
		if err != nil || len(chunk) == 0 {
			return all, err
		}
		last := chunk[len(chunk)-1]
		n, err := s.tidyOldChunk(ctx, rows, after, last, long)
		if all += n; err != nil || len(chunk) < tidyChunk {
			return all, err
		}
		if goOn, err := restAfter(ctx, began); !goOn {
			return all, err
		}
		after = last
	}
}

// tidyOldChunk deletes what is old of a chunk. Nearly always nothing is: then it
// only reads.
func (s *Store) tidyOldChunk(ctx context.Context, rows oldRows, after, last string, long time.Time) (n int64, err error) {
	_, err = value[int64](ctx, s.db, rows.old, after, last, micros(long))
	if errors.Is(err, errNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	err = s.write(ctx, func(ctx context.Context, q tx) (err error) {
		for _, text := range rows.remove {
			if n, err = q.exec(ctx, text, after, last, micros(long)); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// tidyBulks deletes bulk changes that ended long ago, each with its devices, for
// as long as one call may take.
func (s *Store) tidyBulks(ctx context.Context, long time.Time) (all int64, err error) {
	for began := time.Now(); time.Since(began) < tidyFor; {
		id, err := value[string](ctx, s.db, `SELECT id FROM bulks WHERE at <= $1 AND ended_at > 0 AND ended_at <= $1 ORDER BY at, id LIMIT 1`, micros(long))
		if errors.Is(err, errNoRows) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		chunk := time.Now()
		n, err := s.tidyBulk(ctx, id)
		if all += n; err != nil {
			return all, err
		}
		if goOn, err := restAfter(ctx, chunk); !goOn {
			return all, err
		}
	}
	return all, nil
}

// tidyBulk deletes the first devices of a bulk change, and it with the last of
// them.
func (s *Store) tidyBulk(ctx context.Context, id string) (n int64, err error) {
	devices, err := collect(ctx, s.db, scanText, `SELECT device FROM bulk_items WHERE bulk = $1 ORDER BY device LIMIT $2`, id, int64(tidyChunk))
	if err != nil {
		return 0, err
	}
	err = s.write(ctx, func(ctx context.Context, q tx) (err error) {
		if len(devices) > 0 {
			if _, err := q.exec(ctx, `DELETE FROM bulk_items WHERE bulk = $1 AND device <= $2`, id, devices[len(devices)-1]); err != nil {
				return err
			}
		}
		if len(devices) == tidyChunk {
			return nil
		}
		n, err = q.exec(ctx, `DELETE FROM bulks WHERE id = $1`, id)
		return err
	})
	return n, err
}
