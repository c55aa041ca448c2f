package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// Bounds of statements about many devices.
const (
	bulkRows     = 500 // that one INSERT takes
	bulkFailures = 20  // that are shown
	idsAtOnce    = 100 // that one SELECT looks up
)

const selectBulk = `SELECT id, action, reason, comment, query, actor, state, total, done, failed, at, ended_at, version FROM bulks`

func scanBulk(row scanner) (*enroll.BulkResult, error) {
	b := &enroll.BulkResult{Failures: []enroll.BulkFailure{}}
	return b, row.Scan(&b.ID, &b.Action, &b.Reason, &b.Comment, &b.Query, &b.Actor, &b.State, &b.Total, &b.Done, &b.Failed,
		atTime{&b.At}, atSome{&b.EndedAt}, &b.Version)
}

// CreateBulk implements enroll.BulkStore.
func (s *Store) CreateBulk(ctx context.Context, b enroll.BulkResult, devices []string, c enroll.Change) error {
	return s.change(ctx, "create bulk change", c, func(ctx context.Context, q tx) error {
		_, err := q.exec(ctx, `INSERT INTO bulks (id, action, reason, comment, query, actor, state, total, done, failed, at, ended_at, version)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, $12)`,
			b.ID, b.Action, b.Reason, b.Comment, b.Query, b.Actor, b.State, int64(b.Total), int64(b.Done), int64(b.Failed), micros(b.At), b.Version)
		if err != nil {
			return err
		}
		for part := range slices.Chunk(devices, bulkRows) {
			args := []any{b.ID}
			values := make([]string, len(part))
			for i, device := range part {
				args = append(args, device)
				values[i] = fmt.Sprintf("($1, $%d, 'waiting', '')", len(args))
			}
			if _, err := q.exec(ctx, `INSERT INTO bulk_items (bulk, device, state, message) VALUES `+strings.Join(values, ", "), args...); err != nil {
				return fmt.Errorf("insert its devices: %w", err)
			}
		}
		return nil
	})
}

// Bulk implements enroll.BulkStore.
func (s *Store) Bulk(ctx context.Context, id string) (*enroll.BulkResult, error) {
	b, err := one(ctx, s.db, scanBulk, selectBulk+` WHERE id = $1`, id)
	switch {
	case errors.Is(err, errNoRows):
		return nil, notFound("id", "bulk change", id)
	case err != nil:
		return nil, s.explain("read bulk change", err)
	}
	failures, err := collect(ctx, s.db, func(row scanner) (f enroll.BulkFailure, err error) {
		err = row.Scan(&f.Device, &f.Message)
		return f, err
	}, `SELECT device, message FROM bulk_items WHERE bulk = $1 AND state = 'failed' ORDER BY device LIMIT $2`, id, int64(bulkFailures))
	if err != nil {
		return nil, s.explain("read bulk change", err)
	}
	b.Failures = append(b.Failures, failures...)
	return b, nil
}

// Bulks implements enroll.BulkStore; without failures.
func (s *Store) Bulks(ctx context.Context, p enroll.Page) ([]*enroll.BulkResult, string, error) {
	l := listing[*enroll.BulkResult]{
		name: "bulks", query: selectBulk, byTime: "at", id: "id", newest: true,
		scan: scanBulk, keyOf: func(b *enroll.BulkResult) key { return key{micros(b.At), b.ID} },
	}
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list bulk changes", err)
}

// DeviceStatuses implements enroll.BulkStore.
func (s *Store) DeviceStatuses(ctx context.Context, ids []string) (map[string]enroll.DeviceStatus, error) {
	placeholders := make([]string, idsAtOnce)
	for i := range placeholders {
		placeholders[i] = fmt.Sprintf("$%d", i+1)
	}
	text := `SELECT id, status FROM devices WHERE id IN (` + strings.Join(placeholders, ", ") + `)`
	statuses := make(map[string]enroll.DeviceStatus, len(ids))
	for part := range slices.Chunk(ids, idsAtOnce) {
		args := make([]any, idsAtOnce)
		for i := range args {
			args[i] = part[min(i, len(part)-1)] // one statement for any number
		}
		found, err := collect(ctx, s.db, func(row scanner) (d enroll.Device, err error) {
			err = row.Scan(&d.ID, &d.Status)
			return d, err
		}, text, args...)
		if err != nil {
			return nil, s.explain("look up devices", err)
		}
		for _, d := range found {
			statuses[d.ID] = d.Status
		}
	}
	return statuses, nil
}

// BulkWaiting implements enroll.BulkStore.
func (s *Store) BulkWaiting(ctx context.Context, id string, limit int) ([]string, error) {
	devices, err := collect(ctx, s.db, func(row scanner) (device string, err error) {
		err = row.Scan(&device)
		return device, err
	}, `SELECT device FROM bulk_items WHERE bulk = $1 AND state = 'waiting' ORDER BY device LIMIT $2`, id, int64(limit))
	return devices, s.explain("read bulk change", err)
}

// SaveBulk implements enroll.BulkStore.
func (s *Store) SaveBulk(ctx context.Context, id string, outcomes map[string]string, at time.Time, c enroll.Change) error {
	return s.change(ctx, "save bulk change", c, func(ctx context.Context, q tx) error {
		var done, failed int64
		for _, device := range slices.Sorted(maps.Keys(outcomes)) {
			state, counter := "done", &done
			if outcomes[device] != "" {
				state, counter = "failed", &failed
			}
			n, err := q.exec(ctx, `UPDATE bulk_items SET state = $3, message = $4 WHERE bulk = $1 AND device = $2 AND state = 'waiting'`,
				id, device, state, outcomes[device])
			if err != nil {
				return err
			}
			*counter += n
		}
		n, err := q.exec(ctx, `UPDATE bulks SET done = done + $2, failed = failed + $3, version = version + 1,
				state = CASE WHEN done + failed + $2 + $3 = total THEN 'done' ELSE state END,
				ended_at = CASE WHEN done + failed + $2 + $3 = total AND ended_at = 0 THEN $4 ELSE ended_at END
			WHERE id = $1`, id, done, failed, micros(at))
		if err == nil && n == 0 {
			return notFound("id", "bulk change", id)
		}
		return err
	})
}
