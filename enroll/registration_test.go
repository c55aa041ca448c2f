package enroll_test

import (
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func TestBrokerRegistration(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, c := range []struct {
		n    enroll.NewBroker
		want enroll.Broker
	}{
		{enroll.NewBroker{URL: "mqtts://Broker.Test"}, enroll.Broker{ID: "broker.test", URL: "mqtts://broker.test:8883", Names: []string{"broker.test"}, Kind: "generic"}},
		{enroll.NewBroker{ID: "b1", URL: "mqtts://10.0.0.1:1/", Names: []string{"a.test", "10.0.0.1", "a.test"}, Kind: "mosquitto"}, enroll.Broker{ID: "b1", URL: "mqtts://10.0.0.1:1", Names: []string{"a.test", "10.0.0.1"}, Kind: "mosquitto"}},
		{enroll.NewBroker{URL: "mqtts://[2001:DB8:0::1]"}, enroll.Broker{ID: "2001-db8--1", URL: "mqtts://[2001:db8::1]:8883", Names: []string{"2001:db8::1"}, Kind: "generic"}},
		{enroll.NewBroker{ID: "b2", URL: "mqtts://[::0001]", Names: []string{"0:0:0:0:0:0:0:1"}}, enroll.Broker{ID: "b2", URL: "mqtts://[::1]:8883", Names: []string{"::1"}, Kind: "generic"}},
	} {
		b, err := s.CreateBroker(s.ctx, as("op", ""), c.n)
		if err != nil {
			t.Errorf("%+v: %v", c.n, err)
			continue
		}
		if b.ID != c.want.ID || b.URL != c.want.URL || b.Kind != c.want.Kind || b.Status != enroll.BrokerRegistered || !slices.Equal(b.Names, c.want.Names) {
			t.Errorf("%+v, want %+v", b, c.want)
		}
		e, err := s.IssueBroker(s.ctx, as("op", ""), b.ID, newCSR(t, newKey(t), ""))
		s.must(err)
		if !slices.Equal(sorted(e.Certificate.Names), sorted(b.Names)) {
			t.Errorf("its certificate is for %v", e.Certificate.Names)
		}
	}
}

func sorted(names []string) []string { return slices.Sorted(slices.Values(names)) }

// A refusal is a call that must be refused.
type refusal struct {
	do    func() error
	kind  ca.Kind
	field string
}

// refusedRegistrations are refused where something "taken" exists.
func refusedRegistrations(s *site) map[string]refusal {
	long := make([]string, 101)
	for i := range long {
		long[i] = fmt.Sprintf("b%d.test", i)
	}
	broker := func(n enroll.NewBroker) error { _, err := s.CreateBroker(s.ctx, as("op", "k"), n); return err }
	device := func(n enroll.NewDevice) error { _, err := s.CreateDevice(s.ctx, as("op", "k"), n); return err }
	order := func(n enroll.NewWorkOrder) error { _, err := s.CreateWorkOrder(s.ctx, as("op", "k"), n); return err }
	token := func(order string, n enroll.NewToken) error {
		_, err := s.CreateEnrollmentToken(s.ctx, as("op", "k"), order, n)
		return err
	}
	past := time.Now().Add(-time.Second)
	return map[string]refusal{
		"broker without URL":           {func() error { return broker(enroll.NewBroker{}) }, ca.KindMalformed, "url"},
		"broker on plain MQTT":         {func() error { return broker(enroll.NewBroker{URL: "mqtt://b.test"}) }, ca.KindMalformed, "url"},
		"broker URL with a password":   {func() error { return broker(enroll.NewBroker{URL: "mqtts://u:p@b.test"}) }, ca.KindMalformed, "url"},
		"broker URL with a path":       {func() error { return broker(enroll.NewBroker{URL: "mqtts://b.test/x"}) }, ca.KindMalformed, "url"},
		"broker on port 0":             {func() error { return broker(enroll.NewBroker{URL: "mqtts://b.test:0"}) }, ca.KindMalformed, "url"},
		"broker host with a wildcard":  {func() error { return broker(enroll.NewBroker{URL: "mqtts://*.test"}) }, ca.KindMalformed, "url"},
		"broker name in upper case":    {func() error { return broker(enroll.NewBroker{URL: "mqtts://b.test", Names: []string{"B.test"}}) }, ca.KindMalformed, "names"},
		"names without the URL's host": {func() error { return broker(enroll.NewBroker{URL: "mqtts://b.test", Names: []string{"c.test"}}) }, ca.KindNameNotAllowed, "names"},
		"too many names":               {func() error { return broker(enroll.NewBroker{URL: "mqtts://b0.test", Names: long}) }, ca.KindMalformed, "names"},
		"broker id":                    {func() error { return broker(enroll.NewBroker{ID: "a b", URL: "mqtts://b.test"}) }, ca.KindMalformed, "id"},
		"broker kind":                  {func() error { return broker(enroll.NewBroker{Kind: "a b", URL: "mqtts://b.test"}) }, ca.KindMalformed, "kind"},
		"broker exists":                {func() error { return broker(enroll.NewBroker{ID: "taken", URL: "mqtts://c.test"}) }, enroll.KindConflict, "id"},
		"device id":                    {func() error { return device(enroll.NewDevice{ID: strings.Repeat("x", 65)}) }, ca.KindMalformed, "id"},
		"device group":                 {func() error { return device(enroll.NewDevice{ID: "d", Group: "a b"}) }, ca.KindMalformed, "group"},
		"device's order":               {func() error { return device(enroll.NewDevice{ID: "d", WorkOrder: "none"}) }, ca.KindNotFound, "workOrder"},
		"device exists":                {func() error { return device(enroll.NewDevice{ID: "taken"}) }, enroll.KindDuplicateDevice, "id"},
		"order without product":        {func() error { return order(enroll.NewWorkOrder{Quantity: 1}) }, ca.KindMalformed, "product"},
		"order for none":               {func() error { return order(enroll.NewWorkOrder{Product: "p"}) }, ca.KindMalformed, "quantity"},
		"order for a server":           {func() error { return order(enroll.NewWorkOrder{Product: "p", Quantity: 1, Profile: "server"}) }, ca.KindProfile, "profile"},
		"order exists":                 {func() error { return order(enroll.NewWorkOrder{ID: "taken", Product: "p", Quantity: 1}) }, enroll.KindConflict, "id"},
		"token of no order":            {func() error { return token("none", enroll.NewToken{}) }, ca.KindNotFound, "workOrder"},
		"token with two expiries":      {func() error { return token("taken", enroll.NewToken{ExpiresIn: "1h", ExpiresAt: &past}) }, ca.KindMalformed, "expiresIn"},
		"token expired at birth":       {func() error { return token("taken", enroll.NewToken{ExpiresAt: &past}) }, ca.KindMalformed, "expiresAt"},
		"token for ever":               {func() error { return token("taken", enroll.NewToken{ExpiresIn: "87600h"}) }, ca.KindMalformed, "expiresIn"},
		"token for no time":            {func() error { return token("taken", enroll.NewToken{ExpiresIn: "soon"}) }, ca.KindMalformed, "expiresIn"},
		"token of less than one use":   {func() error { return token("taken", enroll.NewToken{Uses: -1}) }, ca.KindMalformed, "uses"},
		"token of a device, two uses":  {func() error { return token("taken", enroll.NewToken{Uses: 2, DeviceID: "d"}) }, ca.KindMalformed, "uses"},
		"token of the canary":          {func() error { return token("taken", enroll.NewToken{DeviceID: enroll.CanaryID}) }, ca.KindNameNotAllowed, "deviceId"},
	}
}

// refusedChanges are refused where a device "taken" has a certificate.
func refusedChanges(s *site) map[string]refusal {
	revoke := func(id, reason, comment string) error {
		_, err := s.RevokeDevice(s.ctx, as("op", "k"), id, enroll.RevokeRequest{Reason: reason, Comment: comment})
		return err
	}
	hold := must(s.Device(s.ctx, "taken")).Certificates[0].SerialNumber
	return map[string]refusal{
		"unknown reason":           {func() error { return revoke("taken", "bored", "") }, ca.KindReason, "reason"},
		"removeFromCRL":            {func() error { return revoke("taken", "removeFromCRL", "") }, ca.KindReason, "reason"},
		"comment too long":         {func() error { return revoke("taken", "superseded", strings.Repeat("x", 1001)) }, ca.KindMalformed, "comment"},
		"no such device":           {func() error { return revoke("none", "superseded", "") }, ca.KindNotFound, "deviceId"},
		"hold of no device":        {func() error { _, err := s.HoldDevice(s.ctx, as("op", "k"), "none"); return err }, ca.KindNotFound, "deviceId"},
		"release of a good device": {func() error { _, err := s.ReleaseDevice(s.ctx, as("op", "k"), "taken"); return err }, ca.KindNotHeld, "deviceId"},
		"serial number": {func() error {
			_, err := s.RevokeCertificate(s.ctx, as("op", "k"), "xyz", enroll.RevokeRequest{Reason: "superseded"})
			return err
		}, ca.KindMalformed, "serialNumber"},
		"reason of a certificate": {func() error {
			_, err := s.RevokeCertificate(s.ctx, as("op", "k"), string(hold), enroll.RevokeRequest{})
			return err
		}, ca.KindReason, "reason"},
		"server without a name":   {func() error { _, err := s.IssueServer(s.ctx, nil, nil); return err }, ca.KindMalformed, "public-host"},
		"rotation without driver": {func() error { _, err := s.RotateBroker(s.ctx, as("op", "k"), "taken", false); return err }, enroll.KindNoDriver, ""},
		"rotation of no broker":   {func() error { _, err := s.RotateBroker(s.ctx, as("op", "k"), "none", false); return err }, ca.KindNotFound, "broker"},
		"look at no broker":       {func() error { _, err := s.VerifyBroker(s.ctx, as("op", "k"), "none", false); return err }, ca.KindNotFound, "broker"},
	}
}

func TestRefusedRegistrationChangesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := s.CreateBroker(s.ctx, as("op", ""), enroll.NewBroker{ID: "taken", URL: "mqtts://b.test"})
	s.must(err)
	s.order("taken", 1, enroll.NewToken{})
	s.enroll("taken")
	all := refusedRegistrations(s)
	maps.Copy(all, refusedChanges(s))
	for name, c := range all {
		s.unchanged(func() {
			err := c.do()
			if err == nil {
				t.Fatalf("%s: accepted", name)
			}
			t.Log(name)
			s.wantKind(err, c.kind, c.field)
		})
	}
}

