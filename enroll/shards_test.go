package enroll_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Devices of every shard, and from before there were any, are revoked and proven
// at the broker by a canary on their own CRL; the others go on.
func TestRevocationIsProvenOnEveryShard_I10_I15(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	old, oldKey := s.enroll("old")
	view, err := s.SetCRLShards(s.ctx, as("admin", ""), "device", enroll.ShardsRequest{Shards: 3})
	s.must(err)
	if view.CRLShards != 3 || len(view.CDPs) != 3 {
		t.Fatalf("%+v", view)
	}
	if crls := must(s.CRLs(s.ctx)); len(crls) != 5 || strings.Count(string(must(s.CRLBundle(s.ctx))), "BEGIN") != 5 {
		t.Fatalf("%d CRLs", len(crls))
	}
	byShard := map[int]string{}
	for n := 0; len(byShard) < 3; n++ {
		id := "d" + string(rune('a'+n))
		e, key := s.enroll(id)
		byShard[e.Certificate.CRLShard] = id
		if _, err := b.connect(id, e, key); err != nil {
			t.Fatalf("%s of shard %d: %v", id, e.Certificate.CRLShard, err)
		}
	}
	for shard, id := range byShard {
		r := s.revoke(id)
		s.must(s.AdvanceRevocation(s.ctx, r.ID))
		got := s.revocation(r.ID)
		scope := ca.CRLScope{IssuerID: "device", Shard: shard}
		if got.State != enroll.RevocationProven || got.Evidence.CRLNumbers[scope.String()] == 0 {
			t.Fatalf("shard %d: %+v", shard, got)
		}
		canary := must(s.Certificate(s.ctx, string(got.Evidence.Brokers[0].Canary)))
		crl := must(s.CRL(s.ctx, scope.String()))
		listed, err := crl.Listed(canary.SerialNumber, got.SerialNumbers[0])
		if err != nil || canary.CRLShard != shard || len(listed) != 2 || crl.Number != got.Evidence.Brokers[0].CRLNumber {
			t.Errorf("shard %d: canary of shard %d, listed %v, %v", shard, canary.CRLShard, listed, err)
		}
	}
	if _, err := b.connect("old", old, oldKey); err != nil {
		t.Errorf("a device of before: %v", err)
	}
	// Fewer again: all stay published, and due ones are published by the clock.
	view, err = s.SetCRLShards(s.ctx, as("admin", ""), "device", enroll.ShardsRequest{Shards: 1})
	s.must(err)
	if view.CRLShards != 1 || len(view.CDPs) != 3 {
		t.Errorf("%+v", view)
	}
	s.must(s.PublishScheduledCRLs(s.ctx))
	if crls := must(s.CRLs(s.ctx)); len(crls) != 5 {
		t.Errorf("%d CRLs", len(crls))
	}
	if e, _ := s.enroll("later"); e.Certificate.CRLShard != 0 {
		t.Errorf("shard %d of 1", e.Certificate.CRLShard)
	}
	for _, n := range []int{0, 1025} {
		_, err := s.SetCRLShards(s.ctx, as("admin", ""), "device", enroll.ShardsRequest{Shards: n})
		s.wantKind(err, ca.KindMalformed, "shards")
	}
	_, err = s.SetCRLShards(s.ctx, as("admin", ""), "root", enroll.ShardsRequest{Shards: 2})
	s.wantKind(err, ca.KindIssuerInactive, "issuer")
}

// Another server learns of shards that one server made, and has their CRLs
// before its certificates name them.
func TestShardsOnAnotherServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.server(s.store)
	_, err := s.SetCRLShards(s.ctx, as("admin", ""), "device", enroll.ShardsRequest{Shards: 2})
	s.must(err)
	s.must(other.PublishScheduledCRLs(s.ctx))
	issuers := must(other.Issuers(s.ctx))
	if at := slices.IndexFunc(issuers, func(i enroll.IssuerView) bool { return i.ID == "device" }); issuers[at].CRLShards != 2 {
		t.Errorf("%+v", issuers[at])
	}
	crls := must(other.CRLs(s.ctx))
	if len(crls) != 4 || crls[1].Shard != 1 {
		t.Errorf("%d CRLs", len(crls))
	}
}
