package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func scanCRL(row scanner) (*ca.CRL, error) {
	c := &ca.CRL{}
	return c, row.Scan(&c.IssuerID, asInt{&c.Shard}, &c.Number, atTime{&c.ThisUpdate}, atTime{&c.NextUpdate}, &c.Entries, asBool{&c.Scheduled}, &c.DER)
}

// ReserveCRL implements ca.CRLStore. The number's row is locked until the
// entries were read, so that of two CRLs the one with the higher number also
// saw the later state of the ledger.
func (s *Store) ReserveCRL(ctx context.Context, scope ca.CRLScope, known ca.CRLKnown) (ca.CRLDraft, error) {
	var draft ca.CRLDraft
	err := s.write(ctx, func(ctx context.Context, q tx) error {
		draft = ca.CRLDraft{}
		number, err := value[int64](ctx, q, `UPDATE crl_numbers SET number = number + 1 WHERE issuer_id = $1 RETURNING number`, scope.IssuerID)
		if errors.Is(err, errNoRows) {
			return notFound("issuer", "issuer", scope.IssuerID)
		}
		if err != nil {
			return err
		}
		draft.Number = number
		if draft.Previous, err = previousCRL(ctx, q, scope, known.Number); err != nil {
			return err
		}
		since, err := value[int64](ctx, q, `SELECT this_update FROM crls WHERE issuer_id = $1 AND shard = $2 AND scheduled = 1
			ORDER BY number DESC LIMIT 1`, scope.IssuerID, int64(scope.Shard))
		if err != nil && !errors.Is(err, errNoRows) {
			return fmt.Errorf("read latest scheduled CRL: %w", err)
		}
		draft.Since = fromMicros(since)
		// Before the entries: what is committed in between is read again next time.
		var newest int64
		if draft.Position, newest, err = s.db.changes(ctx, q); err != nil {
			return fmt.Errorf("read how far statuses are settled: %w", err)
		}
		// A position that is not reached yet is of another database.
		draft.Whole = known.Position <= 0 || known.Position > newest
		if draft.Whole {
			draft.Entries, err = collect(ctx, q, scanEntry, `SELECT serial, reason, revoked_at, not_after FROM certificates
				WHERE issuer_id = $1 AND crl_shard = $2 AND status <> 'good' AND not_after >= $3 ORDER BY serial`, scope.IssuerID, int64(scope.Shard), since)
		} else {
			draft.Entries, err = collect(ctx, q, scanEntry, `SELECT serial, reason, revoked_at, not_after FROM certificates
				WHERE change > $3 AND change <= $4 AND change > 0 AND issuer_id = $1 AND crl_shard = $2`,
				scope.IssuerID, int64(scope.Shard), known.Position, newest)
		}
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

func scanEntry(row scanner) (e ca.CRLEntry, err error) {
	err = row.Scan(&e.SerialNumber, &e.Reason, atTime{&e.RevokedAt}, atTime{&e.NotAfter})
	return e, err
}

// previousCRL returns the scope's CRL with the highest number, without its
// bytes when it is the known one; nil for none.
func previousCRL(ctx context.Context, q querier, scope ca.CRLScope, known int64) (*ca.CRL, error) {
	crl, err := one(ctx, q, scanCRL, `SELECT issuer_id, shard, number, this_update, next_update, entries, scheduled, CASE WHEN number = $3 THEN NULL ELSE der END
		FROM crls WHERE issuer_id = $1 AND shard = $2 ORDER BY number DESC LIMIT 1`, scope.IssuerID, int64(scope.Shard), known)
	if errors.Is(err, errNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the CRL before: %w", err)
	}
	return crl, nil
}

// ChangedSince implements ca.StatusStore.
func (s *Store) ChangedSince(ctx context.Context, position int64) ([]ca.SerialNumber, int64, error) {
	settled, newest, err := s.db.changes(ctx, s.db)
	if err != nil || position < 0 {
		return nil, settled, s.explain("read how far statuses are settled", err)
	}
	if newest == position {
		return nil, settled, nil
	}
	serials, err := collect(ctx, s.db, func(row scanner) (n ca.SerialNumber, err error) {
		err = row.Scan(&n)
		return n, err
	}, `SELECT serial FROM certificates WHERE change > $1 AND change <= $2 AND change > 0`, position, newest)
	return serials, settled, s.explain("read what changed", err)
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
	n, err := q.exec(ctx, `INSERT INTO crls (issuer_id, shard, number, this_update, next_update, entries, scheduled, der)
		VALUES ($1, $8, $2, $3, $4, $5, $6, $7) ON CONFLICT (issuer_id, number) DO NOTHING`,
		crl.IssuerID, crl.Number, micros(crl.ThisUpdate), micros(crl.NextUpdate), int64(crl.Entries), bit(crl.Scheduled), crl.DER, int64(crl.Shard))
	if err != nil {
		return fmt.Errorf("insert CRL: %w", err)
	}
	if n == 0 {
		return conflict("", "reserve another number", "CRL number %d of issuer %q has a CRL", crl.Number, crl.IssuerID)
	}
	return nil
}

// LatestCRL implements ca.CRLStore.
func (s *Store) LatestCRL(ctx context.Context, scope ca.CRLScope) (*ca.CRL, error) {
	crl, err := previousCRL(ctx, s.db, scope, 0)
	if err != nil {
		return nil, s.explain("read CRL", err)
	}
	if crl == nil {
		return nil, notFound("issuer", "CRL of issuer", scope.String())
	}
	return crl, nil
}
