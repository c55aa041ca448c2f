package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

const selectVerification = `SELECT id, broker, at, since, looks, negative, scheduled, outcome, report FROM verifications`

func scanVerification(row scanner) (*enroll.Verification, error) {
	v := &enroll.Verification{}
	return v, row.Scan(&v.ID, &v.Broker, atTime{&v.At}, atTime{&v.Since}, &v.Looks, asBool{&v.Negative}, asBool{&v.Scheduled}, &v.Outcome, fromJSON{&v.Report})
}

// newestVerification orders a broker's verifications.
const newestVerification = ` ORDER BY at DESC, id DESC LIMIT 1`

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
		_, err = q.exec(ctx, `INSERT INTO verifications (id, broker, at, since, looks, negative, scheduled, outcome, report, verdict, failed_step)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`, v.ID, v.Broker, micros(v.At), micros(v.Since), v.Looks,
			bit(v.Negative), bit(v.Scheduled), v.Outcome, report, v.Report.Verdict, failed)
		return err
	})
}

// ConfirmVerifications implements enroll.BrokerStore.
func (s *Store) ConfirmVerifications(ctx context.Context, vs []enroll.Verification) ([]enroll.Verification, error) {
	var others []enroll.Verification
	err := s.write(ctx, func(ctx context.Context, q tx) error {
		others = nil
		for _, v := range vs {
			n, err := q.exec(ctx, `UPDATE verifications SET at = $2, looks = looks + 1, report = $3
				WHERE id = (SELECT id FROM verifications WHERE broker = $1`+newestVerification+`)
					AND scheduled = 1 AND outcome = $4 AND negative = $5 AND at <= $2`,
				v.Broker, micros(v.At), jsonOf(v.Report), v.Outcome, bit(v.Negative))
			if err != nil {
				return err
			}
			if n == 0 {
				others = append(others, v)
				continue
			}
			if v.Served() == "" {
				continue
			}
			if _, err := q.exec(ctx, `UPDATE brokers SET served_sha256 = $2, served_at = $3 WHERE id = $1`, v.Broker, v.Served(), micros(v.At)); err != nil {
				return err
			}
		}
		return nil
	})
	return others, s.explain("confirm verifications", err)
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

// NegativeVerifications implements enroll.BrokerStore.
func (s *Store) NegativeVerifications(ctx context.Context) ([]*enroll.Verification, error) {
	newest, err := collect(ctx, s.db, scanVerification, selectVerification+` WHERE id IN (SELECT (SELECT v.id FROM verifications v
		WHERE v.broker = b.id AND v.negative = 1 ORDER BY v.at DESC, v.id DESC LIMIT 1) FROM brokers b)`)
	slices.SortFunc(newest, func(a, b *enroll.Verification) int { return strings.Compare(a.Broker, b.Broker) })
	return newest, s.explain("read negative verifications", err)
}

// ForgetVerifications implements enroll.BrokerStore.
func (s *Store) ForgetVerifications(ctx context.Context, before time.Time) (n int64, err error) {
	err = s.write(ctx, func(ctx context.Context, q tx) (err error) {
		n, err = q.exec(ctx, `DELETE FROM verifications WHERE at < $1
			AND id <> (SELECT n.id FROM verifications n WHERE n.broker = verifications.broker ORDER BY n.at DESC, n.id DESC LIMIT 1)
			AND (negative = 0 OR id <> (SELECT n.id FROM verifications n
				WHERE n.broker = verifications.broker AND n.negative = 1 ORDER BY n.at DESC, n.id DESC LIMIT 1))`, micros(before))
		return err
	})
	return n, s.explain("delete old verifications", err)
}
