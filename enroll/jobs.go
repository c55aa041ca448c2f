package enroll

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/brokers"
)

// The kinds of background work. Each handler does work that can be repeated:
// what is done already stays as it is.
const (
	JobRevocation   JobKind = "revocation"     // subject: revocation id, with " BROKER" for one broker
	JobRotation     JobKind = "rotation"       // subject: rotation id
	JobCRL          JobKind = "publish-crl"    // subject: device:ID or certificate:SERIAL, whose status changed
	JobScheduledCRL JobKind = "scheduled-crls" // subject: none
	JobDisconnect   JobKind = "disconnect"     // subject: device id, with " BROKER" for one broker
	JobTidy         JobKind = "tidy"           // subject: none
	JobCount        JobKind = "count-fleet"    // subject: none
	JobBulk         JobKind = "bulk"           // subject: id of a bulk change
	JobVerify       JobKind = "verify-brokers" // subject: none
)

// keepAnswers is how long an idempotency key is kept that no certificate was
// issued under. Others live as long as their certificate (I5).
const keepAnswers = 30 * 24 * time.Hour

// Jobs returns what handles each kind of background work.
func (s *Service) Jobs() map[JobKind]func(ctx context.Context, subject string) error {
	return map[JobKind]func(context.Context, string) error{
		JobRevocation:   s.AdvanceRevocation,
		JobRotation:     s.AdvanceRotation,
		JobCRL:          s.publishCRLFor,
		JobScheduledCRL: s.keepCRLs,
		JobDisconnect:   s.disconnect,
		JobWebhook:      s.deliver,
		JobTidy:         s.tidy,
		JobCount:        s.countFleet,
		JobBulk:         s.advanceBulk,
		JobVerify:       s.verifyBrokers,
	}
}

// Every returns the kinds that run by the clock, and how often.
func (s *Service) Every() map[JobKind]time.Duration {
	every := map[JobKind]time.Duration{JobScheduledCRL: time.Minute, JobTidy: time.Hour, JobCount: 10 * time.Second}
	if s.cfg.VerifyEvery > 0 {
		every[JobVerify] = s.cfg.VerifyEvery
	}
	return every
}

// tidy handles JobTidy.
func (s *Service) tidy(ctx context.Context, _ string) error {
	done, err := s.store.Tidy(ctx, s.now(), keepAnswers)
	forgotten, forgetErr := s.store.ForgetVerifications(ctx, s.now().Add(-s.cfg.KeepVerifications))
	if done != (Tidied{}) || forgotten > 0 {
		s.log.InfoContext(ctx, "deleted what nothing reads any more", "crls", done.CRLs, "idempotencyKeys", done.IdempotencyKeys,
			"sessions", done.Sessions, "failures", done.Failures, "apiTokens", done.APITokens, "enrollmentTokens", done.EnrollmentTokens,
			"bulks", done.Bulks, "rotations", done.Rotations, "refusals", done.Refusals, "verifications", forgotten)
	}
	return errors.Join(err, forgetErr)
}

// eachDriver runs f for every broker that this server drives, at once: one that
// hangs does not hold up the others. Every call of f gets the time that an order
// to a broker may take.
func (s *Service) eachDriver(ctx context.Context, f func(ctx context.Context, id string, d brokers.Driver) error) error {
	return s.atEach(ctx, s.cfg.Drivers, f)
}

// atEach is eachDriver of some drivers.
func (s *Service) atEach(ctx context.Context, drivers map[string]brokers.Driver, f func(ctx context.Context, id string, d brokers.Driver) error) error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for id, d := range drivers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, s.cfg.ProofTimeout)
			defer cancel()
			if err := f(ctx, id, d); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("broker %s: %w", id, err))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// disconnect handles JobDisconnect: every broker gets the CRLs that refuse the
// device, and closes its live sessions. Each server does so at the brokers that
// it drives.
func (s *Service) disconnect(ctx context.Context, subject string) error {
	device, broker := cutSubject(subject)
	d, err := s.store.Device(ctx, device)
	if err != nil {
		return err
	}
	if err := s.showOnCRLs(ctx, d.Certificates); err != nil {
		return err
	}
	drivers, err := s.driversFor(ctx, JobDisconnect, device, broker)
	if err != nil {
		return err
	}
	return s.atEach(ctx, drivers, func(ctx context.Context, id string, driver brokers.Driver) error {
		return errors.Join(s.loadNewCRLs(ctx, id, driver), s.closeSessions(ctx, device, driver))
	})
}

// closeSessions ends a device's live sessions at one broker. Those of a device
// that is active (released meanwhile, or of several certificates one was
// revoked) are left alone, unless one began with a certificate that is no
// longer good.
func (s *Service) closeSessions(ctx context.Context, device string, driver brokers.Driver) error {
	d, err := s.store.Device(ctx, device)
	if err != nil {
		return err
	}
	if d.Status == DeviceActive {
		sessions, err := driver.Sessions(ctx)
		if err != nil {
			return fmt.Errorf("list sessions: %w", err)
		}
		if !slices.ContainsFunc(sessions, func(session brokers.Session) bool {
			return session.Identity == device && slices.ContainsFunc(d.Certificates, func(cert *ca.Certificate) bool {
				// A broker that does not tell the serial number may be showing the revoked one.
				same := session.SerialNumber == "" || session.SerialNumber == string(cert.SerialNumber)
				return same && cert.Status != ca.StatusGood
			})
		}) {
			return nil
		}
	}
	if _, err := driver.Disconnect(ctx, device); err != nil {
		return fmt.Errorf("close sessions of %s: %w", device, err)
	}
	return nil
}
