package enroll

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// Times of the canaries that must be refused.
const (
	// expiredMargin is how long a canary must have been expired to be of use: the
	// clock of a broker that is a little late is no fault.
	expiredMargin = time.Minute
	// canaryAge is when one that is expired or revoked is followed by another.
	canaryAge = 24 * time.Hour
	// revokedGrace is the time that a broker without driver has to fetch a CRL.
	// They are published every hour.
	revokedGrace = time.Hour
	// freshRevocation is how long a broker with a driver may still be reloading.
	freshRevocation = time.Minute
)

// material returns what a broker must refuse, each a certificate of this
// authority that was recorded and honestly became what it is:
//
//   - expired: one of the profile canary-brief, which expired by itself. It is
//     there some two minutes after the first look of this process.
//   - wrong usage: one for servers alone, as a broker's own. The issuer of brokers
//     signs it: that of devices signs for clients only.
//   - revoked: one that was revoked, and that the broker has had a CRL with: it is
//     loaded first where there is a driver, which need not succeed, and the broker
//     is given revokedGrace to fetch it where there is none.
//   - not yet valid: none. Nothing is signed for the future (I7), so that check is
//     skipped.
//
// What is not there is left out, and its check skipped. fresh tells that the
// revoked one was revoked just now.
func (s *Service) material(ctx context.Context, b *Broker) (m mqtts.Material, fresh bool, err error) {
	kept, err := s.keepCanaries(ctx)
	if err != nil {
		return m, false, err
	}
	m.WrongUsage = kept.server.tls
	if kept.expired != nil {
		m.Expired = kept.expired.tls
	}
	if c := s.revokedFor(ctx, b, kept.revoked); c != nil {
		m.Revoked, m.Resume = c.tls, true
		fresh = s.cfg.Now().Sub(c.at) < freshRevocation
	}
	return m, fresh, nil
}

// keptCanaries are the canaries of negative looks, as they are now.
type keptCanaries struct {
	server  *canary
	expired *canary         // nil until one has expired
	revoked []revokedCanary // newest first; on a CRL, all of them
}

// keepCanaries makes sure that there are canaries to be refused.
func (s *Service) keepCanaries(ctx context.Context) (kept keptCanaries, err error) {
	s.canaries.mu.Lock()
	defer s.canaries.mu.Unlock()
	if kept.server, err = s.renewed(ctx, &s.canaries.server, serverCanaryProfile); err != nil {
		return kept, err
	}
	if kept.expired, err = s.expiredCanary(ctx); err != nil {
		return kept, err
	}
	if err := s.keepRevoked(ctx); err != nil {
		return kept, err
	}
	for _, c := range s.canaries.revoked {
		if !c.at.IsZero() {
			kept.revoked = append(kept.revoked, *c)
		}
	}
	return kept, nil
}

// expiredCanary returns the canary that expired last, and sees that there will
// be another. s.canaries.mu is held.
func (s *Service) expiredCanary(ctx context.Context) (*canary, error) {
	c, now := &s.canaries, s.cfg.Now()
	if c.brief != nil && now.Sub(c.brief.cert.NotAfter) >= expiredMargin {
		c.expired, c.brief = c.brief, nil
	}
	if c.brief != nil || c.expired != nil && now.Sub(c.expired.cert.NotAfter) < canaryAge {
		return c.expired, nil
	}
	brief, err := s.newCanary(ctx, briefCanaryProfile, nil)
	if err != nil {
		return nil, err
	}
	c.brief = brief
	return c.expired, nil
}

// keepRevoked sees that the newest revoked canary is not too old, and that a CRL
// shows it. s.canaries.mu is held.
func (s *Service) keepRevoked(ctx context.Context) error {
	c, now := &s.canaries, s.cfg.Now()
	c.revoked = slices.DeleteFunc(c.revoked, func(r *revokedCanary) bool { return r.cert.NotAfter.Sub(now) < doomedMargin })
	if len(c.revoked) == 0 || !c.revoked[0].at.IsZero() && now.Sub(c.revoked[0].at) >= canaryAge {
		fresh, err := s.newCanary(ctx, keptCanaryProfile, nil)
		if err != nil {
			return err
		}
		event := newEvent(s.now(), "server", "canary.revoke", "certificate:"+string(fresh.cert.SerialNumber), map[string]any{"for": "negative verifications"})
		if fresh.cert, err = s.store.RevokeCertificate(ctx, fresh.cert.SerialNumber, ca.ReasonCessationOfOperation, s.now(), Change{Event: event}); err != nil {
			return fmt.Errorf("revoke the canary of negative verifications: %w", err)
		}
		c.revoked = append([]*revokedCanary{{canary: fresh}}, c.revoked...)
	}
	newest := c.revoked[0]
	if !newest.at.IsZero() {
		return nil
	}
	if err := s.showOnCRLs(ctx, []*ca.Certificate{newest.cert}); err != nil {
		return err
	}
	newest.at = s.cfg.Now()
	return nil
}

// revokedFor returns the revoked canary to try at a broker, nil for none. Where
// there is a driver it is the newest that the broker has had a CRL with, or else
// the newest of all: a broker that takes no CRL, and admits it, is found out.
func (s *Service) revokedFor(ctx context.Context, b *Broker, revoked []revokedCanary) *revokedCanary {
	had := func(c revokedCanary) bool { return s.cfg.Now().Sub(c.at) >= revokedGrace }
	driver := s.cfg.Drivers[b.ID]
	if driver != nil {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.ProofTimeout)
		defer cancel()
		err := s.loadNewCRLs(ctx, b.ID, driver)
		if err != nil {
			s.log.WarnContext(ctx, "a broker has not taken the CRLs before it is verified", "broker", b.ID, "error", err)
		}
		last, _ := s.loaded.of(b.ID)
		had = func(c revokedCanary) bool { return err == nil || !c.at.After(last.at) }
	}
	switch i := slices.IndexFunc(revoked, had); {
	case i >= 0:
		return &revoked[i]
	case driver != nil && len(revoked) > 0:
		return &revoked[0]
	}
	return nil
}
