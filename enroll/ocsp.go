package enroll

import (
	"context"

	"github.com/fleetca/fleetca/ca"
)

// newResponder returns the OCSP responder. Its certificates are recorded like
// every other (I1).
func (s *Service) newResponder() *ca.Responder {
	return ca.NewResponder(ca.ResponderConfig{
		Authority: s.ca, Statuses: s.store, Log: s.log,
		Claim: func(cert ca.Certificate) any {
			return &Claim{Change: Change{Event: s.issueEvent("server", "ocsp.issue", "issuer:"+cert.IssuerID, cert, issued{})}}
		},
	})
}

// OCSP answers an OCSPRequest in DER (RFC 6960). The error is for the log: the
// answer is there anyway.
func (s *Service) OCSP(ctx context.Context, request []byte) (*ca.OCSPAnswer, error) {
	s.currentStatus(ctx)
	return s.responder.Answer(ctx, request)
}

// OCSPCached returns how many OCSP answers are cached.
func (s *Service) OCSPCached() int { return s.responder.Cached() }

// OCSPCertificates returns the newest certificate of the OCSP responder in this
// process, by issuer.
func (s *Service) OCSPCertificates() map[string]*ca.Certificate { return s.responder.Certificates() }
