package enroll_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// attention returns what needs a person, as kind, severity, subject and action.
func (s *site) attention() []string {
	s.Helper()
	all := must(s.Attention(s.ctx))
	texts := []string{}
	for _, a := range all.Items {
		if a.Message == "" || a.Since.IsZero() {
			s.Errorf("%+v", a)
		}
		texts = append(texts, fmt.Sprint(a.Kind, " ", a.Severity, " ", a.Subject, " ", a.Action))
	}
	return texts
}

// wantAttention ends the test unless just these things need a person.
func (s *site) wantAttention(want ...string) {
	s.Helper()
	if got := s.attention(); !slices.Equal(got, append([]string{}, want...)) {
		s.Fatalf("needs a person:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Nothing needs a person when all is well, also after a rotation; what a broker
// does otherwise does.
func TestAttentionToBrokers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.wantAttention()
	b := s.broker("b")
	s.startJobs(nil)
	s.wantAttention()
	must(s.VerifyBroker(s.ctx, as("op", ""), "b", false))
	s.wantAttention()
	// A busy machine may be too slow for a probe, and the rotation is rolled back:
	// it is tried again.
	rotate := func(state enroll.RotationState) {
		s.Helper()
		for range 5 {
			r := must(s.RotateBroker(s.ctx, as("op", ""), "b", false))
			s.eventually(time.Minute, "the end of a rotation", func() bool { return must(s.Rotation(s.ctx, r.ID)).State != enroll.RotationRunning })
			if must(s.Rotation(s.ctx, r.ID)).State == state {
				return
			}
		}
		s.Fatalf("no rotation became %s", state)
	}
	rotate(enroll.RotationDone)
	s.wantAttention() // its own look at the new certificate counts

	// A certificate that nobody installed.
	must(s.IssueBroker(s.ctx, as("op", ""), "b", newCSR(t, newKey(t), "")))
	s.wantAttention()
	s.clock.forward(11 * time.Minute)
	s.wantAttention("broker-serves-other warning broker:b verify")
	must(s.VerifyBroker(s.ctx, as("op", ""), "b", false))
	s.wantAttention("broker-serves-other warning broker:b rotate")
	rotate(enroll.RotationDone)
	s.wantAttention()

	b.on("Install", func(context.Context) error { return errors.New("no space left") })
	rotate(enroll.RotationRolledBack)
	s.wantAttention("rotation-rolled-back warning broker:b rotate")
	b.on("Install", nil)
	rotate(enroll.RotationDone)
	s.wantAttention()

	s.must(b.real.Close())
	must(s.VerifyBroker(s.ctx, as("op", ""), "b", false))
	s.wantAttention("verification-failed critical broker:b verify")
}

// A revocation without proof needs a person, one that has just begun does not.
func TestAttentionToRevocations(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.deadBroker("dead")
	s.enroll("d")
	r := must(s.RevokeDevice(s.ctx, as("sec", ""), "d", enroll.RevokeRequest{Reason: "keyCompromise"}))
	s.wantAttention()
	s.clock.forward(3 * time.Minute)
	s.wantAttention("revocation-unproven critical revocation:" + r.ID + " open-revocation")
	_ = s.AdvanceRevocation(s.ctx, r.ID)
	s.wantAttention("revocation-unproven critical revocation:" + r.ID + " open-revocation")
	if a := must(s.Attention(s.ctx)).Items[0]; !strings.Contains(a.Message, "dead") || !strings.Contains(a.Message, "d is not proven") {
		t.Error(a.Message)
	}
}

func TestAttentionToOrdersAndLeaves(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.order("o", 10, enroll.NewToken{Uses: 10})
	for n := range 10 {
		id := fmt.Sprint("d", n)
		must(s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: token.Token, DeviceID: id, CSR: newCSR(t, newKey(t), id)}))
	}
	s.wantAttention("quota-reached info work-order:o raise-quota")
	eleven := int64(11)
	must(s.UpdateWorkOrder(s.ctx, as("op", ""), "o", enroll.WorkOrderUpdate{Quantity: &eleven}))
	s.wantAttention()
	s.clock.forward(355 * 24 * time.Hour)
	got := s.attention()
	if !slices.Contains(got, "devices-expiring warning devices list-devices") {
		t.Errorf("%v", got)
	}
	for _, a := range must(s.Attention(s.ctx)).Items {
		if a.Kind != enroll.AttentionLeaves {
			continue
		}
		f := must(enroll.ParseQuery(a.Query))
		if found, _, err := s.Devices(s.ctx, f, enroll.Page{}); err != nil || len(found) != 10 || !strings.HasPrefix(a.Message, "10 devices") {
			t.Errorf("%q finds %d, %v; %s", a.Query, len(found), err, a.Message)
		}
	}
}

