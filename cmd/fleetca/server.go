package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/fleetca/fleetca/api"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/embedded"
	"github.com/fleetca/fleetca/store"
)

// Timeouts of the listeners, and of a graceful stop (I28). The batch route
// extends its own as it goes.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 60 * time.Second
	idleTimeout   = 2 * time.Minute
	stopTimeout   = 15 * time.Second
	maxHeader     = 16 << 10
)

// embeddedID is the broker id of the embedded broker.
const embeddedID = "embedded"

// serveConfig is what a server works with.
type serveConfig struct {
	data           string   // folder that init made
	passphraseFile string   // of the key files; see dataDir.readPassphrase
	database       string   // store URL; SQLite in the folder when empty
	peopleAddr     string   // HTTPS for people, host:port
	machineAddr    string   // HTTPS for machines
	statusAddr     string   // plain HTTP: CRLs, health, metrics
	mqttsAddr      string   // of an embedded broker; none when empty
	certifyBroker  bool     // give the embedded broker a certificate before the server is ready
	publicHosts    []string // names and addresses clients use; the first goes into URLs
	log            *slog.Logger
	proofTimeout   time.Duration
	// wrapDriver stands between the service and the embedded broker; nil for nothing.
	wrapDriver func(brokers.Driver) brokers.Driver
}

