package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/fleetca/fleetca/api"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/store"
	"github.com/fleetca/fleetca/web"
)

// Timeouts of the listeners, and of a graceful stop (I28). The batch route
// extends its own as it goes.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 60 * time.Second
	idleTimeout   = 2 * time.Minute
	stopTimeout   = 15 * time.Second
	stopMost      = 2 * stopTimeout // with what does not end by itself, such as a database that does not answer
	maxHeader     = 16 << 10
)

// serveConfig is what a server works with.
type serveConfig struct {
	data            string          // folder that init made
	passphraseFile  string          // of the key files; see dataDir.readPassphrase
	database        string          // store URL; SQLite in the folder when empty
	peopleAddr      string          // HTTPS for people, host:port
	machineAddr     string          // HTTPS for machines
	statusAddr      string          // plain HTTP: CRLs, health, metrics
	mqttsAddr       string          // of an embedded broker; none when empty
	anyPort         map[string]bool // flags of addresses that another port will do for when theirs is taken
	mosquitto       []string        // folders of Mosquittos on this host, as broker config mosquitto wrote them
	certifyBrokers  bool            // give brokers that have none a certificate before the server is ready
	publicHosts     []string        // names and addresses clients use; the first goes into URLs
	webhook         *enroll.Webhook // where audit events are sent; nil for nowhere
	log             *slog.Logger
	proofTimeout    time.Duration
	verifyEvery     time.Duration // of the schedule; see enroll.Config
	verifyAtOnce    int
	verifyKeep      time.Duration
	sessionIdle     time.Duration // of the dashboard; see enroll.Config
	sessionLife     time.Duration
	secondFactor    []enroll.Role // roles whose users must have one
	rolloverPercent int           // of devices that must be ready for a step of a roll-over; all when zero
	inFlight        int           // requests that a listener works on at the same time; see api.Config
	// wrapDriver stands between the service and each broker; nil for nothing.
	wrapDriver func(brokers.Driver) brokers.Driver
	// onEvent is told of every audit event just before the transaction that
	// records it; nil for nobody.
	onEvent func(enroll.Event)
}

// A server is a running fleetca.
type server struct {
	cfg       serveConfig
	dir       dataDir
	unlock    func()
	store     *store.Store
	authority *ca.Authority
	service   *enroll.Service
	brokers   []*managedBroker
	identity  *identity
	listeners map[string]net.Listener // people, machines, status
	servers   []*http.Server
	api       *api.API
	conns     openConns
	jobs      *store.Jobs
	cancel    context.CancelFunc
	skew      atomic.Int64 // of the database's clock, nanoseconds
	failed    chan error
}

// startServer starts a server and returns when it takes requests.
func startServer(ctx context.Context, cfg serveConfig) (_ *server, err error) {
	s := &server{cfg: cfg, dir: dataDir(cfg.data), listeners: map[string]net.Listener{}, failed: make(chan error, 3)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if _, err := os.Stat(s.dir.restoreMarker()); err == nil {
		return nil, usageError(fmt.Errorf("a restore into %s was interrupted", cfg.data), "run fleetca restore again with the same flags")
	}
	if !s.dir.initialised() {
		return nil, usageError(fmt.Errorf("%s holds no authority", cfg.data), "make one: fleetca init --data "+cfg.data)
	}
	if s.unlock, err = s.dir.lock(); err != nil {
		return nil, err
	}
	if err := s.listen(ctx); err != nil {
		return nil, err
	}
	if err := s.openAuthority(ctx); err != nil {
		return nil, err
	}
	if cfg.webhook != nil {
		cfg.webhook.Client = s.webhookClient()
	}
	if err := s.openBrokers(); err != nil {
		return nil, err
	}
	s.service = enroll.New(enroll.Config{
		Authority: s.authority, Store: s.store, Drivers: s.drivers(), Server: s.dir.server(), MachineURL: s.url("machines"),
		Log: cfg.log, ProofTimeout: cfg.proofTimeout, Webhook: cfg.webhook,
		VerifyEvery: cfg.verifyEvery, VerifyConnections: cfg.verifyAtOnce, KeepVerifications: cfg.verifyKeep,
		SessionIdle: cfg.sessionIdle, SessionLife: cfg.sessionLife, RequireSecondFactor: cfg.secondFactor,
		RolloverThreshold: float64(cfg.rolloverPercent) / 100,
		OnTrust:           func(b enroll.TrustBundle) error { return ca.ReplaceFile(s.dir.trustBundle(), []byte(b.PEM), 0o644) },
	})
	if err := s.service.SetStatusURL(ctx, s.url("status")); err != nil {
		return nil, err
	}
	if err := s.service.PublishScheduledCRLs(ctx); err != nil {
		return nil, err
	}
	if err := s.startIdentity(ctx); err != nil {
		return nil, err
	}
	if err := s.startBrokers(ctx); err != nil {
		return nil, err
	}
	return s, s.serve(ctx)
}

// listen takes the three addresses, so that their ports are known.
func (s *server) listen(ctx context.Context) error {
	for _, l := range []struct{ name, flag, addr string }{
		{"people", "people-addr", s.cfg.peopleAddr}, {"machines", "machine-addr", s.cfg.machineAddr}, {"status", "status-addr", s.cfg.statusAddr},
	} {
		listener, err := s.listenOn(ctx, l.flag, l.addr)
		if err != nil {
			return listenError(l.flag, l.addr, err)
		}
		s.listeners[l.name] = listener
	}
	return nil
}

// listenError says that an address of a flag cannot be listened on, and what to do.
func listenError(flag, addr string, err error) error {
	hint := "give HOST:PORT, with an address of this machine"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "free the port, or give another address"
	case errors.Is(err, syscall.EACCES):
		hint = "give a port above 1023: lower ones are not for every user"
	}
	return usageError(fmt.Errorf("--%s %s: %w", flag, addr, err), hint)
}

