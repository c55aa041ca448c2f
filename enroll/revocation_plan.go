package enroll

import (
	"context"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/brokers"
)

// An Enforcement says how a broker learns that a certificate is revoked.
type Enforcement string

// The enforcements.
const (
	EnforceCRL  Enforcement = "crl"  // gets every CRL from here, and its sessions are closed from here
	EnforceHook Enforcement = "hook" // asks, or is told by a list of its own
	EnforceNone Enforcement = "none" // nothing here reaches it: it fetches CRLs by itself, or does not
)

// A RevocationPlan says what revoking a device will do. Nothing is changed.
type RevocationPlan struct {
	Device       *Device           `json:"device"`
	Refused      string            `json:"refused,omitempty"` // why it cannot be revoked; empty when it can
	Certificates []*ca.Certificate `json:"certificates"`      // that will be revoked: good and held ones
	Brokers      []PlannedBroker   `json:"brokers"`           // by id
	CRLs         []PlannedCRL      `json:"crls"`              // that will carry them
}

// A PlannedBroker is what a revocation will do at one broker.
type PlannedBroker struct {
	Broker        string            `json:"broker"`
	Kind          string            `json:"kind"`
	Enforcement   Enforcement       `json:"enforcement"`
	Sessions      []brokers.Session `json:"sessions"`                // of this device, open now: will be closed
	SessionsError string            `json:"sessionsError,omitempty"` // why they are not known
}

// A PlannedCRL is the CRL that the device's certificates of one issuer go on.
type PlannedCRL struct {
	Issuer            string    `json:"issuer"`
	DistributionPoint string    `json:"distributionPoint"` // written into the certificates; empty for none
	Number            int64     `json:"number"`            // of the newest one now; the next is higher
	Entries           int       `json:"entries"`
	NextUpdate        time.Time `json:"nextUpdate"`
}

// RevocationPlan returns what revoking a device will do, within about two
// seconds: a broker that does not list its sessions in that time says so.
func (s *Service) RevocationPlan(ctx context.Context, deviceID string) (*RevocationPlan, error) {
	return nil, errNotYet
}