// A server is a running fleetca.
type server struct {
	cfg       serveConfig
	dir       dataDir
	unlock    func()
	store     *store.Store
	authority *ca.Authority
	service   *enroll.Service
	broker    *embedded.Broker // nil for none
	identity  *identity
	listeners map[string]net.Listener // people, machines, status
	servers   []*http.Server
	jobs      *store.Jobs
	cancel    context.CancelFunc
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
	drivers, err := s.openBroker()
	if err != nil {
		return nil, err
	}
	s.service = enroll.New(enroll.Config{
		Authority: s.authority, Store: s.store, Drivers: drivers, MachineURL: s.url("machines"),
		Log: cfg.log, ProofTimeout: cfg.proofTimeout,
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
	if err := s.startBroker(ctx); err != nil {
		return nil, err
	}
	if s.broker != nil && cfg.certifyBroker {
		if err := s.certifyBroker(ctx); err != nil {
			return nil, err
		}
	}
	return s, s.serve(ctx)
}

// listen takes the three addresses, so that their ports are known.
func (s *server) listen(ctx context.Context) error {
	for _, l := range []struct{ name, flag, addr string }{
		{"people", "people-addr", s.cfg.peopleAddr}, {"machines", "machine-addr", s.cfg.machineAddr}, {"status", "status-addr", s.cfg.statusAddr},
	} {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", l.addr)
		if err != nil {
			return usageError(fmt.Errorf("--%s %s: %w", l.flag, l.addr, err), "free the port, or give another address")
		}
		s.listeners[l.name] = listener
	}
	return nil
}

// openAuthority opens the store, and the issuers' keys.
func (s *server) openAuthority(ctx context.Context) error {
	passphrase, err := s.dir.readPassphrase(s.cfg.passphraseFile)
	if err != nil {
		return err
	}
	if s.store, err = store.Open(ctx, store.Config{URL: s.dir.databaseURL(s.cfg.database), Log: s.cfg.log}); err != nil {
		return err
	}
	if err := s.store.Migrate(ctx); err != nil {
		return err
	}
	issuers, err := s.store.Issuers(ctx)
	if err != nil {
		return err
	}
	last, err := s.store.LastEventAt(ctx)
	if err != nil {
		return err
	}
	s.authority, err = ca.Open(ctx, ca.Config{
		Issuers: issuers, Keys: ca.Keyring{Dir: s.cfg.data, Passphrase: passphrase}, Ledger: s.store, LastEvent: last,
	})
	return err
}

// openBroker opens the embedded broker, if one is asked for, and returns the
// drivers of brokers by their id.
func (s *server) openBroker() (map[string]brokers.Driver, error) {
	if s.cfg.mqttsAddr == "" {
		return nil, nil
	}
	var clientCAs []*x509.Certificate
	for _, i := range s.authority.Issuers() {
		if i.Purpose == ca.PurposeDevice {
			clientCAs = append(clientCAs, i.Certificate)
		}
	}
	var err error
	s.broker, err = embedded.New(embedded.Config{
		Addr: s.cfg.mqttsAddr, Dir: s.cfg.data, CRLFile: s.dir.crl(), ClientCAs: clientCAs, Log: s.cfg.log,
	})
	if err != nil {
		return nil, err
	}
	var driver brokers.Driver = s.broker
	if s.cfg.wrapDriver != nil {
		driver = s.cfg.wrapDriver(driver)
	}
	return map[string]brokers.Driver{embeddedID: driver}, nil
}

// startIdentity makes sure of the server's own certificate.
func (s *server) startIdentity(ctx context.Context) error {
	s.identity = &identity{
		service: s.service, dir: s.dir.path("server"), roots: s.authority.Roots(), log: s.cfg.log, names: s.publicNames(),
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

// startBroker starts the embedded broker with the newest CRLs, and registers
// it under the URL it has now.
func (s *server) startBroker(ctx context.Context) error {
	if s.broker == nil {
		return nil
	}
	if err := s.broker.Start(); err != nil {
		return usageError(fmt.Errorf("--mqtts-addr %s: %w", s.cfg.mqttsAddr, err), "free the port, or give another address")
	}
	_, port, _ := net.SplitHostPort(s.broker.Addr().String())
	b := enroll.NewBroker{
		ID: embeddedID, Kind: s.broker.Kind(), Names: s.publicNames(),
		URL: "mqtts://" + net.JoinHostPort(s.publicHost(s.listeners["status"]), port),
	}
	_, err := s.service.Broker(ctx, embeddedID)
	switch {
	case errors.Is(err, ca.IsKind(ca.KindNotFound)):
		_, err = s.service.CreateBroker(ctx, serverCall(), b)
	case err == nil:
		err = s.service.MoveBroker(ctx, "server", b)
	}
	if err != nil {
		return err
	}
	return s.service.PushCRLs(ctx)
}

// serverCall is a call that the server makes itself.
func serverCall() enroll.Call { return enroll.Call{Principal: enroll.Principal{Name: "server"}} }

// certifyBroker gives the embedded broker a certificate for its names, unless
// it has one that will do.
func (s *server) certifyBroker(ctx context.Context) error {
	names := s.publicNames()
	if leaf, err := s.broker.Active(ctx); err == nil && time.Until(leaf.NotAfter) > leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		missing := slices.ContainsFunc(names, func(n string) bool { return leaf.VerifyHostname(n) != nil })
		if !missing && leaf.CheckSignatureFrom(s.brokerIssuer()) == nil {
			return nil
		}
	}
	csr, err := s.broker.CertificateRequest(ctx, names)
	if err != nil {
		return err
	}
	issued, err := s.service.IssueBroker(ctx, serverCall(), embeddedID, string(csr))
	if err != nil {
		return err
	}
	return s.broker.Install(ctx, derChain(issued.Chain))
}

func (s *server) brokerIssuer() *x509.Certificate {
	for _, i := range s.authority.Issuers() {
		if i.Purpose == ca.PurposeBroker {
			return i.Certificate
		}
	}
	return nil
}

// serve starts the background work and the three servers.
func (s *server) serve(ctx context.Context) error {
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	var err error
	if s.jobs, err = s.store.StartJobs(background, store.JobWorkers{
		Handlers: s.service.Jobs(), Every: s.service.Every(), MaxWorkers: 16, Log: s.cfg.log,
	}); err != nil {
		return err
	}
	go s.identity.keep(background)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a := api.New(api.Config{Service: s.service, Registry: registry, Log: s.cfg.log})
	s.start("people", a.People(), &tls.Config{GetCertificate: s.identity.certificate, MinVersion: tls.VersionTLS12})
	s.start("machines", a.Machines(), &tls.Config{GetCertificate: s.identity.certificate, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert})
	s.start("status", a.Status(), nil)
	return nil
}

// start serves one listener.
func (s *server) start(name string, h http.Handler, config *tls.Config) {
	srv := &http.Server{
		Handler: h, TLSConfig: config,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
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
		if !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serve %s: %w", name, err)
		}
	}()
}

// stop ends the server: listeners first, then what they work with. Requests
// that were accepted are answered (I28).
func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	errs := make(chan error, len(s.servers))
	for _, srv := range s.servers {
		go func() { errs <- srv.Shutdown(ctx) }()
	}
	var all []error
	for range s.servers {
		all = append(all, <-errs)
	}
	for _, l := range s.listeners {
		l.Close() // those that never served; the others are closed already
	}
	if s.jobs != nil {
		all = append(all, s.jobs.Stop(ctx))
	}
	if s.cancel != nil {
		s.cancel()
	}
	if s.broker != nil {
		all = append(all, s.broker.Close())
	}
	if s.store != nil {
		all = append(all, s.store.Close())
	}
	if s.unlock != nil {
		s.unlock()
	}
	return errors.Join(all...)
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
