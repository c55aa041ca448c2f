package enroll

import (
	"context"

	"github.com/fleetca/fleetca/ca"
)

// IssueServer issues a certificate for one of the server's own listeners, for
// a request of the server's own making. Names are DNS names and IP addresses.
func (s *Service) IssueServer(ctx context.Context, names []string, csr []byte) (*Enrollment, error) {
	if len(names) == 0 {
		return nil, ca.Errorf(ca.KindMalformed, "public-host", "give the names and addresses that clients use", "is missing")
	}
	for _, name := range names {
		if err := checkServerName("public-host", name); err != nil {
			return nil, err
		}
	}
	request, err := ca.ParseRequest("csr", csr)
	if err != nil {
		return nil, err
	}
	profile, err := s.profile(ctx, serverProfile)
	if err != nil {
		return nil, err
	}
	order := ca.Order{
		Profile: profile.Name, Version: profile, Holder: ca.Holder{Kind: ca.HolderServer, ID: names[0]}, CommonName: names[0],
		Facts:     ca.NameFacts{ID: names[0]},
		PublicKey: request.PublicKey, KeySHA256: request.KeySHA256,
		Claim: func(cert ca.Certificate) any {
			return &Claim{Change: Change{Event: s.issueEvent("server", "server.issue", "server:"+names[0], cert, issued{})}}
		},
	}
	order.DNSNames, order.IPs = splitNames(names)
	cert, err := s.ca.Issue(ctx, order)
	if err != nil {
		return nil, err
	}
	return s.enrollment(ctx, cert, nil, false)
}
