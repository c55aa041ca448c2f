package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const selectCRL = `SELECT issuer_id, number, this_update, next_update, entries, scheduled, der FROM crls`

func scanCRL(row scanner) (*ca.CRL, error) {
	c := &ca.CRL{}
	return c, row.Scan(&c.IssuerID, &c.Number, atTime{&c.ThisUpdate}, atTime{&c.NextUpdate}, &c.Entries, asBool{&c.Scheduled}, &c.DER)
}

// ReserveCRL implements ca.CRLStore. The number's row is locked until the
// entries were read, so that of two CRLs the one with the higher number also
// saw the later state of the ledger.
func (s *Store) ReserveCRL(ctx context.Context, issuerID string) (ca.CRLDraft, error) {
	var draft ca.CRLDraft
	err := s.write(ctx, func(ctx context.Context, q tx) error {
		draft = ca.CRLDraft{}
		number, err := value[int64](ctx, q, `UPDATE crl_numbers SET number = number + 1 WHERE issuer_id = $1 RETURNING number`, issuerID)
		if errors.Is(err, errNoRows) {
			return notFound("issuer", "issuer", issuerID)
		}
		if err != nil {
			return err
		}
		draft.Number = number
		if draft.Previous, err = latestCRL(ctx, q, issuerID); err != nil {
			return err
		}
		since, err := value[int64](ctx, q, `SELECT this_update FROM crls WHERE issuer_id = $1 AND scheduled = 1
			ORDER BY number DESC LIMIT 1`, issuerID)
		if err != nil && !errors.Is(err, errNoRows) {
			return fmt.Errorf("read latest scheduled CRL: %w", err)
		}
		draft.Entries, err = collect(ctx, q, func(row scanner) (e ca.CRLEntry, err error) {
			err = row.Scan(&e.SerialNumber, &e.Reason, atTime{&e.RevokedAt}, atTime{&e.NotAfter})
			return e, err
		}, `SELECT serial, reason, revoked_at, not_after FROM certificates
			WHERE issuer_id = $1 AND status <> 'good' AND not_after >= $2 ORDER BY serial`, issuerID, since)
		if err != nil {
			return fmt.Errorf("read CRL entries: %w", err)
		}
		return nil
	})
	if err != nil {
		return ca.CRLDraft{}, s.explain("reserve CRL number", err)
	}
	return draft, nil
}

// SaveCRL implements ca.CRLStore, for CRLs that the server signs.
func (s *Store) SaveCRL(ctx context.Context, crl *ca.CRL) error {
	return s.SaveCRLOf(ctx, "server", crl)
}

// SaveCRLOf is SaveCRL for a CRL that somebody else had signed.
func (s *Store) SaveCRLOf(ctx context.Context, actor string, crl *ca.CRL) error {
	c := enroll.Change{Event: enroll.CRLEvent(s.now(), actor, crl)}
	return s.change(ctx, "save CRL", c, func(ctx context.Context, q tx) error {
		reserved, err := value[int64](ctx, q, `SELECT number FROM crl_numbers WHERE issuer_id = $1`, crl.IssuerID)
		switch {
		case errors.Is(err, errNoRows):
			return notFound("issuer", "issuer", crl.IssuerID)
		case err != nil:
			return err
		case crl.Number > reserved || crl.Number <= 0:
			return conflict("", "reserve a number first", "CRL number %d of issuer %q was not reserved", crl.Number, crl.IssuerID)
		}
		return insertCRL(ctx, q, crl)
	})
}

func insertCRL(ctx context.Context, q tx, crl *ca.CRL) error {
	n, err := q.exec(ctx, `INSERT INTO crls (issuer_id, number, this_update, next_update, entries, scheduled, der)
		VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (issuer_id, number) DO NOTHING`,
		crl.IssuerID, crl.Number, micros(crl.ThisUpdate), micros(crl.NextUpdate), int64(crl.Entries), bit(crl.Scheduled), crl.DER)
	if err != nil {
		return fmt.Errorf("insert CRL: %w", err)
	}
	if n == 0 {
		return conflict("", "reserve another number", "CRL number %d of issuer %q has a CRL", crl.Number, crl.IssuerID)
	}
	return nil
}

// LatestCRL implements ca.CRLStore.
func (s *Store) LatestCRL(ctx context.Context, issuerID string) (*ca.CRL, error) {
	crl, err := latestCRL(ctx, s.db, issuerID)
	if err != nil {
		return nil, s.explain("read CRL", err)
	}
	if crl == nil {
		return nil, notFound("issuer", "CRL of issuer", issuerID)
	}
	return crl, nil
}

// latestCRL returns the CRL with the highest number, nil for none.
func latestCRL(ctx context.Context, q querier, issuerID string) (*ca.CRL, error) {
	crl, err := one(ctx, q, scanCRL, selectCRL+` WHERE issuer_id = $1 ORDER BY number DESC LIMIT 1`, issuerID)
	if errors.Is(err, errNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read latest CRL: %w", err)
	}
	return crl, nil
}
