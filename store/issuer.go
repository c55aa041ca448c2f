package store

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func scanIssuer(row scanner) (ca.Issuer, error) {
	var i ca.Issuer
	var der []byte
	if err := row.Scan(&i.ID, &i.Purpose, &i.State, &der, &i.Parent, &i.KeyURI, fromJSON{&i.StatusURLs}, asInt{&i.CRLShards}, asInt{&i.CRLShardsEver},
		&i.Product, &i.Site, &i.Domain); err != nil {
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
		if err := insertIssuers(ctx, q, issuers, crls); err != nil {
			return err
		}
		return firstTrust(ctx, q, issuers, s.now())
	})
}

// AddIssuers implements enroll.IssuerStore.
func (s *Store) AddIssuers(ctx context.Context, issuers []ca.Issuer, crls []*ca.CRL, cross []ca.CrossCertificate, c enroll.Change) error {
	return s.change(ctx, "add issuers", c, func(ctx context.Context, q tx) error {
		if _, err := lockHierarchy(ctx, q); err != nil {
			return err
		}
		if err := insertIssuers(ctx, q, issuers, crls); err != nil {
			return err
		}
		return s.insertCross(ctx, q, cross)
	})
}

// insertIssuers inserts issuers after those that there are, and their first
// CRLs. An id that is taken is a conflict.
func insertIssuers(ctx context.Context, q tx, issuers []ca.Issuer, crls []*ca.CRL) error {
	for _, i := range issuers {
		n, err := q.exec(ctx, `INSERT INTO issuers (id, ordinal, purpose, state, der, parent, key_uri, status_urls, crl_shards, crl_shards_ever, product, site, domain)
			SELECT CAST($1 AS TEXT), (SELECT COALESCE(MAX(ordinal), -1) + 1 FROM issuers), CAST($2 AS TEXT), CAST($3 AS TEXT), $4, CAST($5 AS TEXT), CAST($6 AS TEXT), CAST($7 AS TEXT),
				CAST($8 AS BIGINT), CAST($9 AS BIGINT), CAST($10 AS TEXT), CAST($11 AS TEXT), CAST($12 AS TEXT)
			WHERE NOT EXISTS (SELECT 1 FROM issuers WHERE id = $1)`,
			i.ID, i.Purpose, i.State, i.Certificate.Raw, i.Parent, i.KeyURI, listText(i.StatusURLs), int64(i.Shards()), int64(i.ShardsEver()), i.Product, i.Site, i.Domain)
		if err != nil {
			return fmt.Errorf("insert issuer %q: %w", i.ID, err)
		}
		if n == 0 {
			return conflict("id", "choose another id", "there is an issuer %q already", i.ID)
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
}

// ImportCRL implements enroll.IssuerStore.
func (s *Store) ImportCRL(ctx context.Context, crl *ca.CRL, c enroll.Change) error {
	return s.change(ctx, "import CRL", c, func(ctx context.Context, q tx) error {
		// What there is decides, and not what was reserved: a restore raises that
		// beyond what others would ever give.
		last, err := value[int64](ctx, q, `SELECT COALESCE(MAX(number), 0) FROM crls WHERE issuer_id = $1`, crl.IssuerID)
		if err != nil {
			return err
		}
		if _, err := q.exec(ctx, `UPDATE crl_numbers SET number = $2 WHERE issuer_id = $1 AND number < $2`, crl.IssuerID, crl.Number); err != nil {
			return fmt.Errorf("raise CRL number of issuer %q: %w", crl.IssuerID, err)
		}
		if crl.Number <= last {
			return conflict("crl", "give the newest CRL of the issuer", "issuer %q has CRL %d already", crl.IssuerID, last)
		}
		return insertCRL(ctx, q, crl)
	})
}

// SetIssuerState implements enroll.IssuerStore.
func (s *Store) SetIssuerState(ctx context.Context, id string, from []ca.IssuerState, to ca.IssuerState, c enroll.Change) error {
	return s.change(ctx, "set issuer state", c, func(ctx context.Context, q tx) error {
		h, err := lockHierarchy(ctx, q)
		if err != nil {
			return err
		}
		i := h.find(id)
		switch {
		case i == nil:
			return notFound("issuer", "issuer", id)
		case !slices.Contains(from, i.state):
			return conflict("issuer", "fleetca issuer list shows the states", "issuer %q is %s, and cannot become %s", id, i.state, to)
		}
		if to == ca.IssuerActive {
			if err := h.checkTrusted(*i); err != nil {
				return err
			}
		}
		if to == ca.IssuerActive && i.purpose == ca.PurposeRoot { // one root is active
			if _, err := q.exec(ctx, `UPDATE issuers SET state = 'retired' WHERE purpose = 'root' AND state = 'active'`); err != nil {
				return err
			}
		}
		_, err = q.exec(ctx, `UPDATE issuers SET state = $2 WHERE id = $1`, id, to)
		return err
	})
}

// Issuers implements enroll.IssuerStore, in the order they were created in.
func (s *Store) Issuers(ctx context.Context) ([]ca.Issuer, error) {
	all, err := issuersOf(ctx, s.db)
	return all, s.explain("read issuers", err)
}

func issuersOf(ctx context.Context, q querier) ([]ca.Issuer, error) {
	return collect(ctx, q, scanIssuer, `SELECT id, purpose, state, der, parent, key_uri, status_urls, crl_shards, crl_shards_ever, product, site, domain FROM issuers ORDER BY ordinal`)
}

// issuersOfAnySchema is issuersOf for a database of an older schema, too. It
// leaves out what that may not have.
func issuersOfAnySchema(ctx context.Context, q querier) ([]ca.Issuer, error) {
	return collect(ctx, q, scanIssuer, `SELECT id, purpose, state, der, parent, key_uri, status_urls, CAST(1 AS BIGINT), CAST(1 AS BIGINT), '', '', '' FROM issuers ORDER BY ordinal`)
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
