package store

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/fleetca/fleetca/enroll"
)

const selectManufacturer = `SELECT id, der, state, reenroll, devices, enrolled, created_at FROM manufacturers`

func scanManufacturer(row scanner) (*enroll.Manufacturer, error) {
	m := &enroll.Manufacturer{}
	var der []byte
	if err := row.Scan(&m.ID, &der, &m.State, asBool{&m.Reenroll}, &m.Devices, &m.Enrolled, atTime{&m.CreatedAt}); err != nil {
		return nil, err
	}
	var err error
	if m.Certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("certificate of manufacturer %q: %w", m.ID, err)
	}
	return m.Describe(), nil
}

// CreateManufacturer implements enroll.ManufacturerStore.
func (s *Store) CreateManufacturer(ctx context.Context, m enroll.Manufacturer, c enroll.Change) error {
	return s.change(ctx, "create manufacturer", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `INSERT INTO manufacturers (id, sha256, der, state, reenroll, devices, enrolled, created_at)
			VALUES ($1, $2, $3, $4, $5, 0, 0, $6) ON CONFLICT DO NOTHING`,
			m.ID, m.SHA256, m.Certificate.Raw, m.State, bit(m.Reenroll), micros(m.CreatedAt))
		if err != nil || n == 1 {
			return err
		}
		other, err := value[string](ctx, q, `SELECT id FROM manufacturers WHERE sha256 = $1`, m.SHA256)
		switch {
		case errors.Is(err, errNoRows):
			return conflict("id", "choose another id", "manufacturer %q exists", m.ID)
		case err != nil:
			return err
		}
		return conflict("certificate", "add lines to its manifest", "the certificate is manufacturer %q's", other)
	})
}

// Manufacturer implements enroll.ManufacturerStore.
func (s *Store) Manufacturer(ctx context.Context, id string) (*enroll.Manufacturer, error) {
	m, err := one(ctx, s.db, scanManufacturer, selectManufacturer+` WHERE id = $1`, id)
	switch {
	case errors.Is(err, errNoRows):
		return nil, notFound("id", "manufacturer", id)
	case err != nil:
		return nil, s.explain("read manufacturer", err)
	}
	return m, nil
}

// Manufacturers implements enroll.ManufacturerStore.
func (s *Store) Manufacturers(ctx context.Context, p enroll.Page) ([]*enroll.Manufacturer, string, error) {
	l := listing[*enroll.Manufacturer]{
		name: "manufacturers", query: selectManufacturer, id: "id", scan: scanManufacturer,
		keyOf: func(m *enroll.Manufacturer) key { return key{ID: m.ID} },
	}
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list manufacturers", err)
}

// SetManufacturer implements enroll.ManufacturerStore.
func (s *Store) SetManufacturer(ctx context.Context, before, after enroll.Manufacturer, c enroll.Change) error {
	return s.change(ctx, "update manufacturer", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE manufacturers SET state = $2, reenroll = $3 WHERE id = $1 AND state = $4 AND reenroll = $5`,
			before.ID, after.State, bit(after.Reenroll), before.State, bit(before.Reenroll))
		if err == nil && n == 0 {
			return conflict("", "look at it again", "manufacturer %q changed meanwhile", before.ID)
		}
		return err
	})
}
