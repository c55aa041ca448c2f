package store

import (
	"context"
	"slices"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// AnnounceDrivers implements enroll.BrokerStore.
func (s *Store) AnnounceDrivers(ctx context.Context, server string, brokers []string, at time.Time) error {
	err := s.write(ctx, func(ctx context.Context, q tx) error {
		before, err := collect(ctx, q, func(row scanner) (id string, err error) {
			err = row.Scan(&id)
			return id, err
		}, `SELECT broker FROM broker_drivers WHERE server = $1`, server)
		if err != nil {
			return err
		}
		for _, id := range before {
			if slices.Contains(brokers, id) {
				continue
			}
			if _, err := q.exec(ctx, `DELETE FROM broker_drivers WHERE broker = $1 AND server = $2`, id, server); err != nil {
				return err
			}
			if _, err := q.exec(ctx, `UPDATE river_job SET queue = 'default' WHERE queue = $1 AND state IN ('available', 'retryable', 'scheduled')`, brokerQueue(id)); err != nil {
				return err
			}
		}
		for _, id := range brokers {
			if _, err := q.exec(ctx, `INSERT INTO broker_drivers (broker, server, seen_at) VALUES ($1, $2, $3)
				ON CONFLICT (broker) DO UPDATE SET server = excluded.server, seen_at = excluded.seen_at`, id, server, micros(at)); err != nil {
				return err
			}
		}
		return nil
	})
	return s.explain("announce drivers", err)
}

// BrokerDrivers implements enroll.BrokerStore.
func (s *Store) BrokerDrivers(ctx context.Context) ([]enroll.BrokerDriver, error) {
	all, err := collect(ctx, s.db, func(row scanner) (d enroll.BrokerDriver, err error) {
		err = row.Scan(&d.Broker, &d.Server, atTime{&d.SeenAt})
		return d, err
	}, `SELECT broker, server, seen_at FROM broker_drivers ORDER BY broker`)
	return all, s.explain("read drivers", err)
}

// HandOver implements enroll.BrokerStore.
func (s *Store) HandOver(ctx context.Context, jobs []enroll.Job) error {
	return s.explain("hand over jobs", s.write(ctx, func(ctx context.Context, q tx) error { return q.insertJobs(ctx, jobs) }))
}
