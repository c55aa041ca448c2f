package store

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func scanIssuer(row scanner) (ca.Issuer, error) {
	var i ca.Issuer
	var der []byte
	if err := row.Scan(&i.ID, &i.Purpose, &i.State, &der, &i.Parent, &i.KeyURI, fromJSON{&i.StatusURLs}, asInt{&i.CRLShards}, asInt{&i.CRLShardsEver}); err != nil {
		return i, err
	}
	var err error
	if i.Certificate, err = x509.ParseCertificate(der); err != nil {
		return i, fmt.Errorf("certificate of issuer %q: %w", i.ID, err)
	}
	return i, nil
}

// CreateIssuers implements enroll.IssuerStore.
func (s *Store) CreateIssuers(ctx context.Context, issuers []ca.Issuer, crls []*ca.CRL, c enroll.Change) error {
	return s.change(ctx, "create issuers", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `INSERT INTO authority (id, created_at) VALUES (1, $1) ON CONFLICT (id) DO NOTHING`, micros(s.now()))
		if err != nil {
			return err
		}
		if n == 0 {
			return conflict("", "use the authority that is there, or another database", "the database holds a certification authority already")
		}
		for ordinal, i := range issuers {
			if _, err := q.exec(ctx, `INSERT INTO issuers (id, ordinal, purpose, state, der, parent, key_uri, status_urls, crl_shards, crl_shards_ever)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, i.ID, int64(ordinal), i.Purpose, i.State, i.Certificate.Raw, i.Parent, i.KeyURI,
				listText(i.StatusURLs), int64(i.Shards()), int64(i.ShardsEver())); err != nil {
				return fmt.Errorf("insert issuer %q: %w", i.ID, err)
			}
			if _, err := q.exec(ctx, `INSERT INTO crl_numbers (issuer_id, number) VALUES ($1, 0)`, i.ID); err != nil {
				return fmt.Errorf("insert CRL number of issuer %q: %w", i.ID, err)
			}
		}
		for _, crl := range crls {
			if _, err := q.exec(ctx, `UPDATE crl_numbers SET number = $2 WHERE issuer_id = $1 AND number < $2`, crl.IssuerID, crl.Number); err != nil {
				return fmt.Errorf("reserve CRL number of issuer %q: %w", crl.IssuerID, err)
			}
			if err := insertCRL(ctx, q, crl); err != nil {
				return err
			}
		}
		return nil
	})
}

// Issuers implements enroll.IssuerStore, in the order they were created in.
func (s *Store) Issuers(ctx context.Context) ([]ca.Issuer, error) {
	all, err := issuersOf(ctx, s.db)
	return all, s.explain("read issuers", err)
}

func issuersOf(ctx context.Context, q querier) ([]ca.Issuer, error) {
	return collect(ctx, q, scanIssuer, `SELECT id, purpose, state, der, parent, key_uri, status_urls, crl_shards, crl_shards_ever FROM issuers ORDER BY ordinal`)
}

// issuersOfAnySchema is issuersOf for a database of an older schema, too. It
// leaves out what that may not have.
func issuersOfAnySchema(ctx context.Context, q querier) ([]ca.Issuer, error) {
	return collect(ctx, q, scanIssuer, `SELECT id, purpose, state, der, parent, key_uri, status_urls, CAST(1 AS BIGINT), CAST(1 AS BIGINT) FROM issuers ORDER BY ordinal`)
}

// SetStatusURLs implements enroll.IssuerStore.
func (s *Store) SetStatusURLs(ctx context.Context, issuerID string, urls []string, c enroll.Change) error {
	return s.change(ctx, "set status URLs", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE issuers SET status_urls = $2 WHERE id = $1`, issuerID, listText(urls))
		if err == nil && n == 0 {
			return notFound("issuer", "issuer", issuerID)
		}
		return err
	})
}

// SetCRLShards implements enroll.IssuerStore.
func (s *Store) SetCRLShards(ctx context.Context, issuerID string, shards int, c enroll.Change) error {
	return s.change(ctx, "set CRL shards", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE issuers SET crl_shards = $2, crl_shards_ever = CASE WHEN crl_shards_ever < $2 THEN $2 ELSE crl_shards_ever END
			WHERE id = $1`, issuerID, int64(shards))
		if err == nil && n == 0 {
			return notFound("issuer", "issuer", issuerID)
		}
		return err
	})
}
