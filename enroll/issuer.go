package enroll

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/brokers"
)

// An issuer comes to be in steps (I16):
//
//  1. created: its certificate, its key and its first CRL are there, made on the
//     server's machine with the root's key (fleetca issuer create), or imported.
//  2. published: a server took it over. Its CRLs name their URLs, and brokers
//     have them; a root is in the trust bundle.
//  3. active: somebody asked for that, and a self-test signature and a look at
//     each of its URLs from outside went well. It signs.
//  4. retired: it signs CRLs alone, for as long as its certificates are in the
//     field.
//
// Servers on one database learn of each step within seconds.

// AdoptIssuers takes over what the store says of issuers, which another process
// may have made or changed: new ones, their states, over how many CRLs they are
// spread, and the trust bundle. Those that are new get published, and brokers get
// the CAs of devices.
func (s *Service) AdoptIssuers(ctx context.Context) error {
	return errors.Join(s.takeOverIssuers(ctx), s.settleBrokers(ctx))
}

// settleBrokers hands the CAs of devices to every broker with a driver, until
// all have taken them, and notes that they have.
func (s *Service) settleBrokers(ctx context.Context) error {
	if !s.clientsDue.Swap(false) {
		return nil
	}
	err := errors.Join(s.TrustClients(ctx), s.eachDriver(ctx, s.loadNewCRLs))
	if err == nil {
		err = s.brokersTrust(ctx)
	}
	if err != nil {
		s.clientsDue.Store(true)
	}
	return err
}

// takeOverIssuers is AdoptIssuers without the brokers that have a driver, which
// may not run yet.
func (s *Service) takeOverIssuers(ctx context.Context) error {
	stored, err := s.store.Issuers(ctx)
	if err != nil {
		return err
	}
	added, err := s.ca.Adopt(ctx, stored)
	errs := []error{err}
	unusable := s.ca.Unusable()
	for _, id := range added {
		if err := unusable[id]; err != nil {
			s.log.ErrorContext(ctx, "a new issuer's key is not on this server: it signs nothing here", "issuer", id, "error", err)
			continue
		}
		s.log.InfoContext(ctx, "a new issuer", "issuer", id)
	}
	if len(added) > 0 {
		s.clientsDue.Store(true)
	}
	errs = append(errs, s.adoptTrust(ctx), s.adoptCRLShards(ctx, stored))
	for _, i := range stored {
		if i.State == ca.IssuerCreated {
			errs = append(errs, s.publishIssuer(ctx, i))
		}
	}
	return errors.Join(errs...)
}

// publishIssuer takes an issuer from created to published. One whose key is not
// usable here is left to a server that has it.
func (s *Service) publishIssuer(ctx context.Context, i ca.Issuer) error {
	if known, err := s.ca.Issuer(i.ID); err != nil || known.State != ca.IssuerCreated || s.ca.Unusable()[i.ID] != nil {
		return nil // its chain does not verify, say
	}
	if i.KeyURI != "" {
		if base := s.statusURL.Load(); base != nil {
			if err := s.setStatusURL(ctx, i, *base); err != nil {
				return err
			}
		}
		for _, scope := range i.CRLScopes() {
			if _, err := s.publishCRL(ctx, scope, true); err != nil {
				return fmt.Errorf("publish the CRL of %s: %w", scope, err)
			}
		}
	}
	if err := errors.Join(s.TrustClients(ctx), s.PushCRLs(ctx)); err != nil {
		return fmt.Errorf("issuer %s waits to be published: %w", i.ID, err)
	}
	var err error
	if i.Purpose == ca.PurposeRoot {
		err = s.publishRoot(ctx, i)
	} else {
		event := newEvent(s.now(), "server", "issuer.publish", "issuer:"+i.ID, map[string]any{"sha256": ca.FingerprintOf(i.Certificate)})
		err = s.store.SetIssuerState(ctx, i.ID, []ca.IssuerState{ca.IssuerCreated}, ca.IssuerPublished, Change{Event: event})
	}
	if isKind(err, KindConflict) { // another server was faster
		return nil
	}
	if err != nil {
		return err
	}
	return s.adoptStates(ctx)
}

