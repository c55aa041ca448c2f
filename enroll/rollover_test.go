package enroll_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// A fielded device has what it was handed last, and nothing newer.
type fielded struct {
	id    string
	key   crypto.Signer
	cert  *ca.Certificate
	chain string
	trust enroll.TrustBundle
}

func (s *site) field(id string) *fielded {
	s.Helper()
	e, key := s.enroll(id)
	return &fielded{id, key, e.Certificate, e.Chain, e.TrustBundle}
}

// renew renews the device, which takes what it is handed.
func (s *site) renew(d *fielded) {
	s.Helper()
	e := must(s.RenewDevice(s.ctx, device(d.cert, ""), ""))
	d.cert, d.chain, d.trust = e.Certificate, e.Chain, e.TrustBundle
}

// verify has the device look at the broker, with its own certificate and the
// trust bundle that it has.
func (s *site) verify(b *broker, d *fielded) error {
	s.Helper()
	report := mqtts.Verify(s.ctx, mqtts.Target{
		URL: "mqtts://" + b.addr, Roots: rootsOf(s, d.trust.PEM), ClientID: d.id, Topic: "devices/" + d.id + "/t", Now: s.clock.now, Timeout: 30 * time.Second,
		Certificate: &tls.Certificate{Certificate: chainOf(d.chain), PrivateKey: d.key},
	})
	if report.Verdict != mqtts.VerdictPass {
		failed := report.Failed()
		return fmt.Errorf("device %s with trust bundle %d: %s: %s", d.id, d.trust.Generation, failed.Name, failed.Detail)
	}
	return nil
}

func rootsOf(s *site, text string) []*x509.Certificate {
	s.Helper()
	var roots []*x509.Certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		s.must(err)
		roots = append(roots, c)
	}
	return roots
}

