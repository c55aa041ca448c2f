package enroll

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// Times of what is served from memory (I13).
const (
	statusRefresh  = 500 * time.Millisecond // between looks at the store, while somebody keeps looking
	statusMaxAge   = 2 * time.Second        // without that, who asks looks first
	statusPatience = time.Second            // for the store
	adoptEvery     = 10                     // looks, then one at settings of issuers that another replica changed
)

// A PublishedCRL is a scope's newest CRL as it is served, from memory.
type PublishedCRL struct {
	*ca.CRL
	ETag string // quoted, of the DER
	// SavedAt is when this process learned of the CRL: thisUpdate lies before its
	// publication, and two CRLs may share one.
	SavedAt time.Time

	encode sync.Once
	pem    []byte
}

// PEM returns the CRL PEM-encoded; it is encoded once.
func (c *PublishedCRL) PEM() []byte {
	c.encode.Do(func() { c.pem = c.CRL.PEM() })
	return c.pem
}

// published are the newest CRLs, by scope.
type published struct {
	mu   sync.RWMutex
	crls map[ca.CRLScope]*PublishedCRL

	look      sync.Mutex // held while the store is looked at
	lookedAt  time.Time  // guarded by mu: when that began last, by the process's clock
	succeeded time.Time  // guarded by mu: when one that succeeded last began
}

// put takes a CRL, unless it has a newer one, and returns the newest.
func (p *published) put(crl *ca.CRL, now time.Time) *PublishedCRL {
	sum := sha256.Sum256(crl.DER)
	next := &PublishedCRL{CRL: crl, ETag: `"` + hex.EncodeToString(sum[:16]) + `"`, SavedAt: now}
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := p.crls[crl.Scope()]; last != nil && last.Number >= crl.Number {
		return last
	}
	if p.crls == nil {
		p.crls = map[ca.CRLScope]*PublishedCRL{}
	}
	p.crls[crl.Scope()] = next
	return next
}

func (p *published) get(scope ca.CRLScope) *PublishedCRL {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.crls[scope]
}

// stale reports whether nobody looked at the store lately.
func (p *published) stale() bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return time.Since(p.lookedAt) > statusMaxAge
}

// RefreshStatus looks for what changed in the store, on whatever replica: newer
// CRLs, and certificates whose OCSP answers are no longer right.
func (s *Service) RefreshStatus(ctx context.Context) error {
	s.published.look.Lock()
	defer s.published.look.Unlock()
	return s.refreshStatus(ctx)
}

// refreshStatus is RefreshStatus with published.look held.
func (s *Service) refreshStatus(ctx context.Context) error {
	begin := time.Now()
	s.published.mu.Lock()
	s.published.lookedAt = begin
	s.published.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	err := errors.Join(s.responder.Refresh(ctx), s.refreshCRLs(ctx))
	if err == nil {
		s.published.mu.Lock()
		s.published.succeeded = begin
		s.published.mu.Unlock()
	}
	return err
}

func (s *Service) refreshCRLs(ctx context.Context) error {
	newest, err := s.store.NewestCRLs(ctx)
	if err != nil {
		return err
	}
	for _, crl := range newest {
		if have := s.published.get(crl.Scope()); have != nil && have.Number >= crl.Number {
			continue
		}
		whole, err := s.store.LatestCRL(context.WithoutCancel(ctx), crl.Scope()) // however long it is
		if err != nil {
			return err
		}
		s.published.put(whole, s.now())
	}
	return nil
}

// currentStatus makes sure that somebody looked at the store lately. Where it
// does not answer, what is in memory holds (I22).
func (s *Service) currentStatus(ctx context.Context) {
	if !s.published.stale() {
		return
	}
	s.published.look.Lock()
	defer s.published.look.Unlock()
	if s.published.stale() { // still
		if err := s.refreshStatus(context.WithoutCancel(ctx)); err != nil {
			s.log.WarnContext(ctx, "CRLs and OCSP answers may be out of date", "error", err)
		}
	}
}

// KeepStatus looks for changes of status until ctx ends, so that nobody who
// asks has to.
func (s *Service) KeepStatus(ctx context.Context) {
	ticker := time.NewTicker(statusRefresh)
	defer ticker.Stop()
	failing := false
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			err := s.RefreshStatus(ctx)
			if n%adoptEvery == 0 { // a second server or a command may have changed them
				err = errors.Join(err, s.AdoptIssuers(ctx))
			}
			if err != nil && !failing && ctx.Err() == nil {
				s.log.WarnContext(ctx, "CRLs and OCSP answers may be out of date; tried again", "error", err)
			}
			failing = err != nil
		}
	}
}

// StatusRefreshed returns when the store was last seen, for what is served from
// memory; zero for never.
func (s *Service) StatusRefreshed() time.Time {
	s.published.mu.RLock()
	defer s.published.mu.RUnlock()
	return s.published.succeeded
}

// CRL returns the newest CRL of a scope, by the name that ca.CRLScope.String
// gives it.
func (s *Service) CRL(ctx context.Context, name string) (*PublishedCRL, error) {
	scope, err := ca.ParseCRLScope(name)
	if err != nil {
		return nil, err
	}
	return s.crl(ctx, scope)
}

