package store

import (
	"context"
	"errors"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const selectRevocation = `SELECT id, device, reason, comment, state, serials, steps, evidence, at, attempts, version FROM revocations`

func scanRevocation(row scanner) (*enroll.Revocation, error) {
	r := &enroll.Revocation{}
	return r, row.Scan(&r.ID, &r.Device, &r.Reason, &r.Comment, &r.State, fromJSON{&r.SerialNumbers}, fromJSON{&r.Steps}, fromJSON{&r.Evidence},
		atTime{&r.At}, &r.Attempts, &r.Version)
}

// evidenceText returns evidence as stored; none is the empty text.
func evidenceText(e *enroll.Evidence) string {
	if e == nil {
		return ""
	}
	return jsonOf(e)
}

// RevokeDevice implements enroll.RevocationStore.
func (s *Store) RevokeDevice(ctx context.Context, r enroll.Revocation, c enroll.Change) (*enroll.Revocation, error) {
	return s.revokeDevice(ctx, "revoke device", r, c, setDeviceRevoked)
}

// RetireDevice implements enroll.RevocationStore.
func (s *Store) RetireDevice(ctx context.Context, r enroll.Revocation, c enroll.Change) (*enroll.Revocation, error) {
	return s.revokeDevice(ctx, "retire device", r, c, func(ctx context.Context, q tx, id string, _ ca.Reason) error {
		return endDevice(ctx, q, id, enroll.DeviceRetired)
	})
}

// revokeDevice revokes a device's certificates, once setDevice has moved the
// device.
func (s *Store) revokeDevice(ctx context.Context, doing string, r enroll.Revocation, c enroll.Change,
	setDevice func(ctx context.Context, q tx, id string, reason ca.Reason) error) (*enroll.Revocation, error) {
	var stored enroll.Revocation
	err := s.change(ctx, doing, c, func(ctx context.Context, q tx) error {
		stored = r
		if err := setDevice(ctx, q, r.Device, r.Reason); err != nil {
			return err
		}
		serials, err := setStatus(ctx, q, r.Device, revocableFrom(r.Reason), r.Reason.StatusAfter(), r.Reason, r.At)
		if err != nil {
			return err
		}
		stored.SerialNumbers = serials
		_, err = q.exec(ctx, `INSERT INTO revocations (id, device, reason, comment, state, serials, steps, evidence, at, attempts, version)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			r.ID, r.Device, r.Reason, r.Comment, r.State, listText(serials), listText(r.Steps), evidenceText(r.Evidence),
			micros(r.At), int64(r.Attempts), r.Version)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &stored, nil
}

// setDeviceRevoked moves the device to revoked, or to held for a hold.
func setDeviceRevoked(ctx context.Context, q tx, id string, reason ca.Reason) error {
	if reason == ca.ReasonCertificateHold {
		n, err := q.exec(ctx, `UPDATE devices SET status = 'held', not_after = 0 WHERE id = $1 AND status = 'active'`, id)
		if err == nil && n == 0 {
			return refused(holdRefusal(ctx, q, id))
		}
		return err
	}
	return endDevice(ctx, q, id, enroll.DeviceRevoked)
}

// endDevice moves a device to a status that is final.
func endDevice(ctx context.Context, q tx, id string, status enroll.DeviceStatus) error {
	n, err := q.exec(ctx, `UPDATE devices SET status = $2, not_after = 0 WHERE id = $1 AND status IN ('registered', 'active', 'held')`, id, status)
	if err != nil || n == 1 {
		return err
	}
	d, err := device(ctx, q, id)
	if err != nil {
		return err
	}
	return ca.Errorf(ca.KindRevoked, "deviceId", "GET /api/v1/revocations?device=ID shows whether every broker was seen to refuse it", "device %q is %s already", id, d.Status)
}

// Revocation implements enroll.RevocationStore.
func (s *Store) Revocation(ctx context.Context, id string) (*enroll.Revocation, error) {
	r, err := one(ctx, s.db, scanRevocation, selectRevocation+` WHERE id = $1`, id)
	switch {
	case errors.Is(err, errNoRows):
		return nil, notFound("id", "revocation", id)
	case err != nil:
		return nil, s.explain("read revocation", err)
	}
	return r, nil
}

// Revocations implements enroll.RevocationStore; newest first, of every device
// when none is named.
func (s *Store) Revocations(ctx context.Context, device string, p enroll.Page) ([]*enroll.Revocation, string, error) {
	l := listing[*enroll.Revocation]{
		name: "revocations", query: selectRevocation, byTime: "at", id: "id", newest: true,
		scan: scanRevocation, keyOf: func(r *enroll.Revocation) key { return key{micros(r.At), r.ID} },
	}
	l.equals("device", device)
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list revocations", err)
}

// SaveRevocation implements enroll.RevocationStore. It stores what moves: state,
// steps, evidence and attempts.
func (s *Store) SaveRevocation(ctx context.Context, r *enroll.Revocation, c enroll.Change) error {
	err := s.change(ctx, "save revocation", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE revocations SET state = $3, steps = $4, evidence = $5, attempts = $6, version = version + 1
			WHERE id = $1 AND version = $2`, r.ID, r.Version, r.State, listText(r.Steps), evidenceText(r.Evidence), int64(r.Attempts))
		if err != nil || n == 1 {
			return err
		}
		return staleOrMissing(ctx, q, "revocation", `SELECT version FROM revocations WHERE id = $1`, r.ID)
	})
	if err == nil {
		r.Version++
	}
	return err
}

// staleOrMissing says why a row could not be saved under its version.
func staleOrMissing(ctx context.Context, q querier, what, version, id string) error {
	_, err := value[int64](ctx, q, version, id)
	switch {
	case errors.Is(err, errNoRows):
		return notFound("id", what, id)
	case err != nil:
		return err
	}
	return conflict("id", "read it again and repeat", "%s %s was changed by somebody else", what, id)
}
