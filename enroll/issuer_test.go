package enroll_test

import (
	"context"
	"crypto"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func (s *site) state(id string) ca.IssuerState {
	s.Helper()
	return must(s.Issuer(s.ctx, id)).State
}

// A new issuer has a CRL from its first minute, is published when brokers have
// that, and active once everything that its certificates name was fetched. Then
// devices of its product are its, and connect; all others stay where they are.
func TestI16TheLifeOfAnIssuer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.must(s.SetStatusURL(s.ctx, "http://status.test"))
	b := s.broker("b")
	s.addIssuer(ca.CAPlan{ID: "pumps", Purpose: ca.PurposeDevice, Product: "pump", Site: "hall-2", Domain: "fleet.test"})
	crls := must(s.store.LatestCRL(s.ctx, ca.CRLScope{IssuerID: "pumps"}))
	if crls.Number != 1 || crls.Entries != 0 {
		t.Fatalf("the first CRL: %+v", crls)
	}

	// Brokers first: one that takes no CRLs keeps the issuer from being published.
	down := errors.New("the broker is down")
	b.on("LoadCRL", func(context.Context) error { return down })
	if err := s.AdoptIssuers(s.ctx); !errors.Is(err, down) || s.state("pumps") != ca.IssuerCreated {
		t.Fatalf("%v, state %s", err, s.state("pumps"))
	}
	_, err := s.ActivateIssuer(s.ctx, as("admin", ""), "pumps")
	s.wantKind(err, enroll.KindNotPublished, "issuer")
	b.on("LoadCRL", nil)
	if got := s.newEvents(func() { s.must(s.AdoptIssuers(s.ctx)) }); !slices.Contains(got, "issuer.publish") || slices.Contains(got, "issuer.activate") {
		t.Fatalf("events %v", got)
	}
	if s.state("pumps") != ca.IssuerPublished {
		t.Fatalf("state %s", s.state("pumps"))
	}
	if got := s.newEvents(func() { s.must(s.AdoptIssuers(s.ctx)) }); len(got) != 0 {
		t.Errorf("adopted twice: %v", got)
	}

	// A published issuer signs nothing yet.
	order := must(s.CreateWorkOrder(s.ctx, as("operator", ""), enroll.NewWorkOrder{ID: "wo-pump", Product: "pump", Site: "hall-2", Quantity: 10}))
	if order.Site != "hall-2" || must(s.WorkOrder(s.ctx, "wo-pump")).Site != "hall-2" {
		t.Errorf("site %q", order.Site)
	}
	before, beforeKey := s.enrollFor("wo-pump", "pump-0")
	if before.Certificate.IssuerID != "device" {
		t.Errorf("a published issuer signed: %s", before.Certificate.IssuerID)
	}

	// Nor when one of its URLs is dark, or answers with something else.
	for _, url := range []string{"http://status.test/crl/pumps.crl", "http://status.test/ocsp", "http://status.test/issuers/pumps.cer"} {
		s.published.hide(url)
		_, err := s.ActivateIssuer(s.ctx, as("admin", ""), "pumps")
		s.wantKind(err, enroll.KindNotPublished, "issuer")
		if !strings.Contains(err.Error(), url+": the answer is 404 Not Found") || !strings.Contains(err.Error(), "1 of 3") || s.state("pumps") != ca.IssuerPublished {
			t.Errorf("without %s: %v", url, err)
		}
	}
	s.published.hide()
	var p *enroll.Publication
	if got := s.newEvents(func() { p = must(s.ActivateIssuer(s.ctx, as("admin", ""), "pumps")) }); !slices.Contains(got, "issuer.activate") {
		t.Errorf("events %v", got)
	}
	if p.Issuer.State != ca.IssuerActive || len(p.Fetched) != 3 {
		t.Fatalf("%+v", p)
	}

	e, key := s.enrollFor("wo-pump", "pump-1")
	if e.Certificate.IssuerID != "pumps" || !slices.Equal(e.Certificate.Names, []string{"pump-1.pump.hall-2.fleet.test"}) {
		t.Fatalf("issuer %s, names %v", e.Certificate.IssuerID, e.Certificate.Names)
	}
	if _, err := b.connect("pump-1", e, key); err != nil {
		t.Errorf("a device of the new issuer: %v", err)
	}
	if _, err := b.connect("pump-0", before, beforeKey); err != nil {
		t.Errorf("a device of the old issuer: %v", err)
	}
	// Its renewal stays with its product; so does that of one from before.
	for _, d := range []struct {
		*enroll.Enrollment
		id string
	}{{before, "pump-0"}, {e, "pump-1"}} {
		renewed := must(s.RenewDevice(s.ctx, device(d.Certificate, ""), ""))
		if renewed.Certificate.IssuerID != "pumps" {
			t.Errorf("%s renewed by %s", d.id, renewed.Certificate.IssuerID)
		}
	}
	if other, _ := s.enroll("valve-1"); other.Certificate.IssuerID != "device" || len(other.Certificate.Names) != 0 {
		t.Errorf("another product: %s %v", other.Certificate.IssuerID, other.Certificate.Names)
	}
	// A revocation is proven by a canary of the very issuer.
	r := s.revoke("pump-1")
	s.must(s.AdvanceRevocation(s.ctx, r.ID))
	if got := s.revocation(r.ID); got.State != enroll.RevocationProven || got.Evidence.CRLNumbers["pumps"] == 0 {
		t.Errorf("%+v", got)
	}

	_, err = s.RetireIssuer(s.ctx, as("admin", ""), "device")
	s.wantKind(err, enroll.KindConflict, "issuer") // pumps is for less
	if v := must(s.RetireIssuer(s.ctx, as("admin", ""), "pumps")); v.State != ca.IssuerRetired {
		t.Errorf("%+v", v)
	}
	if later, _ := s.enrollFor("wo-pump", "pump-2"); later.Certificate.IssuerID != "device" {
		t.Errorf("signed by a retired issuer: %s", later.Certificate.IssuerID)
	}
	s.must(s.PublishScheduledCRLs(s.ctx)) // it goes on with CRLs
}

