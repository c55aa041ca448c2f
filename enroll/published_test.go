package enroll_test

import (
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// What a server has in memory may be older than what another published: what
// was held, released and held again is on the older CRL alone, and the job that
// is to show it looks at the newest.
func TestCRLJobLooksAtTheNewest_I10_I13(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.server(s.openStore())
	show := func(service *enroll.Service) *enroll.PublishedCRL {
		t.Helper()
		s.must(service.Jobs()[enroll.JobCRL](s.ctx, "device:d"))
		return must(service.CRL(s.ctx, "device"))
	}
	e, _ := s.enroll("d")
	lists := func(crl *enroll.PublishedCRL) bool {
		t.Helper()
		return must(crl.Listed(e.Certificate.SerialNumber))[e.Certificate.SerialNumber]
	}
	must(s.HoldDevice(s.ctx, as("op", ""), "d"))
	first := show(s.Service)
	must(other.ReleaseDevice(s.ctx, as("op", ""), "d"))
	second := show(other)
	must(other.HoldDevice(s.ctx, as("op", ""), "d"))
	if !lists(first) || lists(second) || second.Number <= first.Number {
		t.Fatalf("CRL %d lists %v, CRL %d lists %v", first.Number, lists(first), second.Number, lists(second))
	}
	third := show(s.Service)
	if !lists(third) || third.Number <= second.Number {
		t.Errorf("CRL %d after %d lists it: %v", third.Number, second.Number, lists(third))
	}
	again := show(other) // it shows what is so: none is signed for nothing
	if again.Number != third.Number {
		t.Errorf("CRL %d was published after %d", again.Number, third.Number)
	}
	if latest := must(s.store.LatestCRL(s.ctx, ca.CRLScope{IssuerID: "device"})); latest.Number != third.Number {
		t.Errorf("CRL %d is the newest", latest.Number)
	}
}
