package enroll

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/brokers"
)

// An Enforcement says how a broker learns that a certificate is revoked.
type Enforcement string

// The enforcements.
const (
	EnforceCRL  Enforcement = "crl"  // gets every CRL from a server, which closes its sessions, too
	EnforceNone Enforcement = "none" // no server reaches it: it fetches CRLs by itself, or does not
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

// planPatience is how long a broker may take to list its sessions.
const planPatience = 2 * time.Second

// RevocationPlan returns what revoking a device will do, within about two
// seconds: a broker that does not list its sessions in that time says so.
func (s *Service) RevocationPlan(ctx context.Context, deviceID string) (*RevocationPlan, error) {
	d, err := s.store.Device(ctx, deviceID)
	if err != nil {
		return nil, err
	}
	p := &RevocationPlan{Device: d, Certificates: []*ca.Certificate{}, Brokers: []PlannedBroker{}, CRLs: []PlannedCRL{}}
	if d.Status == DeviceRevoked || d.Status == DeviceRetired {
		p.Refused = fmt.Sprintf("device %s is %s already", d.ID, d.Status)
	}
	for _, c := range d.Certificates {
		if c.Status != ca.StatusRevoked {
			p.Certificates = append(p.Certificates, c)
		}
	}
	if p.CRLs, err = s.plannedCRLs(ctx, p.Certificates); err != nil {
		return nil, err
	}
	if p.Brokers, err = s.plannedBrokers(ctx); err != nil {
		return nil, err
	}
	s.askSessions(ctx, p.Brokers, deviceID)
	return p, nil
}

// plannedCRLs returns what CRLs certificates go on.
func (s *Service) plannedCRLs(ctx context.Context, certs []*ca.Certificate) ([]PlannedCRL, error) {
	newest, err := s.store.NewestCRLs(ctx)
	if err != nil {
		return nil, err
	}
	all := []PlannedCRL{}
	for _, c := range certs {
		planned := PlannedCRL{Issuer: c.IssuerID, DistributionPoint: c.CDP}
		for _, crl := range newest {
			if crl.IssuerID == c.IssuerID {
				planned.Number, planned.Entries, planned.NextUpdate = crl.Number, crl.Entries, crl.NextUpdate
			}
		}
		if !slices.Contains(all, planned) {
			all = append(all, planned)
		}
	}
	return all, nil
}

// plannedBrokers returns every broker, and how it learns of a revocation.
func (s *Service) plannedBrokers(ctx context.Context) ([]PlannedBroker, error) {
	looks, err := s.store.BrokerLooks(ctx, maxLooks)
	if err != nil {
		return nil, err
	}
	elsewhere, err := s.driversElsewhere(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]PlannedBroker, len(looks))
	for i, b := range looks {
		all[i] = PlannedBroker{Broker: b.Broker, Kind: b.Kind, Enforcement: EnforceNone, Sessions: []brokers.Session{}}
		switch d := elsewhere[b.Broker]; {
		case s.cfg.Drivers[b.Broker] != nil:
			all[i].Enforcement = EnforceCRL
		case d != nil && d.Live:
			all[i].Enforcement, all[i].SessionsError = EnforceCRL, "server "+d.Server+" drives this broker, and closes its sessions; this one cannot list them"
		case d != nil:
			all[i].Enforcement, all[i].SessionsError = EnforceCRL, d.waiting()
		}
	}
	return all, nil
}

// askSessions asks every broker that is driven for the device's live sessions,
// all at once.
func (s *Service) askSessions(ctx context.Context, all []PlannedBroker, device string) {
	ctx, cancel := context.WithTimeout(ctx, planPatience)
	defer cancel()
	var wg sync.WaitGroup
	for i := range all {
		b := &all[i]
		driver := s.cfg.Drivers[b.Broker]
		if driver == nil {
			b.SessionsError = cmp.Or(b.SessionsError, "nothing here asks this broker for its sessions")
			continue
		}
		wg.Go(func() {
			sessions, err := driver.Sessions(ctx)
			switch {
			case err != nil && ctx.Err() != nil:
				b.SessionsError = fmt.Sprintf("the broker did not answer within %v", planPatience)
			case err != nil:
				b.SessionsError = err.Error()
			}
			for _, session := range sessions {
				if session.Identity == device {
					b.Sessions = append(b.Sessions, session)
				}
			}
		})
	}
	wg.Wait()
}
