package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const (
	manifestColumns = `device_id, subject_serial, certificate_serial, sha256, work_order, serial, enrolled_at, added_at`
	selectManifest  = `SELECT ` + manifestColumns + ` FROM idevids`
)

func scanManifestEntry(row scanner) (*enroll.ManifestEntry, error) {
	e := &enroll.ManifestEntry{}
	return e, row.Scan(&e.DeviceID, &e.SubjectSerial, &e.CertificateSerial, &e.SHA256, &e.WorkOrder, &e.SerialNumber, atSome{&e.EnrolledAt}, atTime{&e.AddedAt})
}

// errUnchanged undoes a transaction in which there was nothing to do.
var errUnchanged = errors.New("nothing to change")

// AddManifest implements enroll.ManufacturerStore.
func (s *Store) AddManifest(ctx context.Context, manufacturer string, entries []enroll.ManifestEntry, c enroll.Change) (int, error) {
	added := 0
	err := s.change(ctx, "add to manifest", c, func(ctx context.Context, q tx) error {
		added = 0
		if err := ordersExist(ctx, q, entries); err != nil {
			return err
		}
		for _, e := range entries {
			n, err := q.exec(ctx, `INSERT INTO idevids (manufacturer, device_id, subject_serial, certificate_serial, sha256, work_order, added_at, serial, request_hash, enrolled_at)
				SELECT id, $2, $3, $4, $5, $6, $7, '', $8, 0 FROM manufacturers WHERE id = $1 ON CONFLICT DO NOTHING`,
				manufacturer, e.DeviceID, e.SubjectSerial, e.CertificateSerial, e.SHA256, e.WorkOrder, micros(e.AddedAt), []byte{})
			if err != nil {
				return fmt.Errorf("insert device %s: %w", e.DeviceID, err)
			}
			if n == 0 {
				if err := alreadyThere(ctx, q, manufacturer, e); err != nil {
					return err
				}
			}
			added += int(n)
		}
		if added == 0 {
			return errUnchanged
		}
		_, err := q.exec(ctx, `UPDATE manufacturers SET devices = devices + $2 WHERE id = $1`, manufacturer, int64(added))
		return err
	})
	if errors.Is(err, errUnchanged) {
		return 0, nil
	}
	return added, err
}

// ordersExist refuses entries for work orders that there are not.
func ordersExist(ctx context.Context, q tx, entries []enroll.ManifestEntry) error {
	seen := map[string]bool{"": true}
	for _, e := range entries {
		if seen[e.WorkOrder] {
			continue
		}
		seen[e.WorkOrder] = true
		_, err := value[string](ctx, q, `SELECT id FROM work_orders WHERE id = $1`, e.WorkOrder)
		switch {
		case errors.Is(err, errNoRows):
			return notFound("workOrder", "work order", e.WorkOrder)
		case err != nil:
			return err
		}
	}
	return nil
}

// alreadyThere returns nil for an entry that is there just so, and otherwise
// says what stands against it.
func alreadyThere(ctx context.Context, q tx, manufacturer string, e enroll.ManifestEntry) error {
	if _, err := value[string](ctx, q, `SELECT id FROM manufacturers WHERE id = $1`, manufacturer); errors.Is(err, errNoRows) {
		return notFound("id", "manufacturer", manufacturer)
	} else if err != nil {
		return err
	}
	there, err := manifestOf(ctx, q, manufacturer, e.DeviceID)
	switch {
	case err == nil && there.Same(e):
		return nil
	case err == nil, !errors.Is(err, errNoRows):
		if err == nil {
			err = conflict("csv", "take its line off first, or leave it out", "device %q is in the manifest as another certificate, or for another work order", e.DeviceID)
		}
		return err
	}
	if others, err := manifestEntries(ctx, q, manufacturer, e); err != nil {
		return err
	} else if len(others) > 0 {
		return conflict("csv", "take its line off first, or leave it out", "the certificate of device %q is in the manifest as device %q", e.DeviceID, others[0].DeviceID)
	}
	return conflict("csv", "leave it out", "device %q is in the manifest of another manufacturer", e.DeviceID)
}

