package enroll_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// current returns the principal's certificate as the machine listener does.
func (s *site) current(e *enroll.Enrollment) *ca.Certificate {
	s.Helper()
	p, err := s.AuthenticateCertificate(s.ctx, []*x509.Certificate{must(e.Certificate.X509())})
	s.must(err)
	return p.Certificate
}

// A renewal keeps the key, a rekey changes it, and the current certificate
// stays good, so that a lost answer strands nobody.
func TestRenewAndRekey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first, _ := s.enroll("d")
	var second, third *enroll.Enrollment
	next := newKey(t)
	made := s.newEvents(func() {
		second = must(s.RenewDevice(s.ctx, device(s.current(first), ""), ""))
		third = must(s.RenewDevice(s.ctx, device(s.current(second), ""), newCSR(t, next, "d")))
	})
	if len(made) != 2 || made[0] != "device.renew" || made[1] != "device.renew" {
		t.Errorf("events %v", made)
	}
	if second.Certificate.KeySHA256 != first.Certificate.KeySHA256 || third.Certificate.KeySHA256 == first.Certificate.KeySHA256 {
		t.Error("the keys are not as asked for")
	}
	if good := s.certificates("d")[ca.StatusGood]; len(good) != 3 {
		t.Errorf("%d good", len(good))
	}
}

// A device that lost the answer and asks again gets the same certificate, with
// and without an idempotency key, for the same key and for a new one.
func TestRenewalIsRepeatedAfterALostAnswer_I5(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.server(s.openStore())
	for name, c := range map[string]struct {
		key   string
		rekey bool
	}{
		"same-key": {"", false}, "new-key": {"", true}, "same-key-with-idempotency": {"k", false}, "new-key-with-idempotency": {"k", true},
	} {
		first, _ := s.enroll(name)
		csr := ""
		if c.rekey {
			csr = newCSR(t, newKey(t), name)
		}
		call := device(s.current(first), c.key)
		lost := must(s.RenewDevice(s.ctx, call, csr))
		s.unchanged(func() {
			for range 3 {
				again := must(other.RenewDevice(s.ctx, call, csr))
				if !again.Replayed || again.Chain != lost.Chain {
					t.Errorf("%s: another certificate", name)
				}
			}
		})
		if c.key != "" {
			_, err := s.RenewDevice(s.ctx, call, newCSR(t, newKey(t), name))
			s.wantKind(err, enroll.KindIdempotency, "")
		}
	}
}

// A certificate that is due itself is no answer to a renewal.
func TestDueCertificateIsNoReplay(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first, _ := s.enroll("d")
	second := must(s.RenewDevice(s.ctx, device(s.current(first), ""), ""))
	s.clock.forward(300 * 24 * time.Hour)
	third := must(s.RenewDevice(s.ctx, device(s.current(first), ""), ""))
	if third.Replayed || third.Chain == second.Chain {
		t.Error("an old certificate was given")
	}
}

// Racing retries of one renewal make one certificate when they carry a key.
func TestRacingRenewalsWithOneKey_I5(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first, _ := s.enroll("d")
	replicas := []*enroll.Service{s.Service, s.server(s.openStore())}
	call := device(s.current(first), "k")
	got, errs := race(16, func(i int) (*enroll.Enrollment, error) { return replicas[i%2].RenewDevice(s.ctx, call, "") })
	s.wantKinds(errs, map[ca.Kind]int{"": 16})
	for _, e := range got {
		if e.Chain != got[0].Chain {
			t.Fatal("two certificates")
		}
	}
}

func TestRefusedRenewalChangesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := s.CreateBroker(s.ctx, as("op", ""), enroll.NewBroker{ID: "b", URL: "mqtts://b.test"})
	s.must(err)
	brokerCert := must(s.IssueBroker(s.ctx, as("op", ""), "b", newCSR(t, newKey(t), "b.test"))).Certificate
	_, otherKey := s.enroll("other")
	old, _ := s.enroll("old")
	old.Certificate.NotAfter = time.Now().Add(-time.Second)
	fine, _ := s.enroll("fine")
	held, _ := s.enroll("held")
	revoked, _ := s.enroll("revoked")
	replaced, _ := s.enroll("replaced")
	must(s.HoldDevice(s.ctx, as("op", ""), "held"))
	must(s.RevokeDevice(s.ctx, as("op", ""), "revoked", enroll.RevokeRequest{Reason: "keyCompromise"}))
	must(s.RevokeCertificate(s.ctx, as("op", ""), string(replaced.Certificate.SerialNumber), enroll.RevokeRequest{Reason: "superseded"}))
	for _, c := range []struct {
		name  string
		cert  *ca.Certificate
		csr   string
		kind  ca.Kind
		field string
	}{
		{"no certificate", nil, "", enroll.KindUnauthenticated, ""},
		{"a broker's", brokerCert, "", enroll.KindUnauthenticated, ""},
		{"expired", old.Certificate, "", enroll.KindExpired, ""},
		{"device on hold", held.Certificate, "", enroll.KindDeviceHeld, "deviceId"},
		{"device revoked", revoked.Certificate, newCSR(t, newKey(t), "revoked"), enroll.KindDeviceRevoked, "deviceId"},
		{"device revoked, compromised key", revoked.Certificate, "", ca.KindBlockedKey, "csr"},
		{"certificate revoked", replaced.Certificate, "", ca.KindRevoked, "serialNumber"},
		{"another name", fine.Certificate, newCSR(t, newKey(t), "other"), ca.KindNameNotAllowed, "csr"},
		{"another device's key", fine.Certificate, newCSR(t, otherKey, "fine"), enroll.KindDuplicateKey, "csr"},
		{"garbage", fine.Certificate, "x", ca.KindMalformed, "csr"},
	} {
		s.unchanged(func() {
			call := enroll.Call{Principal: enroll.Principal{Name: "device:x", Certificate: c.cert}, IdempotencyKey: c.name}
			_, err := s.RenewDevice(s.ctx, call, c.csr)
			if err == nil {
				t.Fatalf("%s: renewed", c.name)
			}
			t.Log(c.name)
			s.wantKind(err, c.kind, c.field)
		})
	}
}

// A device whose certificate has expired is told what the store admits: an
// operator enrolls it again.
func TestExpiredRenewalNamesTheWayBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	old, _ := s.enroll("old")
	old.Certificate.NotAfter = time.Now().Add(-time.Second)
	_, err := s.RenewDevice(s.ctx, enroll.Call{Principal: enroll.Principal{Name: "device:old", Certificate: old.Certificate}}, "")
	if e, ok := errors.AsType[*ca.Error](err); !ok || e.Kind != enroll.KindExpired || e.Hint != "let an operator enroll it again" {
		t.Errorf("%#v", err)
	}
}

// AuthenticateCertificate knows only certificates of the ledger, byte for byte.
func TestAuthenticateCertificate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	good, _ := s.enroll("good")
	held, _ := s.enroll("held")
	revoked, _ := s.enroll("revoked")
	must(s.HoldDevice(s.ctx, as("op", ""), "held"))
	must(s.RevokeDevice(s.ctx, as("op", ""), "revoked", enroll.RevokeRequest{Reason: "superseded"}))
	forged := must(good.Certificate.X509())
	forged.Raw = append([]byte{}, forged.Raw...)
	forged.Raw[len(forged.Raw)-1] ^= 1
	for name, c := range map[string]struct {
		peer []*x509.Certificate
		kind ca.Kind
	}{
		"none":                 {nil, enroll.KindUnauthenticated},
		"not recorded":         {[]*x509.Certificate{s.root}, enroll.KindUnauthenticated},
		"the serial of a good": {[]*x509.Certificate{forged}, enroll.KindUnauthenticated},
		"held":                 {[]*x509.Certificate{must(held.Certificate.X509())}, enroll.KindDeviceHeld},
		"revoked":              {[]*x509.Certificate{must(revoked.Certificate.X509())}, enroll.KindDeviceRevoked},
	} {
		t.Log(name)
		_, err := s.AuthenticateCertificate(s.ctx, c.peer)
		s.wantKind(err, c.kind, "")
	}
	if p, err := s.AuthenticateCertificate(s.ctx, []*x509.Certificate{must(good.Certificate.X509())}); err != nil || p.Name != "device:good" || p.Role != "" {
		t.Errorf("%+v, %v", p, err)
	}
}

// A renewal that races the revocation of its device leaves no good certificate
// behind, whoever wins.
func TestNoGoodCertificateOfARevokedDeviceSurvives_I10(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.server(s.openStore())
	for i := range 12 {
		id := fmt.Sprintf("d%d", i)
		first, _ := s.enroll(id)
		call := device(s.current(first), "")
		_, _ = race(5, func(i int) (any, error) {
			if i == 2 {
				return s.RevokeDevice(s.ctx, as("op", ""), id, enroll.RevokeRequest{Reason: "keyCompromise"})
			}
			return other.RenewDevice(s.ctx, call, newCSR(t, newKey(t), id))
		})
		all := s.certificates(id)
		if len(all[ca.StatusGood]) != 0 || len(all[ca.StatusRevoked]) == 0 {
			t.Fatalf("%v", all)
		}
		r, _, err := s.Revocations(s.ctx, id, enroll.Page{Limit: 1})
		s.must(err)
		if len(r[0].SerialNumbers) != len(all[ca.StatusRevoked]) {
			t.Fatalf("the revocation lists %d of %d", len(r[0].SerialNumbers), len(all[ca.StatusRevoked]))
		}
	}
}
