package enroll_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A refusedEnrollment is a request that must be refused.
type refusedEnrollment struct {
	name  string
	call  enroll.Call
	r     enroll.EnrollRequest
	kind  ca.Kind
	field string
}

// spoiled is a site with what enrollments can run into.
type spoiled struct {
	*site
	open, bound, spent, late, full *enroll.EnrollmentToken
	heldKey, badKey                crypto.Signer
}

func newSpoiled(t *testing.T) *spoiled {
	s := newSite(t)
	open := s.order("open", 10, enroll.NewToken{Uses: 10})
	bound := s.token("open", enroll.NewToken{DeviceID: "d-bound"})
	spent := s.token("open", enroll.NewToken{})
	late := s.token("open", enroll.NewToken{ExpiresIn: "1m"})
	full := s.order("full", 1, enroll.NewToken{Uses: 10})
	for id, token := range map[string]string{"d-spent": spent.Token, "d-full": full.Token} {
		_, err := s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: token, DeviceID: id, CSR: newCSR(t, newKey(t), id)})
		s.must(err)
	}
	_, heldKey := s.enroll("d-held")
	_, err := s.HoldDevice(s.ctx, as("operator", ""), "d-held")
	s.must(err)
	_, badKey := s.enroll("d-revoked")
	_, err = s.RevokeDevice(s.ctx, as("operator", ""), "d-revoked", enroll.RevokeRequest{Reason: "keyCompromise"})
	s.must(err)
	s.clock.forward(2 * time.Minute) // late has expired

	return &spoiled{s, open, bound, spent, late, full, heldKey, badKey}
}