// enrollFor enrolls a device for a work order.
func (s *site) enrollFor(order, id string) (*enroll.Enrollment, crypto.Signer) {
	s.Helper()
	key := newKey(s)
	e, err := s.EnrollDevice(s.ctx, as("operator", ""), enroll.EnrollRequest{DeviceID: id, WorkOrder: order, CSR: newCSR(s, key, id)})
	s.must(err)
	return e, key
}

// Another server learns of the issuer by itself, and one that lacks the key says
// so and leaves the publication to the other.
func TestANewIssuerOnAServerWithoutItsKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.must(s.SetStatusURL(s.ctx, "http://status.test"))
	i := s.addIssuer(ca.CAPlan{ID: "next", Purpose: ca.PurposeBroker})
	file := strings.TrimPrefix(i.KeyURI, "softkms:path=")
	s.must(os.Rename(file, file+".away"))
	s.must(s.AdoptIssuers(s.ctx))
	if v := must(s.Issuer(s.ctx, "next")); v.State != ca.IssuerCreated || v.Key != enroll.KeyUnusable {
		t.Fatalf("state %s, key %s", v.State, v.Key)
	}
	if !strings.Contains(s.log.String(), "a new issuer's key is not on this server") {
		t.Errorf("the log does not say so:\n%s", s.log)
	}
	_, err := s.ActivateIssuer(s.ctx, as("admin", ""), "next")
	if s.wantKind(err, enroll.KindNotPublished, "issuer"); !strings.Contains(err.Error(), "unusable") {
		t.Error(err)
	}
	s.must(os.Rename(file+".away", file))
	other := s.server(s.store) // on another machine, which has it
	s.must(other.SetStatusURL(s.ctx, "http://status.test"))
	s.must(other.AdoptIssuers(s.ctx))
	s.must(s.AdoptIssuers(s.ctx))
	if s.state("next") != ca.IssuerPublished {
		t.Errorf("state %s", s.state("next"))
	}
	_, err = s.ActivateIssuer(s.ctx, as("admin", ""), "next")
	s.wantKind(err, ca.KindKey, "") // still not here
	s.published.service = other
	if p := must(other.ActivateIssuer(s.ctx, as("admin", ""), "next")); p.Issuer.State != ca.IssuerActive {
		t.Errorf("%+v", p)
	}
}
