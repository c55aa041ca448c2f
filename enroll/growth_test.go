package enroll_test

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store/storetest"
	"github.com/fleetca/fleetca/web"
)

// A growth is two stores of test data that are compared.
type growth struct {
	small, large int // devices
	perOrder     int // devices of a work order
	listed       int // certificates on the CRL that is published, about
	rounds       int

	// A call may take times the time on the large store that it takes on the
	// small one, and noise more.
	times float64
	noise time.Duration
}

// What is found by a key takes no longer in a large store than in a small one:
// the service's calls, a CRL after one more revocation, and the dashboard's
// pages, by HTTP, as somebody sees them who signed in. The full run
// (FLEETCA_TEST_ALL=1) compares ten thousand devices with a million, on both
// engines; FLEETCA_TEST_SOAK=1 with ten million on PostgreSQL.
//
// There a call may take 1.3 times the time, and a tenth of a millisecond more:
// a tree of a hundred or a thousand times the entries is one or two levels
// deeper, and less of it is in the database's memory. That is some pages for
// each look-up, each of some microseconds, which is much of a call that takes
// hundredths of a millisecond. A call that reads what grows is far beyond:
// what takes a microsecond with ten thousand takes a tenth of a millisecond
// with a million.
//
// The short run has few devices, and other tests beside it. It sees that all of
// it works, and what reads a table.
func TestCostAsTheStoreGrows(t *testing.T) {
	g := growth{small: 1_000, large: 10_000, perOrder: 10, listed: 50, rounds: 7, times: 3, noise: 500 * time.Microsecond}
	if os.Getenv("FLEETCA_TEST_ALL") == "1" || os.Getenv("FLEETCA_TEST_SOAK") == "1" {
		g = growth{small: 10_000, large: 1_000_000, perOrder: 100, listed: 2_000, rounds: 21, times: 1.3, noise: 100 * time.Microsecond}
	} else {
		t.Parallel()
	}
	// The engines are filled side by side, and measured one after the other.
	var filling sync.WaitGroup
	var measuring sync.Mutex
	run := func(engine string, g growth, databases func(t *testing.T) func(name string) string) {
		t.Run(engine, func(t *testing.T) {
			filling.Add(1)
			filled := sync.OnceFunc(filling.Done)
			t.Cleanup(filled)
			t.Parallel()
			database := databases(t)
			stores := [2]*grownStore{newGrownStore(t, database("small"), g.small, g), newGrownStore(t, database("large"), g.large, g)}
			filled()
			filling.Wait()
			measuring.Lock()
			defer measuring.Unlock()
			g.compare(t, stores[0].costs(), stores[1].costs())
		})
	}
	run("sqlite", g, func(t *testing.T) func(string) string {
		dir := t.TempDir()
		return func(name string) string { return filepath.Join(dir, name+".db") }
	})
	if os.Getenv("FLEETCA_TEST_SOAK") == "1" {
		g.large = 10_000_000
	}
	run("postgres", g, func(t *testing.T) func(string) string {
		server := storetest.StartPostgres(t)
		return func(string) string { return server.NewDatabase(t) }
	})
}

// A cost is what is measured: it makes a call ready, which is not.
type cost struct {
	name  string
	ready func() (call func() error)
}

// compare measures each cost on both stores, and fails where the large one is
// too slow.
func (g growth) compare(t *testing.T, small, large []cost) {
	report := ""
	for i := range small {
		medians, over := g.measure(t, small[i], large[i], g.rounds)
		// What else the machine did may have met one store more than the other,
		// though it does not make three times of what may be.
		for n := 1; n <= 3 && over > 0 && float64(medians[1]) < 3*g.times*float64(medians[0]); n++ {
			t.Logf("%s is measured again: %v and %v, %v too long", small[i].name, medians[0], medians[1], over)
			medians, over = g.measure(t, small[i], large[i], g.rounds*(1+2*n))
		}
		report += fmt.Sprintf("\n%-32s %8.2f ms %8.2f ms  %.2f", small[i].name, ms(medians[0]), ms(medians[1]), float64(medians[1])/float64(medians[0]))
		if over > 0 {
			t.Errorf("%s takes %v with %d devices, and %v with %d: %v more than %.1f times and %v",
				small[i].name, medians[0], g.small, medians[1], g.large, over, g.times, g.noise)
		}
	}
	t.Logf("medians with %d and %d devices, and their ratio:%s", g.small, g.large, report)
}

