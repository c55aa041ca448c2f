package enroll

import (
	"context"
	"crypto/sha256"
	"errors"

	"github.com/fleetca/fleetca/ca"
)

// RenewDevice issues the next certificate of the device whose current one
// stands in c.Principal.Certificate: with the same key when csr is empty
// (renew), with the request's otherwise (rekey). The current certificate stays
// good, so that a device that loses the answer is not stranded.
func (s *Service) RenewDevice(ctx context.Context, c Call, csr string) (*Enrollment, error) {
	e, err := s.recalling(ctx, c, func(c Call, recall bool) (*Enrollment, error) { return s.renewDevice(ctx, c, csr, recall) })
	if err != nil {
		return nil, err
	}
	e.Warnings = nil // about a first power-up, which was
	return e, nil
}

func (s *Service) renewDevice(ctx context.Context, c Call, csr string, recall bool) (*Enrollment, error) {
	current := c.Principal.Certificate
	if current == nil || current.Holder.Kind != ca.HolderDevice {
		return nil, ca.Errorf(KindUnauthenticated, "", "present the device's current certificate, on the machine listener", "a renewal needs a device's client certificate")
	}
	if s.cfg.Now().After(current.NotAfter) {
		return nil, ca.Errorf(KindExpired, "", "let an operator enroll it again", "the client certificate expired at %s", current.NotAfter)
	}
	e, err := s.renewing(ctx, c, current, csr, recall)
	if err != nil {
		return nil, err
	}
	if first, err := s.renewedBefore(ctx, c, e, current); err != nil || first != nil {
		return first, err
	}
	cert, err := s.issueFor(ctx, e)
	if again, ok := errors.AsType[*Replay](err); ok {
		return s.replayedEnrollment(ctx, again)
	}
	if err != nil {
		return nil, err
	}
	return s.enrollment(ctx, cert, e.used, false)
}

// renewing returns a renewal that policy admitted.
func (s *Service) renewing(ctx context.Context, c Call, current *ca.Certificate, csr string, recall bool) (*enrolling, error) {
	profile := s.namedProfile(ctx, current.Profile, recall)
	e := &enrolling{deviceID: current.Holder.ID, recalled: recall, profile: profile.read, actor: c.Principal.Name}
	e.claim.Profile = profile.recalled
	e.facts.ID = e.deviceID
	if csr == "" {
		old, err := current.X509()
		if err != nil {
			return nil, err
		}
		info := sha256.Sum256(old.RawSubjectPublicKeyInfo)
		e.request = &ca.Request{PublicKey: old.PublicKey, KeySHA256: current.KeySHA256, InfoSHA256: info[:]}
	} else {
		var err error
		if e.request, err = ca.ParseRequest("csr", []byte(csr)); err != nil {
			return nil, err
		}
		if err := checkDeviceNames(e.request, e.deviceID); err != nil {
			return nil, err
		}
	}
	if c.IdempotencyKey != "" {
		sum := sha256.Sum256(append([]byte(current.SerialNumber), e.request.InfoSHA256...))
		e.claim.Idempotency = &Idempotency{Scope: c.Principal.Name + " device.renew", Key: c.IdempotencyKey, RequestHash: sum[:]}
	}
	e.claim.Device = &DeviceClaim{ID: e.deviceID, TrustGeneration: s.ca.TrustGeneration()}
	e.claim.Replaces = current.SerialNumber
	return e, nil
}

// renewedBefore returns the first answer to this very renewal, or nil: by the
// idempotency key, or, for a device that sends none, by a certificate newer
// than the one it came with that has the key it asks for and is not due for
// renewal itself. The answer that held it was lost. Otherwise it notes the
// device's place.
func (s *Service) renewedBefore(ctx context.Context, c Call, e *enrolling, current *ca.Certificate) (*Enrollment, error) {
	if e.claim.Idempotency != nil {
		if r, err := s.store.Replayed(ctx, e.claim.Idempotency); err != nil || r != nil {
			if err != nil {
				return nil, err
			}
			return s.replayedEnrollment(ctx, r)
		}
	}
	d := c.Principal.device
	if d == nil {
		var err error
		if d, err = s.store.DeviceToRenew(ctx, current.SerialNumber); err != nil {
			return nil, err
		}
	}
	now := s.cfg.Now()
	if cert := certificateWithKey(d, e.request.KeySHA256, now); cert != nil && cert.SerialNumber != current.SerialNumber && now.Before(cert.RenewAfter()) {
		return s.again(ctx, e, "device.renew-again", cert)
	}
	e.renewed = d
	var err error
	if e.place, err = s.placeOf(ctx, d); err != nil {
		return nil, err
	}
	profile, err := e.profile(ctx)
	if err != nil {
		return nil, err
	}
	e.claim.MaxActive = profile.MaxActive
	return nil, nil
}
