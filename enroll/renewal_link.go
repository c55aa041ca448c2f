package enroll

import (
	"context"
	"time"
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
	return nil, errNotYet
}
