package enroll_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A retired device is refused by the broker, and that is proven.
func TestRetireDevice(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	s.startJobs(nil)
	e, key := s.enroll("d")
	live := b.mustConnect("d", e, key)
	var r *enroll.Revocation
	s.unchanged(func() {
		_, err := s.RetireDevice(s.ctx, as("op", ""), "d", enroll.RetireRequest{Comment: "a\x00b"})
		s.wantKind(err, ca.KindMalformed, "comment")
	})
	made := s.newEvents(func() {
		r = must(s.RetireDevice(s.ctx, as("op", "k"), "d", enroll.RetireRequest{Comment: "scrapped"}))
		_, err := s.RetireDevice(s.ctx, as("op", "k"), "d", enroll.RetireRequest{Comment: "scrapped"})
		s.wantReplay(err)
	})
	if made[0] != "device.retire" || slices.Contains(made[1:], "device.retire") {
		t.Errorf("events %v", made)
	}
	s.eventually(20*time.Second, "proven", func() bool {
		r = must(s.Revocation(s.ctx, r.ID))
		return r.State == enroll.RevocationProven
	})
	if d := must(s.Device(s.ctx, "d")); d.Status != enroll.DeviceRetired || d.ExpiresAt != nil || d.Certificates[0].Reason != ca.ReasonCessationOfOperation {
		t.Errorf("%+v", d)
	}
	if live.alive() || !s.onCRL()[e.Certificate.SerialNumber] || r.Comment != "scrapped" {
		t.Errorf("session lives: %v, %+v", live.alive(), r)
	}
	_, err := s.RevokeDevice(s.ctx, as("op", ""), "d", enroll.RevokeRequest{Reason: "keyCompromise"})
	s.wantKind(err, ca.KindRevoked, "deviceId")
}

// A device whose key is lost enrolls again by a renewal link, once: what it
// held is revoked, and off the broker.
func TestRenewalLink_I5_I6(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	s.startJobs(nil)
	e, key := s.enroll("d")
	stolen := b.mustConnect("d", e, key)
	link := must(s.CreateRenewalLink(s.ctx, as("op", ""), "d", enroll.NewRenewalLink{ExpiresIn: "1h"}))
	if strings.Contains(link.URL, link.Token.Token) || link.Token.Uses != 1 || link.Token.DeviceID != "d" || link.Token.ExpiresAt.Sub(link.Token.CreatedAt) != time.Hour {
		t.Errorf("%+v", link)
	}
	s.unchangedButJobs(func() {
		_, err := s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: link.Token.Token, DeviceID: "d", CSR: newCSR(t, key, "d")})
		s.wantKind(err, enroll.KindDuplicateKey, "csr")
		_, err = s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: link.Token.Token, DeviceID: "e", CSR: newCSR(t, newKey(t), "e")})
		s.wantKind(err, enroll.KindTokenOtherDevice, "token")
		_, err = s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: link.Token.Token, DeviceID: "d", CSR: newCSR(t, newKey(t), "d"), Profile: "canary"})
		s.wantKind(err, ca.KindProfile, "profile")
		_, err = s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: link.Token.Token, DeviceID: "d", CSR: newCSR(t, newKey(t), "d"), WorkOrder: "o"})
		s.wantKind(err, enroll.KindTokenOtherOrder, "workOrder")
	})
	found := newKey(t)
	request := enroll.EnrollRequest{Token: link.Token.Token, DeviceID: "d", CSR: newCSR(t, found, "d")}
	anew := must(s.EnrollDevice(s.ctx, enroll.Call{}, request))
	request.CSR = newCSR(t, found, "d") // the answer was lost, and the request signed again
	again := must(s.EnrollDevice(s.ctx, enroll.Call{}, request))
	if !again.Replayed || again.Certificate.SerialNumber != anew.Certificate.SerialNumber {
		t.Errorf("a repeated request got %s, not %s", again.Certificate.SerialNumber, anew.Certificate.SerialNumber)
	}
	request.CSR = newCSR(t, newKey(t), "d")
	_, err := s.EnrollDevice(s.ctx, enroll.Call{}, request)
	s.wantKind(err, enroll.KindTokenUsed, "token")
	if certs := s.certificates("d"); !slices.Equal(certs[ca.StatusGood], []ca.SerialNumber{anew.Certificate.SerialNumber}) ||
		!slices.Equal(certs[ca.StatusRevoked], []ca.SerialNumber{e.Certificate.SerialNumber}) {
		t.Errorf("%v", certs)
	}
	s.eventually(10*time.Second, "old session closed and refused, new key admitted", func() bool {
		_, old := b.connect("d", e, key)
		_, now := b.connect("d", anew, found)
		return old != nil && now == nil && !stolen.alive()
	})
	if events := s.events(); !slices.Contains(events, "device.rekey") || !slices.Contains(events, "device.renewal-link") {
		t.Errorf("events %v", events)
	}
}