// A broker's request may name the broker and what it was registered with; what
// it gets is what it was registered with.
func TestBrokerRequests_I9(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := s.CreateBroker(s.ctx, as("op", ""), enroll.NewBroker{ID: "b", URL: "mqtts://b.test", Names: []string{"b.test", "10.0.0.1"}})
	s.must(err)
	for name, c := range map[string]struct {
		cn     string
		change func(*x509.CertificateRequest)
		ok     bool
	}{
		"nothing": {"", func(*x509.CertificateRequest) {}, true},
		"its names": {"b.test", func(r *x509.CertificateRequest) {
			r.DNSNames, r.IPAddresses = []string{"b.test"}, []net.IP{net.IPv4(10, 0, 0, 1)}
		}, true},
		"its id":          {"b", func(*x509.CertificateRequest) {}, true},
		"another name":    {"", func(r *x509.CertificateRequest) { r.DNSNames = []string{"b.test", "c.test"} }, false},
		"another address": {"", func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 2)} }, false},
		"another CN":      {"c", func(*x509.CertificateRequest) {}, false},
		"a mail address":  {"", func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"b@b.test"} }, false},
	} {
		csr := newCSR(t, newKey(t), c.cn, c.change)
		if c.ok {
			e, err := s.IssueBroker(s.ctx, as("op", name), "b", csr)
			s.must(err)
			if !slices.Equal(e.Certificate.Names, []string{"b.test", "10.0.0.1"}) || e.Broker != nil || e.Renewal != nil || e.DeviceID != "" {
				t.Errorf("%s: %+v", name, e)
			}
			s.unchanged(func() {
				again, err := s.server(s.store).IssueBroker(s.ctx, as("op", name), "b", csr)
				if err != nil || !again.Replayed || again.Chain != e.Chain {
					t.Errorf("%s again: %+v, %v", name, again, err)
				}
			})
			continue
		}
		s.unchanged(func() {
			_, err := s.IssueBroker(s.ctx, as("op", name), "b", csr)
			s.wantKind(err, ca.KindNameNotAllowed, "csr")
		})
	}
	_, key := s.enroll("d")
	_, err = s.IssueBroker(s.ctx, as("op", ""), "b", newCSR(t, key, ""))
	s.wantKind(err, enroll.KindDuplicateKey, "csr")
}

