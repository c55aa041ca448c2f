package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const (
	certificateColumns = `serial, recorded_at, sha256, subject, names, issuer_id, profile, holder_kind, holder_id,
	status, reason, revoked_at, not_before, not_after, key_sha256, cdp, crl_shard, profile_version, renew_from, der`
	selectCertificate = `SELECT ` + certificateColumns + ` FROM certificates`
)

func scanCertificate(row scanner) (*ca.Certificate, error) {
	r, err := scanRecorded(row)
	return r.Certificate, err
}

// A recorded certificate is one with the time it was recorded at, which lists
// are sorted by.
type recorded struct {
	*ca.Certificate
	at int64
}

func scanRecorded(row scanner) (recorded, error) {
	r := recorded{Certificate: &ca.Certificate{}}
	err := row.Scan(certificateTargets(&r)...)
	return r, err
}

// certificateTargets are what certificateColumns are scanned into.
func certificateTargets(r *recorded) []any {
	c := r.Certificate
	return []any{&c.SerialNumber, &r.at, &c.SHA256, &c.Subject, fromJSON{&c.Names}, &c.IssuerID, &c.Profile,
		&c.Holder.Kind, &c.Holder.ID, &c.Status, &c.Reason, atTime{&c.RevokedAt}, atTime{&c.NotBefore}, atTime{&c.NotAfter},
		&c.KeySHA256, &c.CDP, asInt{&c.CRLShard}, &c.ProfileVersion, atTime{&c.RenewFrom}, &c.DER}
}

// Certificate implements enroll.CertificateStore.
func (s *Store) Certificate(ctx context.Context, serial ca.SerialNumber) (*ca.Certificate, error) {
	if s.serials.ask == nil {
		c, err := s.certificate(ctx, s.db, serial)
		return c, s.explain("read certificate", err)
	}
	c, err := s.serials.get(ctx, serial)
	if err == nil && c == nil {
		err = notFound("serialNumber", "certificate", string(serial))
	}
	return c, s.explain("read certificate", err)
}

func (s *Store) certificate(ctx context.Context, q querier, serial ca.SerialNumber) (*ca.Certificate, error) {
	c, err := one(ctx, q, scanCertificate, selectCertificate+` WHERE serial = $1`, serial)
	if errors.Is(err, errNoRows) {
		return nil, notFound("serialNumber", "certificate", string(serial))
	}
	return c, err
}

// certificatesOf returns a holder's certificates, newest first, at most limit.
func certificatesOf(ctx context.Context, q querier, holder ca.Holder, limit int) ([]*ca.Certificate, error) {
	return collect(ctx, q, scanCertificate, selectCertificate+` WHERE holder_kind = $1 AND holder_id = $2
		ORDER BY recorded_at DESC, serial DESC LIMIT $3`, holder.Kind, holder.ID, int64(limit))
}

// Certificates implements enroll.CertificateStore; newest first.
func (s *Store) Certificates(ctx context.Context, f enroll.CertificateFilter, p enroll.Page) ([]*ca.Certificate, string, error) {
	l := listing[recorded]{
		name: "certificates", query: selectCertificate, byTime: "recorded_at", id: "serial", newest: true,
		scan: scanRecorded, keyOf: func(r recorded) key { return key{r.at, string(r.SerialNumber)} },
	}
	switch f.Status {
	case "":
	case ca.StatusExpired:
		// An index on not_after would be paid at every enrollment.
		l.rest = []filter{where("status = 'good'"), where("not_after < ?", micros(s.now()))}
	case ca.StatusGood:
		l.filters = append(l.filters, where("status = 'good'"), where("not_after >= ?", micros(s.now())))
	default:
		l.filters = append(l.filters, where("status <> 'good'"), where("status = ?", string(f.Status)))
	}
	if f.Device != "" {
		l.filters = append(l.filters, where("holder_kind = 'device'"), where("holder_id = ?", f.Device))
	}
	if f.Broker != "" {
		l.filters = append(l.filters, where("holder_kind = 'broker'"), where("holder_id = ?", f.Broker))
	}
	l.equals("profile", f.Profile)
	l.equals("issuer_id", f.Issuer)
	found, next, err := l.page(ctx, s.db, p)
	if err != nil {
		return nil, "", s.explain("list certificates", err)
	}
	all := make([]*ca.Certificate, len(found))
	for i, r := range found {
		all[i] = r.Certificate
	}
	return all, next, nil
}