// listenOn listens on an address, or on another port where that will do.
func (s *server) listenOn(ctx context.Context, flag, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) && s.cfg.anyPort[flag] {
		return new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	}
	return l, err
}

// openAuthority opens the store, and the issuers' keys.
func (s *server) openAuthority(ctx context.Context) error {
	var err error
	storeConfig := store.Config{URL: s.dir.databaseURL(s.cfg.database), Log: s.cfg.log, OnEvent: s.eventJobs}
	if s.store, err = store.Open(ctx, storeConfig); err != nil {
		return err
	}
	if err := s.store.Migrate(ctx); err != nil {
		return err
	}
	issuers, err := s.store.Issuers(ctx)
	if err != nil {
		return err
	}
	keys, err := s.dir.keyring(issuers, s.cfg.passphraseFile)
	if err != nil {
		return err
	}
	last, err := s.store.LastEventAt(ctx)
	if err != nil {
		return err
	}
	s.authority, err = ca.Open(ctx, ca.Config{
		Issuers: issuers, Keys: keys, Ledger: s.store, LastEvent: last,
		Skew: func() time.Duration { return time.Duration(s.skew.Load()) },
	})
	if err != nil {
		return err
	}
	return s.measureSkew(ctx)
}

// eventJobs returns what is to be done beside an audit event.
func (s *server) eventJobs(e enroll.Event) []enroll.Job {
	if s.cfg.onEvent != nil {
		s.cfg.onEvent(e)
	}
	if s.cfg.webhook == nil {
		return nil
	}
	return s.cfg.webhook.EventJobs(e)
}

// skewCheck is how often the database's clock is looked at.
const skewCheck = 10 * time.Second

// measureSkew compares the clock with the database's (I7).
func (s *server) measureSkew(ctx context.Context) error {
	skew, err := s.store.ClockSkew(ctx)
	if err == nil {
		s.skew.Store(int64(skew))
	}
	return err
}

// keepSkew measures the skew until ctx ends. A database that does not answer
// has no clock to be off: what was measured last holds.
func (s *server) keepSkew(ctx context.Context) {
	every(ctx, skewCheck, func() {
		if err := s.measureSkew(ctx); err != nil && ctx.Err() == nil {
			s.cfg.log.Warn("look at the database's clock", "err", err)
		}
	})
}

// startIdentity makes sure of the server's own certificate.
func (s *server) startIdentity(ctx context.Context) error {
	s.identity = &identity{
		service: s.service, dir: s.dir.path("server"), roots: s.authority.Roots, log: s.cfg.log, names: s.publicNames(),
	}
	return s.identity.ensure(ctx)
}

// publicNames returns the names of the server's and the embedded broker's
// certificates: the public ones, and this machine's loopback.
func (s *server) publicNames() []string {
	names := slices.Clone(s.cfg.publicHosts)
	for _, l := range s.listeners {
		host, _, err := net.SplitHostPort(l.Addr().String())
		if ip := net.ParseIP(host); err == nil && ip != nil && !ip.IsUnspecified() {
			names = append(names, host)
		}
	}
	names = append(names, "127.0.0.1", "localhost")
	var unique []string
	for _, name := range names {
		if !slices.Contains(unique, name) {
			unique = append(unique, name)
		}
	}
	return unique
}

