package enroll

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/brokers"
)

// Config says what a Service works with.
type Config struct {
	Authority *ca.Authority
	Store     Store
	// Drivers act on brokers from this process, by broker ID. A broker without
	// one is verified, but not reloaded.
	Drivers map[string]brokers.Driver
	// Server is what the other servers on the database know this one by: its host
	// and data folder, say.
	Server string
	// MachineURL is the base URL that devices renew at, such as
	// https://ca.example:9443.
	MachineURL string
	// Fetcher looks at what issuers publish as a client would (I16); one without
	// proxy when nil.
	Fetcher *http.Client
	// OnTrust is told of each new trust bundle, the first included; nil for nobody.
	OnTrust func(TrustBundle) error
	// RolloverThreshold is the share of devices that must be ready for a step of a
	// roll-over; 1, which is all, when zero.
	RolloverThreshold float64
	Webhook           *Webhook // where audit events are sent; nil for nowhere
	Log               *slog.Logger
	Now               func() time.Time
	// ProofTimeout bounds how long a broker is waited for: to load a CRL or to
	// close sessions, to refuse what was revoked, and to serve a new
	// certificate; 10 s each when zero. Proofs are attempted again after that.
	ProofTimeout time.Duration
	// VerifyEvery is how often the schedule verifies every broker, what must be
	// refused included; never when zero. Replicas share one schedule.
	VerifyEvery time.Duration
	// VerifyConnections bounds how many brokers this process verifies at once, and
	// with it the files it opens for that: DefaultVerifyConnections when zero.
	VerifyConnections int
	// KeepVerifications is how long reports are kept; DefaultKeepVerifications
	// when zero.
	KeepVerifications time.Duration
	// SessionIdle is after how long without a request a session of the dashboard
	// ends, SessionLife after how long it ends anyway; DefaultSessionIdle and
	// DefaultSessionLife when zero.
	SessionIdle, SessionLife time.Duration
	// RequireSecondFactor lists the roles whose users must set up a second
	// factor; for the others it is their choice.
	RequireSecondFactor []Role
}

// A Service is the registration authority: it decides what the authority
// signs, and follows what became of it. It is safe for concurrent use.
type Service struct {
	cfg   Config
	ca    *ca.Authority
	store Store
	log   *slog.Logger

	canaries canaries
	looks    chan struct{} // holds one for each verification under way

	responder *ca.Responder
	published published
	statusURL atomic.Pointer[string] // base of what new certificates name; nil before SetStatusURL

	trusted    atomic.Int64 // generation of the trust bundle that was taken over last
	clientsDue atomic.Bool  // brokers have not all taken the CAs of devices' certificates

	loaded loadedCRLs
	doomed doomedCanaries
	proofs chan struct{} // holds one for each attempt under way
	counts sessionCounts

	unprovenMu sync.Mutex
	unproven   map[string]bool // revocations whose last attempt here ended without proof
	uses       tokenUses
	refused    refusals
	watched    watches
	sessions   sessionUses

	// What nearly every enrollment reads.
	tokens fresh[string, *APIToken] // by hash
	orders fresh[string, profiledOrder]
	makers fresh[struct{}, []*Manufacturer]
	toDial recent[*Broker]

	profiles fresh[string, *StoredProfile]
	compiled compiledProfiles

	known struct {
		tokens   recall[string, *APIToken]      // by hash
		orders   recall[string, profiledOrder]  // by id
		profiles recall[string, *StoredProfile] // by name
	}

	caution caution
}

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ProofTimeout == 0 {
		cfg.ProofTimeout = 10 * time.Second
	}
	if cfg.SessionIdle == 0 {
		cfg.SessionIdle = DefaultSessionIdle
	}
	if cfg.SessionLife == 0 {
		cfg.SessionLife = DefaultSessionLife
	}
	if cfg.VerifyConnections <= 0 {
		cfg.VerifyConnections = DefaultVerifyConnections
	}
	if cfg.KeepVerifications <= 0 {
		cfg.KeepVerifications = DefaultKeepVerifications
	}
	if cfg.RolloverThreshold <= 0 || cfg.RolloverThreshold > 1 {
		cfg.RolloverThreshold = 1
	}
	if cfg.Fetcher == nil {
		cfg.Fetcher = newFetcher()
	}
	s := &Service{
		cfg: cfg, ca: cfg.Authority, store: cfg.Store, log: cfg.Log,
		proofs: make(chan struct{}, maxProofs), looks: make(chan struct{}, cfg.VerifyConnections),
	}
	s.responder = s.newResponder()
	return s
}

// now returns the time as the store keeps it: UTC, whole microseconds.
func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

// Ready reports why the service cannot take requests; nil when it can.
func (s *Service) Ready(ctx context.Context) error {
	if err := s.store.Ping(ctx); err != nil {
		return err
	}
	crls, err := s.CRLs(ctx)
	if err != nil {
		return err
	}
	for _, crl := range crls {
		if !s.cfg.Now().Before(crl.NextUpdate) {
			return ca.Errorf(KindUnavailable, "", "look for errors of job publish-crl in the log", "the CRL of issuer %s lapsed at %s", crl.IssuerID, crl.NextUpdate.Format(time.RFC3339))
		}
	}
	return nil
}

// isKind reports whether err is of a kind.
func isKind(err error, k ca.Kind) bool { return errors.Is(err, ca.IsKind(k)) }
