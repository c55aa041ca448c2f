package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/fleetca/fleetca/enroll"
)

const selectBroker = `SELECT id, url, names, kind, status, created_at, product, site, trust_generation FROM brokers`

func scanBroker(row scanner) (*enroll.Broker, error) {
	b := &enroll.Broker{}
	return b, row.Scan(&b.ID, &b.URL, fromJSON{&b.Names}, &b.Kind, &b.Status, atTime{&b.CreatedAt}, &b.Product, &b.Site, &b.TrustGeneration)
}

// CreateBroker implements enroll.BrokerStore.
func (s *Store) CreateBroker(ctx context.Context, b enroll.Broker, c enroll.Change) error {
	return s.change(ctx, "create broker", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `INSERT INTO brokers (id, url, names, kind, status, created_at, status_at, product, site)
			VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8) ON CONFLICT (id) DO NOTHING`,
			b.ID, b.URL, listText(b.Names), b.Kind, b.Status, micros(b.CreatedAt), b.Product, b.Site)
		if err == nil && n == 0 {
			return conflict("id", "choose another broker id", "broker %q exists", b.ID)
		}
		return err
	})
}

// UpdateBroker implements enroll.BrokerStore.
func (s *Store) UpdateBroker(ctx context.Context, b enroll.Broker, c enroll.Change) error {
	return s.change(ctx, "update broker", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE brokers SET url = $2, names = $3, kind = $4, product = $5, site = $6 WHERE id = $1`,
			b.ID, b.URL, listText(b.Names), b.Kind, b.Product, b.Site)
		if err == nil && n == 0 {
			return notFound("broker", "broker", b.ID)
		}
		return err
	})
}

// Broker implements enroll.BrokerStore.
func (s *Store) Broker(ctx context.Context, id string) (*enroll.Broker, error) {
	var b *enroll.Broker
	err := s.db.snapshot(ctx, func(q querier) (err error) {
		b, err = one(ctx, q, scanBroker, selectBroker+` WHERE id = $1`, id)
		if errors.Is(err, errNoRows) {
			return notFound("broker", "broker", id)
		}
		if err != nil {
			return err
		}
		return completeBroker(ctx, q, b)
	})
	if err != nil {
		return nil, s.explain("read broker", err)
	}
	return b, nil
}

// kept holds of a certificate n, unless a rotation brought it and did not keep
// it, and it was not seen to be served since.
const kept = `NOT EXISTS (SELECT 1 FROM rotations u WHERE u.new_serial = n.serial AND u.state IN ('rolled-back', 'failed')
	AND n.sha256 <> (SELECT s.served_sha256 FROM brokers s WHERE s.id = u.broker))`

// newestOfBroker is the serial number of the certificate that broker b should
// serve.
const newestOfBroker = `SELECT n.serial FROM certificates n WHERE n.holder_kind = 'broker' AND n.holder_id = b.id AND ` + kept + `
	ORDER BY n.recorded_at DESC, n.serial DESC LIMIT 1`

// completeBroker adds the certificate that it should serve, and the newest
// verification.
func completeBroker(ctx context.Context, q querier, b *enroll.Broker) error {
	var err error
	b.Certificate, err = one(ctx, q, scanCertificate, selectCertificate+` n WHERE holder_kind = 'broker' AND holder_id = $1 AND `+kept+`
		ORDER BY recorded_at DESC, serial DESC LIMIT 1`, b.ID)
	if err != nil && !errors.Is(err, errNoRows) {
		return fmt.Errorf("read broker's certificate: %w", err)
	}
	b.LastVerification, err = one(ctx, q, scanVerification, selectVerification+` WHERE broker = $1`+newestVerification, b.ID)
	if err != nil && !errors.Is(err, errNoRows) {
		return fmt.Errorf("read broker's last verification: %w", err)
	}
	return nil
}

// Brokers implements enroll.BrokerStore; by id.
func (s *Store) Brokers(ctx context.Context, p enroll.Page) ([]*enroll.Broker, string, error) {
	l := listing[*enroll.Broker]{
		name: "brokers", query: selectBroker, id: "id",
		scan: scanBroker, keyOf: func(b *enroll.Broker) key { return key{ID: b.ID} },
	}
	var all []*enroll.Broker
	var next string
	err := s.db.snapshot(ctx, func(q querier) (err error) {
		if all, next, err = l.page(ctx, q, p); err != nil {
			return err
		}
		for _, b := range all {
			if err := completeBroker(ctx, q, b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, "", s.explain("list brokers", err)
	}
	return all, next, nil
}
