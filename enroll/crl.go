package enroll

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/brokers"
)

// loadTries is how often newer CRLs than those just read may already be at a
// broker, handed over by another job or replica.
const loadTries = 5

// loadedCRLs remembers which bundle this process handed to each broker last,
// so that a broker that missed one is known, and the others are not bothered.
type loadedCRLs struct {
	mu  sync.Mutex
	all map[string]loadedBundle // by broker
}

// A loadedBundle is what one broker took last.
type loadedBundle struct {
	sum  [sha256.Size]byte // of the bundle
	crls []LoadedCRL
	at   time.Time
}

// A LoadedCRL is a CRL that a broker took.
type LoadedCRL struct {
	Issuer     string    `json:"issuer"`
	Shard      int       `json:"shard"`
	Number     int64     `json:"number"`
	ThisUpdate time.Time `json:"thisUpdate"`
	NextUpdate time.Time `json:"nextUpdate"`
	LoadedAt   time.Time `json:"loadedAt"`
}

func (l *loadedCRLs) set(broker string, bundle []byte, crls []*PublishedCRL, at time.Time) {
	b := loadedBundle{sum: sha256.Sum256(bundle), at: at}
	for _, c := range crls {
		b.crls = append(b.crls, LoadedCRL{Issuer: c.IssuerID, Shard: c.Shard, Number: c.Number, ThisUpdate: c.ThisUpdate, NextUpdate: c.NextUpdate, LoadedAt: at})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[string]loadedBundle{}
	}
	l.all[broker] = b
}

func (l *loadedCRLs) of(broker string) (loadedBundle, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.all[broker]
	return b, ok
}

func (l *loadedCRLs) is(broker string, bundle []byte) bool {
	b, ok := l.of(broker)
	return ok && b.sum == sha256.Sum256(bundle)
}

// LoadedCRLs returns which CRLs a broker took last, as far as this process
// knows: those that it handed over itself since its start. Empty for a broker
// that nothing here drives.
func (s *Service) LoadedCRLs(broker string) []LoadedCRL {
	b, _ := s.loaded.of(broker)
	return slices.Clone(b.crls)
}

// publishCRLFor handles JobCRL.
func (s *Service) publishCRLFor(ctx context.Context, subject string) error {
	var certs []*ca.Certificate
	switch kind, id, _ := strings.Cut(subject, ":"); kind {
	case "device":
		d, err := s.store.Device(ctx, id)
		if err != nil {
			return err
		}
		certs = d.Certificates
	case "certificate":
		cert, err := s.store.Certificate(ctx, ca.SerialNumber(id))
		if err != nil {
			return err
		}
		certs = []*ca.Certificate{cert}
	default:
		return fmt.Errorf("job subject %q is neither device:ID nor certificate:SERIAL", subject)
	}
	if err := s.showOnCRLs(ctx, certs); err != nil {
		return err
	}
	return s.eachDriver(ctx, s.loadNewCRLs)
}

// showOnCRLs publishes the CRL of every scope whose newest one does not show
// what these certificates are now. What is on the CRL decides, and no time:
// a CRL may be dated after a decision and still be without it, when it was
// signed while the decision was being committed.
func (s *Service) showOnCRLs(ctx context.Context, certs []*ca.Certificate) error {
	byScope := map[ca.CRLScope][]*ca.Certificate{}
	for _, cert := range certs {
		if s.cfg.Now().Before(cert.NotAfter) {
			byScope[cert.CRLScope()] = append(byScope[cert.CRLScope()], cert)
		}
	}
	for scope, certs := range byScope {
		if _, err := s.crlShowing(ctx, scope, certs); err != nil {
			return err
		}
	}
	return nil
}

// crlShowing returns the scope's newest CRL, which shows what its certificates
// are now, and publishes that first where need be. What has expired need not be
// on it.
func (s *Service) crlShowing(ctx context.Context, scope ca.CRLScope, certs []*ca.Certificate) (*ca.CRL, error) {
	// Another replica's CRL may show less than the one in memory: what was held,
	// released and held again is on the older one alone.
	if err := s.refreshCRLs(ctx); err != nil {
		return nil, err
	}
	newest, err := s.crl(ctx, scope)
	if err != nil && !isKind(err, ca.KindNotFound) {
		return nil, err
	}
	if err == nil {
		current := slices.DeleteFunc(slices.Clone(certs), func(c *ca.Certificate) bool { return !s.cfg.Now().Before(c.NotAfter) })
		shown, err := shows(newest.CRL, current)
		if err != nil {
			return nil, err
		}
		if shown {
			return newest.CRL, nil
		}
	}
	return s.publishCRL(ctx, scope, false)
}

