package enroll_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store"
	"github.com/fleetca/fleetca/store/storetest"
)

// A person waits for none of these longer than 100 ms, on PostgreSQL, with a
// million devices: FLEETCA_TEST_SOAK=1 measures that. Otherwise there are ten
// thousand, and the bound is for a machine that is busy with other tests.
func TestWhatPagesAskForAtScale(t *testing.T) {
	t.Parallel()
	devices, orders, bound := 10_000, 100, 2*time.Second
	if os.Getenv("FLEETCA_TEST_SOAK") == "1" {
		devices, orders, bound = 1_000_000, 2000, 100*time.Millisecond
	}
	s := newSeededService(t, storetest.StartPostgres(t).NewDatabase(t), devices, orders)
	ctx := t.Context()
	all := func(n int) []*enroll.Device {
		page, _, err := s.Devices(ctx, enroll.DeviceFilter{Status: enroll.DeviceActive}, enroll.Page{Limit: n})
		if err != nil || len(page) != n {
			t.Fatalf("%d devices, %v", len(page), err)
		}
		return page
	}
	one := must(s.Device(ctx, all(1)[0].ID))
	serial, group, order := string(one.Certificates[0].SerialNumber), "site-007", "WO-0000007"
	queries := []string{
		"", "status:active", "status:held", "status:registered", "group:site-000", "group:" + group, "group:site-000 status:held", "group:site-000 status:active",
		"group:site-000 expires<30d", "order:" + order, "order:" + order + " status:revoked", "order:" + order + " expires<30d", "expires<30d", "expires<30d expires>7d",
		"expires:expired", "expires<30d status:active", "expires<30d status:revoked", one.ID[:8], "pump-0 group:site-000", "pump-0 expires<7d", "pump-0000 status:held",
		"serial:" + serial, "serial:" + serial[:6], "serial:" + serial[:2], "serial:" + serial[:2] + " group:" + group, `attr.site:"Plant 7"`, `attr.site:"Plant 7" attr.revision:B`,
		"attr.site:nowhere", "*0012*", "*nothing*", "*pump* status:active", "group:site-000 *77*", "order:" + order + ` attr.site:"Plant 7"`,
	}
	medians := map[string]time.Duration{}
	measure := func(name string, do func() error) {
		var took []time.Duration
		for range 7 {
			began := time.Now()
			if err := do(); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		medians[name] = took[3]
		if took[3] > bound {
			t.Errorf("%s takes %v (%v to %v), more than %v", name, took[3], took[0], took[6], bound)
		}
	}
	for _, query := range queries {
		f := must(enroll.ParseQuery(query))
		next := ""
		measure("devices "+query, func() (err error) {
			_, next, err = s.Devices(ctx, f, enroll.Page{Limit: 100})
			return err
		})
		if next != "" {
			measure("devices "+query+" (2nd page)", func() error {
				_, _, err := s.Devices(ctx, f, enroll.Page{Limit: 100, Cursor: next})
				return err
			})
		}
	}
	ids := make([]string, 0, 500)
	for _, d := range all(500) {
		ids = append(ids, d.ID)
	}
	for name, do := range map[string]func() error{
		"attention": func() error { _, err := s.Attention(ctx); return err },
		"figures":   func() error { _, err := s.Figures(ctx); return err },
		"forecast":  func() error { _, err := s.Forecast(ctx); return err },
		"device":    func() error { _, err := s.Device(ctx, one.ID); return err },
		"timeline":  func() error { _, _, err := s.DeviceTimeline(ctx, one.ID, enroll.Page{}); return err },
		"plan":      func() error { _, err := s.RevocationPlan(ctx, one.ID); return err },
		"bulk plan": func() error {
			_, err := s.PlanBulk(ctx, enroll.Bulk{Action: enroll.BulkHold, Devices: ids})
			return err
		},
		"progress":       func() error { _, err := s.WorkOrderProgress(ctx, order); return err },
		"orders":         func() error { _, _, err := s.WorkOrders(ctx, enroll.Page{}); return err },
		"revocations":    func() error { _, _, err := s.Revocations(ctx, "", enroll.Page{}); return err },
		"certificates":   func() error { _, _, err := s.Certificates(ctx, enroll.CertificateFilter{}, enroll.Page{}); return err },
		"events":         func() error { return someEvents(ctx, s, enroll.EventFilter{}) },
		"events device.": func() error { return someEvents(ctx, s, enroll.EventFilter{ActionPrefix: "device."}) },
		"events by day": func() error {
			return someEvents(ctx, s, enroll.EventFilter{From: time.Now().Add(-200 * 24 * time.Hour), To: time.Now().Add(-199 * 24 * time.Hour), ActionPrefix: "device.r"})
		},
		"events of actor": func() error {
			return someEvents(ctx, s, enroll.EventFilter{Actor: "user:test", ActionPrefix: "device.re"})
		},
		"events of subject": func() error {
			return someEvents(ctx, s, enroll.EventFilter{Subject: "device:" + one.ID, Action: "device.enroll"})
		},
	} {
		measure(name, do)
	}
	var lines []string
	for name, d := range medians {
		lines = append(lines, fmt.Sprintf("%8.1f ms  %s", float64(d.Microseconds())/1000, name))
	}
	slices.Sort(lines)
	t.Logf("%d devices, the median of 7; pages of 100:\n%s", devices, strings.Join(lines, "\n"))
	began := time.Now()
	if err := s.ExportDevices(ctx, enroll.DeviceFilter{Group: group}, io.Discard, enroll.FormatCSV); err != nil {
		t.Error(err)
	}
	t.Logf("export of group %s: %v", group, time.Since(began))
	began = time.Now()
	if _, err := s.PlanBulk(ctx, enroll.Bulk{Action: enroll.BulkHold, Query: "group:site-250"}); err != nil {
		t.Error(err)
	}
	t.Logf("bulk plan of a group: %v", time.Since(began))
}

func someEvents(ctx context.Context, s *enroll.Service, f enroll.EventFilter) error {
	_, _, err := s.Events(ctx, f, enroll.Page{Limit: 100})
	return err
}

// newSeededService returns a service on a store of test data, with its figures
// counted.
func newSeededService(t *testing.T, url string, devices, orders int) *enroll.Service {
	t.Helper()
	ctx := t.Context()
	dir := t.TempDir()
	h, err := makeHierarchy(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(ctx, store.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	change := enroll.Change{Event: enroll.InitEvent("test data")}
	if err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := db.MarkTestData(ctx, change); err != nil {
		t.Fatal(err)
	}
	if err := db.CreateIssuers(ctx, h.Issuers, h.CRLs, enroll.Change{Event: enroll.InitEvent(ca.FingerprintOf(h.Root()))}); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(h.Issuers, func(i ca.Issuer) bool { return i.Purpose == ca.PurposeDevice })
	began := time.Now()
	if err := db.Seed(ctx, store.SeedConfig{Devices: devices, Certificates: 1, Orders: orders, Issuer: h.Issuers[i], Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d devices seeded in %v", devices, time.Since(began).Round(time.Millisecond))
	a, err := ca.Open(ctx, ca.Config{Issuers: h.Issuers, Keys: ca.Keyring{Dir: filepath.Clean(dir)}, Ledger: db})
	if err != nil {
		t.Fatal(err)
	}
	s := enroll.New(enroll.Config{Authority: a, Store: db})
	began = time.Now()
	if err := s.Jobs()[enroll.JobCount](ctx, ""); err != nil {
		t.Fatal(err)
	}
	t.Logf("counted in %v", time.Since(began).Round(time.Millisecond))
	return s
}
