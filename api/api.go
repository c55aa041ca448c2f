package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A Config says what an API works with.
type Config struct {
	// Service does everything. It is the one field that must be set.
	Service *enroll.Service
	// Registry takes the API's metrics and is what /metrics shows; a new one
	// when nil. Two APIs cannot share one.
	Registry *prometheus.Registry
	// Pages is what the listener for people serves beside REST: the dashboard.
	// Nil for nothing.
	Pages http.Handler
	// Log gets a line a request, and the text of errors that clients must not
	// see; nothing is logged when nil.
	Log *slog.Logger
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// AuthBurst is how many failed authentications an address has at once, with
	// all replicas, AuthRefill after how long it has one more; 60 and a second
	// when zero.
	AuthBurst  int
	AuthRefill time.Duration
	// InFlight is how many calls a HTTPS listener works on at the same time; what
	// comes above that is shed with 503. An eighth as many batches come on top.
	// 512 when zero.
	InFlight int
	// BatchWorkers is how many items of one batch are enrolled at the same
	// time; 16 when zero.
	BatchWorkers int
}

// An API makes the handlers of the listeners. It is safe for concurrent use.
type API struct {
	service  *enroll.Service
	pages    http.Handler
	log      *slog.Logger
	now      func() time.Time
	workers  int
	pause    time.Duration // see batchPause
	inFlight int
	registry *prometheus.Registry
	metrics  *metrics
	failures *failures
	ready    readiness
	unusable func() []string // issuers whose key cannot be used
	routes   []Route
	document func() []byte // OpenAPI

	stopping context.Context // done when streams are to end
	stop     context.CancelFunc
}

// New returns an API.
func New(cfg Config) *API {
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.AuthBurst == 0 {
		cfg.AuthBurst = 60
	}
	if cfg.AuthRefill == 0 {
		cfg.AuthRefill = time.Second
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = 512
	}
	if cfg.BatchWorkers == 0 {
		cfg.BatchWorkers = 16
	}
	a := &API{
		service: cfg.Service, pages: cfg.Pages, log: cfg.Log, now: cfg.Now, workers: cfg.BatchWorkers, pause: batchPause, inFlight: cfg.InFlight,
		registry: cfg.Registry, metrics: newMetrics(cfg.Registry),
		ready:    readiness{ask: cfg.Service.Ready},
		unusable: cfg.Service.UnusableIssuers,
		failures: &failures{burst: cfg.AuthBurst, refill: cfg.AuthRefill, now: cfg.Now, charge: cfg.Service.ChargeFailure, full: map[netip.Prefix]time.Time{}},
		routes:   Routes(),
		document: sync.OnceValue(OpenAPI),
	}
	a.stopping, a.stop = context.WithCancel(context.Background())
	cfg.Registry.MustRegister(&crlCollector{crls: cfg.Service.CRLs, now: cfg.Now, log: cfg.Log}, &ocspCollector{service: cfg.Service})
	return a
}

// Stop makes batches end: what was read of them is answered, and then the
// answer is broken off, so that its client sends the rest to another server.
// Other requests end by themselves.
func (a *API) Stop() { a.stop() }

// People returns the handler of the HTTPS listener for people and programs
// with API tokens: REST, health, and Config.Pages.
func (a *API) People() http.Handler { return a.rest("people", false) }

// Machines returns the handler of the HTTPS listener for machines: the same
// calls, and those with a client certificate. Its listener's tls.Config must
// have ClientAuth RequestClientCert.
func (a *API) Machines() http.Handler { return a.rest("machines", true) }

// rest routes the table of calls.
func (a *API) rest(listener string, machines bool) http.Handler {
	m := a.router(listener)
	arriving := newArrivals()
	if machines || a.pages == nil {
		m.Get("/", a.getEntrance)
		m.Head("/", a.getEntrance)
	} else {
		m.NotFound(a.orPages(arriving.first(a, formLimit)(a.pages)))
	}
	limited := m.With(arriving.first(a, bodyLimit), a.shed(make(chan struct{}, a.inFlight)))
	streaming := m.With(a.shed(make(chan struct{}, max(1, a.inFlight/batchShare))))
	for i := range a.routes {
		rt := &a.routes[i]
		on := limited
		if rt.Stream {
			on = streaming
		}
		on.Method(rt.Method, basePath+rt.Pattern, a.serve(rt, machines))
		if rt.Method == http.MethodGet {
			on.Method(http.MethodHead, basePath+rt.Pattern, a.serve(rt, machines))
		}
	}
	limited.Get(basePath, a.serve(&a.routes[0], machines)) // the index, without its slash
	limited.Head(basePath, a.serve(&a.routes[0], machines))
	return m
}

// Status returns the handler of the plain HTTP listener: OCSP, CRLs and issuer
// certificates at the URLs that certificates carry, the trust bundle, health
// and metrics.
func (a *API) Status() http.Handler { return a.status(make(chan struct{}, statusInFlight)) }

// status is Status with slots.
func (a *API) status(slots chan struct{}) http.Handler {
	m := a.router("status")
	shed := a.shed(slots)
	limited := m.With(shed)
	for pattern, h := range map[string]http.HandlerFunc{
		"/crl/{file}":          a.getCRL,
		"/crl/{issuer}/{file}": a.getCRL,
		ocspPath:               a.getOCSPUsage,
		"/issuers/{file}":      a.getIssuerCertificate,
		"/trust-bundle.pem":    a.getTrustBundlePEM,
		"/metrics":             a.getMetrics,
	} {
		limited.Get(pattern, h)
		limited.Head(pattern, h)
	}
	return a.withOCSP(shed, m)
}

// router returns a router with what all listeners have: the middleware,
// health, and problems for what is not there: 405 where a path takes other
// methods, else 404 (RFC 9110, 15.5.5 and 15.5.6).
func (a *API) router(listener string) *chi.Mux {
	m := chi.NewRouter()
	m.Use(a.identify, a.observe(listener), a.recoverPanic, secureHeaders)
	m.Get("/healthz", a.getHealth)
	m.Head("/healthz", a.getHealth)
	m.Get("/readyz", a.getReady)
	m.Head("/readyz", a.getReady)
	m.NotFound(a.nothingHere)
	m.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		methods := allowed(m, r)
		if len(methods) == 0 { // a method that is not known, at a path that is not either
			m.NotFoundHandler()(w, r)
			return
		}
		allow := strings.Join(methods, ", ")
		w.Header().Set("Allow", allow)
		a.writeError(w, r, ca.Errorf(KindMethod, "", "use "+allow, "this path does not take the method %.16q", r.Method))
	})
	return m
}

func (a *API) nothingHere(w http.ResponseWriter, r *http.Request) {
	a.writeError(w, r, ca.Errorf(ca.KindNotFound, "", "GET "+basePath+"/ lists what is here", "there is nothing at this path"))
}

// orPages answers what no call is for: under /api/ with a problem, else by pages.
// They are no mount: that would take every method at every path.
func (a *API) orPages(pages http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/") {
			a.nothingHere(w, r)
			return
		}
		pages.ServeHTTP(w, r)
	}
}

// allowed returns the methods that a router takes at a request's path.
func allowed(m chi.Routes, r *http.Request) []string {
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	all := []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	return slices.DeleteFunc(all, func(method string) bool { return !m.Match(chi.NewRouteContext(), method, path) })
}

// getEntrance says where things are.
func (a *API) getEntrance(w http.ResponseWriter, _ *http.Request) {
	write(w, http.StatusOK, "application/json", encodeJSON(Index{Links: map[string]string{
		"api": basePath + "/", "health": "/healthz", "ready": "/readyz",
	}}))
}