// measure makes a call on both stores in turn, so that what else the machine
// does is the same for both. It returns the medians, and the median of how much
// longer than it may a call took on the large store than just before or after
// on the small one.
func (g growth) measure(t *testing.T, small, large cost, rounds int) (medians [2]time.Duration, over time.Duration) {
	var took [2][]time.Duration
	var overs []time.Duration
	for n := range rounds {
		var pair [2]time.Duration
		for k := range 2 {
			at := (n + k) % 2
			c := [2]cost{small, large}[at]
			call := c.ready()
			began := time.Now()
			if err := call(); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			pair[at] = time.Since(began)
			took[at] = append(took[at], pair[at])
		}
		overs = append(overs, pair[1]-time.Duration(g.times*float64(pair[0]))-g.noise)
	}
	return [2]time.Duration{median(took[0]), median(took[1])}, median(overs)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2].Round(time.Microsecond)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// A grownStore is a service on a store of test data, and its dashboard.
type grownStore struct {
	*testing.T
	*enroll.Service
	devices int // that were seeded
	orders  int
	seen    int // how many of them were asked for
	made    int // how many devices were made since
	url     string
	browser *http.Client // with a session
}

const growthPassword = "correct horse battery"

// newGrownStore fills a store. Its CRL of devices has two shards: the seeded
// ones are in the first, so that the second lists as many in a large store as
// in a small one.
func newGrownStore(t *testing.T, database string, devices int, g growth) *grownStore {
	orders := devices / g.perOrder
	s := &grownStore{T: t, Service: newSeededService(t, database, devices, orders), devices: devices, orders: orders}
	ctx := t.Context()
	s.must(s.SetStatusURL(ctx, "http://status.test"))
	must(s.SetCRLShards(ctx, with(enroll.RoleAdmin, ""), "device", enroll.ShardsRequest{Shards: 2}))
	s.list(g.listed)
	s.forgetJobs(database)
	// Not before: the revocations had nothing to be proven at, and wait for nobody.
	b := must(s.CreateBroker(ctx, with(enroll.RoleAdmin, ""), enroll.NewBroker{ID: "hall", URL: "mqtts://hall.test:8883", Names: []string{"hall.test"}, Kind: "mosquitto"}))
	must(s.IssueBroker(ctx, with(enroll.RoleAdmin, ""), b.ID, newCSR(t, newKey(t), "hall.test")))
	must(s.AddUser(ctx, with(enroll.RoleAdmin, ""), enroll.NewUser{Name: "eve", Role: enroll.RoleAdmin, Password: growthPassword}))
	s.signIn()
	return s
}

func (s *grownStore) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// forgetJobs drops the jobs that wait, as no server works here: a new one is
// looked for among them.
func (s *grownStore) forgetJobs(database string) {
	driver := "sqlite"
	if strings.HasPrefix(database, "postgres:") {
		driver = "pgx"
	}
	db := must(sql.Open(driver, database))
	defer db.Close()
	must(db.ExecContext(s.Context(), `DELETE FROM river_job`))
}

// signIn starts the dashboard, and signs in.
func (s *grownStore) signIn() {
	server := httptest.NewTLSServer(web.New(web.Config{Service: s.Service, APIURL: "https://people.test", StatusURL: "http://status.test"}).Handler())
	s.Cleanup(server.Close)
	jar := must(cookiejar.New(nil))
	s.url, s.browser = server.URL, server.Client()
	s.browser.Jar = jar
	r := must(http.NewRequestWithContext(s.Context(), http.MethodPost, s.url+"/sign-in", strings.NewReader(url.Values{"name": {"eve"}, "password": {growthPassword}}.Encode())))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", s.url)
	s.must(s.read(r))
}

// read sends a request, and reads the page that it leads to.
func (s *grownStore) read(r *http.Request) error {
	resp, err := s.browser.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || resp.Request.URL.Path == "/sign-in") {
		err = fmt.Errorf("%s is answered %s by %s", r.URL.Path, resp.Status, resp.Request.URL.Path)
	}
	return err
}

// newID returns the id of a device that is not there, after all that are.
func (s *grownStore) newID() string {
	s.made++
	return fmt.Sprintf("young-%06d", s.made)
}

// aDevice returns the id of a seeded device, each time another, from all over
// the store.
func (s *grownStore) aDevice() string {
	s.seen++
	return fmt.Sprintf("pump-%08d", 8*(s.seen*7919%(s.devices/8))) // every eighth is a pump; 7919 is prime
}

