package web_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PuerkitoBio/goquery"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/embedded"
	"github.com/fleetca/fleetca/enroll/leaktest"
	"github.com/fleetca/fleetca/store"
	"github.com/fleetca/fleetca/web"
)

// TestMain lets more tests run at once than there are processors, because most
// of them wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "8")
	}
	dir, err := os.MkdirTemp("", "fleetca-web-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	template.dir = dir
	template.make = sync.OnceValue(fillTemplate)
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// The template is what all sites begin with: an authority's keys, and a
// database with its issuers and first CRLs.
var template struct {
	dir     string
	issuers []ca.Issuer
	make    func() error // once
}

var passphrase = []byte("correct horse")

func fillTemplate() error {
	ctx := context.Background()
	dir := template.dir
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "keys"), 0o700), os.MkdirAll(filepath.Join(dir, "root"), 0o700)); err != nil {
		return err
	}
	h, err := ca.Initialize(ctx, ca.InitConfig{Dir: dir, RootKeyPath: filepath.Join(dir, "root", "key.pem"), Passphrase: passphrase, Organization: "Test"})
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, store.Config{URL: filepath.Join(dir, "fleetca.db")})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Migrate(ctx); err != nil {
		return err
	}
	return db.CreateIssuers(ctx, h.Issuers, h.CRLs, enroll.Change{Event: enroll.InitEvent(ca.FingerprintOf(h.Root()))})
}

// authority opens the template's keys, once: that takes a while.
var authority = sync.OnceValues(func() (ca.Keyring, error) {
	return ca.Keyring{Dir: template.dir, Passphrase: passphrase}, template.make()
})

// A site is a dashboard on a database of its own, behind TLS.
type site struct {
	*testing.T
	ctx     context.Context
	service *enroll.Service
	store   *store.Store
	ca      *ca.Authority
	drivers map[string]brokers.Driver
	server  *httptest.Server
	offset  atomic.Int64 // of the clock
	stopped atomic.Int64 // when it was stopped, in microseconds; 0 while it runs
	users   sync.Map     // that were added
}

// tell adds the audit trail to the run's output, where secrets are looked for.
func (s *site) tell() {
	events, _, err := s.store.Events(context.Background(), enroll.EventFilter{}, enroll.Page{Limit: 500})
	s.must(err)
	for _, e := range events {
		leaktest.Write(string(e.Canonical()))
	}
}

// An option changes what a site is made with.
type option func(*enroll.Config)

// newSite starts a site, whose background work runs.
func newSite(t *testing.T, options ...option) *site {
	t.Helper()
	s := &site{T: t, ctx: t.Context(), drivers: map[string]brokers.Driver{}}
	keys, err := authority()
	s.must(err)
	file, err := os.ReadFile(filepath.Join(template.dir, "fleetca.db"))
	s.must(err)
	path := filepath.Join(t.TempDir(), "fleetca.db")
	s.must(os.WriteFile(path, file, 0o600))
	s.store, err = store.Open(s.ctx, store.Config{URL: path})
	s.must(err)
	t.Cleanup(func() { s.store.Close() })
	issuers, err := s.store.Issuers(s.ctx)
	s.must(err)
	s.ca, err = ca.Open(s.ctx, ca.Config{Issuers: issuers, Keys: keys, Ledger: s.store})
	s.must(err)
	log := slog.New(slog.NewTextHandler(leaktest.Tee(io.Discard), &slog.HandlerOptions{Level: slog.LevelDebug}))
	t.Cleanup(s.tell)
	cfg := enroll.Config{Authority: s.ca, Store: s.store, Drivers: s.drivers, MachineURL: "https://machines.test", Now: s.now, Log: log}
	for _, o := range options {
		o(&cfg)
	}
	s.service = enroll.New(cfg)
	s.must(s.service.SetStatusURL(s.ctx, "http://status.test"))
	s.must(s.service.PublishScheduledCRLs(s.ctx))
	jobs, err := s.store.StartJobs(context.WithoutCancel(s.ctx), store.JobWorkers{Handlers: s.service.Jobs(), Every: s.service.Every(), MaxWorkers: 4, Log: log})
	s.must(err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := jobs.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	pages := web.New(web.Config{Service: s.service, APIURL: "https://people.test", StatusURL: "http://status.test", Now: s.now, Log: log}).Handler()
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaktest.Write(r.Method + " " + r.URL.String()) // no URL is to show a secret
		pages.ServeHTTP(w, r)
	}))
	s.server.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	s.server.StartTLS()
	t.Cleanup(func() {
		s.server.CloseClientConnections() // live pages do not end by themselves
		s.server.Close()
	})
	return s
}

