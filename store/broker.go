package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const selectBroker = `SELECT id, url, names, kind, status, created_at FROM brokers`

func scanBroker(row scanner) (*enroll.Broker, error) {
	b := &enroll.Broker{}
	return b, row.Scan(&b.ID, &b.URL, fromJSON{&b.Names}, &b.Kind, &b.Status, atTime{&b.CreatedAt})
}

const selectVerification = `SELECT id, broker, at, report FROM verifications`

func scanVerification(row scanner) (*enroll.Verification, error) {
	v := &enroll.Verification{}
	return v, row.Scan(&v.ID, &v.Broker, atTime{&v.At}, fromJSON{&v.Report})
}

// CreateBroker implements enroll.BrokerStore.
func (s *Store) CreateBroker(ctx context.Context, b enroll.Broker, c enroll.Change) error {
	return s.change(ctx, "create broker", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `INSERT INTO brokers (id, url, names, kind, status, created_at, status_at)
			VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (id) DO NOTHING`,
			b.ID, b.URL, listText(b.Names), b.Kind, b.Status, micros(b.CreatedAt))
		if err == nil && n == 0 {
			return conflict("id", "choose another broker id", "broker %q exists", b.ID)
		}
		return err
	})
}

// UpdateBroker implements enroll.BrokerStore.
func (s *Store) UpdateBroker(ctx context.Context, b enroll.Broker, c enroll.Change) error {
	return s.change(ctx, "update broker", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE brokers SET url = $2, names = $3, kind = $4 WHERE id = $1`, b.ID, b.URL, listText(b.Names), b.Kind)
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

// completeBroker adds the newest certificate and verification.
func completeBroker(ctx context.Context, q querier, b *enroll.Broker) error {
	certs, err := certificatesOf(ctx, q, ca.Holder{Kind: ca.HolderBroker, ID: b.ID}, 1)
	if err != nil {
		return fmt.Errorf("read broker's certificate: %w", err)
	}
	if len(certs) == 1 {
		b.Certificate = certs[0]
	}
	b.LastVerification, err = one(ctx, q, scanVerification, selectVerification+` WHERE broker = $1 ORDER BY at DESC, id DESC LIMIT 1`, b.ID)
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

// SaveVerification implements enroll.BrokerStore. An inconclusive report
// leaves the broker's status as it is.
func (s *Store) SaveVerification(ctx context.Context, v enroll.Verification, c enroll.Change) error {
	if v.Report == nil {
		return errors.New("save verification: it holds no report")
	}
	report := jsonOf(v.Report)
	return s.change(ctx, "save verification", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE brokers SET status = CASE CAST($2 AS TEXT) WHEN '' THEN status ELSE $2 END,
				status_at = CASE WHEN CAST($2 AS TEXT) IN ('', status) THEN status_at ELSE $3 END,
				served_sha256 = CASE CAST($4 AS TEXT) WHEN '' THEN served_sha256 ELSE $4 END,
				served_at = CASE CAST($4 AS TEXT) WHEN '' THEN served_at ELSE $3 END
			WHERE id = $1`, v.Broker, v.BrokerStatus(), micros(v.At), v.Served())
		if err != nil {
			return err
		}
		if n == 0 {
			return notFound("broker", "broker", v.Broker)
		}
		failed := ""
		if step := v.Report.Failed(); step != nil {
			failed = string(step.Name)
		}
		_, err = q.exec(ctx, `INSERT INTO verifications (id, broker, at, report, verdict, failed_step) VALUES ($1, $2, $3, $4, $5, $6)`,
			v.ID, v.Broker, micros(v.At), report, v.Report.Verdict, failed)
		return err
	})
}

// VerificationMarks implements enroll.BrokerStore; newest first.
func (s *Store) VerificationMarks(ctx context.Context, broker string, p enroll.Page) ([]enroll.VerificationMark, string, error) {
	l := listing[enroll.VerificationMark]{
		name: "verifications", query: `SELECT id, at, verdict, failed_step FROM verifications`, byTime: "at", id: "id", newest: true,
		scan: func(row scanner) (m enroll.VerificationMark, err error) {
			return m, row.Scan(&m.ID, atTime{&m.At}, &m.Verdict, &m.Failed)
		},
		keyOf:   func(m enroll.VerificationMark) key { return key{micros(m.At), m.ID} },
		filters: []filter{where("broker = ?", broker)},
	}
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list verdicts", err)
}

// Verification implements enroll.BrokerStore.
func (s *Store) Verification(ctx context.Context, broker, id string) (*enroll.Verification, error) {
	v, err := one(ctx, s.db, scanVerification, selectVerification+` WHERE id = $1 AND broker = $2`, id, broker)
	switch {
	case errors.Is(err, errNoRows):
		return nil, notFound("id", "verification", id)
	case err != nil:
		return nil, s.explain("read verification", err)
	}
	return v, nil
}

// Verifications implements enroll.BrokerStore; newest first.
func (s *Store) Verifications(ctx context.Context, broker string, p enroll.Page) ([]*enroll.Verification, string, error) {
	l := listing[*enroll.Verification]{
		name: "verifications", query: selectVerification, byTime: "at", id: "id", newest: true,
		scan: scanVerification, keyOf: func(v *enroll.Verification) key { return key{micros(v.At), v.ID} },
		filters: []filter{where("broker = ?", broker)},
	}
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list verifications", err)
}