func (s *spoiled) refusals(t *testing.T) []refusedEnrollment {
	open, bound, spent, late, full, heldKey, badKey := s.open, s.bound, s.spent, s.late, s.full, s.heldKey, s.badKey
	key, weak := newKey(t), must(rsa.GenerateKey(rand.Reader, 1024))
	good := newCSR(t, key, "d")
	block, _ := pem.Decode([]byte(good))
	block.Bytes[len(block.Bytes)-1] ^= 1
	tampered := string(pem.EncodeToMemory(block))
	many := map[string]string{}
	for i := range 33 {
		many[fmt.Sprint(i)] = ""
	}
	factory := enroll.Call{Principal: enroll.Principal{Name: "token:factory", Role: enroll.RoleFactory}}
	operator := as("operator", "")
	return []refusedEnrollment{
		{"no credential", enroll.Call{}, enroll.EnrollRequest{DeviceID: "d", CSR: good}, enroll.KindUnauthenticated, "token"},
		{"unknown token", enroll.Call{}, enroll.EnrollRequest{Token: "fce_x", DeviceID: "d", CSR: good}, enroll.KindTokenUnknown, "token"},
		{"expired token", enroll.Call{}, enroll.EnrollRequest{Token: late.Token, DeviceID: "d", CSR: good}, enroll.KindTokenExpired, "token"},
		{"used token", enroll.Call{}, enroll.EnrollRequest{Token: spent.Token, DeviceID: "d", CSR: good}, enroll.KindTokenUsed, "token"},
		{"other device's token", enroll.Call{}, enroll.EnrollRequest{Token: bound.Token, DeviceID: "d", CSR: good}, enroll.KindTokenOtherDevice, "token"},
		{"token of another order", enroll.Call{}, enroll.EnrollRequest{Token: open.Token, WorkOrder: "full", DeviceID: "d", CSR: good}, enroll.KindTokenOtherOrder, "workOrder"},
		{"quota reached", enroll.Call{}, enroll.EnrollRequest{Token: full.Token, DeviceID: "d", CSR: good}, enroll.KindQuotaReached, "workOrder"},
		{"factory without an order", factory, enroll.EnrollRequest{DeviceID: "d", CSR: good}, ca.KindMalformed, "workOrder"},
		{"unknown order", operator, enroll.EnrollRequest{WorkOrder: "none", DeviceID: "d", CSR: good}, ca.KindNotFound, "workOrder"},
		{"another profile than the order's", operator, enroll.EnrollRequest{WorkOrder: "open", Profile: "broker", DeviceID: "d", CSR: good}, ca.KindProfile, "profile"},
		{"not a device's profile", operator, enroll.EnrollRequest{Profile: "server", DeviceID: "d", CSR: good}, ca.KindProfile, "profile"},
		{"no such profile", operator, enroll.EnrollRequest{Profile: "x", DeviceID: "d", CSR: good}, ca.KindProfile, "profile"},
		{"no device id", operator, enroll.EnrollRequest{CSR: good}, ca.KindMalformed, "deviceId"},
		{"device id with a slash", operator, enroll.EnrollRequest{DeviceID: "a/b", CSR: good}, ca.KindMalformed, "deviceId"},
		{"device id is a folder", operator, enroll.EnrollRequest{DeviceID: "..", CSR: good}, ca.KindMalformed, "deviceId"},
		{"the canaries' name", operator, enroll.EnrollRequest{DeviceID: enroll.CanaryID, CSR: good}, ca.KindNameNotAllowed, "deviceId"},
		{"too many attributes", operator, enroll.EnrollRequest{DeviceID: "d", CSR: good, Attributes: many}, ca.KindMalformed, "attributes"},
		{"control character in an attribute", operator, enroll.EnrollRequest{DeviceID: "d", CSR: good, Attributes: map[string]string{"a": "\x00"}}, ca.KindMalformed, "attributes.a"},
		{"no request", operator, enroll.EnrollRequest{DeviceID: "d"}, ca.KindMalformed, "csr"},
		{"17 KiB", operator, enroll.EnrollRequest{DeviceID: "d", CSR: good + strings.Repeat(" ", 17<<10)}, ca.KindTooLarge, "csr"},
		{"bad signature", operator, enroll.EnrollRequest{DeviceID: "d", CSR: tampered}, ca.KindBadSignature, "csr"},
		{"RSA-1024", operator, enroll.EnrollRequest{DeviceID: "d", CSR: newCSR(t, weak, "d")}, ca.KindWeakKey, "csr"},
		{"another common name", operator, enroll.EnrollRequest{DeviceID: "d", CSR: newCSR(t, key, "e")}, ca.KindNameNotAllowed, "csr"},
		{"another DNS name", operator, enroll.EnrollRequest{DeviceID: "d", CSR: newCSR(t, key, "d", func(r *x509.CertificateRequest) { r.DNSNames = []string{"e"} })}, ca.KindNameNotAllowed, "csr"},
		{"an IP address", operator, enroll.EnrollRequest{DeviceID: "d", CSR: newCSR(t, key, "d", func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4bcast} })}, ca.KindNameNotAllowed, "csr"},
		{"an e-mail address", operator, enroll.EnrollRequest{DeviceID: "d", CSR: newCSR(t, key, "d", func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b.test"} })}, ca.KindNameNotAllowed, "csr"},
		{"another device's key", operator, enroll.EnrollRequest{DeviceID: "d", CSR: newCSR(t, heldKey, "d")}, enroll.KindDuplicateKey, "csr"},
		{"compromised key", operator, enroll.EnrollRequest{DeviceID: "d", CSR: newCSR(t, badKey, "d")}, ca.KindBlockedKey, "csr"},
		{"enrolled device with another key", enroll.Call{}, enroll.EnrollRequest{Token: open.Token, DeviceID: "d-spent", CSR: newCSR(t, key, "d-spent")}, enroll.KindDuplicateDevice, "deviceId"},
		{"held device", operator, enroll.EnrollRequest{DeviceID: "d-held", CSR: newCSR(t, heldKey, "d-held")}, enroll.KindDeviceHeld, "deviceId"},
		{"revoked device", operator, enroll.EnrollRequest{DeviceID: "d-revoked", CSR: newCSR(t, key, "d-revoked")}, enroll.KindDeviceRevoked, "deviceId"},
	}
}

// A refused enrollment names its kind and its field, and changes nothing:
// whether the server checks before it signs, or expects no refusal.
func TestRefusedEnrollmentChangesNothing_I6_I8_I9(t *testing.T) {
	t.Parallel()
	s := newSpoiled(t)
	for _, c := range s.refusals(t) {
		server := s.server(s.store)
		for _, state := range []string{"trusting", "cautious"} {
			s.unchanged(func() {
				c.call.IdempotencyKey = "key of " + c.name
				_, err := server.EnrollDevice(s.ctx, c.call, c.r)
				if err == nil {
					t.Fatalf("%s, %s: enrolled", c.name, state)
				}
				t.Log(c.name, state)
				s.wantKind(err, c.kind, c.field)
			})
		}
	}
}

// A checking is a store that counts what is asked before it is signed, and what
// is signed.
type checking struct {
	enroll.Store
	checks, commits int
}

func (c *checking) CheckClaim(ctx context.Context, claim *enroll.Claim, holder ca.Holder, key string) error {
	c.checks++
	return c.Store.CheckClaim(ctx, claim, holder, key)
}

func (c *checking) Commit(ctx context.Context, batch []ca.Issuance) []error {
	c.commits += len(batch)
	return c.Store.Commit(ctx, batch)
}

// Nothing is asked before a signature while all is granted; after a refusal
// nothing more is signed in vain.
func TestNoSignatureInVain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	db := &checking{Store: s.store}
	server := s.server(db)
	key := newKey(t)
	enrolls := func(id, idempotency string) error {
		_, err := server.EnrollDevice(s.ctx, as("operator", idempotency), enroll.EnrollRequest{DeviceID: id, CSR: newCSR(s, key, id)})
		return err
	}
	s.must(enrolls("d", "1"))
	if db.checks != 0 || db.commits != 1 {
		t.Errorf("the first: %d checks, %d signatures", db.checks, db.commits)
	}
	for range 10 {
		s.wantKind(enrolls("e", ""), enroll.KindDuplicateKey, "csr")
	}
	s.must(enrolls("d", "1")) // its first answer again
	if db.checks != 11 || db.commits != 2 {
		t.Errorf("after 10 refused and a repeated one: %d checks, %d signatures", db.checks, db.commits)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A one-time token makes one certificate, whatever else is asked for at the
// same time, on two replicas.
func TestOneTimeTokenMakesOneCertificate_I6(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.order("o", 1000, enroll.NewToken{}).Token
	replicas := []*enroll.Service{s.Service, s.server(s.openStore())}
	requests := make([]enroll.EnrollRequest, 64)
	for i := range requests {
		id := fmt.Sprintf("d%d", i)
		requests[i] = enroll.EnrollRequest{Token: token, DeviceID: id, CSR: newCSR(t, newKey(t), id)}
	}
	_, errs := race(64, func(i int) (*enroll.Enrollment, error) {
		return replicas[i%2].EnrollDevice(s.ctx, enroll.Call{}, requests[i])
	})
	s.wantKinds(errs, map[ca.Kind]int{"": 1, enroll.KindTokenUsed: 63})
	if o := must(s.WorkOrder(s.ctx, "o")); o.Issued != 1 {
		t.Fatalf("%d issued", o.Issued)
	}
	if n := strings.Count(s.dump()["certificates"], "\n") + 1; n != 1 {
		t.Fatalf("%d certificates", n)
	}
}

// The very same request that races itself gets one certificate, byte for byte.
func TestRacingRetriesGetTheSameBytes_I5(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	replicas := []*enroll.Service{s.Service, s.server(s.openStore())}
	s.order("o", 1000, enroll.NewToken{})
	for _, c := range []struct {
		name  string
		uses  int64
		call  enroll.Call
		again bool // sign the request anew each time
	}{
		{"one-time-token", 1, enroll.Call{}, false},
		{"token-with-several-uses", 5, enroll.Call{}, false},
		{"one-time-token-and-key", 1, enroll.Call{IdempotencyKey: "k"}, false},
		{"idempotency-key", 0, as("factory", "k1"), false},
		{"request-signed-anew", 1, enroll.Call{}, true},
		{"neither-the-key-decides", 0, as("factory", ""), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *s
			s.T = t
			r := enroll.EnrollRequest{DeviceID: c.name, WorkOrder: "o"}
			if c.uses > 0 {
				r.Token = s.token("o", enroll.NewToken{Uses: c.uses}).Token
			}
			key := newKey(t)
			r.CSR = newCSR(t, key, c.name)
			var got []*enroll.Enrollment
			var errs []error
			made := s.newEvents(func() {
				got, errs = race(32, func(i int) (*enroll.Enrollment, error) {
					r := r
					if c.again {
						r.CSR = newCSR(t, key, c.name)
					}
					return replicas[i%2].EnrollDevice(s.ctx, c.call, r)
				})
			})
			s.wantKinds(errs, map[ca.Kind]int{"": 32})
			fresh := 0
			for _, e := range got {
				if e.Chain != got[0].Chain {
					t.Fatal("two certificates")
				}
				if !e.Replayed {
					fresh++
				}
			}
			if fresh != 1 || !slices.Equal(made, []string{"device.enroll"}) {
				t.Fatalf("%d fresh, events %v", fresh, made)
			}
		})
	}
}

// The same key with another request is a conflict on every replica, and
// nothing is issued.
func TestSameKeyWithAnotherRequestIsAConflict_I5(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.server(s.openStore())
	key := newKey(t)
	first := enroll.EnrollRequest{DeviceID: "d", CSR: newCSR(t, key, "d"), Attributes: map[string]string{"a": "1"}}
	_, err := s.EnrollDevice(s.ctx, as("op", "k"), first)
	s.must(err)
	for name, r := range map[string]enroll.EnrollRequest{
		"another request":    {DeviceID: "d", CSR: newCSR(t, newKey(t), "d"), Attributes: first.Attributes},
		"another subject":    {DeviceID: "d", CSR: newCSR(t, key, ""), Attributes: first.Attributes},
		"another device":     {DeviceID: "e", CSR: newCSR(t, key, "e"), Attributes: first.Attributes},
		"another attribute":  {DeviceID: "d", CSR: first.CSR, Attributes: map[string]string{"a": "2"}},
		"attributes missing": {DeviceID: "d", CSR: first.CSR},
	} {
		s.unchanged(func() {
			if _, err := other.EnrollDevice(s.ctx, as("op", "k"), r); err == nil {
				t.Fatalf("%s: enrolled", name)
			} else {
				s.wantKind(err, enroll.KindIdempotency, "")
			}
		})
	}
	if e, err := s.EnrollDevice(s.ctx, as("somebody else", "k"), enroll.EnrollRequest{DeviceID: "f", CSR: newCSR(t, newKey(t), "f")}); err != nil || e.Replayed {
		t.Fatalf("the key of another principal: %+v, %v", e, err)
	}
}

// A quota is exact under 64 racing stations.
func TestQuotaIsNeverExceeded_I6(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("o", 5, enroll.NewToken{})
	replicas := []*enroll.Service{s.Service, s.server(s.openStore())}
	requests := make([]enroll.EnrollRequest, 64)
	for i := range requests {
		id := fmt.Sprintf("d%d", i)
		requests[i] = enroll.EnrollRequest{WorkOrder: "o", DeviceID: id, CSR: newCSR(t, newKey(t), id)}
	}
	_, errs := race(64, func(i int) (*enroll.Enrollment, error) {
		return replicas[i%2].EnrollDevice(s.ctx, as("factory", fmt.Sprint(i)), requests[i])
	})
	s.wantKinds(errs, map[ca.Kind]int{"": 5, enroll.KindQuotaReached: 59})
	if o := must(s.WorkOrder(s.ctx, "o")); o.Issued != 5 {
		t.Fatalf("%d issued", o.Issued)
	}
}

// The request that spent a token gets its certificate again for ever; anybody
// else gets nothing for an expired token.
func TestTokenReplaysAfterItExpired_I5_I6(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.order("o", 10, enroll.NewToken{Uses: 2, ExpiresIn: "1m"}).Token
	key := newKey(t)
	r := enroll.EnrollRequest{Token: token, DeviceID: "d", CSR: newCSR(t, key, "d")}
	first := must(s.EnrollDevice(s.ctx, enroll.Call{}, r))
	s.clock.forward(time.Hour)
	s.unchanged(func() {
		again, err := s.server(s.store).EnrollDevice(s.ctx, enroll.Call{}, r)
		if err != nil || !again.Replayed || again.Chain != first.Chain {
			t.Fatalf("again: %+v, %v", again, err)
		}
		_, err = s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: token, DeviceID: "e", CSR: newCSR(t, newKey(t), "e")})
		s.wantKind(err, enroll.KindTokenExpired, "token")
	})
}

