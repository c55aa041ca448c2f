package store

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// TrustGenerations implements enroll.TrustStore.
func (s *Store) TrustGenerations(ctx context.Context) ([]enroll.TrustGeneration, error) {
	all, err := collect(ctx, s.db, scanTrust, selectTrust+` ORDER BY generation`)
	return all, s.explain("read trust bundles", err)
}

const selectTrust = `SELECT generation, created_at, roots FROM trust_bundles`

func scanTrust(row scanner) (g enroll.TrustGeneration, err error) {
	err = row.Scan(&g.Generation, atTime{&g.CreatedAt}, fromJSON{&g.Roots})
	return g, err
}

// SaveTrustGeneration implements enroll.TrustStore.
func (s *Store) SaveTrustGeneration(ctx context.Context, g enroll.TrustGeneration, c enroll.Change) error {
	return s.change(ctx, "save trust bundle", c, func(ctx context.Context, q tx) error {
		h, err := lockHierarchy(ctx, q)
		if err != nil {
			return err
		}
		if g.Generation != h.generation+1 {
			return conflict("", "look again, and repeat it", "the trust bundle has changed: it is generation %d", h.generation)
		}
		if err := h.checkDropped(g.Roots); err != nil {
			return err
		}
		if err := insertTrust(ctx, q, g); err != nil {
			return err
		}
		for _, root := range g.Roots {
			if _, err := q.exec(ctx, `UPDATE issuers SET state = 'published' WHERE id = $1 AND state = 'created'`, root); err != nil {
				return err
			}
		}
		return nil
	})
}

func insertTrust(ctx context.Context, q tx, g enroll.TrustGeneration) error {
	n, err := q.exec(ctx, `INSERT INTO trust_bundles (generation, created_at, roots) VALUES ($1, $2, $3) ON CONFLICT (generation) DO NOTHING`,
		g.Generation, micros(g.CreatedAt), listText(g.Roots))
	if err == nil && n == 0 {
		return conflict("", "look again, and repeat it", "there is a trust bundle %d already", g.Generation)
	}
	return err
}

// firstTrust stores the trust bundle of a new authority.
func firstTrust(ctx context.Context, q tx, issuers []ca.Issuer, at time.Time) error {
	var roots []string
	for _, i := range issuers {
		if i.Purpose == ca.PurposeRoot {
			roots = append(roots, i.ID)
		}
	}
	return insertTrust(ctx, q, enroll.TrustGeneration{Generation: 1, CreatedAt: at, Roots: roots})
}

// CrossCertificates implements enroll.TrustStore.
func (s *Store) CrossCertificates(ctx context.Context) ([]ca.CrossCertificate, error) {
	all, err := collect(ctx, s.db, func(row scanner) (c ca.CrossCertificate, err error) {
		var der []byte
		if err := row.Scan(&c.Root, &c.By, &der); err != nil {
			return c, err
		}
		c.Certificate, err = x509.ParseCertificate(der)
		return c, err
	}, `SELECT issuer_id, signer_id, der FROM cross_certificates ORDER BY issuer_id, signer_id`)
	return all, s.explain("read cross-certificates", err)
}

// AddCrossCertificates implements enroll.TrustStore.
func (s *Store) AddCrossCertificates(ctx context.Context, all []ca.CrossCertificate, c enroll.Change) error {
	return s.change(ctx, "add cross-certificates", c, func(ctx context.Context, q tx) error {
		return s.insertCross(ctx, q, all)
	})
}

func (s *Store) insertCross(ctx context.Context, q tx, all []ca.CrossCertificate) error {
	for _, x := range all {
		if _, err := q.exec(ctx, `INSERT INTO cross_certificates (issuer_id, signer_id, der, created_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (issuer_id, signer_id) DO UPDATE SET der = excluded.der, created_at = excluded.created_at`,
			x.Root, x.By, x.Certificate.Raw, micros(s.now())); err != nil {
			return fmt.Errorf("insert the cross-certificate of %q by %q: %w", x.Root, x.By, err)
		}
	}
	return nil
}