func (s *site) now() time.Time {
	at := time.Now()
	if stopped := s.stopped.Load(); stopped != 0 {
		at = time.UnixMicro(stopped)
	}
	return at.Add(time.Duration(s.offset.Load()))
}

// stop keeps the clock from running by itself, for tests of limits of a second
// or so, which a busy machine would outlast.
func (s *site) stop() { s.stopped.Store(time.Now().UnixMicro()) }

func (s *site) forward(d time.Duration) { s.offset.Add(int64(d)) }

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// admin returns a call of an admin.
func admin() enroll.Call {
	return enroll.Call{Principal: enroll.Principal{Name: "test", Role: enroll.RoleAdmin}}
}

// password is every user's.
const password = "correct horse battery"

// addUser adds a user unless there is one of that name.
func (s *site) addUser(name string, role enroll.Role) {
	s.Helper()
	if _, known := s.users.LoadOrStore(name, true); known {
		return
	}
	_, err := s.service.AddUser(s.ctx, admin(), enroll.NewUser{Name: name, Role: role, Password: password})
	s.must(err)
}

// enroll enrolls a device, and returns its key.
func (s *site) enroll(id string) *ecdsa.PrivateKey {
	s.Helper()
	return s.enrollFor(id, "")
}

// enrollFor enrolls a device for a work order.
func (s *site) enrollFor(id, order string) *ecdsa.PrivateKey {
	s.Helper()
	key, csr := s.request(id)
	_, err := s.service.EnrollDevice(s.ctx, admin(), enroll.EnrollRequest{DeviceID: id, CSR: csr, WorkOrder: order})
	s.must(err)
	return key
}

// request makes a key and a certification request for a common name.
func (s *site) request(commonName string) (*ecdsa.PrivateKey, string) {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}, key)
	s.must(err)
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// broker starts an embedded broker, registered and serving a certificate.
func (s *site) broker(id string) *embedded.Broker {
	s.Helper()
	var anchors []*x509.Certificate
	for _, i := range s.ca.Issuers() {
		if i.Purpose == ca.PurposeDevice {
			anchors = append(anchors, i.Certificate)
		}
	}
	b, err := embedded.New(embedded.Config{Addr: "127.0.0.1:0", Dir: s.TempDir(), ClientCAs: anchors, Now: s.now})
	s.must(err)
	s.must(b.Start())
	s.Cleanup(func() { _ = b.Close() })
	names := []string{"127.0.0.1", "localhost"}
	_, err = s.service.CreateBroker(s.ctx, admin(), enroll.NewBroker{ID: id, URL: "mqtts://" + b.Addr().String(), Names: names, Kind: "embedded"})
	s.must(err)
	csr, err := b.CertificateRequest(s.ctx, names)
	s.must(err)
	issued, err := s.service.IssueBroker(s.ctx, admin(), id, string(csr))
	s.must(err)
	var chain [][]byte
	for block, rest := pem.Decode([]byte(issued.Chain)); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	s.must(b.Install(s.ctx, chain))
	s.drivers[id] = b
	s.must(s.service.PushCRLs(s.ctx))
	return b
}

