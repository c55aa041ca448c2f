// Package storetest is the contract of enroll.Store, written through the
// interface alone: every implementation passes the same tests. A test's name
// begins with the invariant it holds, where there is one.
//
// Each test gets a fresh, empty, migrated store. What a refused call must
// leave alone is compared as a whole: every listing, before and after.
package storetest

import (
	"testing"

	"github.com/fleetca/fleetca/enroll"
)

// Run runs the contract. open returns a fresh store, and closes it by
// t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) enroll.Store) {
	groups := []struct {
		name  string
		tests []test
	}{
		{"commit", commitTests},
		{"claim", claimTests},
		{"race", raceTests},
		{"repeat", repeatTests},
		{"status", statusTests},
		{"crl", crlTests},
		{"issuer", issuerTests},
		{"profile", profileTests},
		{"trust", trustTests},
		{"paging", pagingTests},
		{"search", searchTests},
		{"bulk", bulkTests},
		{"timeline", timelineTests},
		{"overview", overviewTests},
		{"life", lifeTests},
		{"broker", brokerTests},
		{"steps", stepsTests},
		{"manufacturer", manufacturerTests},
		{"token", tokenTests},
		{"user", userTests},
		{"login", loginTests},
		{"session", sessionTests},
		{"event", eventTests},
		{"tidy", tidyTests},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.tests {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.run(newFixture(t, open(t)))
				})
			}
		})
	}
}

// A test is one promise.
type test struct {
	name string
	run  func(f *fixture)
}