// RevokeCertificate implements enroll.CertificateStore.
func (s *Store) RevokeCertificate(ctx context.Context, serial ca.SerialNumber, reason ca.Reason, at time.Time, c enroll.Change) (*ca.Certificate, error) {
	var after *ca.Certificate
	err := s.change(ctx, "change certificate status", c, func(ctx context.Context, q tx) error {
		// The device before its certificate, as a renewal locks them.
		_, err := q.exec(ctx, `UPDATE devices SET not_after = not_after
			WHERE id = (SELECT holder_id FROM certificates WHERE serial = $1 AND holder_kind = 'device')`, serial)
		if err != nil {
			return err
		}
		var n int64
		if reason == "" {
			n, err = q.exec(ctx, `UPDATE certificates SET status = 'good', reason = '', revoked_at = 0
				WHERE serial = $1 AND status = 'held'`, serial)
		} else {
			n, err = q.exec(ctx, `UPDATE certificates SET status = $2, reason = $3, revoked_at = $4
				WHERE serial = $1 AND `+revocableFrom(reason), serial, reason.StatusAfter(), reason, micros(at))
		}
		if err != nil {
			return err
		}
		after, err = s.certificate(ctx, q, serial)
		if err != nil {
			return err
		}
		if n == 1 {
			return settleHolder(ctx, q, after.Holder)
		}
		if reason == "" {
			return ca.Errorf(ca.KindNotHeld, "serialNumber", "only a certificate on hold can be released", "certificate %s is %s", serial, after.Status)
		}
		return ca.Errorf(ca.KindRevoked, "serialNumber", "GET /api/v1/certificates/SERIAL shows it", "certificate %s is %s already, for %s", serial, after.Status, after.Reason)
	})
	if err != nil {
		return nil, err
	}
	return after, nil
}

// settleHolder follows a change of one certificate.
func settleHolder(ctx context.Context, q tx, holder ca.Holder) error {
	if holder.Kind != ca.HolderDevice {
		return nil
	}
	return settleExpiry(ctx, q, holder.ID)
}

// revocableFrom returns the condition on the status that a revocation for the
// reason starts from.
func revocableFrom(reason ca.Reason) string {
	from := reason.RevocableFrom()
	slices.Sort(from)
	quoted := make([]string, len(from))
	for i, status := range from {
		quoted[i] = "'" + string(status) + "'"
	}
	return "status IN (" + strings.Join(quoted, ", ") + ")"
}

const blockedKey = `SELECT serial FROM certificates WHERE key_sha256 = $1 AND reason = 'keyCompromise' LIMIT 1`

// KeyBlocked implements enroll.CertificateStore.
func (s *Store) KeyBlocked(ctx context.Context, keySHA256 string) (bool, error) {
	_, err := value[string](ctx, s.db, blockedKey, keySHA256)
	switch {
	case errors.Is(err, errNoRows):
		return false, nil
	case err != nil:
		return false, s.explain("look up blocked key", err)
	}
	return true, nil
}

// LastEventAt implements enroll.CertificateStore.
func (s *Store) LastEventAt(ctx context.Context) (time.Time, error) {
	at, err := value[int64](ctx, s.db, `SELECT at FROM events ORDER BY at DESC, id DESC LIMIT 1`)
	if errors.Is(err, errNoRows) {
		return time.Time{}, nil
	}
	return fromMicros(at), s.explain("read time of the newest audit event", err)
}

// setStatus changes every certificate of a device that has one of the statuses
// of a condition, and returns their serial numbers, sorted.
func setStatus(ctx context.Context, q tx, device, condition string, status ca.Status, reason ca.Reason, at time.Time) ([]ca.SerialNumber, error) {
	serials, err := collect(ctx, q, func(row scanner) (n ca.SerialNumber, err error) {
		err = row.Scan(&n)
		return n, err
	}, `UPDATE certificates SET status = $2, reason = $3, revoked_at = $4
		WHERE holder_kind = 'device' AND holder_id = $1 AND `+condition+` RETURNING serial`,
		device, status, reason, micros(at))
	if err != nil {
		return nil, fmt.Errorf("change the status of the device's certificates: %w", err)
	}
	slices.Sort(serials)
	return append([]ca.SerialNumber{}, serials...), nil
}