// A visitor is a browser without script: it keeps cookies, follows redirects,
// and posts forms as the page they are on would.
type visitor struct {
	*site
	client *http.Client
	jar    *cookiejar.Jar
}

// visitor returns one who is not signed in.
func (s *site) visitor() *visitor {
	s.Helper()
	jar, err := cookiejar.New(nil)
	s.must(err)
	return &visitor{site: s, jar: jar, client: &http.Client{Transport: s.server.Client().Transport, Jar: jar, Timeout: time.Minute}}
}

// as returns a visitor who signed in with a role.
func (s *site) as(role enroll.Role) *visitor {
	s.Helper()
	name := "eve-" + string(role)
	s.addUser(name, role)
	v := s.visitor()
	v.signIn(name)
	return v
}

func (v *visitor) signIn(name string) {
	v.Helper()
	p := v.post("/sign-in", "name", name, "password", password)
	if p.path != "/" {
		v.Fatalf("signed in, and got to %s (%d)\n%s", p.path, p.status, p.text())
	}
}

// A shown page is what a visitor got.
type shown struct {
	*goquery.Document
	v      *visitor
	status int
	path   string // after redirects, with its query
	header http.Header
	body   string
}

// get opens a page.
func (v *visitor) get(path string) *shown {
	v.Helper()
	r, err := http.NewRequestWithContext(v.ctx, http.MethodGet, v.server.URL+path, nil)
	v.must(err)
	return v.do(r)
}

// post sends a form, given as names and values.
func (v *visitor) post(path string, fields ...string) *shown {
	v.Helper()
	form := url.Values{}
	for i := 0; i+1 < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	r, err := http.NewRequestWithContext(v.ctx, http.MethodPost, v.server.URL+path, strings.NewReader(form.Encode()))
	v.must(err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", v.server.URL)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return v.do(r)
}

func (v *visitor) do(r *http.Request) *shown {
	v.Helper()
	resp, err := v.client.Do(r)
	v.must(err)
	defer resp.Body.Close()
	var body strings.Builder
	doc, err := goquery.NewDocumentFromReader(io.TeeReader(resp.Body, &body))
	v.must(err)
	return &shown{Document: doc, v: v, status: resp.StatusCode, path: resp.Request.URL.RequestURI(), header: resp.Header, body: body.String()}
}

// want ends the test unless the page has the status.
func (p *shown) want(status int) *shown {
	p.v.Helper()
	if p.status != status {
		p.v.Fatalf("%s: status %d, want %d\n%s", p.path, p.status, status, p.text())
	}
	return p
}

// text returns the page's words.
func (p *shown) text() string { return strings.Join(strings.Fields(p.Find("main").Text()), " ") }

// has ends the test unless the page has the words.
func (p *shown) has(words ...string) *shown {
	p.v.Helper()
	for _, w := range words {
		if !strings.Contains(p.text(), w) {
			p.v.Fatalf("%s does not say %q:\n%s", p.path, w, p.text())
		}
	}
	return p
}

// count ends the test unless the selector finds so many elements.
func (p *shown) count(selector string, n int) *shown {
	p.v.Helper()
	if got := p.Find(selector).Length(); got != n {
		p.v.Fatalf("%s: %d of %q, want %d", p.path, got, selector, n)
	}
	return p
}

// submit sends the form that the selector finds, with its hidden fields and
// what is filled in.
func (p *shown) submit(form string, fields ...string) *shown {
	p.v.Helper()
	f := p.Find(form)
	if f.Length() != 1 {
		p.v.Fatalf("%s: %d forms %q", p.path, f.Length(), form)
	}
	all := append([]string{}, fields...)
	f.Find("input[type=hidden]").Each(func(_ int, in *goquery.Selection) {
		all = append(all, in.AttrOr("name", ""), in.AttrOr("value", ""))
	})
	return p.v.post(f.AttrOr("action", ""), all...)
}