// Whoever cannot enroll again gets no link, and a link that waited is no good
// any more.
func TestRenewalLinkRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	link := func(id string) error {
		_, err := s.CreateRenewalLink(s.ctx, as("op", ""), id, enroll.NewRenewalLink{})
		return err
	}
	s.enroll("d")
	waiting := must(s.CreateRenewalLink(s.ctx, as("op", ""), "d", enroll.NewRenewalLink{}))
	must(s.HoldDevice(s.ctx, as("op", ""), "d"))
	s.wantKind(link("d"), enroll.KindDeviceHeld, "deviceId")
	must(s.RevokeDevice(s.ctx, as("op", ""), "d", enroll.RevokeRequest{Reason: "keyCompromise"}))
	s.wantKind(link("d"), enroll.KindDeviceRevoked, "deviceId")
	_, err := s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: waiting.Token.Token, DeviceID: "d", CSR: newCSR(t, newKey(t), "d")})
	s.wantKind(err, enroll.KindDeviceRevoked, "deviceId")
	must(s.CreateDevice(s.ctx, as("op", ""), enroll.NewDevice{ID: "new"}))
	s.wantKind(link("new"), enroll.KindConflict, "deviceId")
	s.wantKind(link("none"), ca.KindNotFound, "deviceId")
	s.enroll("late")
	short := must(s.CreateRenewalLink(s.ctx, as("op", ""), "late", enroll.NewRenewalLink{ExpiresIn: "1m"}))
	s.clock.forward(2 * time.Minute)
	_, err = s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: short.Token.Token, DeviceID: "late", CSR: newCSR(t, newKey(t), "late")})
	s.wantKind(err, enroll.KindTokenExpired, "token")
}

// I5: a repeated call gets the same link, with the credential that got it.
func TestRenewalLinkRepeated_I5(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("d")
	c := as("op", "key")
	c.Principal.Seal = []byte("the credential")
	first := must(s.CreateRenewalLink(s.ctx, c, "d", enroll.NewRenewalLink{}))
	_, err := s.CreateRenewalLink(s.ctx, c, "d", enroll.NewRenewalLink{})
	if r := s.wantReplay(err); !strings.Contains(string(r.Answer), first.Token.Token) {
		t.Errorf("the first answer is %s", r.Answer)
	}
}

func TestUpdateWorkOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.order("o", 1, enroll.NewToken{Uses: 5})
	enrollNext := func(id string) error {
		_, err := s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: token.Token, DeviceID: id, CSR: newCSR(t, newKey(t), id)})
		return err
	}
	s.must(enrollNext("d1"))
	s.wantKind(enrollNext("d2"), enroll.KindQuotaReached, "workOrder")
	two, zero, closed, lost := int64(2), int64(0), enroll.OrderClosed, enroll.OrderState("lost")
	made := s.newEvents(func() {
		if o := must(s.UpdateWorkOrder(s.ctx, as("op", ""), "o", enroll.WorkOrderUpdate{Quantity: &two})); o.Quantity != 2 {
			t.Errorf("%+v", o)
		}
	})
	if !slices.Equal(made, []string{"work-order.update"}) {
		t.Errorf("events %v", made)
	}
	s.must(enrollNext("d2"))
	must(s.UpdateWorkOrder(s.ctx, as("op", ""), "o", enroll.WorkOrderUpdate{State: &closed}))
	s.wantKind(enrollNext("d3"), enroll.KindOrderClosed, "workOrder")
	s.unchanged(func() {
		for field, u := range map[string]enroll.WorkOrderUpdate{"quantity": {Quantity: &zero}, "state": {State: &lost}} {
			_, err := s.UpdateWorkOrder(s.ctx, as("op", ""), "o", u)
			s.wantKind(err, ca.KindMalformed, field)
		}
		_, err := s.UpdateWorkOrder(s.ctx, as("op", ""), "o", enroll.WorkOrderUpdate{})
		s.wantKind(err, ca.KindMalformed, "quantity")
	})
}
