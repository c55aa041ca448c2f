package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/fleetca/fleetca/ca"
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

// A canary is a client of our own: a short-lived certificate of the devices'
// issuer, under a name that brokers know (design decision 6). Its key never
// leaves the process.
type canary struct {
	cert *ca.Certificate
	tls  *tls.Certificate
}

// newCanary issues a canary.
func (s *Service) newCanary(ctx context.Context, actor string) (*canary, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	request, err := ca.ParseRequest("csr", csr)
	if err != nil {
		return nil, err
	}
	cert, err := s.ca.Issue(ctx, ca.Order{
		Profile: "canary", Holder: ca.Holder{Kind: ca.HolderCanary, ID: CanaryID}, CommonName: CanaryID,
		PublicKey: request.PublicKey, KeySHA256: request.KeySHA256,
		Claim: func(cert ca.Certificate) any {
			return &Claim{Change: Change{Event: s.issueEvent(actor, "canary.issue", "canary:"+CanaryID, cert, nil)}}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("issue a canary: %w", err)
	}
	pair := &tls.Certificate{Certificate: [][]byte{cert.DER}, PrivateKey: key}
	for _, c := range s.ca.Chain(cert.IssuerID) {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return &canary{cert: cert, tls: pair}, nil
}

// goodCanary returns the canary of positive checks, a new one in the last half
// of its life.
func (s *Service) goodCanary(ctx context.Context) (*canary, error) {
	s.canaryMu.Lock()
	defer s.canaryMu.Unlock()
	if c := s.canary; c != nil && s.cfg.Now().Before(c.cert.NotBefore.Add(c.cert.NotAfter.Sub(c.cert.NotBefore)/2)) {
		return c, nil
	}
	c, err := s.newCanary(ctx, "server")
	if err != nil {
		return nil, err
	}
	s.canary = c
	return c, nil
}

// CanaryCertificate returns the certificate and key that positive checks are
// made with, for drivers that need a client which brokers admit.
func (s *Service) CanaryCertificate(ctx context.Context) (*tls.Certificate, error) {
	c, err := s.goodCanary(ctx)
	if err != nil {
		return nil, err
	}
	return c.tls, nil
}

// probe runs the verifier against a registered broker, as a canary.
func (s *Service) probe(ctx context.Context, b *Broker, c *canary, timeout time.Duration) *mqtts.Report {
	return mqtts.Verify(ctx, mqtts.Target{
		URL: b.URL, Roots: s.ca.Roots(), Certificate: c.tls,
		Topic:   topicPrefix(CanaryID) + newID(),
		Timeout: timeout, StepTimeout: min(timeout, 3*time.Second),
		Control: dialRegistered, Now: s.cfg.Now,
	})
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

// VerifyBroker verifies a registered broker and keeps the report.
func (s *Service) VerifyBroker(ctx context.Context, c Call, id string) (*mqtts.Report, error) {
	b, err := s.store.Broker(ctx, id)
	if err != nil {
		return nil, err
	}
	before, err := c.idempotency("broker.verify", id, nil)
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
	report := s.probe(ctx, b, good, mqtts.DefaultTimeout)
	v := Verification{ID: newID(), Broker: id, At: s.now(), Report: report}
	event := newEvent(v.At, c.Principal.Name, "broker.verify", "broker:"+id, map[string]any{"verdict": report.Verdict, "verification": v.ID})
	err = s.repeatable(ctx, c, "broker.verify", id, report, func(i *Idempotency) error {
		return s.store.SaveVerification(ctx, v, Change{Event: event, Idempotency: i})
	})
	if err != nil {
		return nil, err
	}
	return report, nil
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
