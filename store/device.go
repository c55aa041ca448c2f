package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// How many of a device's certificates come with it.
const (
	certificatesShown   = 100
	certificatesToRenew = 3
)

const (
	deviceColumns = `id, status, group_name, attributes, work_order, trust_generation, created_at, last_seen_at, not_after`
	selectDevice  = `SELECT ` + deviceColumns + ` FROM devices`
)

func newScannedDevice() *enroll.Device {
	return &enroll.Device{Attributes: map[string]string{}, Certificates: []*ca.Certificate{}}
}

// deviceTargets are what deviceColumns are scanned into.
func deviceTargets(d *enroll.Device) []any {
	return []any{&d.ID, &d.Status, &d.Group, fromJSON{&d.Attributes}, &d.WorkOrder, &d.TrustGeneration,
		atTime{&d.CreatedAt}, atSome{&d.LastSeenAt}, atSome{&d.ExpiresAt}}
}

func scanDevice(row scanner) (*enroll.Device, error) {
	d := newScannedDevice()
	return d, row.Scan(deviceTargets(d)...)
}

// attributesText returns attributes as stored; nil is the empty text.
func attributesText(attributes map[string]string) string {
	if attributes == nil {
		return ""
	}
	return jsonOf(attributes)
}

// CreateDevice implements enroll.DeviceStore.
func (s *Store) CreateDevice(ctx context.Context, d enroll.Device, c enroll.Change) error {
	return s.change(ctx, "create device", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `INSERT INTO devices (id, status, group_name, attributes, work_order, trust_generation, created_at, last_seen_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, 0) ON CONFLICT (id) DO NOTHING`,
			d.ID, d.Status, d.Group, attributesText(d.Attributes), d.WorkOrder, d.TrustGeneration, micros(d.CreatedAt))
		if err == nil && n == 0 {
			return ca.Errorf(enroll.KindDuplicateDevice, "id", "choose another device id", "device %q exists", d.ID)
		}
		return err
	})
}

// Device implements enroll.DeviceStore.
func (s *Store) Device(ctx context.Context, id string) (*enroll.Device, error) {
	var d *enroll.Device
	err := s.db.snapshot(ctx, func(q querier) (err error) {
		d, err = deviceWithCertificates(ctx, q, id, certificatesShown)
		return err
	})
	if err != nil {
		return nil, s.explain("read device", err)
	}
	return d, nil
}

// DeviceToRenew implements enroll.DeviceStore.
func (s *Store) DeviceToRenew(ctx context.Context, serial ca.SerialNumber) (*enroll.Device, error) {
	var d *enroll.Device
	var err error
	if s.renewed.ask == nil {
		d, err = deviceToRenew(ctx, s.db, serial)
	} else if d, err = s.renewed.get(ctx, serial); err == nil && d == nil {
		err = notFound("serialNumber", "device with certificate", string(serial))
	}
	return d, s.explain("read device", err)
}

func deviceToRenew(ctx context.Context, q querier, serial ca.SerialNumber) (*enroll.Device, error) {
	id, err := value[string](ctx, q, `SELECT holder_id FROM certificates WHERE serial = $1 AND holder_kind = 'device'`, serial)
	if errors.Is(err, errNoRows) {
		return nil, notFound("serialNumber", "device with certificate", string(serial))
	}
	if err != nil {
		return nil, err
	}
	return deviceWithCertificates(ctx, q, id, certificatesToRenew)
}

func deviceWithCertificates(ctx context.Context, q querier, id string, most int) (*enroll.Device, error) {
	d, err := device(ctx, q, id)
	if err != nil {
		return nil, err
	}
	certs, err := certificatesOf(ctx, q, ca.Holder{Kind: ca.HolderDevice, ID: id}, most)
	d.Certificates = append(d.Certificates, certs...)
	return d, err
}

// device reads a device without its certificates.
func device(ctx context.Context, q querier, id string) (*enroll.Device, error) {
	d, err := one(ctx, q, scanDevice, selectDevice+` WHERE id = $1`, id)
	if errors.Is(err, errNoRows) {
		return nil, notFound("deviceId", "device", id)
	}
	return d, err
}

// HoldDevice implements enroll.DeviceStore.
func (s *Store) HoldDevice(ctx context.Context, id string, at time.Time, c enroll.Change) error {
	return s.change(ctx, "hold device", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE devices SET status = 'held', not_after = 0 WHERE id = $1 AND status = 'active'`, id)
		if err != nil {
			return err
		}
		if n == 0 {
			return refused(holdRefusal(ctx, q, id))
		}
		_, err = setStatus(ctx, q, id, `status = 'good'`, ca.StatusHeld, ca.ReasonCertificateHold, at)
		return err
	})
}

// holdRefusal says why a device cannot be put on hold.
func holdRefusal(ctx context.Context, q querier, id string) error {
	d, err := device(ctx, q, id)
	if err != nil {
		return err
	}
	switch d.Status {
	case enroll.DeviceHeld:
		return ca.Errorf(enroll.KindDeviceHeld, "deviceId", "release it, or revoke it", "device %q is on hold already", id)
	case enroll.DeviceRevoked, enroll.DeviceRetired:
		return ca.Errorf(ca.KindRevoked, "deviceId", "enroll the unit anew, under another id", "device %q is %s, which is final", id, d.Status)
	case enroll.DeviceRegistered:
		return conflict("deviceId", "enroll it first, or revoke it", "device %q holds no certificate", id)
	}
	return nil
}

// ReleaseDevice implements enroll.DeviceStore. An active device whose
// certificates were put on hold by themselves gets those back.
func (s *Store) ReleaseDevice(ctx context.Context, id string, _ time.Time, c enroll.Change) error {
	return s.change(ctx, "release device", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE devices SET status = 'active' WHERE id = $1 AND status = 'held'`, id)
		if err != nil {
			return err
		}
		if n == 0 {
			d, err := device(ctx, q, id)
			if err != nil {
				return err
			}
			if d.Status == enroll.DeviceActive {
				released, err := setStatus(ctx, q, id, `status = 'held'`, ca.StatusGood, "", time.Time{})
				if err != nil {
					return err
				}
				if len(released) > 0 {
					return settleExpiry(ctx, q, id)
				}
			}
			return ca.Errorf(ca.KindNotHeld, "deviceId", "only a device on hold can be released", "device %q is %s", id, d.Status)
		}
		if _, err = setStatus(ctx, q, id, `status = 'held'`, ca.StatusGood, "", time.Time{}); err != nil {
			return err
		}
		return settleExpiry(ctx, q, id)
	})
}

// settleExpiry sets a device's not_after by its certificates, after some of
// them changed.
func settleExpiry(ctx context.Context, q tx, id string) error {
	_, err := q.exec(ctx, `UPDATE devices SET not_after = COALESCE((SELECT max(c.not_after) FROM certificates c
			WHERE c.holder_kind = 'device' AND c.holder_id = devices.id AND c.status = 'good'), 0)
		WHERE id = $1`, id)
	if err != nil {
		return fmt.Errorf("settle when the device's certificates expire: %w", err)
	}
	return nil
}