// A move is one event; a server that starts where it was makes none.
func TestMoveBroker_I19(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := s.CreateBroker(s.ctx, as("op", ""), enroll.NewBroker{ID: "b", URL: "mqtts://b.test"})
	s.must(err)
	s.unchanged(func() { s.must(s.MoveBroker(s.ctx, "server", enroll.NewBroker{ID: "b", URL: "mqtts://B.test:8883"})) })
	if made := s.newEvents(func() { s.must(s.MoveBroker(s.ctx, "server", enroll.NewBroker{ID: "b", URL: "mqtts://c.test"})) }); !slices.Equal(made, []string{"broker.move"}) {
		t.Errorf("events %v", made)
	}
	s.wantKind(s.MoveBroker(s.ctx, "server", enroll.NewBroker{ID: "none", URL: "mqtts://c.test"}), ca.KindNotFound, "broker")
}

// What is given of a broker changes, the rest stays; a refused change changes
// nothing.
func TestUpdateBroker_I19(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := s.CreateBroker(s.ctx, as("op", ""), enroll.NewBroker{ID: "b", URL: "mqtts://b.test", Names: []string{"b.test", "old.test"}, Kind: "nats"})
	s.must(err)
	made := s.newEvents(func() {
		b := must(s.UpdateBroker(s.ctx, as("op", ""), "b", enroll.BrokerUpdate{URL: new("mqtts://10.0.0.1:1883"), Names: []string{"10.0.0.1"}}))
		if b.URL != "mqtts://10.0.0.1:1883" || !slices.Equal(b.Names, []string{"10.0.0.1"}) || b.Kind != "nats" {
			t.Errorf("%+v", b)
		}
	})
	if !slices.Equal(made, []string{"broker.move"}) {
		t.Errorf("events %v", made)
	}
	for name, c := range map[string]struct {
		id    string
		u     enroll.BrokerUpdate
		kind  ca.Kind
		field string
	}{
		"another host alone": {"b", enroll.BrokerUpdate{URL: new("mqtts://c.test")}, ca.KindNameNotAllowed, "names"},
		"a bad name":         {"b", enroll.BrokerUpdate{Names: []string{"10.0.0.1", "a b"}}, ca.KindMalformed, "names"},
		"a bad URL":          {"b", enroll.BrokerUpdate{URL: new("http://c.test")}, ca.KindMalformed, "url"},
		"an unknown broker":  {"none", enroll.BrokerUpdate{}, ca.KindNotFound, "broker"},
	} {
		t.Run(name, func(t *testing.T) {
			s.unchanged(func() {
				_, err := s.UpdateBroker(s.ctx, as("op", ""), c.id, c.u)
				s.wantKind(err, c.kind, c.field)
			})
		})
	}
}

