package store

import (
	"context"
	"errors"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const selectProfile = `SELECT name, version, body, widens, actor, at FROM profiles`

func scanProfile(row scanner) (*enroll.StoredProfile, error) {
	p := &enroll.StoredProfile{}
	return p, row.Scan(&p.Name, &p.Version, &p.Body, asBool{&p.Widens}, &p.Actor, atTime{&p.At})
}

// maxProfiles bounds how many profiles are read at once; there are never more.
const maxProfiles = 1000

// Profile implements enroll.ProfileStore.
func (s *Store) Profile(ctx context.Context, name string) (*enroll.StoredProfile, error) {
	return s.oneProfile(ctx, selectProfile+` WHERE name = $1 ORDER BY version DESC LIMIT 1`, name)
}

// ProfileVersion implements enroll.ProfileStore.
func (s *Store) ProfileVersion(ctx context.Context, name string, version int64) (*enroll.StoredProfile, error) {
	return s.oneProfile(ctx, selectProfile+` WHERE name = $1 AND version = $2`, name, version)
}

func (s *Store) oneProfile(ctx context.Context, text string, args ...any) (*enroll.StoredProfile, error) {
	p, err := one(ctx, s.db, scanProfile, text, args...)
	switch {
	case errors.Is(err, errNoRows):
		return nil, nil
	case err != nil:
		return nil, s.explain("read profile", err)
	}
	return p, nil
}

// Profiles implements enroll.ProfileStore.
func (s *Store) Profiles(ctx context.Context) ([]*enroll.StoredProfile, error) {
	all, err := collect(ctx, s.db, scanProfile, selectProfile+` AS each WHERE version = (SELECT MAX(version) FROM profiles n WHERE n.name = each.name)
		ORDER BY name LIMIT $1`, int64(maxProfiles))
	return all, s.explain("list profiles", err)
}

// ProfileVersions implements enroll.ProfileStore.
func (s *Store) ProfileVersions(ctx context.Context, name string, limit int) ([]*enroll.StoredProfile, error) {
	all, err := collect(ctx, s.db, scanProfile, selectProfile+` WHERE name = $1 ORDER BY version DESC LIMIT $2`, name, int64(limit))
	return all, s.explain("list versions of a profile", err)
}

// CreateProfileVersion implements enroll.ProfileStore.
func (s *Store) CreateProfileVersion(ctx context.Context, p enroll.StoredProfile, builtIn int64, most int, c enroll.Change) error {
	return s.change(ctx, "create version of a profile", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `INSERT INTO profiles (name, version, body, widens, actor, at)
			SELECT $1, CAST($2 AS BIGINT), $3, CAST($4 AS BIGINT), $5, CAST($6 AS BIGINT)
			WHERE COALESCE((SELECT MAX(version) FROM profiles WHERE name = $1), CAST($7 AS BIGINT)) = CAST($8 AS BIGINT)
			ON CONFLICT (name, version) DO NOTHING`,
			p.Name, p.Version, p.Body, bit(p.Widens), p.Actor, micros(p.At), builtIn, p.Version-1)
		switch {
		case err != nil:
			return err
		case n == 0:
			return conflict("baseVersion", "look at what changed (fleetca profile show NAME --versions), and plan again", "profile %s is no longer at version %d", p.Name, p.Version-1)
		case p.Version > 1:
			return nil
		}
		names, err := value[int64](ctx, q, `SELECT COUNT(*) FROM (SELECT 1 FROM profiles WHERE version = 1 LIMIT $1) AS found`, int64(most)+1)
		if err == nil && names > int64(most) {
			return conflict("name", "change one that is no longer used", "there are %d profiles already", most)
		}
		return err
	})
}

// ProfileUse implements enroll.ProfileStore.
func (s *Store) ProfileUse(ctx context.Context, name string, now time.Time, certificates, orders int) (enroll.ProfileUse, error) {
	var use enroll.ProfileUse
	err := s.db.snapshot(ctx, func(q querier) error {
		type recent struct {
			good   bool
			holder string
		}
		newest, err := collect(ctx, q, func(row scanner) (r recent, err error) {
			var status ca.Status
			var notAfter time.Time
			err = row.Scan(&status, atTime{&notAfter}, &r.holder)
			r.good = status == ca.StatusGood && notAfter.After(now)
			return r, err
		}, `SELECT status, not_after, holder_id FROM certificates WHERE profile = $1 ORDER BY recorded_at DESC, serial DESC LIMIT $2`, name, int64(certificates)+1)
		if err != nil {
			return err
		}
		use.More = len(newest) > certificates
		holders := map[string]bool{}
		for _, r := range newest[:min(len(newest), certificates)] {
			if r.good {
				use.Certificates++
				holders[r.holder] = true
			}
		}
		use.Holders = len(holders)
		open, err := value[int64](ctx, q, `SELECT COUNT(*) FROM (SELECT id FROM work_orders WHERE profile = $1 AND state = 'open' ORDER BY id LIMIT $2) AS found`, name, int64(orders)+1)
		use.Orders, use.MoreOrders = min(int(open), orders), int(open) > orders
		return err
	})
	return use, s.explain("look who uses a profile", err)
}
