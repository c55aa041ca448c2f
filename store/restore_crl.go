package store

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/fleetca/fleetca/ca"
)

// A carriedCRL is what a restore took over from CRLs that outlived the
// database.
type carriedCRL struct {
	number  int64 // the highest of them
	revoked int64 // certificates that the backup had as good
	unknown int64 // serial numbers that the backup does not have
}

// carryCRLs revokes what newer CRLs of the restored issuers list. Nothing is
// released: what the backup has as held or revoked stays so.
func carryCRLs(ctx context.Context, q tx, crls [][]byte) (c carriedCRL, err error) {
	issuers, err := issuersOf(ctx, q)
	if err != nil {
		return c, fmt.Errorf("read issuers: %w", err)
	}
	for _, der := range crls {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return c, ca.Errorf(ca.KindMalformed, "crl", "give the CRLs as a broker has them, or as /crl/bundle.pem answered; nothing was restored", "it is no CRL: %w", err)
		}
		issuer := signerOf(list, issuers)
		if issuer == "" || list.Number == nil || !list.Number.IsInt64() || list.Number.Sign() <= 0 {
			return c, ca.Errorf(ca.KindMalformed, "crl", "give CRLs of the authority that the backup is of; nothing was restored", "the CRL of %.100q is none of this authority's", list.Issuer.String())
		}
		c.number = max(c.number, list.Number.Int64())
		for _, e := range list.RevokedCertificateEntries {
			if err := c.carry(ctx, q, issuer, e); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// signerOf returns the id of the issuer that signed a CRL, or "".
func signerOf(list *x509.RevocationList, issuers []ca.Issuer) string {
	for _, i := range issuers {
		if list.CheckSignatureFrom(i.Certificate) == nil {
			return i.ID
		}
	}
	return ""
}

// carry takes one entry over.
func (c *carriedCRL) carry(ctx context.Context, q tx, issuer string, e x509.RevocationListEntry) error {
	serial, reason := ca.SerialNumberOf(new(big.Int).Abs(e.SerialNumber)), ca.ReasonUnspecified
	for _, r := range ca.Reasons() {
		if r.Code() == e.ReasonCode {
			reason = r
		}
	}
	holders, err := collect(ctx, q, func(row scanner) (h ca.Holder, err error) {
		err = row.Scan(&h.Kind, &h.ID)
		return h, err
	}, `UPDATE certificates SET status = $3, reason = $4, revoked_at = $5
		WHERE serial = $1 AND issuer_id = $2 AND `+revocableFrom(reason)+` RETURNING holder_kind, holder_id`,
		serial, issuer, reason.StatusAfter(), reason, micros(e.RevocationTime))
	if err != nil {
		return fmt.Errorf("revoke %s: %w", serial, err)
	}
	if len(holders) == 1 {
		c.revoked++
		return settleHolder(ctx, q, holders[0])
	}
	_, err = value[string](ctx, q, `SELECT serial FROM certificates WHERE serial = $1 AND issuer_id = $2`, serial, issuer)
	if errors.Is(err, errNoRows) {
		c.unknown++
		return nil
	}
	return err
}