// AcknowledgeTrust implements enroll.TrustStore.
func (s *Store) AcknowledgeTrust(ctx context.Context, holder ca.Holder, generation int64, c enroll.Change) error {
	table, name := "devices", "device"
	if holder.Kind == ca.HolderBroker {
		table, name = "brokers", "broker"
	}
	return s.change(ctx, "acknowledge a trust bundle", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE `+table+` SET trust_generation = $2 WHERE id = $1 AND trust_generation < $2`, holder.ID, generation)
		if err != nil || n == 1 {
			return err
		}
		_, err = value[int64](ctx, q, `SELECT trust_generation FROM `+table+` WHERE id = $1`, holder.ID)
		if errors.Is(err, errNoRows) {
			return notFound(name, name, holder.ID)
		}
		if err == nil {
			err = conflict("generation", "", "%s %q confirmed that generation before", name, holder.ID)
		}
		return err
	})
}

// TrustCounts implements enroll.TrustStore.
func (s *Store) TrustCounts(ctx context.Context, generation int64, limit int) (enroll.TrustCounts, error) {
	var t enroll.TrustCounts
	err := s.db.snapshot(ctx, func(q querier) error {
		for _, status := range []enroll.DeviceStatus{enroll.DeviceActive, enroll.DeviceHeld} {
			all, err := value[int64](ctx, q, `SELECT count(*) FROM devices WHERE status = $1`, status)
			if err != nil {
				return err
			}
			if all == 0 {
				continue
			}
			behind, err := value[int64](ctx, q, `SELECT count(*) FROM devices WHERE status = $1 AND trust_generation < $2`, status, generation)
			if err != nil {
				return err
			}
			oldest, err := value[int64](ctx, q, `SELECT trust_generation FROM devices WHERE status = $1 ORDER BY trust_generation LIMIT 1`, status)
			if err != nil {
				return err
			}
			if t.Devices == 0 || oldest < t.Oldest {
				t.Oldest = oldest
			}
			t.Devices, t.Behind = t.Devices+all, t.Behind+behind
		}
		var err error
		t.Names, err = stragglers(ctx, q, generation, limit)
		return err
	})
	return t, s.explain("count who confirmed a trust bundle", err)
}

// TrustStragglers implements enroll.TrustStore.
func (s *Store) TrustStragglers(ctx context.Context, generation int64, limit int) ([]string, error) {
	names, err := stragglers(ctx, s.db, generation, limit)
	return names, s.explain("look for who has not confirmed a trust bundle", err)
}

// stragglers names devices that have not confirmed a generation.
func stragglers(ctx context.Context, q querier, generation int64, limit int) (all []string, err error) {
	for _, status := range []enroll.DeviceStatus{enroll.DeviceActive, enroll.DeviceHeld} {
		names, err := collect(ctx, q, scanText, `SELECT id FROM devices WHERE status = $1 AND trust_generation < $2
			ORDER BY trust_generation LIMIT $3`, status, generation, int64(limit-len(all)))
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
	}
	return all, nil
}

// holdersUnder are the devices of HoldersUnder.
const holdersUnder = ` FROM devices d WHERE d.status IN ('active', 'held') AND d.not_after > $2 AND d.trust_generation >= $3 AND EXISTS (
	SELECT 1 FROM certificates c WHERE c.issuer_id = $1 AND c.not_after > $2 AND c.serial = (SELECT n.serial FROM certificates n
		WHERE n.holder_kind = 'device' AND n.holder_id = d.id AND n.status <> 'revoked' ORDER BY n.recorded_at DESC, n.serial DESC LIMIT 1))`

// HoldersUnder implements enroll.TrustStore. A device has one newest
// certificate, so that none is counted for two issuers.
func (s *Store) HoldersUnder(ctx context.Context, issuers []string, confirmed int64, now time.Time, limit int) (enroll.Holders, error) {
	var h enroll.Holders
	err := s.db.snapshot(ctx, func(q querier) error {
		for _, issuer := range issuers {
			n, err := value[int64](ctx, q, `SELECT count(*)`+holdersUnder, issuer, micros(now), confirmed)
			if err != nil {
				return fmt.Errorf("count devices of an issuer: %w", err)
			}
			h.Devices += n
			if n > 0 && len(h.Names) < limit {
				names, err := collect(ctx, q, scanText, `SELECT d.id`+holdersUnder+` LIMIT $4`, issuer, micros(now), confirmed, int64(limit-len(h.Names)))
				if err != nil {
					return fmt.Errorf("name devices of an issuer: %w", err)
				}
				h.Names = append(h.Names, names...)
			}
			brokers, err := collect(ctx, q, scanText, `SELECT b.id FROM brokers b WHERE EXISTS (
				SELECT 1 FROM certificates c WHERE c.issuer_id = $1 AND c.not_after > $2 AND c.serial = (SELECT n.serial FROM certificates n
					WHERE n.holder_kind = 'broker' AND n.holder_id = b.id AND n.status <> 'revoked' AND `+kept+` ORDER BY n.recorded_at DESC, n.serial DESC LIMIT 1))
				ORDER BY b.id`, issuer, micros(now))
			if err != nil {
				return fmt.Errorf("look for brokers of an issuer: %w", err)
			}
			h.Brokers = append(h.Brokers, brokers...)
		}
		return nil
	})
	slices.Sort(h.Names)
	return h, s.explain("look for who holds an issuer's certificates", err)
}

func scanText(row scanner) (text string, err error) {
	err = row.Scan(&text)
	return text, err
}

// Approval implements enroll.TrustStore.
func (s *Store) Approval(ctx context.Context, root string, step enroll.RolloverStep) (*enroll.Approval, error) {
	a, err := one(ctx, s.db, func(row scanner) (*enroll.Approval, error) {
		a := &enroll.Approval{}
		return a, row.Scan(&a.Root, &a.Step, &a.Actor, &a.Reason, atTime{&a.At})
	}, `SELECT root, step, actor, reason, at FROM rollover_approvals WHERE root = $1 AND step = $2`, root, step)
	if errors.Is(err, errNoRows) {
		return nil, nil
	}
	return a, s.explain("read an approval", err)
}

// SaveApproval implements enroll.TrustStore.
func (s *Store) SaveApproval(ctx context.Context, a enroll.Approval, c enroll.Change) error {
	return s.change(ctx, "save an approval", c, func(ctx context.Context, q tx) error {
		_, err := q.exec(ctx, `INSERT INTO rollover_approvals (root, step, actor, reason, at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (root, step) DO UPDATE SET actor = excluded.actor, reason = excluded.reason, at = excluded.at`,
			a.Root, a.Step, a.Actor, a.Reason, micros(a.At))
		return err
	})
}