func manifestOf(ctx context.Context, q querier, manufacturer, device string) (*enroll.ManifestEntry, error) {
	return one(ctx, q, scanManifestEntry, selectManifest+` WHERE device_id = $1 AND manufacturer = $2`, device, manufacturer)
}

// ManifestOf implements enroll.ManufacturerStore.
func (s *Store) ManifestOf(ctx context.Context, manufacturer, device string) (*enroll.ManifestEntry, error) {
	e, err := manifestOf(ctx, s.db, manufacturer, device)
	switch {
	case errors.Is(err, errNoRows):
		return nil, notInManifest(manufacturer, device)
	case err != nil:
		return nil, s.explain("read manifest", err)
	}
	return e, nil
}

func notInManifest(manufacturer, device string) error {
	return ca.Errorf(ca.KindNotFound, "deviceIds", "GET /api/v1/manufacturers/ID/manifest lists it", "device %.64q is not in the manifest of manufacturer %.64q", device, manufacturer)
}

func manifestEntries(ctx context.Context, q querier, manufacturer string, known enroll.ManifestEntry) ([]*enroll.ManifestEntry, error) {
	all, err := collect(ctx, q, scanManifestEntry, `SELECT `+manifestColumns+` FROM idevids WHERE manufacturer = $1 AND subject_serial <> '' AND subject_serial = $2
		UNION ALL SELECT `+manifestColumns+` FROM idevids WHERE manufacturer = $1 AND certificate_serial <> '' AND certificate_serial = $3
		UNION ALL SELECT `+manifestColumns+` FROM idevids WHERE manufacturer = $1 AND sha256 <> '' AND sha256 = $4`,
		manufacturer, known.SubjectSerial, known.CertificateSerial, known.SHA256)
	var once []*enroll.ManifestEntry
	for _, e := range all { // found by each of what they have in common
		if !slices.ContainsFunc(once, func(o *enroll.ManifestEntry) bool { return o.DeviceID == e.DeviceID }) {
			once = append(once, e)
		}
	}
	return once, err
}

// ManifestEntries implements enroll.ManufacturerStore.
func (s *Store) ManifestEntries(ctx context.Context, manufacturer string, known enroll.ManifestEntry) ([]*enroll.ManifestEntry, error) {
	all, err := manifestEntries(ctx, s.db, manufacturer, known)
	return all, s.explain("look up in manifest", err)
}

// Manifest implements enroll.ManufacturerStore.
func (s *Store) Manifest(ctx context.Context, manufacturer string, p enroll.Page) ([]*enroll.ManifestEntry, string, error) {
	l := listing[*enroll.ManifestEntry]{
		name: "manifest", query: selectManifest, id: "device_id", scan: scanManifestEntry,
		keyOf:   func(e *enroll.ManifestEntry) key { return key{ID: e.DeviceID} },
		filters: []filter{where("manufacturer = ?", manufacturer)},
	}
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list manifest", err)
}

// RemoveManifest implements enroll.ManufacturerStore.
func (s *Store) RemoveManifest(ctx context.Context, manufacturer string, devices []string, c enroll.Change) error {
	return s.change(ctx, "remove from manifest", c, func(ctx context.Context, q tx) error {
		var enrolled int64
		for _, device := range devices {
			waiting, err := q.exec(ctx, `DELETE FROM idevids WHERE device_id = $1 AND manufacturer = $2 AND serial = ''`, device, manufacturer)
			if err != nil {
				return err
			}
			if waiting == 1 {
				continue
			}
			n, err := q.exec(ctx, `DELETE FROM idevids WHERE device_id = $1 AND manufacturer = $2`, device, manufacturer)
			if err != nil {
				return err
			}
			if n == 0 {
				return notInManifest(manufacturer, device)
			}
			enrolled++
		}
		_, err := q.exec(ctx, `UPDATE manufacturers SET devices = devices - $2, enrolled = enrolled - $3 WHERE id = $1`, manufacturer, int64(len(devices)), enrolled)
		return err
	})
}