// adoptStates takes over issuers' states at once.
func (s *Service) adoptStates(ctx context.Context) error {
	stored, err := s.store.Issuers(ctx)
	if err != nil {
		return err
	}
	if _, err = s.ca.Adopt(ctx, stored); err != nil {
		return err
	}
	return s.adoptTrust(ctx)
}

// TrustClients hands the CAs of devices to every broker that has a driver.
func (s *Service) TrustClients(ctx context.Context) error {
	return s.eachDriver(ctx, func(ctx context.Context, _ string, d brokers.Driver) error {
		return d.TrustClients(ctx, s.ClientCAs())
	})
}

// ClientCAs returns the CAs of devices' certificates, and those above them.
func (s *Service) ClientCAs() brokers.ClientCAs {
	var all brokers.ClientCAs
	for _, i := range s.ca.Issuers() {
		switch i.Purpose {
		case ca.PurposeDevice:
			if s.ca.Trusts(i.ID) {
				all.Issuers = append(all.Issuers, i.Certificate)
			}
		case ca.PurposeIntermediate, ca.PurposeRoot:
			if s.ca.Trusts(i.ID) {
				all.Above = append(all.Above, i.Certificate)
			}
		}
	}
	return all
}

// A Publication is what was fetched of an issuer from outside (I16).
type Publication struct {
	Issuer  IssuerView `json:"issuer"`
	Fetched []ca.Fetch `json:"fetched"`
}

// IssuerPublication fetches what an issuer's certificates name, and verifies it.
// Nothing is changed.
func (s *Service) IssuerPublication(ctx context.Context, id string) (*Publication, error) {
	i, err := s.ca.Issuer(id)
	if err != nil {
		return nil, err
	}
	parent, err := s.ca.Issuer(i.Parent)
	if err != nil {
		return nil, err
	}
	view, err := s.issuerView(id)
	if err != nil {
		return nil, err
	}
	look := *i
	if base := s.statusURL.Load(); base != nil && len(look.StatusURLs) == 0 { // a root's CRL is served here all the same
		look.StatusURLs = []string{*base}
	}
	fetched := ca.FetchPublished(ctx, s.cfg.Fetcher, &look, parent.Certificate, s.cfg.Now())
	return &Publication{Issuer: *view, Fetched: fetched}, nil
}

// ActivateIssuer lets an issuer sign: after a self-test signature, and after
// everything that its certificates will name was fetched and verified.
// KindNotPublished says what did not come as it must.
func (s *Service) ActivateIssuer(ctx context.Context, c Call, id string) (*Publication, error) {
	if err := s.AdoptIssuers(ctx); err != nil { // as new as the store: it may have been made a second ago
		s.log.WarnContext(ctx, "take over issuers", "error", err)
	}
	p, err := s.IssuerPublication(ctx, id)
	if err != nil {
		return nil, err
	}
	switch p.Issuer.State {
	case ca.IssuerActive:
		return nil, ca.Errorf(KindConflict, "issuer", "", "issuer %s is active already", id)
	case ca.IssuerCreated:
		return nil, ca.Errorf(KindNotPublished, "issuer", "a server that has its key publishes it within seconds; see the log of that server",
			"issuer %s was not published yet: its key here is %s", id, p.Issuer.Key)
	}
	if err := s.ca.SelfTest(id); err != nil {
		return nil, err
	}
	if err := s.mayActivate(ctx, p.Issuer); err != nil {
		return nil, err
	}
	if problem := p.problem(); problem != "" {
		return nil, ca.Errorf(KindNotPublished, "issuer", "make the status listener reachable under these URLs (--public-host, --status-addr), and try again", "issuer %s: %s", id, problem)
	}
	event := newEvent(s.now(), c.Principal.Name, "issuer.activate", "issuer:"+id, map[string]any{"fetched": p.Fetched})
	from := []ca.IssuerState{ca.IssuerPublished, ca.IssuerRetired}
	if err := s.store.SetIssuerState(ctx, id, from, ca.IssuerActive, Change{Event: event}); err != nil {
		return nil, err
	}
	if err := s.adoptStates(ctx); err != nil {
		return nil, err
	}
	view, err := s.issuerView(id)
	if err != nil {
		return nil, err
	}
	p.Issuer = *view
	return p, nil
}