// shows reports whether a CRL lists those of its scope's certificates that are
// held or revoked, and none that is good.
func shows(crl *ca.CRL, certs []*ca.Certificate) (bool, error) {
	serials := make([]ca.SerialNumber, len(certs))
	for i, cert := range certs {
		serials[i] = cert.SerialNumber
	}
	listed, err := crl.Listed(serials...)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(certs, func(c *ca.Certificate) bool { return listed[c.SerialNumber] != (c.Status != ca.StatusGood) }), nil
}

// keepCRLs handles JobScheduledCRL: it publishes what is due, and brokers that
// did not take a CRL when it was published get it.
func (s *Service) keepCRLs(ctx context.Context, _ string) error {
	_, err := s.publishDue(ctx)
	return errors.Join(err, s.eachDriver(ctx, s.loadNewCRLs))
}

// PublishScheduledCRLs publishes every CRL that is due, and hands all to the
// brokers when one was. A broker that does not take them is logged, and gets
// them from the next JobScheduledCRL.
func (s *Service) PublishScheduledCRLs(ctx context.Context) error {
	published, err := s.publishDue(ctx)
	if err != nil || !published {
		return err
	}
	if err := s.PushCRLs(ctx); err != nil {
		s.log.WarnContext(ctx, "a broker has not taken the CRLs; tried again", "error", err)
	}
	return nil
}

// publishDue publishes every CRL that is due. An issuer that fails does not
// hold up the others; one whose key cannot be used is logged.
func (s *Service) publishDue(ctx context.Context) (published bool, err error) {
	var errs []error
	if err := s.takeOverIssuers(ctx); err != nil { // a broker that is down, say; tried again within seconds
		s.log.WarnContext(ctx, "take over issuers", "error", err)
	}
	unusable := s.ca.Unusable()
	for id, err := range unusable {
		s.log.ErrorContext(ctx, "an issuer's key cannot be used: it signs no certificates and no CRLs", "issuer", id, "error", err)
	}
	for _, scope := range s.scopes() {
		if unusable[scope.IssuerID] != nil {
			continue
		}
		due, err := s.ca.CRLDue(ctx, scope)
		if err == nil && due {
			_, err = s.publishCRL(ctx, scope, true)
			published = published || err == nil
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("the CRL of %s: %w", scope, err))
		}
	}
	return published, errors.Join(errs...)
}

// PushCRLs hands the newest CRLs to every broker that has a driver.
func (s *Service) PushCRLs(ctx context.Context) error { return s.eachDriver(ctx, s.loadCRLs) }

// loadNewCRLs hands the newest CRLs to one broker, unless this process did.
func (s *Service) loadNewCRLs(ctx context.Context, id string, d brokers.Driver) error {
	bundle, err := s.CRLBundle(ctx)
	if err != nil || s.loaded.is(id, bundle) {
		return err
	}
	return s.loadCRLs(ctx, id, d)
}

// loadCRLs hands the newest CRLs to one broker. A broker that says it has newer
// ones gets what is newest then.
func (s *Service) loadCRLs(ctx context.Context, id string, d brokers.Driver) (err error) {
	for range loadTries {
		if err := s.refreshCRLs(ctx); err != nil {
			return err
		}
		bundle, crls, readErr := s.brokerBundle(ctx)
		if readErr != nil {
			return readErr
		}
		err = d.LoadCRL(ctx, bundle)
		if err == nil {
			s.loaded.set(id, bundle.PEM, crls, s.now())
			return nil
		}
		if refused, ok := errors.AsType[*brokers.GuardError](err); !ok || refused.Problem != brokers.ProblemNumber {
			break
		}
	}
	return fmt.Errorf("load the CRLs: %w", err)
}