// A fleet that was enrolled under one root goes over to another, and every device
// connects the whole time, with whatever trust bundle it has.
func TestAFleetRollsOverToAnotherRoot(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.proofTimeout = 10 * time.Second
	s.Service = s.server(s.store)
	s.published.service = s.Service
	s.must(s.SetStatusURL(s.ctx, "http://status.test"))
	b := s.broker("b")
	s.startJobs(nil)
	var fleet []*fielded
	for n := range 4 {
		fleet = append(fleet, s.field(fmt.Sprintf("d%d", n)))
	}
	all := func(when string) {
		t.Helper()
		for _, d := range fleet {
			if err := s.verify(b, d); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	all("before")
	admin := as("admin", "")

	// The new root is in the next generation of the trust bundle.
	root2, key2 := s.addRoot("root-2")
	if got := s.newEvents(func() { s.must(s.AdoptIssuers(s.ctx)) }); !slices.Contains(got, "trust.add") || !slices.Contains(got, "broker.trust") {
		t.Fatalf("events %v", got)
	}
	bundle := must(s.TrustBundle(s.ctx))
	if roots := rootsOf(s, bundle.PEM); bundle.Generation != 2 || len(roots) != 2 || !roots[1].Equal(root2) || s.state("root-2") != ca.IssuerPublished {
		t.Fatalf("generation %d, %d roots", bundle.Generation, len(rootsOf(s, bundle.PEM)))
	}
	if kept := must(s.TrustBundleOf(s.ctx, 1)); kept.PEM != fleet[0].trust.PEM {
		t.Error("the first trust bundle is not kept")
	}
	all("with both roots")
	must(s.ActivateIssuer(s.ctx, admin, "root-2"))
	if s.state("root") != ca.IssuerRetired || must(s.TrustBundle(s.ctx)).Generation != 2 {
		t.Errorf("the old root is %s", s.state("root"))
	}

	// Issuers under it wait for the devices; who is behind is named.
	s.addIssuerUnder(ca.CAPlan{ID: "broker-2", Purpose: ca.PurposeBroker}, "root-2", root2, key2)
	s.addIssuerUnder(ca.CAPlan{ID: "device-2", Purpose: ca.PurposeDevice}, "root-2", root2, key2)
	s.must(s.AdoptIssuers(s.ctx))
	_, err := s.ActivateIssuer(s.ctx, admin, "broker-2")
	if s.wantKind(err, enroll.KindNotReady, "issuer"); !strings.Contains(err.Error(), "4 of 4 devices (d0, d1, d2)") {
		t.Error(err)
	}
	first := *fleet[0]
	s.renew(fleet[0])
	s.renew(fleet[1])
	s.must(s.AcknowledgeTrust(s.ctx, device(fleet[2].cert, ""), ca.Holder{Kind: ca.HolderDevice, ID: "d2"}, 2))
	fleet[2].trust = *bundle // it fetched it by itself
	r := must(s.Readiness(s.ctx, "broker-2", enroll.StepSwitch))
	if r.Ready || r.Root != "root-2" || r.Generation != 2 || r.Devices != 4 || r.Behind != 1 || !slices.Equal(r.Stragglers, []string{"d3"}) || len(r.Brokers) != 0 {
		t.Errorf("%+v", r)
	}
	_, err = s.ActivateIssuer(s.ctx, admin, "broker-2")
	s.wantKind(err, enroll.KindNotReady, "issuer")
	// An approval says who, and why; the cross-certificate helps who is behind.
	approved := must(s.ApproveRollover(s.ctx, admin, "root-2", enroll.NewApproval{Step: enroll.StepSwitch, Reason: "d3 is in a drawer"}))
	if !approved.Ready || approved.Approval.Reason != "d3 is in a drawer" || approved.Behind != 1 {
		t.Errorf("%+v", approved)
	}
	must(s.ActivateIssuer(s.ctx, admin, "broker-2"))
	must(s.ActivateIssuer(s.ctx, admin, "device-2"))
	all("with new issuers")

	// The broker's leaf is switched; d3 trusts the old root alone, and verifies it
	// by the cross-certificate.
	before := b.serves()
	rotation := must(s.RotateBroker(s.ctx, admin, "b", false))
	s.eventually(time.Minute, "the end of the rotation", func() bool { return must(s.Rotation(s.ctx, rotation.ID)).State != enroll.RotationRunning })
	if got := must(s.Rotation(s.ctx, rotation.ID)); got.State != enroll.RotationDone || b.serves() == before {
		t.Fatalf("%s: %+v", got.State, got.Steps)
	}
	leaf := must(s.Certificate(s.ctx, string(b.serves())))
	if leaf.IssuerID != "broker-2" || fleet[3].trust.Generation != 1 {
		t.Fatalf("the leaf is of %s", leaf.IssuerID)
	}
	all("with a leaf under the new root")

	// The old root stays while devices hold certificates below it, and while its
	// issuers sign.
	_, err = s.DropRoot(s.ctx, admin, "root-2")
	s.wantKind(err, enroll.KindConflict, "issuer") // the active one
	_, err = s.DropRoot(s.ctx, admin, "root")
	s.wantKind(err, enroll.KindConflict, "issuer") // device and broker sign below it
	must(s.RetireIssuer(s.ctx, admin, "device"))
	must(s.RetireIssuer(s.ctx, admin, "broker"))
	_, err = s.DropRoot(s.ctx, admin, "root")
	if s.wantKind(err, enroll.KindNotReady, "issuer"); !strings.Contains(err.Error(), "4 of 4 devices (d3,") {
		t.Error(err)
	}
	for _, d := range fleet {
		s.renew(d)
		if d.cert.IssuerID != "device-2" {
			t.Errorf("%s renewed by %s", d.id, d.cert.IssuerID)
		}
		all(d.id + " renewed")
	}
	if r := must(s.Readiness(s.ctx, "root", enroll.StepDrop)); !r.Ready || r.Behind != 0 {
		t.Fatalf("%+v", r)
	}
	if got := s.newEvents(func() { must(s.DropRoot(s.ctx, admin, "root")) }); !slices.Contains(got, "trust.drop") {
		t.Errorf("events %v", got)
	}
	last := must(s.TrustBundle(s.ctx))
	if roots := rootsOf(s, last.PEM); last.Generation != 3 || len(roots) != 1 || !roots[0].Equal(root2) {
		t.Errorf("generation %d, %d roots", last.Generation, len(roots))
	}
	all("without the old root")
	later := s.field("d4")
	if later.trust.Generation != 3 || s.verify(b, later) != nil {
		t.Errorf("a new device: %d, %v", later.trust.Generation, s.verify(b, later))
	}
	if gens := must(s.TrustGenerations(s.ctx)); len(gens) != 3 || !slices.Equal(gens[0].Roots, []string{"root-2"}) || !slices.Equal(gens[1].Roots, []string{"root", "root-2"}) {
		t.Errorf("%+v", gens)
	}
	report := must(s.VerifyBroker(s.ctx, admin, "b", true))
	if report.Verdict != mqtts.VerdictPass {
		t.Errorf("%+v", report.Failed())
	}
	// A certificate below the dropped root, good as it is, does not enter any more.
	first.trust = *last
	if err := s.verify(b, &first); err == nil || must(s.Certificate(s.ctx, string(first.cert.SerialNumber))).Status != ca.StatusGood {
		t.Errorf("a device of the old root: %v", err)
	}
}

// Who is behind keeps a broker from being switched even when the issuer is active,
// a threshold below all lets it go, and a foreign generation is none.
func TestReadinessHasAThreshold(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.must(s.SetStatusURL(s.ctx, "http://status.test"))
	for n := range 4 {
		s.field(fmt.Sprintf("d%d", n))
	}
	root2, key2 := s.addRoot("root-2")
	s.addIssuerUnder(ca.CAPlan{ID: "broker-2", Purpose: ca.PurposeBroker}, "root-2", root2, key2)
	s.must(s.AdoptIssuers(s.ctx))
	for n := range 3 {
		s.must(s.AcknowledgeTrust(s.ctx, as("op", ""), ca.Holder{Kind: ca.HolderDevice, ID: fmt.Sprintf("d%d", n)}, 2))
	}
	s.unchanged(func() { s.must(s.AcknowledgeTrust(s.ctx, as("op", ""), ca.Holder{Kind: ca.HolderDevice, ID: "d0"}, 1)) })
	for _, generation := range []int64{0, -1, 3} {
		s.wantKind(s.AcknowledgeTrust(s.ctx, as("op", ""), ca.Holder{Kind: ca.HolderDevice, ID: "d3"}, generation), ca.KindMalformed, "generation")
	}
	s.wantKind(s.AcknowledgeTrust(s.ctx, as("op", ""), ca.Holder{Kind: ca.HolderDevice, ID: "none"}, 1), ca.KindNotFound, "device")
	if r := must(s.Readiness(s.ctx, "root-2", enroll.StepSwitch)); r.Ready || r.Threshold != 1 || r.Behind != 1 {
		t.Errorf("%+v", r)
	}
	_, err := s.Readiness(s.ctx, "root-2", "leap")
	s.wantKind(err, ca.KindMalformed, "step")
	_, err = s.ApproveRollover(s.ctx, as("admin", ""), "root-2", enroll.NewApproval{Step: enroll.StepSwitch})
	s.wantKind(err, ca.KindMalformed, "reason")
	lenient := s.serverWith(func(cfg *enroll.Config) { cfg.RolloverThreshold = 0.75 })
	s.must(lenient.AdoptIssuers(s.ctx))
	if r := must(lenient.Readiness(s.ctx, "root-2", enroll.StepSwitch)); !r.Ready {
		t.Errorf("%+v", r)
	}
}

// Of four devices two have not confirmed the new root, and the other two have,
// and still hold certificates below the old one: dropping that leaves all behind.
func TestDropCountsBothKindsOfStragglers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.must(s.SetStatusURL(s.ctx, "http://status.test"))
	for n := range 4 {
		s.enroll(fmt.Sprintf("d%d", n))
	}
	s.addRoot("root-2")
	s.must(s.AdoptIssuers(s.ctx))
	for n := range 2 {
		s.must(s.AcknowledgeTrust(s.ctx, as("op", ""), ca.Holder{Kind: ca.HolderDevice, ID: fmt.Sprintf("d%d", n)}, 2))
	}
	half := s.serverWith(func(cfg *enroll.Config) { cfg.RolloverThreshold = 0.5 })
	s.must(half.AdoptIssuers(s.ctx))
	r := must(half.Readiness(s.ctx, "root", enroll.StepDrop))
	if r.Ready || r.Devices != 4 || r.Behind != 4 || len(r.Stragglers) != 4 {
		t.Errorf("%+v", r)
	}
	if r := must(half.Readiness(s.ctx, "root-2", enroll.StepSwitch)); !r.Ready || r.Behind != 2 {
		t.Errorf("%+v", r)
	}
}

// A new trust bundle is told, once, also by a server that did not make it.
func TestOnTrustIsToldOfEachGeneration(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var told []int64
	other := s.serverWith(func(cfg *enroll.Config) {
		cfg.OnTrust = func(b enroll.TrustBundle) error { told = append(told, b.Generation); return nil }
	})
	s.must(other.AdoptIssuers(s.ctx))
	s.addRoot("root-2")
	s.must(s.AdoptIssuers(s.ctx))
	s.must(other.AdoptIssuers(s.ctx))
	s.must(other.AdoptIssuers(context.Background()))
	if !slices.Equal(told, []int64{1, 2}) {
		t.Errorf("told of %v", told)
	}
}
