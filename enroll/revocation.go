package enroll

import (
	"context"
	"fmt"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// maxComment bounds a comment, in octets.
const maxComment = 1000

// crlBackstop is how long after a decision the CRL is published, handed to the
// brokers and the device's sessions closed even when the proof is held up: well
// within the 5 s of I13.
const crlBackstop = 3 * time.Second

// A RevokeRequest says why something is revoked.
type RevokeRequest struct {
	Reason  string `json:"reason"`            // RFC 5280, 5.3.1
	Comment string `json:"comment,omitempty"` // for people
}

func (r RevokeRequest) check() (ca.Reason, error) {
	reason, err := ca.ParseReason(r.Reason)
	if err == nil && r.Comment != "" {
		err = checkText("comment", r.Comment, maxComment)
	}
	return reason, err
}

// RevokeDevice revokes a device and all its certificates, at once and for
// good (certificateHold: until released), and starts the way to the proof that
// every broker refuses it; Revocation shows how far that is.
func (s *Service) RevokeDevice(ctx context.Context, c Call, id string, req RevokeRequest) (*Revocation, error) {
	reason, err := req.check()
	if err != nil {
		return nil, err
	}
	r := &Revocation{Device: id, Reason: reason, Comment: req.Comment}
	return s.endDevice(ctx, c, "device.revoke", map[string]any{"device": id, "request": req}, r, s.store.RevokeDevice)
}

// endDevice revokes a device's certificates by commit, and starts the way to
// the proof. action is the audit event's; request is what makes two calls the
// same.
func (s *Service) endDevice(ctx context.Context, c Call, action string, request any, r *Revocation,
	commit func(context.Context, Revocation, Change) (*Revocation, error)) (*Revocation, error) {
	now := s.now()
	r.ID, r.State, r.At = newID(), RevocationRunning, now
	var err error
	if r.Steps, err = s.revocationSteps(ctx); err != nil {
		return nil, err
	}
	setStep(r.Steps, stepDecided, "", now, now, StepDone, "by "+c.Principal.Name)
	setStep(r.Steps, stepLedger, "", now, now, StepDone, "certificates and device are marked")
	err = s.repeatable(ctx, c, action, request, r, func(i *Idempotency) error {
		_, err := commit(ctx, *r, Change{
			Idempotency: i,
			Event:       newEvent(now, c.Principal.Name, action, "device:"+r.Device, map[string]any{"reason": r.Reason, "comment": r.Comment, "revocation": r.ID}),
			Jobs:        []Job{{Kind: JobRevocation, Subject: r.ID}, {Kind: JobDisconnect, Subject: r.Device, After: crlBackstop}},
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// revocationSteps returns the steps ahead, as far as they are known.
func (s *Service) revocationSteps(ctx context.Context) ([]Step, error) {
	ids, err := s.brokerIDs(ctx)
	if err != nil {
		return nil, err
	}
	steps := []Step{{Name: stepDecided}, {Name: stepLedger}}
	for _, id := range ids {
		steps = append(steps, Step{Name: stepAdmitted, Broker: id})
	}
	steps = append(steps, Step{Name: stepCRLSigned})
	for _, id := range ids {
		steps = append(steps, Step{Name: stepCRLLoaded, Broker: id}, Step{Name: stepSession, Broker: id}, Step{Name: stepRefusal, Broker: id})
	}
	steps = append(steps, Step{Name: stepEvidence})
	for i := range steps {
		steps[i].State = StepPending
	}
	return steps, nil
}

// brokerIDs returns the ids of all registered brokers.
func (s *Service) brokerIDs(ctx context.Context) ([]string, error) {
	var ids []string
	for cursor := ""; ; {
		page, next, err := s.store.Brokers(ctx, Page{Limit: 500, Cursor: cursor})
		if err != nil {
			return nil, fmt.Errorf("list brokers: %w", err)
		}
		for _, b := range page {
			ids = append(ids, b.ID)
		}
		if next == "" {
			return ids, nil
		}
		cursor = next
	}
}

// Revocation returns a revocation.
func (s *Service) Revocation(ctx context.Context, id string) (*Revocation, error) {
	return s.store.Revocation(ctx, id)
}

// Revocations lists revocations, of one device or (empty) of all.
func (s *Service) Revocations(ctx context.Context, device string, p Page) ([]*Revocation, string, error) {
	return s.store.Revocations(ctx, device, p)
}

// RevokeCertificate revokes one certificate; its holder stays as it is. A live
// session that a device began with it is closed.
func (s *Service) RevokeCertificate(ctx context.Context, c Call, serial string, req RevokeRequest) (*ca.Certificate, error) {
	n, err := ca.ParseSerialNumber(serial)
	if err != nil {
		return nil, err
	}
	reason, err := req.check()
	if err != nil {
		return nil, err
	}
	cert, err := s.store.Certificate(ctx, n)
	if err != nil {
		return nil, err
	}
	jobs := []Job{{Kind: JobCRL, Subject: "certificate:" + string(n)}}
	if cert.Holder.Kind == ca.HolderDevice {
		jobs = append(jobs, Job{Kind: JobDisconnect, Subject: cert.Holder.ID})
	}
	now := s.now()
	answer := *cert
	answer.Status, answer.Reason, answer.RevokedAt = reason.StatusAfter(), reason, now
	request := map[string]any{"serialNumber": n, "request": req}
	err = s.repeatable(ctx, c, "certificate.revoke", request, &answer, func(i *Idempotency) error {
		_, err := s.store.RevokeCertificate(ctx, n, reason, now, Change{
			Idempotency: i,
			Event:       newEvent(now, c.Principal.Name, "certificate.revoke", "certificate:"+string(n), map[string]any{"reason": reason, "comment": req.Comment, "holder": cert.Holder.String()}),
			Jobs:        jobs,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &answer, nil
}
