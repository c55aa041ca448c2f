package enroll_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/leaktest"
	"github.com/fleetca/fleetca/store"
)

// TestMain lets more tests run at once than there are processors, because most
// of them wait, and sees that none leaves a goroutine behind.
func TestMain(m *testing.M) {
	if args := strings.Split(os.Getenv(publisherProcess), "|"); len(args) == 3 {
		if err := publish(args[0], args[1], args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "16")
	dir, err := os.MkdirTemp("", "fleetca-enroll-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	template.dir = dir
	template.make = sync.OnceValue(fillTemplate)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// The template is what all sites begin with: the key files of one hierarchy,
// in plain, because opening an encrypted one takes a tenth of a second, and a
// database with its issuers and first CRLs.
var template struct {
	dir  string
	root *x509.Certificate
	make func() error // once
}

func fillTemplate() error {
	ctx := context.Background()
	h, err := makeHierarchy(ctx, template.dir)
	if err != nil {
		return err
	}
	template.root = h.Root()
	db, err := store.Open(ctx, store.Config{URL: filepath.Join(template.dir, "fleetca.db")})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Migrate(ctx); err != nil {
		return err
	}
	if err := db.CreateIssuers(ctx, h.Issuers, h.CRLs, enroll.Change{Event: enroll.InitEvent(ca.FingerprintOf(h.Root()))}); err != nil {
		return err
	}
	a, err := ca.Open(ctx, ca.Config{Issuers: h.Issuers, Keys: ca.Keyring{Dir: template.dir}, Ledger: db})
	if err != nil {
		return err
	}
	s := enroll.New(enroll.Config{Authority: a, Store: db})
	if err := s.SetStatusURL(ctx, "http://status.test"); err != nil {
		return err
	}
	return s.PublishScheduledCRLs(ctx)
}

// makeHierarchy makes issuers, and their key files in dir/keys.
func makeHierarchy(ctx context.Context, dir string) (*ca.Hierarchy, error) {
	passphrase, sealed := []byte(leaktest.Canary("passphrase")), filepath.Join(dir, "sealed")
	if err := errors.Join(os.MkdirAll(filepath.Join(sealed, "keys"), 0o700), os.MkdirAll(filepath.Join(dir, "keys"), 0o700)); err != nil {
		return nil, err
	}
	h, err := ca.Initialize(ctx, ca.InitConfig{
		Dir: sealed, RootKeyPath: filepath.Join(sealed, "root.pem"), Passphrase: passphrase, Organization: "Test",
	})
	if err != nil {
		return nil, err
	}
	for _, i := range h.Issuers {
		if i.KeyURI == "" {
			continue
		}
		key, err := ca.Keyring{Dir: sealed, Passphrase: passphrase}.Open(ctx, i.KeyURI, i.Certificate.PublicKey)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, strings.TrimPrefix(i.KeyURI, "softkms:path=")), text, 0o600); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// A clock is the time, moved.
type clock struct {
	offset atomic.Int64
	still  atomic.Pointer[time.Time] // nil while it runs
}

func (c *clock) now() time.Time {
	at := time.Now()
	if still := c.still.Load(); still != nil {
		at = *still
	}
	return at.Add(time.Duration(c.offset.Load()))
}

func (c *clock) forward(d time.Duration) { c.offset.Add(int64(d)) }

// stop keeps the clock from running by itself, for tests of limits of a second
// or so, which a busy machine would outlast.
func (c *clock) stop() {
	now := time.Now()
	c.still.Store(&now)
}

// A site is a database with an authority, and the servers that work on it.
type site struct {
	*testing.T
	ctx     context.Context
	path    string // of the database
	clock   *clock
	root    *x509.Certificate
	store   *store.Store
	drivers map[string]brokers.Driver
	log     *lines
	reader  *sql.DB // of unchanged

	proofTimeout time.Duration // of servers that are started
	published    *statusListener

	*enroll.Service // the first server
	authority       *ca.Authority
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, ctx: t.Context(), path: filepath.Join(t.TempDir(), "fleetca.db"), clock: new(clock), drivers: map[string]brokers.Driver{}, log: new(lines), proofTimeout: 5 * time.Second}
	s.must(template.make())
	s.root = template.root
	database, err := os.ReadFile(filepath.Join(template.dir, "fleetca.db"))
	s.must(err)
	s.must(os.WriteFile(s.path, database, 0o600))
	s.store = s.openStore()
	s.authority = s.openAuthority(s.store)
	s.published = new(statusListener)
	s.Service = s.server(s.store)
	s.published.service = s.Service
	s.Cleanup(func() {
		leaktest.Write(strings.Join(s.column(s.readOnly(), `SELECT CAST(canonical AS TEXT) FROM events`), "\n"))
	})
	return s
}

// openStore opens the database once more, as another replica does.
func (s *site) openStore() *store.Store {
	s.Helper()
	db, err := store.Open(context.Background(), store.Config{URL: s.path, Now: s.clock.now})
	s.must(err)
	s.Cleanup(func() { _ = db.Close() })
	return db
}

func (s *site) openAuthority(ledger ca.Ledger) *ca.Authority {
	s.Helper()
	issuers, err := s.store.Issuers(s.ctx)
	s.must(err)
	a, err := ca.Open(s.ctx, ca.Config{Issuers: issuers, Keys: ca.Keyring{Dir: template.dir}, Ledger: ledger, Now: s.clock.now})
	s.must(err)
	return a
}

// server starts another server on a store, which may be one that fails.
func (s *site) server(db enroll.Store) *enroll.Service {
	s.Helper()
	return enroll.New(s.config(db))
}

// serverWith starts another server, with other settings.
func (s *site) serverWith(change func(*enroll.Config)) *enroll.Service {
	s.Helper()
	cfg := s.config(s.store)
	change(&cfg)
	return enroll.New(cfg)
}

func (s *site) config(db enroll.Store) enroll.Config {
	s.Helper()
	return enroll.Config{
		Authority: s.openAuthority(db), Store: db, Drivers: s.drivers, MachineURL: "https://machines.test",
		Log: slog.New(slog.NewTextHandler(s.log, nil)), Now: s.clock.now, ProofTimeout: s.proofTimeout,
		Fetcher: &http.Client{Transport: s.published},
	}
}

// startJobs works off the jobs of the site until the test ends, and those by the
// clock that are given.
func (s *site) startJobs(every map[enroll.JobKind]time.Duration) {
	s.Helper()
	jobs, err := s.store.StartJobs(s.ctx, store.JobWorkers{
		Handlers: s.Jobs(), Every: every, MaxWorkers: 16, Log: slog.New(slog.NewTextHandler(s.log, nil)),
	})
	s.must(err)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		s.must(jobs.Stop(ctx))
	})
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// wantKind ends the test unless err is of a kind, about a field.
func (s *site) wantKind(err error, kind ca.Kind, field string) {
	s.Helper()
	e, ok := errors.AsType[*ca.Error](err)
	if !ok || e.Kind != kind || e.Field != field {
		s.Fatalf("error is %v (%+v), want kind %s about %q", err, e, kind, field)
	}
}

// wantReplay ends the test unless err is the answer to an earlier call.
func (s *site) wantReplay(err error) *enroll.Replay {
	s.Helper()
	replay, ok := errors.AsType[*enroll.Replay](err)
	if !ok {
		s.Fatalf("error is %v, want a replay", err)
	}
	return replay
}

// unchanged ends the test if do commits anything to the database: SQLite tells
// a connection when another one did.
func (s *site) unchanged(do func()) {
	s.Helper()
	if s.reader == nil {
		s.reader = s.readOnly()
	}
	version := func() string { return s.column(s.reader, `PRAGMA data_version`)[0] }
	before := version()
	do()
	if version() != before {
		all := s.events()
		s.Errorf("the database was changed; the newest events are %v", all[max(0, len(all)-3):])
	}
}

// readOnly opens the database to look into it, on one connection.
func (s *site) readOnly() *sql.DB {
	s.Helper()
	db, err := sql.Open("sqlite", "file:"+s.path+"?_pragma=query_only(1)&_pragma=busy_timeout(5000)")
	s.must(err)
	db.SetMaxOpenConns(1)
	s.Cleanup(func() { _ = db.Close() })
	return db
}

// dump returns every row of every table, by table.
func (s *site) dump() map[string]string {
	s.Helper()
	db := s.readOnly()
	defer db.Close()
	all := map[string]string{}
	for _, name := range s.column(db, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('river_leader', 'river_queue', 'sqlite_sequence')`) {
		columns := s.column(db, `SELECT name FROM pragma_table_info('`+name+`')`)
		text := `SELECT concat_ws('|', quote(` + strings.Join(columns, `), quote(`) + `)) FROM ` + name
		all[name] = strings.Join(s.column(db, text), "\n")
	}
	return all
}

func (s *site) column(db *sql.DB, query string) []string {
	s.Helper()
	rows, err := db.Query(query)
	s.must(err)
	defer rows.Close()
	var all []string
	for rows.Next() {
		var text string
		s.must(rows.Scan(&text))
		all = append(all, text)
	}
	s.must(rows.Err())
	slices.Sort(all)
	return all
}

// events returns the actions of all audit events, oldest first.
func (s *site) events() []string {
	s.Helper()
	var all []string
	for cursor := ""; ; {
		page, next, err := s.Events(s.ctx, enroll.EventFilter{}, enroll.Page{Limit: 500, Cursor: cursor})
		s.must(err)
		for _, e := range page {
			all = append(all, e.Action)
		}
		if cursor = next; next == "" {
			slices.Reverse(all)
			return all
		}
	}
}

// newEvents returns the actions of the audit events that do makes.
func (s *site) newEvents(do func()) []string {
	s.Helper()
	before := len(s.events())
	do()
	return s.events()[before:]
}

// certificates returns the serial numbers of a device's certificates by status.
func (s *site) certificates(device string) map[ca.Status][]ca.SerialNumber {
	s.Helper()
	d, err := s.Device(s.ctx, device)
	s.must(err)
	all := map[ca.Status][]ca.SerialNumber{}
	for _, c := range d.Certificates {
		all[c.Status] = append(all[c.Status], c.SerialNumber)
	}
	return all
}

// onCRL returns the serial numbers on the newest CRL of the devices' issuer.
func (s *site) onCRL() map[ca.SerialNumber]bool {
	s.Helper()
	s.must(s.RefreshStatus(s.ctx)) // another server may have published it
	crl, err := s.CRL(s.ctx, "device")
	s.must(err)
	list, err := x509.ParseRevocationList(crl.DER)
	s.must(err)
	all := map[ca.SerialNumber]bool{}
	for _, e := range list.RevokedCertificateEntries {
		all[ca.SerialNumberOf(e.SerialNumber)] = true
	}
	return all
}

// eventually ends the test unless ok becomes true in time.
func (s *site) eventually(limit time.Duration, what string, ok func() bool) {
	s.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// as is a call of somebody with an API token.
func as(name, key string) enroll.Call {
	return enroll.Call{Principal: enroll.Principal{Name: "token:" + name, Role: enroll.RoleOperator, Seal: []byte("seal of " + name)}, IdempotencyKey: key}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newCSR returns a certification request by a key, in PEM.
func newCSR(t testing.TB, key crypto.Signer, cn string, change ...func(*x509.CertificateRequest)) string {
	t.Helper()
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}
	for _, c := range change {
		c(r)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// enroll enrolls a device by an operator, and returns its key.
func (s *site) enroll(id string) (*enroll.Enrollment, crypto.Signer) {
	s.Helper()
	key := newKey(s)
	e, err := s.EnrollDevice(s.ctx, as("operator", ""), enroll.EnrollRequest{DeviceID: id, CSR: newCSR(s, key, id)})
	s.must(err)
	return e, key
}

// order opens a work order, and makes a token for it.
func (s *site) order(id string, quantity int64, n enroll.NewToken) *enroll.EnrollmentToken {
	s.Helper()
	_, err := s.CreateWorkOrder(s.ctx, as("operator", ""), enroll.NewWorkOrder{ID: id, Product: "sensor", Quantity: quantity})
	s.must(err)
	return s.token(id, n)
}

func (s *site) token(order string, n enroll.NewToken) *enroll.EnrollmentToken {
	s.Helper()
	t, err := s.CreateEnrollmentToken(s.ctx, as("operator", ""), order, n)
	s.must(err)
	return t
}

// device is a call of a device with a certificate.
func device(c *ca.Certificate, key string) enroll.Call {
	return enroll.Call{Principal: enroll.Principal{Name: c.Holder.String(), Certificate: c}, IdempotencyKey: key}
}

// race calls f n times at once, and returns what each gave.
func race[T any](n int, f func(i int) (T, error)) (values []T, errs []error) {
	values, errs = make([]T, n), make([]error, n)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			values[i], errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return values, errs
}

// kinds counts errors by kind; "" for none.
func kinds(errs []error) map[ca.Kind]int {
	n := map[ca.Kind]int{}
	for _, err := range errs {
		if e, ok := errors.AsType[*ca.Error](err); ok {
			n[e.Kind]++
		} else if err == nil {
			n[""]++
		} else {
			n[ca.Kind(err.Error())]++
		}
	}
	return n
}

func (s *site) wantKinds(errs []error, want map[ca.Kind]int) {
	s.Helper()
	if got := kinds(errs); !maps.Equal(got, want) {
		s.Fatalf("outcomes %v, want %v", got, want)
	}
}

// lines keeps what was logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return leaktest.Tee(&l.text).Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