// A device that comes back to the line with its key gets its certificate; it
// costs neither quota nor token, and nobody else's order learns of it.
func TestReworkedDeviceKeepsItsIdentity(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.order("o", 10, enroll.NewToken{})
	key := newKey(t)
	enrolled := must(s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: first.Token, DeviceID: "d", CSR: newCSR(t, key, "d")}))
	same, other := s.token("o", enroll.NewToken{}), s.order("other", 10, enroll.NewToken{})
	s.unchanged(func() {
		for name, r := range map[string]struct {
			call  enroll.Call
			token string
		}{"fresh token": {enroll.Call{}, same.Token}, "operator": {as("op", ""), ""}} {
			again, err := s.EnrollDevice(s.ctx, r.call, enroll.EnrollRequest{Token: r.token, DeviceID: "d", CSR: newCSR(t, key, "d")})
			if err != nil || !again.Replayed || again.Chain != enrolled.Chain {
				t.Fatalf("%s: %+v, %v", name, again, err)
			}
		}
		_, err := s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: other.Token, DeviceID: "d", CSR: newCSR(t, key, "d")})
		s.wantKind(err, enroll.KindDuplicateDevice, "deviceId")
	})
	s.clock.forward(366 * 24 * time.Hour) // it expired: an operator may enroll it again, the line may not
	s.unchanged(func() {
		_, err := s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: same.Token, DeviceID: "d", CSR: newCSR(t, key, "d")})
		s.wantKind(err, enroll.KindTokenExpired, "token")
	})
	next, err := s.EnrollDevice(s.ctx, as("op", ""), enroll.EnrollRequest{DeviceID: "d", CSR: newCSR(t, key, "d")})
	if err != nil || next.Replayed || next.Chain == enrolled.Chain {
		t.Errorf("an operator enrolls it again: %+v, %v", next, err)
	}
}

