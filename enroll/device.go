package enroll

import (
	"context"

	"github.com/fleetca/fleetca/ca"
)

// NewDevice is what a device is registered with, before it enrolls.
type NewDevice struct {
	ID         string            `json:"id"`
	Group      string            `json:"group,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	WorkOrder  string            `json:"workOrder,omitempty"`
}

// CreateDevice registers a device. KindDuplicateDevice when the id exists.
func (s *Service) CreateDevice(ctx context.Context, c Call, n NewDevice) (*Device, error) {
	if err := CheckDeviceID("id", n.ID); err != nil {
		return nil, err
	}
	if n.Group != "" {
		if err := checkID("group", n.Group); err != nil {
			return nil, err
		}
	}
	if err := checkAttributes(n.Attributes); err != nil {
		return nil, err
	}
	if err := c.Principal.mayServe(n.WorkOrder); err != nil {
		return nil, err
	}
	if n.WorkOrder != "" {
		if _, err := s.profileFor(ctx, false, n.WorkOrder, ""); err != nil {
			return nil, err
		}
	}
	d := &Device{
		ID: n.ID, Status: DeviceRegistered, Group: n.Group, Attributes: n.Attributes, WorkOrder: n.WorkOrder,
		Certificates: []*ca.Certificate{}, CreatedAt: s.now(),
	}
	if d.Attributes == nil {
		d.Attributes = map[string]string{}
	}
	err := s.repeatable(ctx, c, "device.register", n, d, func(i *Idempotency) error {
		return s.store.CreateDevice(ctx, *d, Change{Idempotency: i,
			Event: newEvent(d.CreatedAt, c.Principal.Name, "device.register", "device:"+d.ID, n)})
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Device returns a device with its certificates.
func (s *Service) Device(ctx context.Context, id string) (*Device, error) {
	return s.store.Device(ctx, id)
}

// Devices lists devices.
func (s *Service) Devices(ctx context.Context, f DeviceFilter, p Page) ([]*Device, string, error) {
	return s.store.Devices(ctx, f, p)
}

// HoldDevice puts a device and its good certificates on hold (RFC 5280,
// certificateHold): on the next CRL, and its live sessions closed.
func (s *Service) HoldDevice(ctx context.Context, c Call, id string) (*Device, error) {
	now := s.now()
	change := Change{
		Event: newEvent(now, c.Principal.Name, "device.hold", "device:"+id, nil),
		Jobs:  []Job{{Kind: JobDisconnect, Subject: id}},
	}
	return s.toggle(ctx, c, id, "device.hold", change, func(ch Change) error { return s.store.HoldDevice(ctx, id, now, ch) })
}

// ReleaseDevice makes a device on hold good again: ca.KindNotHeld otherwise.
func (s *Service) ReleaseDevice(ctx context.Context, c Call, id string) (*Device, error) {
	now := s.now()
	change := Change{
		Event: newEvent(now, c.Principal.Name, "device.release", "device:"+id, nil),
		Jobs:  []Job{{Kind: JobCRL, Subject: "device:" + id}},
	}
	return s.toggle(ctx, c, id, "device.release", change, func(ch Change) error { return s.store.ReleaseDevice(ctx, id, now, ch) })
}

// toggle commits a change of a device and returns the device after it.
func (s *Service) toggle(ctx context.Context, c Call, id, operation string, change Change, commit func(Change) error) (*Device, error) {
	if err := checkID("id", id); err != nil {
		return nil, err
	}
	err := s.repeatable(ctx, c, operation+" "+id, id, nil, func(i *Idempotency) error {
		change.Idempotency = i
		return commit(change)
	})
	if err != nil {
		return nil, err
	}
	return s.store.Device(ctx, id)
}