// publicHost is the name that goes into URLs.
func (s *server) publicHost(l net.Listener) string {
	if len(s.cfg.publicHosts) > 0 {
		return s.cfg.publicHosts[0]
	}
	host, _, err := net.SplitHostPort(l.Addr().String())
	if ip := net.ParseIP(host); err != nil || ip == nil || ip.IsUnspecified() {
		return "localhost"
	}
	return host
}

// url returns the base URL of a listener.
func (s *server) url(name string) string {
	scheme := "https"
	if name == "status" {
		scheme = "http"
	}
	l := s.listeners[name]
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return scheme + "://" + net.JoinHostPort(s.publicHost(l), port)
}

// serve starts the background work and the three servers.
func (s *server) serve(ctx context.Context) error {
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	var err error
	if s.store.Shared() {
		if err = s.service.AnnounceDrivers(ctx); err != nil {
			return err
		}
		go s.service.KeepDrivers(background)
	}
	if s.jobs, err = s.store.StartJobs(background, store.JobWorkers{
		Handlers: s.service.Jobs(), Every: s.service.Every(), Brokers: slices.Sorted(maps.Keys(s.drivers())), MaxWorkers: 16, Log: s.cfg.log,
	}); err != nil {
		return err
	}
	go s.identity.keep(background)
	go s.keepSkew(background)
	go s.service.KeepTokenUses(background)
	go s.service.KeepRefusals(background)
	go s.service.KeepStatus(background)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(&fleetCollector{service: s.service, log: s.cfg.log})
	site := web.New(web.Config{Service: s.service, APIURL: s.url("people"), StatusURL: s.url("status"), Log: s.cfg.log})
	s.api = api.New(api.Config{Service: s.service, Pages: site.Handler(), Registry: registry, Log: s.cfg.log, InFlight: s.cfg.inFlight})
	s.start("people", s.api.People(), &tls.Config{GetCertificate: s.identity.certificate, MinVersion: tls.VersionTLS12})
	s.start("machines", s.api.Machines(), &tls.Config{GetCertificate: s.identity.certificate, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert})
	s.start("status", s.api.Status(), nil)
	return nil
}

// start serves one listener.
func (s *server) start(name string, h http.Handler, config *tls.Config) {
	srv := &http.Server{
		Handler: h, TLSConfig: config,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
		ConnState:      s.conns.note,
		ErrorLog:       slog.NewLogLogger(s.cfg.log.Handler(), slog.LevelDebug),
	}
	s.servers = append(s.servers, srv)
	l := s.listeners[name]
	go func() {
		var err error
		if config != nil {
			err = srv.ServeTLS(l, "", "")
		} else {
			err = srv.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.failed <- fmt.Errorf("serve %s: %w", name, err)
		}
	}()
}

// stop ends the server, within stopMost.
func (s *server) stop() error {
	stopped := make(chan error, 1)
	go func() { stopped <- s.end() }()
	select {
	case err := <-stopped:
		return err
	case <-time.After(stopMost):
		return fmt.Errorf("the server did not stop within %v", stopMost)
	}
}

// end ends listeners first, then what they work with. Requests that were
// accepted are answered (I28).
func (s *server) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for _, l := range s.listeners {
		l.Close() // nothing new; their servers close them again
	}
	if s.api != nil {
		s.api.Stop()
	}
	for _, srv := range s.servers {
		srv.SetKeepAlivesEnabled(false)
	}
	// Only then: net/http drops a request that it reads after Shutdown began.
	s.conns.drain(ctx)
	errs := make(chan error, len(s.servers))
	for _, srv := range s.servers {
		go func() { errs <- srv.Shutdown(ctx) }()
	}
	var all []error
	for range s.servers {
		all = append(all, <-errs)
	}
	if s.jobs != nil {
		all = append(all, s.jobs.Stop(ctx))
	}
	if s.cancel != nil {
		s.cancel()
		all = append(all, s.service.SaveTokenUses(ctx), s.service.SaveRefusals(ctx))
	}
	for _, b := range s.brokers {
		all = append(all, b.close())
	}
	if s.store != nil {
		all = append(all, s.store.Close())
	}
	if s.unlock != nil {
		s.unlock()
	}
	return errors.Join(all...)
}

// webhookClient trusts what the machine trusts, and certificates of this
// authority. It follows no redirect: the signature is for one receiver.
func (s *server) webhookClient() *http.Client {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	for _, root := range s.authority.Roots() {
		roots.AddCert(root)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// wait returns when ctx ends, or a listener fails.
func (s *server) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

// splitList splits NAME,IP.
func splitList(text string) []string {
	var list []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}