// mayActivate refuses an issuer under a root that not all know: of brokers,
// because devices verify them; of devices, because brokers do.
func (s *Service) mayActivate(ctx context.Context, i IssuerView) error {
	switch i.Purpose {
	case ca.PurposeBroker:
		return s.mayTake(ctx, i.ID, StepSwitch)
	case ca.PurposeDevice:
		r, err := s.Readiness(ctx, i.ID, StepSwitch)
		if err != nil || r.Ready || len(r.Brokers) == 0 {
			return err
		}
		r.Behind = 0
		return r.refusal()
	}
	return nil
}

// problem names what did not come as it must; empty when all did.
func (p *Publication) problem() string {
	var failed []string
	for _, f := range p.Fetched {
		if !f.OK {
			failed = append(failed, fmt.Sprintf("%s %s: %s", f.Kind, f.URL, f.Result))
		}
	}
	if len(p.Fetched) == 0 {
		return "its certificates would name no URL to fetch a CRL from"
	}
	if len(failed) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d URLs are not as they must be: %s", len(failed), len(p.Fetched), strings.Join(failed, "; "))
}

// RetireIssuer makes an issuer sign CRLs alone. KindConflict for the last active
// one that serves everybody of its purpose, and for the active root.
func (s *Service) RetireIssuer(ctx context.Context, c Call, id string) (*IssuerView, error) {
	i, err := s.ca.Issuer(id)
	if err != nil {
		return nil, err
	}
	if err := s.mayRetire(i); err != nil {
		return nil, err
	}
	event := newEvent(s.now(), c.Principal.Name, "issuer.retire", "issuer:"+id, map[string]any{"was": i.State})
	from := []ca.IssuerState{ca.IssuerCreated, ca.IssuerPublished, ca.IssuerActive}
	if err := s.store.SetIssuerState(ctx, id, from, ca.IssuerRetired, Change{Event: event}); err != nil {
		return nil, err
	}
	if err := s.adoptStates(ctx); err != nil {
		return nil, err
	}
	return s.issuerView(id)
}

func (s *Service) mayRetire(i *ca.Issuer) error {
	if i.State != ca.IssuerActive {
		return nil
	}
	switch i.Purpose {
	case ca.PurposeIntermediate:
		return nil
	case ca.PurposeRoot:
		return ca.Errorf(KindConflict, "issuer", "activate another root; that retires this one", "root %s is the active one", i.ID)
	}
	// Who steps in signs for at least as much.
	if !slices.ContainsFunc(s.ca.Issuers(), func(o ca.Issuer) bool {
		return o.ID != i.ID && o.Purpose == i.Purpose && o.State == ca.IssuerActive &&
			(o.Product == "" || o.Product == i.Product) && (o.Site == "" || o.Site == i.Site)
	}) {
		return ca.Errorf(KindConflict, "issuer", "activate its successor first", "no other active issuer of purpose %s would sign in place of %s", i.Purpose, i.ID)
	}
	return nil
}

// IssuerEvent is the event of an issuer that was made or imported on the
// server's machine, and is stored with it.
func IssuerEvent(now time.Time, actor, action string, i ca.Issuer) Event {
	return newEvent(now.UTC().Truncate(time.Microsecond), actor, action, "issuer:"+i.ID, map[string]any{
		"purpose": i.Purpose, "parent": i.Parent, "product": i.Product, "site": i.Site, "domain": i.Domain,
		"subject": i.Certificate.Subject.String(), "sha256": ca.FingerprintOf(i.Certificate), "notAfter": i.Certificate.NotAfter.UTC(),
	})
}

// newFetcher returns who looks from outside where nothing else is said. It asks
// no proxy: a client on the floor has none.
func newFetcher() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: 10 * time.Second}}
}