// anActiveDevice returns such a device.
func (s *grownStore) anActiveDevice() *enroll.Device {
	for {
		if d := must(s.Device(s.Context(), s.aDevice())); d.Status == enroll.DeviceActive {
			return d
		}
	}
}

func (s *grownStore) aSerial() string {
	return string(s.anActiveDevice().Certificates[0].SerialNumber)
}

// anOrder returns the id of a work order, each time another.
func (s *grownStore) anOrder() string {
	s.seen++
	return fmt.Sprintf("WO-%07d", s.seen*7919%s.orders)
}

// anEvent returns the id of the first audit event of a device.
func (s *grownStore) anEvent() string {
	events, _, err := s.Events(s.Context(), enroll.EventFilter{Subject: "device:" + s.anActiveDevice().ID}, enroll.Page{Limit: 1})
	s.must(err)
	return events[0].ID
}

// revoke revokes a device.
func (s *grownStore) revoke(id string) (*enroll.Revocation, error) {
	return s.RevokeDevice(s.Context(), as("security", ""), id, enroll.RevokeRequest{Reason: string(ca.ReasonSuperseded)})
}

// list puts so many revoked devices on the CRL of the second shard.
func (s *grownStore) list(n int) {
	revoked := make([]*enroll.Revocation, n)
	ids := make([]string, n)
	for i := range ids {
		ids[i] = s.newID()
	}
	var revoking sync.WaitGroup
	for first := range 10 {
		revoking.Go(func() {
			for i := first; i < n && !s.Failed(); i += 10 {
				var err error
				if revoked[i], err = s.newListed(ids[i]); err != nil {
					s.Error(err)
				}
			}
		})
	}
	revoking.Wait()
	if s.Failed() {
		s.FailNow()
	}
	for _, r := range revoked {
		s.must(s.Jobs()[enroll.JobRevocation](s.Context(), r.ID))
	}
}

// newListed enrolls devices until one is in the second shard, and revokes it, so
// that the next CRL of that shard lists it.
func (s *grownStore) newListed(id string) (*enroll.Revocation, error) {
	for n := 0; ; n++ {
		device := fmt.Sprintf("%s-%d", id, n)
		e, err := s.EnrollDevice(s.Context(), as("operator", ""), enroll.EnrollRequest{DeviceID: device, CSR: newCSR(s, newKey(s), device)})
		if err != nil {
			return nil, err
		}
		if e.Certificate.CRLShard == 1 {
			return s.revoke(device)
		}
	}
}

// after returns the cursor of the page that begins after the first n devices
// that a query finds.
func (s *grownStore) after(query string, n int) (cursor string) {
	filter := must(enroll.ParseQuery(query))
	for ; n > 0; n -= 500 {
		var err error
		_, cursor, err = s.Devices(s.Context(), filter, enroll.Page{Limit: min(n, 500), Cursor: cursor})
		s.must(err)
	}
	return cursor
}

// costs returns what is measured.
func (s *grownStore) costs() []cost {
	middle := s.after("", s.devices/2)
	return slices.Concat(s.calls(middle), s.pages(middle))
}

// calls returns the calls of the service.
func (s *grownStore) calls(middle string) []cost {
	ctx := s.Context()
	ofPumps, expiring := s.after("pump-", s.devices/16), s.after("expires<180d", s.devices/4)
	list := func(query, cursor string) func() error {
		filter := must(enroll.ParseQuery(query))
		return func() error {
			found, _, err := s.Devices(ctx, filter, enroll.Page{Limit: 100, Cursor: cursor})
			if err == nil && len(found) == 0 {
				err = errors.New("nothing is found")
			}
			return err
		}
	}
	return []cost{
		{"enroll", func() func() error {
			id := s.newID()
			csr := newCSR(s, newKey(s), id)
			return func() error {
				_, err := s.EnrollDevice(ctx, as("operator", id), enroll.EnrollRequest{DeviceID: id, CSR: csr})
				return err
			}
		}},
		{"list, first page", func() func() error { return list("", "") }},
		{"list, in the middle", func() func() error { return list("", middle) }},
		{"device", func() func() error {
			id := s.aDevice()
			return func() error { _, err := s.Device(ctx, id); return err }
		}},
		{"timeline", func() func() error {
			id := s.aDevice()
			return func() error { _, _, err := s.DeviceTimeline(ctx, id, enroll.Page{}); return err }
		}},
		{"certificate", func() func() error {
			serial := s.aSerial()
			return func() error { _, err := s.Certificate(ctx, serial); return err }
		}},
		{"search by serial number", func() func() error { return list("serial:"+s.aSerial(), "") }},
		{"search by group and status", func() func() error { return list("group:site-007 status:active", "") }},
		{"search by id, in the middle", func() func() error { return list("pump-", ofPumps) }},
		{"search by expiry, in the middle", func() func() error { return list("expires<180d", expiring) }},
		{"newest audit events", func() func() error {
			return func() error { return someEvents(ctx, s.Service, enroll.EventFilter{}) }
		}},
		{"plan of a revocation", func() func() error {
			id := s.anActiveDevice().ID
			return func() error { _, err := s.RevocationPlan(ctx, id); return err }
		}},
		{"revoke", func() func() error {
			id := s.anActiveDevice().ID
			return func() error { _, err := s.revoke(id); return err }
		}},
		{"CRL after a revocation", func() func() error {
			r := must(s.newListed(s.newID()))
			return func() error { return s.Jobs()[enroll.JobCRL](ctx, "device:"+r.Device) }
		}},
	}
}