// A token that was ended enrolls nobody, and is ended once; one that is bound
// to another work order ends nothing.
func TestEndEnrollmentToken_I6_I19(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	secret := s.order("o1", 5, enroll.NewToken{Uses: 3})
	s.token("o1", enroll.NewToken{DeviceID: "d2"})
	listed, _, err := s.EnrollmentTokens(s.ctx, "o1", enroll.Page{Limit: 10})
	s.must(err)
	if len(listed) != 2 || listed[0].DeviceID != "d2" || listed[1].ID != secret.ID || listed[1].Token != "" {
		t.Fatalf("%+v", listed)
	}
	_, _, err = s.EnrollmentTokens(s.ctx, "none", enroll.Page{})
	s.wantKind(err, ca.KindNotFound, "workOrder")
	other := as("line", "")
	other.Principal.Token = &enroll.APIToken{WorkOrder: "o2"}
	s.unchanged(func() {
		_, err := s.EndEnrollmentToken(s.ctx, other, "o1", secret.ID)
		s.wantKind(err, enroll.KindForbidden, "workOrder")
	})
	made := s.newEvents(func() {
		if ended := must(s.EndEnrollmentToken(s.ctx, as("op", ""), "o1", secret.ID)); ended.ExpiresAt.After(time.Now()) {
			t.Errorf("%+v", ended)
		}
	})
	if !slices.Equal(made, []string{"enrollment-token.end"}) {
		t.Errorf("events %v", made)
	}
	s.unchanged(func() {
		_, err := s.EndEnrollmentToken(s.ctx, as("op", ""), "o1", secret.ID)
		s.wantKind(err, enroll.KindConflict, "token")
		_, err = s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: secret.Token, DeviceID: "d1", CSR: newCSR(t, newKey(t), "d1")})
		s.wantKind(err, enroll.KindTokenExpired, "token")
	})
}
