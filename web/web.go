package web

import (
	"embed"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/fleetca/fleetca/enroll"
)

//go:embed templates static
var files embed.FS

// A Config says what a Site works with.
type Config struct {
	// Service does everything. It is the one field that must be set.
	Service *enroll.Service
	// StatusURL and APIURL are the base URLs that commands shown on pages name:
	// of the plain HTTP listener, and of the HTTPS listener for people.
	StatusURL, APIURL string
	// Log gets the text of errors that people must not see; nothing is logged
	// when nil.
	Log *slog.Logger
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// Watchers is how many live pages are served at the same time; 256 when zero.
	Watchers int
	// InFlight is how many requests are worked on at the same time, live pages
	// aside; more are told to come again. 512 when zero.
	InFlight int
}

// A Site makes the dashboard's handler. It is safe for concurrent use.
type Site struct {
	cfg      Config
	service  *enroll.Service
	log      *slog.Logger
	now      func() time.Time
	pages    map[string]*parsed // by name
	assets   map[string]asset   // by file name
	mux      *chi.Mux
	routes   map[string]*route // by method and pattern
	watchers chan struct{}     // holds one for each live page
	inFlight chan struct{}     // holds one for each request that is worked on
}

// New returns a Site. It panics when a template does not parse: they are part
// of the program.
func New(cfg Config) *Site {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Watchers == 0 {
		cfg.Watchers = 256
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = 512
	}
	s := &Site{
		cfg: cfg, service: cfg.Service, log: cfg.Log, now: cfg.Now,
		routes: map[string]*route{}, watchers: make(chan struct{}, cfg.Watchers), inFlight: make(chan struct{}, cfg.InFlight),
	}
	static, err := fs.Sub(files, "static")
	if err != nil {
		panic(err)
	}
	s.assets = readAssets(static)
	s.pages = parsePages(s)
	s.mux = s.router()
	return s
}

// Handler returns the handler of everything on the dashboard. Bodies of its
// requests must have arrived: it works on few at a time, and waits for none.
func (s *Site) Handler() http.Handler { return s.mux }

// router routes the table.
func (s *Site) router() *chi.Mux {
	m := chi.NewRouter()
	m.Use(s.recoverPanic, secureHeaders, s.sameOrigin)
	m.Get("/static/{file}", s.getAsset)
	m.Head("/static/{file}", s.getAsset)
	table := routes()
	for i := range table {
		rt := &table[i]
		s.routes[rt.Method+" "+rt.Pattern] = rt
		m.Method(rt.Method, rt.Pattern, s.serve(rt))
		if rt.Method == http.MethodGet {
			m.Method(http.MethodHead, rt.Pattern, s.serve(rt))
		}
	}
	m.NotFound(s.serve(&route{Method: http.MethodGet, handle: notFound}))
	m.MethodNotAllowed(s.serve(&route{Method: http.MethodGet, handle: notFound}))
	return m
}

// sameOrigin refuses forms that come from other origins (CSRF).
func (s *Site) sameOrigin(next http.Handler) http.Handler {
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.writeError(&visit{w: w, r: r, site: s}, errCrossOrigin)
	}))
	return guard.Handler(next)
}

// contentSecurityPolicy lets a page load our own script, sheet and pictures,
// and nothing else.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func secureHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}