// pages returns the pages of the dashboard. Those of one device, certificate or
// work order are each time another's.
func (s *grownStore) pages(middle string) []cost {
	revocations, _, err := s.Revocations(s.Context(), "", enroll.Page{Limit: 1})
	s.must(err)
	one := func(path string) func() string { return func() string { return path } }
	found := func(query string) func() string { return one("/devices?q=" + url.QueryEscape(query)) }
	var all []cost
	for _, page := range []struct {
		name string
		path func() string
	}{
		{"/", one("/")},
		{"/devices", one("/devices")},
		{"/devices, in the middle", one("/devices?cursor=" + url.QueryEscape(middle))},
		{"/devices, held", found("status:held")},
		{"/devices, a group's active", found("group:site-007 status:active")},
		{"/devices, a group's expiring", found("group:site-000 expires<90d")},
		{"/devices, expiring", found("expires<30d")},
		{"/devices, of an order", func() string { return found("order:" + s.anOrder())() }},
		{"/devices, by serial number", func() string { return found("serial:" + s.aSerial())() }},
		{"/devices, by the id", func() string { return found(s.aDevice()[:11])() }},
		{"/export/devices, of an order", func() string { return "/export/devices?format=csv&q=" + url.QueryEscape("order:"+s.anOrder()) }},
		{"/devices/ID", func() string { return "/devices/" + s.aDevice() }},
		{"/devices/ID/revoke", func() string { return "/devices/" + s.anActiveDevice().ID + "/revoke" }},
		{"/devices/ID/retire", func() string { return "/devices/" + s.anActiveDevice().ID + "/retire" }},
		{"/certificates/SERIAL", func() string { return "/certificates/" + s.aSerial() }},
		{"/certificates/SERIAL/revoke", func() string { return "/certificates/" + s.aSerial() + "/revoke" }},
		{"/revocations", one("/revocations")},
		{"/revocations, of a device", func() string { return "/revocations?device=" + s.aDevice() }},
		{"/revocations/ID", one("/revocations/" + revocations[0].ID)},
		{"/bulk", one("/bulk")},
		{"/brokers", one("/brokers")},
		{"/brokers/ID", one("/brokers/hall")},
		{"/brokers/ID/verifications", one("/brokers/hall/verifications")},
		{"/rotations", one("/rotations")},
		{"/work-orders", one("/work-orders")},
		{"/work-orders/ID", func() string { return "/work-orders/" + s.anOrder() }},
		{"/authority", one("/authority")},
		{"/authority/profiles/NAME", one("/authority/profiles/device")},
		{"/audit", one("/audit")},
		{"/audit, of an action", one("/audit?action=device.revoke")},
		{"/audit, of a device", func() string { return "/audit?subject=device:" + s.aDevice() }},
		{"/audit/export, of a device", func() string { return "/audit/export?format=json&subject=device:" + s.aDevice() }},
		{"/audit/ID", func() string { return "/audit/" + s.anEvent() }},
		{"/access", one("/access")},
		{"/access/users/NAME", one("/access/users/eve")},
		{"/access/tokens", one("/access/tokens")},
		{"/access/sessions", one("/access/sessions")},
		{"/account", one("/account")},
		{"/account/second-factor", one("/account/second-factor")},
	} {
		all = append(all, cost{page.name, func() func() error {
			r := must(http.NewRequestWithContext(s.Context(), http.MethodGet, s.url+page.path(), nil))
			return func() error { return s.read(r) }
		}})
	}
	return all
}
