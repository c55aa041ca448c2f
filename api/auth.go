package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// admit lets the exchange's client in, by the route's rule, or says why not:
// KindUnauthenticated for who it is, KindForbidden for what it may do.
func (a *API) admit(x *exchange) error {
	rule := x.route.Rule
	if rule.Public {
		return nil
	}
	address := enroll.AddressGroup(x.r.RemoteAddr)
	if wait := a.failures.wait(address); wait > 0 {
		return &retryError{after: wait, error: ca.Errorf(KindRateLimited, "",
			"mend the credentials, then wait as long as Retry-After says", "this address failed to authenticate too often")}
	}
	p, err := a.authenticate(x)
	if err != nil {
		return err
	}
	if p == nil { // the body's enrollment token is the credential
		return nil
	}
	x.principal = *p
	if p.Certificate != nil && !rule.certificateOnly() && a.now().After(p.Certificate.NotAfter) {
		return ca.Errorf(enroll.KindUnauthenticated, "", "renew it", "the client certificate has expired")
	}
	if !rule.permits(p, x.param("id")) {
		return ca.Errorf(enroll.KindForbidden, "", "ask an admin for a token with a role that may", "%s may not make this call", roleOf(p))
	}
	return nil
}

// authenticate finds out who the client is: by its bearer token if it sent
// one, else by its client certificate. It returns nil where the rule takes the
// enrollment token in the body instead. Credentials that do not hold count
// against the client's address; none do not.
func (a *API) authenticate(x *exchange) (*enroll.Principal, error) {
	rule := x.route.Rule
	authorization := x.r.Header.Values("Authorization")
	var p *enroll.Principal
	var err error
	switch {
	case len(authorization) > 0 && !rule.certificateOnly():
		p, err = a.authenticateBearer(x, authorization)
	case rule.EnrollmentToken:
		return nil, nil
	case x.machines && x.r.TLS != nil && len(x.r.TLS.PeerCertificates) > 0:
		if len(rule.Holders) == 0 { // whosever it is, and whatever became of it
			return nil, ca.Errorf(enroll.KindForbidden, "", `send "Authorization: Bearer TOKEN"`, "no client certificate opens this call")
		}
		authenticate := a.service.AuthenticateCertificate
		if x.route.Renews {
			authenticate = a.service.AuthenticateToRenew
		}
		p, err = authenticate(x.ctx(), x.r.TLS.PeerCertificates)
	case rule.certificateOnly():
		return nil, ca.Errorf(enroll.KindUnauthenticated, "", "make this call on the machine listener, with the certificate and its key",
			"this call needs a client certificate")
	default:
		return nil, ca.Errorf(enroll.KindUnauthenticated, "Authorization", `send "Authorization: Bearer TOKEN"`, "this call needs an API token")
	}
	if errors.Is(err, ca.IsKind(enroll.KindUnauthenticated)) {
		a.countFailure(x.r)
	}
	return p, err
}

// authenticateBearer reads the one Authorization header (RFC 6750, section 2.1).
func (a *API) authenticateBearer(x *exchange, headers []string) (*enroll.Principal, error) {
	scheme, token, _ := strings.Cut(headers[0], " ")
	token = strings.TrimSpace(token)
	if len(headers) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return nil, ca.Errorf(enroll.KindUnauthenticated, "Authorization", `send "Authorization: Bearer TOKEN", once`, "is not a bearer token")
	}
	if x.route.Recalls {
		if p := a.service.Recall(token); p != nil {
			return p, nil
		}
	}
	return a.service.Authenticate(x.ctx(), token)
}

// roleOf names a principal to itself.
func roleOf(p *enroll.Principal) string {
	if p.Role != "" {
		return "the role " + string(p.Role)
	}
	return "this certificate's holder"
}

// countUnknownToken counts an enrollment token that nobody issued against the
// client's address, as a failed authentication.
func (a *API) countUnknownToken(r *http.Request, err error) {
	if errors.Is(err, ca.IsKind(enroll.KindTokenUnknown)) {
		a.countFailure(r)
	}
}

// countTimeout is how long the store may take to count a failure.
const countTimeout = 5 * time.Second

// countFailure counts a failed authentication against the client's address.
// It counts for a client that hangs up, too. Where the store does not answer it
// counts in this process alone.
func (a *API) countFailure(r *http.Request) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), countTimeout)
	defer cancel()
	if err := a.failures.add(ctx, enroll.AddressGroup(r.RemoteAddr)); err != nil {
		a.log.WarnContext(r.Context(), "a failed authentication is counted by this server alone", "requestId", requestID(r.Context()), "error", err)
	}
}
