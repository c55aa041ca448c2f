package store

import (
	"context"
	"fmt"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// refusedKept is how many refused enrollments are kept of a work order.
const refusedKept = 20

// OrderProgress implements enroll.OrderStore.
func (s *Store) OrderProgress(ctx context.Context, id string, from time.Time, minutes, units int) (*enroll.WorkOrderProgress, error) {
	p := &enroll.WorkOrderProgress{PerMinute: []enroll.MinuteCount{}, LastUnits: []enroll.EnrolledUnit{}, Refusals: []enroll.RefusalCount{}, LastRefused: []enroll.RefusedUnit{}}
	err := s.db.snapshot(ctx, func(q querier) error {
		perMinute, err := collect(ctx, q, func(row scanner) (m enroll.MinuteCount, err error) {
			err = row.Scan(atTime{&m.At}, &m.Issued)
			return m, err
		}, `WITH RECURSIVE m(at) AS (SELECT CAST($2 AS BIGINT) UNION ALL SELECT at + 60000000 FROM m WHERE at < $3)
			SELECT at, (SELECT count(*) FROM devices WHERE work_order <> '' AND work_order = $1
				AND enrolled_at >= m.at AND enrolled_at < m.at + 60000000 AND enrolled_at > 0) FROM m`,
			id, micros(from), micros(from.Add(time.Duration(minutes-1)*time.Minute)))
		if err != nil {
			return fmt.Errorf("count by minute: %w", err)
		}
		last, err := collect(ctx, q, func(row scanner) (u enroll.EnrolledUnit, err error) {
			err = row.Scan(&u.Device, &u.Status, atTime{&u.At})
			return u, err
		}, `SELECT id, status, enrolled_at FROM devices WHERE work_order <> '' AND work_order = $1 AND enrolled_at > 0
			ORDER BY enrolled_at DESC, id DESC LIMIT $2`, id, int64(units))
		if err != nil {
			return fmt.Errorf("read the last units: %w", err)
		}
		refusals, err := collect(ctx, q, func(row scanner) (c enroll.RefusalCount, err error) {
			err = row.Scan(&c.Kind, &c.Count, atTime{&c.LastAt})
			return c, err
		}, `SELECT kind, count, last_at FROM order_refusals WHERE work_order = $1`, id)
		if err != nil {
			return fmt.Errorf("read refusals: %w", err)
		}
		refused, err := collect(ctx, q, func(row scanner) (u enroll.RefusedUnit, err error) {
			err = row.Scan(&u.ID, atTime{&u.At}, &u.Device, &u.Kind, &u.Message)
			return u, err
		}, `SELECT id, at, device, kind, message FROM order_refused WHERE work_order = $1 ORDER BY id DESC LIMIT $2`, id, int64(units))
		p.PerMinute, p.LastUnits = append(p.PerMinute, perMinute...), append(p.LastUnits, last...)
		p.Refusals, p.LastRefused = append(p.Refusals, refusals...), append(p.LastRefused, refused...)
		return err
	})
	if err != nil {
		return nil, s.explain("read a work order's progress", err)
	}
	return p, nil
}

// SaveRefusals implements enroll.OrderStore, in the order it is given, so that
// two replicas do not wait for each other.
func (s *Store) SaveRefusals(ctx context.Context, all []enroll.OrderRefusals) error {
	return s.explain("keep refused enrollments", s.write(ctx, func(ctx context.Context, q tx) error {
		for _, o := range all {
			if err := saveRefusals(ctx, q, o); err != nil {
				return err
			}
		}
		return nil
	}))
}

func saveRefusals(ctx context.Context, q tx, o enroll.OrderRefusals) error {
	for _, c := range o.Counts {
		if _, err := q.exec(ctx, `INSERT INTO order_refusals (work_order, kind, count, last_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (work_order, kind) DO UPDATE SET count = order_refusals.count + excluded.count,
				last_at = CASE WHEN order_refusals.last_at > excluded.last_at THEN order_refusals.last_at ELSE excluded.last_at END`,
			o.WorkOrder, c.Kind, c.Count, micros(c.LastAt)); err != nil {
			return err
		}
	}
	for _, u := range o.Last {
		if _, err := q.exec(ctx, `INSERT INTO order_refused (work_order, id, at, device, kind, message) VALUES ($1, $2, $3, $4, $5, $6)`,
			o.WorkOrder, u.ID, micros(u.At), u.Device, u.Kind, u.Message); err != nil {
			return err
		}
	}
	_, err := q.exec(ctx, `DELETE FROM order_refused WHERE work_order = $1 AND id <
		(SELECT id FROM order_refused WHERE work_order = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)`, o.WorkOrder, int64(refusedKept-1))
	return err
}