// I12, I17: CRLs in the second half of their life, and chains in the last third.
func TestAttentionToIssuers_I12_I17(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	crl := must(s.CRL(s.ctx, "device"))
	life := crl.NextUpdate.Sub(crl.ThisUpdate)
	s.clock.forward(life/2 + time.Minute)
	if got := s.attention(); !slices.Contains(got, "crl-lapsing warning issuer:device open-issuer") || !slices.Contains(got, "crl-lapsing warning issuer:broker open-issuer") {
		t.Errorf("%v", got)
	}
	s.must(s.PublishScheduledCRLs(s.ctx))
	s.wantAttention()
	s.clock.forward(life)
	if got := s.attention(); !slices.Contains(got, "crl-lapsing critical issuer:device open-issuer") {
		t.Errorf("%v", got)
	}
	var issuer enroll.IssuerView
	for _, i := range must(s.Issuers(s.ctx)) {
		if i.ID == "device" {
			issuer = i
		}
	}
	s.clock.forward(issuer.NotAfter.Sub(issuer.NotBefore) * 3 / 4)
	if got := s.attention(); !slices.Contains(got, "chain-expiring warning issuer:device open-issuer") || !slices.Contains(got, "crl-lapsing critical issuer:root sign-root-crl") {
		t.Errorf("%v", got)
	}
	s.clock.forward(issuer.NotAfter.Sub(issuer.NotBefore) / 4)
	if got := s.attention(); !slices.Contains(got, "chain-expiring critical issuer:device open-issuer") {
		t.Errorf("%v", got)
	}
}

// An issuer that cannot cover a full certificate any more is critical, until a
// successor for the same stands ready: published is enough, one for others not.
func TestAttentionToIssuersThatAreTooShort_I17(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.must(s.SetStatusURL(s.ctx, "http://status.test"))
	s.addIssuer(ca.CAPlan{ID: "pumps", Purpose: ca.PurposeDevice, Product: "pump", Years: 1})
	s.must(s.AdoptIssuers(s.ctx))
	s.wantAttention() // it does not sign yet
	must(s.ActivateIssuer(s.ctx, as("admin", ""), "pumps"))
	s.wantAttention("issuer-too-short critical issuer:pumps open-issuer")
	s.addIssuer(ca.CAPlan{ID: "pumps-hall", Purpose: ca.PurposeDevice, Product: "pump", Site: "hall"})
	s.addIssuer(ca.CAPlan{ID: "pumps-short", Purpose: ca.PurposeDevice, Product: "pump", Years: 1})
	s.must(s.AdoptIssuers(s.ctx))
	s.wantAttention("issuer-too-short critical issuer:pumps open-issuer")
	s.addIssuer(ca.CAPlan{ID: "pumps-2", Purpose: ca.PurposeDevice, Product: "pump"})
	s.wantAttention("issuer-too-short critical issuer:pumps open-issuer") // created: its CRL is nowhere
	s.must(s.AdoptIssuers(s.ctx))
	s.wantAttention()
}

// A root that was retired is looked at for as long as active issuers hang on it.
func TestAttentionToWhatStandsAboveIssuers_I17(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.must(s.SetStatusURL(s.ctx, "http://status.test"))
	root := must(s.Issuer(s.ctx, "root"))
	s.clock.forward(root.NotAfter.Sub(root.NotBefore) * 3 / 4)
	s.addRoot("root-2")
	s.must(s.AdoptIssuers(s.ctx))
	must(s.ActivateIssuer(s.ctx, as("admin", ""), "root-2"))
	if got := s.attention(); s.state("root") != ca.IssuerRetired || slices.Contains(got, "chain-expiring warning issuer:root open-issuer") {
		t.Errorf("a root with a successor: %v", got)
	}
	s.clock.forward(root.NotAfter.Sub(root.NotBefore) * 3 / 4) // in which the successor ages, too
	if got := s.attention(); !slices.Contains(got, "chain-expiring critical issuer:root open-issuer") {
		t.Errorf("a retired root above active issuers: %v", got)
	}
}

// What is most severe comes first, and the list is bounded.
func TestAttentionIsBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for n := range 101 {
		id := fmt.Sprintf("o%03d", n)
		token := s.order(id, 1, enroll.NewToken{})
		if n < 100 {
			must(s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: token.Token, DeviceID: "of-" + id, CSR: newCSR(t, newKey(t), "of-"+id)}))
		}
	}
	s.enroll("d")
	if all := must(s.Attention(s.ctx)); len(all.Items) != 100 || all.More {
		t.Errorf("%d, more %t", len(all.Items), all.More)
	}
	must(s.RevokeDevice(s.ctx, as("sec", ""), "d", enroll.RevokeRequest{Reason: "keyCompromise"}))
	s.clock.forward(3 * time.Minute)
	if all := must(s.Attention(s.ctx)); len(all.Items) != 100 || !all.More || all.Items[0].Kind != enroll.AttentionUnproven {
		t.Errorf("%d, more %t, first %+v", len(all.Items), all.More, all.Items[0])
	}
}

// Figures and forecast are made by a job that runs by the clock.
func TestFiguresAreCountedInTheBackground(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("d")
	if f := must(s.Figures(s.ctx)); !f.AsOf.IsZero() {
		t.Errorf("counted before anybody did: %+v", f)
	}
	if s.Every()[enroll.JobCount] == 0 {
		t.Error("the job does not run by the clock")
	}
	s.must(s.Jobs()[enroll.JobCount](s.ctx, ""))
	f, forecast := must(s.Figures(s.ctx)), must(s.Forecast(s.ctx))
	if f.AsOf.IsZero() || f.Devices[enroll.DeviceActive] != 1 || f.Certificates["good"] != 1 || f.IssuedToday != 1 {
		t.Errorf("%+v", f)
	}
	expires := must(s.Device(s.ctx, "d")).ExpiresAt
	for _, w := range forecast.Weeks {
		if in := !expires.Before(w.From) && expires.Before(w.From.AddDate(0, 0, 7)); (w.Expiring["device"] == 1) != in {
			t.Errorf("week %s: %v", w.Week, w.Expiring)
		}
	}
}