func (s *Service) crl(ctx context.Context, scope ca.CRLScope) (*PublishedCRL, error) {
	s.currentStatus(ctx)
	if crl := s.published.get(scope); crl != nil {
		return crl, nil
	}
	crl, err := s.store.LatestCRL(ctx, scope)
	if err != nil {
		return nil, err
	}
	return s.published.put(crl, s.now()), nil
}

// scopes returns what there is a CRL for: every shard of every issuer, those of
// devices first.
func (s *Service) scopes() []ca.CRLScope {
	var all []ca.CRLScope
	for _, i := range s.ca.Issuers() {
		all = append(all, i.CRLScopes()...)
	}
	return all
}

// CRLs returns the newest CRL of every scope, those of devices first.
func (s *Service) CRLs(ctx context.Context) ([]*PublishedCRL, error) {
	var all []*PublishedCRL
	for _, scope := range s.scopes() {
		crl, err := s.crl(ctx, scope)
		if err != nil {
			return nil, err
		}
		all = append(all, crl)
	}
	return all, nil
}

// IssuerCRLs returns the newest CRL of each of an issuer's shards that has one.
func (s *Service) IssuerCRLs(ctx context.Context, issuerID string) ([]*PublishedCRL, error) {
	issuer, err := s.ca.Issuer(issuerID)
	if err != nil {
		return nil, err
	}
	var all []*PublishedCRL
	for _, scope := range issuer.CRLScopes() {
		crl, err := s.crl(ctx, scope)
		if isKind(err, ca.KindNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, crl)
	}
	return all, nil
}

// CRLBundle returns the newest CRL of every scope as one PEM text, as brokers
// load it: an issuer's shard that was left out would make them refuse every
// good device of it.
func (s *Service) CRLBundle(ctx context.Context) ([]byte, error) {
	crls, err := s.CRLs(ctx)
	if err != nil {
		return nil, err
	}
	return bundleOf(crls), nil
}

func bundleOf(crls []*PublishedCRL) []byte {
	texts := make([][]byte, len(crls))
	for i, crl := range crls {
		texts[i] = crl.PEM()
	}
	return bytes.Join(texts, nil)
}

// publishCRL publishes a scope's next CRL.
func (s *Service) publishCRL(ctx context.Context, scope ca.CRLScope, scheduled bool) (*ca.CRL, error) {
	crl, err := s.ca.PublishCRL(ctx, scope, scheduled)
	if err != nil {
		return nil, err
	}
	s.published.put(crl, s.now())
	return crl, nil
}

// A ShardsRequest says over how many CRLs an issuer's new certificates are
// spread.
type ShardsRequest struct {
	Shards int `json:"shards"` // 1 to 1024
}

// SetCRLShards spreads an issuer's new certificates over so many CRLs. Those
// that were issued before stay on the CRL that they name, which goes on being
// published. The new shards' CRLs are published before any certificate names
// one, and handed to the brokers.
func (s *Service) SetCRLShards(ctx context.Context, call Call, issuerID string, r ShardsRequest) (*IssuerView, error) {
	shards := r.Shards
	issuer, err := s.ca.Issuer(issuerID)
	if err != nil {
		return nil, err
	}
	switch {
	case shards < 1 || shards > ca.MaxCRLShards:
		return nil, ca.Errorf(ca.KindMalformed, "shards", "give a number from 1 to 1024", "%d CRLs are not possible", shards)
	case issuer.KeyURI == "":
		return nil, ca.Errorf(ca.KindIssuerInactive, "issuer", "only issuers whose keys are here have more than one", "the CRL of issuer %s is signed elsewhere", issuerID)
	}
	event := newEvent(s.now(), call.Principal.Name, "issuer.crl-shards", "issuer:"+issuerID, map[string]any{"shards": shards, "before": issuer.Shards()})
	if err := s.store.SetCRLShards(ctx, issuerID, shards, Change{Event: event}); err != nil {
		return nil, err
	}
	if err := s.AdoptIssuers(ctx); err != nil {
		return nil, err
	}
	return s.issuerView(issuerID)
}

// adoptCRLShards takes over what the store says of issuers' shards, which
// another replica may have set: first every shard's CRL, then new certificates
// on them.
func (s *Service) adoptCRLShards(ctx context.Context, stored []ca.Issuer) error {
	known := s.ca.Issuers()
	var errs []error
	for _, i := range stored {
		at := slices.IndexFunc(known, func(k ca.Issuer) bool { return k.ID == i.ID })
		if at < 0 || known[at].Shards() == i.Shards() && known[at].ShardsEver() == i.ShardsEver() {
			continue
		}
		grown := i.ShardsEver() > known[at].ShardsEver()
		s.ca.SetCRLShards(i.ID, known[at].Shards(), i.ShardsEver())
		if grown {
			if err := errors.Join(s.publishMissing(ctx, i), s.PushCRLs(ctx)); err != nil {
				errs = append(errs, err) // a broker without the new shards would refuse their certificates
				continue
			}
		}
		s.ca.SetCRLShards(i.ID, i.Shards(), i.ShardsEver())
	}
	return errors.Join(errs...)
}

// publishMissing publishes the first CRL of every shard that has none.
func (s *Service) publishMissing(ctx context.Context, i ca.Issuer) error {
	for _, scope := range i.CRLScopes() {
		_, err := s.store.LatestCRL(ctx, scope)
		if isKind(err, ca.KindNotFound) {
			_, err = s.publishCRL(ctx, scope, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
