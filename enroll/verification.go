package enroll

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// BrokerStatus is the status that a verification gives its broker; empty when
// it was inconclusive, which leaves the status as it is.
func (v Verification) BrokerStatus() BrokerStatus {
	switch v.Report.Verdict {
	case mqtts.VerdictPass:
		return BrokerVerified
	case mqtts.VerdictFail:
		return BrokerFailing
	}
	return ""
}

// Served returns the SHA-256 of the certificate that the broker showed; empty
// when it came to none.
func (v Verification) Served() string {
	if v.Report.ServerCertificate == nil {
		return ""
	}
	return v.Report.ServerCertificate.SHA256
}

// probe runs the verifier against a registered broker, as a canary.
func (s *Service) probe(ctx context.Context, b *Broker, c *canary, timeout time.Duration) *mqtts.Report {
	return mqtts.Verify(ctx, s.target(b, c, timeout))
}

// target is a registered broker to verify as a canary.
func (s *Service) target(b *Broker, c *canary, timeout time.Duration) mqtts.Target {
	return mqtts.Target{
		URL: b.URL, Roots: s.ca.Roots(), Certificate: c.tls,
		Topic:   topicPrefix(CanaryID) + newID(),
		Timeout: timeout, StepTimeout: min(timeout, 3*time.Second),
		Control: dialRegistered, Now: s.cfg.Now,
	}
}

// dialRegistered refuses addresses that no broker has, whatever its name
// resolved to (I26): unspecified, multicast and link-local ones, where cloud
// metadata services live.
func dialRegistered(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	ip := net.ParseIP(host)
	if ip == nil || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() {
		return fmt.Errorf("the broker's name resolved to %s, where no broker may be", host)
	}
	return nil
}

// reserveLook waits until one more broker may be verified (see
// Config.VerifyConnections). Whoever gets nil calls releaseLook.
func (s *Service) reserveLook(ctx context.Context) error {
	select {
	case s.looks <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Service) releaseLook() { <-s.looks }

// lookAt verifies a broker. A negative look tries what must be refused, too.
func (s *Service) lookAt(ctx context.Context, b *Broker, good *canary, negative bool) (*mqtts.Report, error) {
	t := s.target(b, good, mqtts.DefaultTimeout)
	if !negative {
		return mqtts.Verify(ctx, t), nil
	}
	t.Negative, t.Timeout = true, negativeTimeout
	material, fresh, err := s.material(ctx, b)
	if err != nil {
		return nil, err
	}
	t.Material = material
	report := mqtts.Verify(ctx, t)
	for deadline := time.Now().Add(s.cfg.ProofTimeout); fresh && admitsRevoked(report) && time.Now().Before(deadline); {
		if err := pause(ctx, probePause); err != nil { // the broker may still be loading the CRL
			return nil, err
		}
		report = mqtts.Verify(ctx, t)
	}
	return report, ctx.Err()
}

// negativeTimeout bounds a negative look. A broker that is dead takes no longer
// than a positive one: what fails its control is tried no further.
const negativeTimeout = 2 * mqtts.DefaultTimeout

// admitsRevoked tells whether the revoked canary was admitted.
func admitsRevoked(r *mqtts.Report) bool {
	c := r.Check(mqtts.CheckRevoked)
	return c != nil && c.Result == mqtts.CheckFail
}

// VerifyBroker verifies a registered broker and keeps the report. A negative
// verification tries, beside the good canary, what must be refused: see
// Service.material for what with.
func (s *Service) VerifyBroker(ctx context.Context, c Call, id string, negative bool) (*mqtts.Report, error) {
	b, err := s.store.Broker(ctx, id)
	if err != nil {
		return nil, err
	}
	request := id
	if negative {
		request += " negative"
	}
	before, err := c.idempotency("broker.verify", request, nil)
	if err == nil {
		err = s.replayed(ctx, before)
	}
	if err != nil {
		return nil, err
	}
	good, err := s.goodCanary(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.reserveLook(ctx); err != nil {
		return nil, err
	}
	defer s.releaseLook()
	report, err := s.lookAt(ctx, b, good, negative)
	if err != nil {
		return nil, err
	}
	v := s.verification(id, report, negative)
	defer s.toDial.forget()
	err = s.repeatable(ctx, c, "broker.verify", request, report, func(i *Idempotency) error {
		return s.store.SaveVerification(ctx, v, Change{Event: verifyEvent(c.Principal.Name, v), Idempotency: i})
	})
	if err != nil {
		return nil, err
	}
	return report, nil
}

// verification returns a report as it is kept.
func (s *Service) verification(broker string, report *mqtts.Report, negative bool) Verification {
	now := s.now()
	return Verification{
		ID: newID(), Broker: broker, At: now, Since: now, Looks: 1, Negative: negative,
		Outcome: outcomeOf(report), Report: report,
	}
}

func verifyEvent(actor string, v Verification) Event {
	return newEvent(v.At, actor, "broker.verify", "broker:"+v.Broker, map[string]any{
		"verdict": v.Report.Verdict, "verification": v.ID, "negative": v.Negative,
	})
}

// outcomeOf returns what two looks are compared by: the verdict, the step that
// failed, the certificate that was served, what was diagnosed, and how the checks
// ended.
func outcomeOf(r *mqtts.Report) string {
	parts := []string{string(r.Verdict), (Verification{Report: r}).Served()}
	if step := r.Failed(); step != nil {
		parts = append(parts, string(step.Name))
	}
	note := func(ds []mqtts.Diagnosis) {
		var codes []string
		for _, d := range ds {
			codes = append(codes, string(d.Code))
		}
		slices.Sort(codes)
		parts = append(parts, slices.Compact(codes)...)
	}
	note(r.Diagnosis)
	for _, c := range r.Checks {
		parts = append(parts, string(c.Name)+"="+string(c.Result))
		note(c.Diagnosis)
	}
	return strings.Join(parts, " ")
}

// VerificationMarks lists the verdicts on a broker, newest first. It is empty
// for a broker that there is not.
func (s *Service) VerificationMarks(ctx context.Context, broker string, p Page) ([]VerificationMark, string, error) {
	return s.store.VerificationMarks(ctx, broker, p)
}

// Verification returns one look at a broker.
func (s *Service) Verification(ctx context.Context, broker, id string) (*Verification, error) {
	return s.store.Verification(ctx, broker, id)
}

// Verifications lists what was seen of a broker, newest first.
func (s *Service) Verifications(ctx context.Context, broker string, p Page) ([]*Verification, string, error) {
	if _, err := s.store.Broker(ctx, broker); err != nil {
		return nil, "", err
	}
	return s.store.Verifications(ctx, broker, p)
}
