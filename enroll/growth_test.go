package enroll_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store/storetest"
)

// What is found by a key takes no longer in a large store than in a small one.
// Both are measured in turn, so that what else the machine does is the same for
// both. The full run (FLEETCA_TEST_ALL=1) compares ten thousand devices with a
// million, on both engines; FLEETCA_TEST_SOAK=1 with ten million on PostgreSQL.
func TestCostAsTheStoreGrows(t *testing.T) {
	t.Parallel()
	small, large := 1_000, 10_000
	if os.Getenv("FLEETCA_TEST_ALL") == "1" {
		small, large = 10_000, 1_000_000
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		compareCosts(t, small, large, func(name string) string { return filepath.Join(t.TempDir(), name+".db") })
	})
	if os.Getenv("FLEETCA_TEST_SOAK") == "1" {
		small, large = 10_000, 10_000_000
	}
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		server := storetest.StartPostgres(t)
		compareCosts(t, small, large, func(string) string { return server.NewDatabase(t) })
	})
}

// compareCosts measures on a store of each size, and fails where the large one
// takes over three times as long: a scan would take a hundred times.
func compareCosts(t *testing.T, small, large int, database func(name string) string) {
	const rounds, most, noise = 15, 3, 500 * time.Microsecond
	costs := []map[string]func() error{
		costsOf(t, newSeededService(t, database("small"), small, small/100)),
		costsOf(t, newSeededService(t, database("large"), large, large/1000)),
	}
	names := make([]string, 0, len(costs[0]))
	for name := range costs[0] {
		names = append(names, name)
	}
	slices.Sort(names)
	report := ""
	for _, name := range names {
		took := make([][]time.Duration, 2)
		for range rounds {
			for i, cost := range costs {
				began := time.Now()
				if err := cost[name](); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				took[i] = append(took[i], time.Since(began))
			}
		}
		var medians, least [2]time.Duration // the least has the least of what else the machine does
		for i := range took {
			slices.Sort(took[i])
			medians[i], least[i] = took[i][rounds/2], took[i][0]
		}
		report += fmt.Sprintf("\n%-24s %8.2f ms %8.2f ms  %.2f", name, ms(medians[0]), ms(medians[1]), float64(medians[1])/float64(medians[0]))
		if least[1] > most*least[0]+noise {
			t.Errorf("%s takes at least %v with %d devices, and %v with %d", name, least[0], small, least[1], large)
		}
	}
	t.Logf("medians of %d with %d and %d devices, and their ratio:%s", rounds, small, large, report)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// costsOf returns what is measured: each call does it once more.
func costsOf(t *testing.T, s *enroll.Service) map[string]func() error {
	ctx, operator := t.Context(), as("operator", "")
	n := 0
	enrolls := func() (*enroll.Enrollment, error) {
		n++
		id := fmt.Sprintf("grown-%d", n)
		return s.EnrollDevice(ctx, operator, enroll.EnrollRequest{DeviceID: id, CSR: newCSR(t, newKey(t), id)})
	}
	var ready []*enroll.Enrollment // to be revoked
	for range 20 {
		e, err := enrolls()
		if err != nil {
			t.Fatal(err)
		}
		ready = append(ready, e)
	}
	some, next, err := s.Devices(ctx, enroll.DeviceFilter{}, enroll.Page{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	deep := next
	for range 8 { // a page of each later cursor is the same work: keyset paging
		if some, deep, err = s.Devices(ctx, enroll.DeviceFilter{}, enroll.Page{Limit: 100, Cursor: deep}); err != nil || deep == "" {
			t.Fatalf("page: %q, %v", deep, err)
		}
	}
	known := must(s.Device(ctx, some[0].ID))
	serial := known.Certificates[0].SerialNumber
	return map[string]func() error{
		"enroll": func() error { _, err := enrolls(); return err },
		"list, first page": func() error {
			_, _, err := s.Devices(ctx, enroll.DeviceFilter{}, enroll.Page{Limit: 100})
			return err
		},
		"list, tenth page": func() error {
			_, _, err := s.Devices(ctx, enroll.DeviceFilter{}, enroll.Page{Limit: 100, Cursor: deep})
			return err
		},
		"device":      func() error { _, err := s.Device(ctx, known.ID); return err },
		"timeline":    func() error { _, _, err := s.DeviceTimeline(ctx, known.ID, enroll.Page{}); return err },
		"certificate": func() error { _, err := s.Certificate(ctx, string(serial)); return err },
		"search by serial": func() error {
			_, _, err := s.Devices(ctx, must(enroll.ParseQuery("serial:"+string(serial))), enroll.Page{Limit: 100})
			return err
		},
		"search by group": func() error {
			_, _, err := s.Devices(ctx, must(enroll.ParseQuery("group:site-007 status:active")), enroll.Page{Limit: 5})
			return err
		},
		"audit, newest": func() error { return someEvents(ctx, s, enroll.EventFilter{}) },
		"revocation plan": func() error {
			_, err := s.RevocationPlan(ctx, known.ID)
			return err
		},
		"revoke": func() error {
			e := ready[0]
			ready = ready[1:]
			_, err := s.RevokeDevice(ctx, as("security", ""), e.DeviceID, enroll.RevokeRequest{Reason: string(ca.ReasonSuperseded)})
			return err
		},
	}
}
