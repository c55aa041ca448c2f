package enroll

import (
	"context"
	"encoding/json"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// NewRenewalLink is what a renewal link is made with.
type NewRenewalLink struct {
	ExpiresIn string     `json:"expiresIn,omitempty"` // a Go duration, such as 8h
	ExpiresAt *time.Time `json:"expiresAt,omitempty"` // instead of expiresIn; 24 h from now when both are missing
}

// A RenewalLink lets a device whose key is lost enroll again, once.
type RenewalLink struct {
	Device string           `json:"device"`
	URL    string           `json:"url"`   // where the device posts its enrollment; holds no secret
	Token  *EnrollmentToken `json:"token"` // its secret is shown this once
}

// CreateRenewalLink makes a one-time token with which an active device enrolls
// again under a new key: what it held before is revoked as superseded in the
// transaction that records the new certificate. KindDeviceHeld,
// KindDeviceRevoked, or KindConflict for a device that is only registered.
func (s *Service) CreateRenewalLink(ctx context.Context, c Call, id string, n NewRenewalLink) (*RenewalLink, error) {
	d, err := s.store.Device(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := c.Principal.mayServe(d.WorkOrder); err != nil {
		return nil, err
	}
	keep, err := c.seal()
	if err != nil {
		return nil, err
	}
	t := &EnrollmentToken{ID: newID(), DeviceID: id, Renews: true, Uses: 1, CreatedAt: s.now()}
	link := &RenewalLink{Device: id, URL: s.cfg.MachineURL + "/api/v1/enrollments", Token: t}
	err = s.repeatable(ctx, c, "device.renewal-link", map[string]any{"device": id, "link": n}, nil, func(i *Idempotency) error {
		if err := renewable(d); err != nil {
			return err
		}
		if err := checkToken(t, NewToken{DeviceID: id, ExpiresIn: n.ExpiresIn, ExpiresAt: n.ExpiresAt}); err != nil {
			return err
		}
		t.Token, t.Hash = newSecret(enrollmentTokenPrefix)
		if i != nil {
			answer, err := json.Marshal(link)
			if err != nil {
				return err
			}
			i.Answer = keep.close(answer)
		}
		detail := map[string]any{"token": t.ID, "expiresAt": t.ExpiresAt}
		return s.store.CreateEnrollmentToken(ctx, *t, Change{Idempotency: i,
			Event: newEvent(t.CreatedAt, c.Principal.Name, "device.renewal-link", "device:"+id, detail)})
	})
	if err != nil {
		return nil, keep.openReplay(err)
	}
	return link, nil
}

// renewable refuses a device that cannot enroll again. What it is when the
// token is used decides.
func renewable(d *Device) error {
	switch d.Status {
	case DeviceHeld:
		return ca.Errorf(KindDeviceHeld, "deviceId", "release the device first", "device %q is on hold", d.ID)
	case DeviceRevoked, DeviceRetired:
		return ca.Errorf(KindDeviceRevoked, "deviceId", "enroll it under another device id", "device %q is %s", d.ID, d.Status)
	case DeviceRegistered:
		return ca.Errorf(KindConflict, "deviceId", "enroll it with a token of its work order", "device %q holds no certificate yet", d.ID)
	}
	return nil
}

// renewedProfile returns the profile of a device that enrolls again, what its
// newest certificate was issued by, and its place.
func (s *Service) renewedProfile(ctx context.Context, id, asked string) (*askedProfile, error) {
	d, err := s.store.Device(ctx, id)
	if err != nil {
		return nil, err
	}
	at, err := s.placeOf(ctx, d)
	if err != nil {
		return nil, err
	}
	profile := defaultProfile
	if len(d.Certificates) > 0 {
		profile = d.Certificates[0].Profile
	}
	if asked != "" && asked != profile {
		return nil, ca.Errorf(ca.KindProfile, "profile", "leave profile out", "device %s has profile %s", id, profile)
	}
	return &askedProfile{name: profile, place: at, read: s.beginDeviceProfile(ctx, profile)}, nil
}
