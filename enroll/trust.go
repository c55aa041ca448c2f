package enroll

import (
	"context"
	"crypto/x509"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/brokers"
)

// A TrustBundle is what devices and brokers verify each other with: every
// root in the field.
type TrustBundle struct {
	Generation int64  `json:"generation"`
	PEM        string `json:"pem"`
}

// TrustBundle returns the current trust bundle.
func (s *Service) TrustBundle(context.Context) (*TrustBundle, error) {
	b := s.trustBundle()
	return &b, nil
}

func (s *Service) trustBundle() TrustBundle {
	return TrustBundle{Generation: s.ca.TrustGeneration(), PEM: s.ca.RootsPEM()}
}

// An IssuerView is an issuer as the REST API shows it.
type IssuerView struct {
	ID           string          `json:"id"`
	Purpose      ca.Purpose      `json:"purpose"`
	State        ca.IssuerState  `json:"state"`
	Parent       string          `json:"parent"`
	Subject      string          `json:"subject"`
	SerialNumber ca.SerialNumber `json:"serialNumber"`
	SHA256       string          `json:"sha256"`
	NotBefore    time.Time       `json:"notBefore"`
	NotAfter     time.Time       `json:"notAfter"`
	CDPs         []string        `json:"crlDistributionPoints"` // that its certificates carry, oldest first
	OCSP         string          `json:"ocsp"`                  // URL that new certificates carry; empty for none
	CRLShards    int             `json:"crlShards"`             // that new certificates are spread over
	Product      string          `json:"product"`               // that it signs for alone; empty for any
	Site         string          `json:"site"`                  // likewise
	Domain       string          `json:"domain"`                // the fleet's domain, below which all its names are; empty for no such limit
	Key          IssuerKey       `json:"key"`
	PEM          string          `json:"pem"`
}

// An IssuerKey says whether a server can sign with an issuer.
type IssuerKey string

// What there is of an issuer's key.
const (
	KeyUsable   IssuerKey = "usable"   // on the server that was asked
	KeyUnusable IssuerKey = "unusable" // not on the server that was asked, or it does not open there
	KeyApart    IssuerKey = "apart"    // on no server: offline
)

// Issuers returns every issuer, the root among them.
func (s *Service) Issuers(context.Context) ([]IssuerView, error) {
	var views []IssuerView
	unusable := s.ca.Unusable()
	for _, i := range s.ca.Issuers() {
		views = append(views, viewOf(i, unusable[i.ID] == nil))
	}
	return views, nil
}

// UnusableIssuers returns the issuers whose key cannot be used, in their order.
func (s *Service) UnusableIssuers() []string { return slices.Sorted(maps.Keys(s.ca.Unusable())) }

func (s *Service) issuerView(id string) (*IssuerView, error) {
	i, err := s.ca.Issuer(id)
	if err != nil {
		return nil, err
	}
	v := viewOf(*i, s.ca.Unusable()[id] == nil)
	return &v, nil
}

func viewOf(i ca.Issuer, usable bool) IssuerView {
	c, key := i.Certificate, KeyUnusable
	switch {
	case i.KeyURI == "":
		key = KeyApart
	case usable:
		key = KeyUsable
	}
	return IssuerView{
		ID: i.ID, Purpose: i.Purpose, State: i.State, Parent: i.Parent, Subject: c.Subject.String(),
		SerialNumber: ca.SerialNumberOf(c.SerialNumber), SHA256: ca.FingerprintOf(c),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, CDPs: i.CDPs(), OCSP: i.OCSPURL(), CRLShards: i.Shards(),
		Product: i.Product, Site: i.Site, Domain: i.Domain, Key: key, PEM: ca.EncodeChain(c),
	}
}

// IssuerCertificate returns an issuer's certificate.
func (s *Service) IssuerCertificate(_ context.Context, id string) (*x509.Certificate, error) {
	i, err := s.ca.Issuer(id)
	if err != nil {
		return nil, err
	}
	return i.Certificate, nil
}

// Certificate returns a certificate by its serial number in hex.
func (s *Service) Certificate(ctx context.Context, serial string) (*ca.Certificate, error) {
	n, err := ca.ParseSerialNumber(serial)
	if err != nil {
		return nil, err
	}
	return s.store.Certificate(ctx, n)
}

// Certificates lists certificates.
func (s *Service) Certificates(ctx context.Context, f CertificateFilter, p Page) ([]*ca.Certificate, string, error) {
	return s.store.Certificates(ctx, f, p)
}

// Events lists the audit trail, newest first.
func (s *Service) Events(ctx context.Context, f EventFilter, p Page) ([]*Event, string, error) {
	if err := f.check(); err != nil {
		return nil, "", err
	}
	return s.store.Events(ctx, f, p)
}

var actionPattern = regexp.MustCompile(`^[a-z0-9.-]{1,64}$`)

// check refuses what no action begins with.
func (f EventFilter) check() error {
	if f.ActionPrefix != "" && !actionPattern.MatchString(f.ActionPrefix) {
		return ca.Errorf(ca.KindMalformed, "actionPrefix", "give the beginning of an action, such as device.", "%.80q begins no action", f.ActionPrefix)
	}
	return nil
}

// Event returns one event of the audit trail.
func (s *Service) Event(ctx context.Context, id string) (*Event, error) {
	return s.store.Event(ctx, id)
}

// brokerBundle returns the CRL bundle with what a broker's guard holds it
// against, and the CRLs that are in it.
func (s *Service) brokerBundle(ctx context.Context) (brokers.Bundle, []*PublishedCRL, error) {
	crls, err := s.CRLs(ctx)
	b := brokers.Bundle{PEM: bundleOf(crls)}
	for _, i := range s.ca.Issuers() {
		for _, scope := range i.CRLScopes() {
			b.Scopes = append(b.Scopes, brokers.Scope{Issuer: i.Certificate, DistributionPoints: i.ShardCDPs(scope.Shard)})
		}
	}
	return b, crls, err
}

// SetStatusURL makes base the URL that new certificates name for CRLs and
// issuer certificates. Earlier ones stay in every CRL's IDP. Issuers that come
// later get it, too.
func (s *Service) SetStatusURL(ctx context.Context, base string) error {
	s.statusURL.Store(&base)
	for _, i := range s.ca.Issuers() {
		if i.KeyURI == "" { // its CRL is signed elsewhere
			continue
		}
		if err := s.setStatusURL(ctx, i, base); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) setStatusURL(ctx context.Context, i ca.Issuer, base string) error {
	next, changed := i.WithStatusURL(base)
	if !changed {
		return nil
	}
	event := newEvent(s.now(), "server", "issuer.status-url", "issuer:"+i.ID, map[string]any{"urls": next.StatusURLs})
	if err := s.store.SetStatusURLs(ctx, i.ID, next.StatusURLs, Change{Event: event}); err != nil {
		return err
	}
	s.ca.SetStatusURLs(i.ID, next.StatusURLs)
	return nil
}

// Issuer returns one issuer.
func (s *Service) Issuer(_ context.Context, id string) (*IssuerView, error) { return s.issuerView(id) }