// An answer has all that a device needs to connect, and names come from policy.
func TestEnrollmentAnswer_I9(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := s.CreateBroker(s.ctx, as("op", ""), enroll.NewBroker{ID: "b", URL: "mqtts://Broker.Test"})
	s.must(err)
	_, err = s.CreateDevice(s.ctx, as("op", ""), enroll.NewDevice{ID: "d", Group: "g", Attributes: map[string]string{"a": "1"}})
	s.must(err)
	e, _ := s.enroll("d")
	want := enroll.Endpoint{URL: "mqtts://broker.test:8883", ServerName: "broker.test", ClientID: "d", TopicPrefix: "devices/d/"}
	if *e.Broker != want || e.Renewal.URL != "https://machines.test/api/v1/renewals" || e.DeviceID != "d" || e.Replayed {
		t.Errorf("%+v", e)
	}
	leaf := must(e.Certificate.X509())
	if leaf.Subject.String() != "CN=d" || leaf.IsCA || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		t.Errorf("%+v", leaf.Subject)
	}
	if after := e.Renewal.After; !after.After(leaf.NotBefore) || !after.Before(leaf.NotAfter) {
		t.Errorf("renew after %v", after)
	}
	d := must(s.Device(s.ctx, "d"))
	if d.Status != enroll.DeviceActive || d.Group != "g" || d.Attributes["a"] != "1" || d.LastSeenAt == nil {
		t.Errorf("%+v", d)
	}
}
