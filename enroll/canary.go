package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A canary is a client of our own: a short-lived certificate of the devices'
// issuer, under a name that brokers know (design decision 6). Its key never
// leaves the process.
type canary struct {
	cert *ca.Certificate
	tls  *tls.Certificate
}

// canaries are those that this process keeps.
type canaries struct {
	mu      sync.Mutex
	good    *canary // used until half of its life
	server  *canary // for the check wrong_usage, likewise
	brief   *canary // issued, and not yet of use: it has still to expire
	expired *canary
	revoked []*revokedCanary // newest first
}

// A revokedCanary was revoked, and shown by a CRL, at a time.
type revokedCanary struct {
	*canary
	at time.Time
}

// The profiles of canaries (package ca).
const (
	canaryProfile       = "canary"        // admitted
	briefCanaryProfile  = "canary-brief"  // expires within a minute
	keptCanaryProfile   = "canary-kept"   // lives long enough to be refused for its revocation
	serverCanaryProfile = "canary-server" // for servers, which no client may be
)

// newCanary issues a canary, of a scope's issuer and on its CRL; of any for nil.
func (s *Service) newCanary(ctx context.Context, profile string, scope *ca.CRLScope) (*canary, error) {
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
	order := ca.Order{
		Profile: profile, Holder: ca.Holder{Kind: ca.HolderCanary, ID: CanaryID}, CommonName: CanaryID,
		PublicKey: request.PublicKey, KeySHA256: request.KeySHA256,
		Claim: func(cert ca.Certificate) any {
			return &Claim{Change: Change{Event: s.issueEvent("server", "canary.issue", "canary:"+CanaryID, cert, issued{})}}
		},
	}
	if profile == serverCanaryProfile {
		order.DNSNames = []string{CanaryID} // the name of no host
	}
	if scope != nil {
		order.IssuerID, order.Shard = scope.IssuerID, &scope.Shard
	}
	cert, err := s.ca.Issue(ctx, order)
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
	s.canaries.mu.Lock()
	defer s.canaries.mu.Unlock()
	return s.renewed(ctx, &s.canaries.good, canaryProfile)
}

// renewed returns a canary in the first half of its life, a new one when this
// one is in its last. s.canaries.mu is held.
func (s *Service) renewed(ctx context.Context, c **canary, profile string) (*canary, error) {
	if *c != nil && s.cfg.Now().Before((*c).cert.NotBefore.Add((*c).cert.NotAfter.Sub((*c).cert.NotBefore)/2)) {
		return *c, nil
	}
	fresh, err := s.newCanary(ctx, profile, nil)
	if err != nil {
		return nil, err
	}
	*c = fresh
	return fresh, nil
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
