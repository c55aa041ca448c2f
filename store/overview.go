package store

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// BrokerLooks implements enroll.OverviewStore, by id. The kind of holder stands
// there twice, so that a planner that guesses many brokers, and would rather read
// all certificates than look up each, reads the brokers' alone.
func (s *Store) BrokerLooks(ctx context.Context, limit int) ([]enroll.BrokerLook, error) {
	all, err := collect(ctx, s.db, scanBrokerLook, `SELECT b.id, b.kind, b.status, b.status_at, b.served_sha256, b.served_at,
			COALESCE(c.serial, ''), COALESCE(c.sha256, ''), COALESCE(c.status, ''), COALESCE(c.not_before, 0), COALESCE(c.not_after, 0), COALESCE(c.recorded_at, 0),
			COALESCE(r.id, ''), COALESCE(r.state, ''), COALESCE(r.at, 0)
		FROM brokers b
		LEFT JOIN certificates c ON c.holder_kind = 'broker' AND c.serial = (`+newestOfBroker+`)
		LEFT JOIN rotations r ON r.id = (SELECT n.id FROM rotations n
			WHERE n.broker = b.id AND n.state <> 'planned' ORDER BY n.at DESC, n.id DESC LIMIT 1)
		ORDER BY b.id LIMIT $1`, int64(limit))
	return all, s.explain("look at the brokers", err)
}

func scanBrokerLook(row scanner) (enroll.BrokerLook, error) {
	var b enroll.BrokerLook
	var c enroll.NewestCertificate
	var r enroll.LastRotation
	err := row.Scan(&b.Broker, &b.Kind, &b.Status, atTime{&b.StatusAt}, &b.ServedSHA256, atTime{&b.ServedAt},
		&c.SerialNumber, &c.SHA256, &c.Status, atTime{&c.NotBefore}, atTime{&c.NotAfter}, atTime{&c.RecordedAt},
		&r.ID, &r.State, atTime{&r.At})
	if c.SerialNumber != "" {
		b.Newest = &c
	}
	if r.ID != "" {
		b.LastRotation = &r
	}
	return b, err
}

// NewestCRLs implements enroll.OverviewStore. It is asked twice a second, so it
// is one query however many shards there are: each finds its newest by the index.
// CROSS JOIN, because SQLite keeps to the order of that.
func (s *Store) NewestCRLs(ctx context.Context) ([]*ca.CRL, error) {
	type placed struct {
		*ca.CRL
		ordinal int64 // of the issuer
	}
	all, err := collect(ctx, s.db, func(row scanner) (placed, error) {
		c := placed{CRL: &ca.CRL{}}
		return c, row.Scan(&c.ordinal, &c.IssuerID, asInt{&c.Shard}, &c.Number, atTime{&c.ThisUpdate}, atTime{&c.NextUpdate}, asInt{&c.Entries}, asBool{&c.Scheduled})
	}, `WITH RECURSIVE scopes (issuer_id, ordinal, ever, shard) AS (
			SELECT id, ordinal, crl_shards_ever, CAST(0 AS BIGINT) FROM issuers
			UNION ALL SELECT issuer_id, ordinal, ever, shard + 1 FROM scopes WHERE shard + 1 < ever)
		SELECT scopes.ordinal, c.issuer_id, c.shard, c.number, c.this_update, c.next_update, c.entries, c.scheduled
		FROM scopes CROSS JOIN crls AS c WHERE c.issuer_id = scopes.issuer_id
			AND c.number = (SELECT number FROM crls WHERE issuer_id = scopes.issuer_id AND shard = scopes.shard ORDER BY number DESC LIMIT 1)`)
	if err != nil {
		return nil, s.explain("look at the CRLs", err)
	}
	slices.SortFunc(all, func(a, b placed) int { return cmp.Or(cmp.Compare(a.ordinal, b.ordinal), cmp.Compare(a.Shard, b.Shard)) })
	crls := make([]*ca.CRL, len(all))
	for i, c := range all {
		crls[i] = c.CRL
	}
	return crls, nil
}

// OpenRevocations implements enroll.OverviewStore.
func (s *Store) OpenRevocations(ctx context.Context, limit int) ([]*enroll.Revocation, error) {
	all, err := collect(ctx, s.db, scanRevocation, selectRevocation+` WHERE state IN ('running', 'unproven') ORDER BY at, id LIMIT $1`, int64(limit))
	return all, s.explain("look at open revocations", err)
}

// FullWorkOrders implements enroll.OverviewStore.
func (s *Store) FullWorkOrders(ctx context.Context, limit int) ([]*enroll.WorkOrder, error) {
	all, err := collect(ctx, s.db, scanWorkOrder, selectWorkOrder+` WHERE full_at > 0 AND state = 'open' ORDER BY full_at, id LIMIT $1`, int64(limit))
	return all, s.explain("look at full work orders", err)
}

// ExpiringDevices implements enroll.OverviewStore.
func (s *Store) ExpiringDevices(ctx context.Context, from, to time.Time, limit int) (int, error) {
	n, err := value[int64](ctx, s.db, `SELECT count(*) FROM (SELECT not_after FROM devices
		WHERE not_after >= $1 AND not_after < $2 AND not_after > 0 ORDER BY not_after LIMIT $3) AS found`, micros(from), micros(to), int64(limit))
	return int(n), s.explain("look at devices that expire", err)
}