// spendIDevID notes the certificate that a manufacturer's is used for: the
// first, or the next where they may.
func spendIDevID(ctx context.Context, q tx, is *issuance, now time.Time) error {
	d := is.claim.IDevID
	if d == nil {
		return nil
	}
	first, err := q.exec(ctx, `UPDATE idevids SET serial = $4, request_hash = $5, enrolled_at = $6
		WHERE device_id = $1 AND manufacturer = $2 AND added_at = $3 AND serial = ''`,
		d.DeviceID, d.Manufacturer, micros(d.AddedAt), is.cert.SerialNumber, d.RequestHash, micros(now))
	if err != nil {
		return fmt.Errorf("use a line of the manifest: %w", err)
	}
	again := int64(0)
	if first == 0 && is.claim.Device.Supersedes {
		// The very request that it was used for last is answered, not done again.
		again, err = q.exec(ctx, `UPDATE idevids SET serial = $4, request_hash = $5, enrolled_at = $6
			WHERE device_id = $1 AND manufacturer = $2 AND added_at = $3 AND serial <> '' AND request_hash <> $5`,
			d.DeviceID, d.Manufacturer, micros(d.AddedAt), is.cert.SerialNumber, d.RequestHash, micros(now))
		if err != nil {
			return fmt.Errorf("use a line of the manifest again: %w", err)
		}
	}
	if first+again == 0 {
		return refused(idevidRefusal(ctx, q, is.claim))
	}
	n, err := q.exec(ctx, `UPDATE manufacturers SET enrolled = enrolled + $2 WHERE id = $1 AND state = 'active' AND (reenroll = 1 OR CAST($3 AS INTEGER) = 0)`,
		d.Manufacturer, first, bit(is.claim.Device.Supersedes))
	if err != nil {
		return fmt.Errorf("count an enrollment of the manufacturer: %w", err)
	}
	if n == 0 {
		return refused(manufacturerRefusal(ctx, q, is.claim))
	}
	return nil
}

// idevidRefusal explains a manufacturer's certificate. The request that it was
// used for last is a *enroll.Replay.
func idevidRefusal(ctx context.Context, q querier, c *enroll.Claim) error {
	d := c.IDevID
	if d == nil {
		return nil
	}
	var serial ca.SerialNumber
	hash, err := one(ctx, q, func(row scanner) (hash []byte, err error) {
		err = row.Scan(&serial, &hash)
		return hash, err
	}, `SELECT serial, request_hash FROM idevids WHERE device_id = $1 AND manufacturer = $2 AND added_at = $3`, d.DeviceID, d.Manufacturer, micros(d.AddedAt))
	switch {
	case errors.Is(err, errNoRows):
		return ca.Errorf(enroll.KindNotInManifest, "", "ask for its line in the manifest", "device %q was taken off the manifest of manufacturer %q", d.DeviceID, d.Manufacturer)
	case err != nil:
		return fmt.Errorf("look up a line of the manifest: %w", err)
	case serial != "" && bytes.Equal(hash, d.RequestHash):
		return &enroll.Replay{SerialNumber: serial}
	case serial != "" && !c.Device.Supersedes:
		return ca.Errorf(enroll.KindIDevIDUsed, "", "renew with the device's own certificate; or an operator makes a renewal link", "device %q enrolled with its manufacturer's certificate before", d.DeviceID)
	}
	return manufacturerRefusal(ctx, q, c)
}

// manufacturerRefusal explains a manufacturer.
func manufacturerRefusal(ctx context.Context, q querier, c *enroll.Claim) error {
	m, err := one(ctx, q, scanManufacturer, selectManufacturer+` WHERE id = $1`, c.IDevID.Manufacturer)
	switch {
	case err != nil:
		return fmt.Errorf("look up manufacturer: %w", err)
	case m.State != enroll.ManufacturerActive:
		return ca.Errorf(enroll.KindUnknownManufacturer, "", "an admin may enable it", "manufacturer %q is %s", m.ID, m.State)
	case c.Device.Supersedes && !m.Reenroll:
		return ca.Errorf(enroll.KindIDevIDUsed, "", "renew with the device's own certificate", "devices of manufacturer %q enroll once", m.ID)
	}
	return nil
}
