package enroll_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A creation that can be repeated: first and other are two different requests
// that come with the same key.
type creation struct {
	name         string
	first, other func(context.Context, *enroll.Service, enroll.Call) (any, error)
	event        string
	kept         bool // whether the first answer itself is kept
}

func creations(s *site) []creation {
	serial := func(id string) string { return string(s.certificates(id)[ca.StatusGood][0]) }
	for _, id := range []string{"revoke-me", "me-too", "hold-me", "serial-1", "serial-2"} {
		s.enroll(id)
	}
	one, two := serial("serial-1"), serial("serial-2")
	at := time.Now().Add(3*time.Hour + 30*time.Minute) // passes while the test moves the clock
	return []creation{
		{"device", func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.CreateDevice(ctx, c, enroll.NewDevice{ID: "d"})
		}, func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.CreateDevice(ctx, c, enroll.NewDevice{ID: "d2"})
		}, "device.register", true},
		{"broker", func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.CreateBroker(ctx, c, enroll.NewBroker{URL: "mqtts://b.test"})
		}, func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.CreateBroker(ctx, c, enroll.NewBroker{URL: "mqtts://b2.test"})
		}, "broker.register", true},
		{"work order", func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.CreateWorkOrder(ctx, c, enroll.NewWorkOrder{Product: "p", Quantity: 1})
		}, func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.CreateWorkOrder(ctx, c, enroll.NewWorkOrder{Product: "p", Quantity: 2})
		}, "work-order.create", true},
		{"enrollment token", func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.CreateEnrollmentToken(ctx, c, "o", enroll.NewToken{ExpiresAt: &at})
		}, func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.CreateEnrollmentToken(ctx, c, "o", enroll.NewToken{})
		}, "enrollment-token.create", true},
		{"revocation", func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.RevokeDevice(ctx, c, "revoke-me", enroll.RevokeRequest{Reason: "superseded"})
		}, func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.RevokeDevice(ctx, c, "me-too", enroll.RevokeRequest{Reason: "superseded"})
		}, "device.revoke", true},
		{"revocation of a certificate", func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.RevokeCertificate(ctx, c, one, enroll.RevokeRequest{Reason: "superseded"})
		}, func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.RevokeCertificate(ctx, c, two, enroll.RevokeRequest{Reason: "superseded"})
		}, "certificate.revoke", true},
		{"hold", func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.HoldDevice(ctx, c, "hold-me")
		}, nil, "device.hold", false},
		{"release", func(ctx context.Context, s *enroll.Service, c enroll.Call) (any, error) {
			return s.ReleaseDevice(ctx, c, "hold-me")
		}, nil, "device.release", false},
	}
}

// Every call that creates something and carries a key is answered as the first
// time: by another server, and much later. It changes nothing again.
func TestRepeatedCallGetsTheFirstAnswer_I5(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("o", 10, enroll.NewToken{})
	other := s.server(s.openStore())
	for _, c := range creations(s) {
		call := as("op", "key")
		var first any
		made := s.newEvents(func() {
			var err error
			if first, err = c.first(s.ctx, s.Service, call); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		})
		if !slices.Equal(made, []string{c.event}) {
			t.Errorf("%s: events %v", c.name, made)
		}
		want := must(json.Marshal(first))
		s.clock.forward(time.Hour)
		s.unchanged(func() {
			_, err := c.first(s.ctx, other, call)
			replay := s.wantReplay(err)
			if c.kept && !bytes.Equal(replay.Answer, want) {
				t.Errorf("%s: %s, first %s", c.name, replay.Answer, want)
			}
			if c.other != nil {
				_, err = c.other(s.ctx, other, call)
				s.wantKind(err, enroll.KindIdempotency, "")
			}
		})
	}
}

// Racing calls under one key do the work once.
func TestRacingCallsUnderOneKey_I5(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	replicas := []*enroll.Service{s.Service, s.server(s.openStore())}
	made := s.newEvents(func() {
		_, errs := race(16, func(i int) (any, error) {
			return replicas[i%2].CreateWorkOrder(s.ctx, as("op", "k"), enroll.NewWorkOrder{Product: "p", Quantity: 1})
		})
		fresh := 0
		for _, err := range errs {
			if err == nil {
				fresh++
			} else {
				s.wantReplay(err)
			}
		}
		if fresh != 1 {
			t.Fatalf("%d fresh", fresh)
		}
	})
	if len(made) != 1 {
		t.Fatalf("events %v", made)
	}
}

// The secret of an enrollment token is given once, and to a retry; what is
// kept for that is sealed, and nobody else's.
func TestKeptTokenIsSealed_I23(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("o", 10, enroll.NewToken{})
	token := must(s.CreateEnrollmentToken(s.ctx, as("op", "key"), "o", enroll.NewToken{Uses: 2}))
	_, err := s.server(s.openStore()).CreateEnrollmentToken(s.ctx, as("op", "key"), "o", enroll.NewToken{Uses: 2})
	if replay := s.wantReplay(err); !strings.Contains(string(replay.Answer), token.Token) {
		t.Error("the retry did not get the secret")
	}
	other := must(s.CreateEnrollmentToken(s.ctx, as("somebody else", "key"), "o", enroll.NewToken{Uses: 2}))
	if other.Token == token.Token {
		t.Error("another credential got the secret")
	}
	thief := as("op", "key") // the scope without the credential, as one who reads the database has it
	thief.Principal.Seal = []byte("guess")
	if _, err := s.CreateEnrollmentToken(s.ctx, thief, "o", enroll.NewToken{Uses: 2}); err == nil || strings.Contains(err.Error(), "fce_") {
		t.Errorf("without the credential: %v", err)
	}
	unsealed := enroll.Call{Principal: enroll.Principal{Name: "device:d"}, IdempotencyKey: "key"}
	s.unchanged(func() {
		_, err = s.CreateEnrollmentToken(s.ctx, unsealed, "o", enroll.NewToken{Uses: 2})
		s.wantKind(err, ca.KindMalformed, "Idempotency-Key")
	})
	_, err = s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: token.Token, DeviceID: "d", CSR: newCSR(t, newKey(t), "d")})
	s.must(err)
	s.noSecret(token.Token, other.Token)
}

// noSecret ends the test if a secret is in the database, its companions, the
// audit trail or the log.
func (s *site) noSecret(secrets ...string) {
	s.Helper()
	texts := map[string]string{"log": s.log.String()}
	for _, suffix := range []string{"", "-wal"} {
		text, err := os.ReadFile(s.path + suffix)
		s.must(err)
		texts["database"+suffix] = string(text)
	}
	for where, text := range texts {
		for _, secret := range secrets {
			if strings.Contains(text, secret) || strings.Contains(text, strings.TrimLeft(secret, "fcae_")) {
				s.Errorf("a secret is in the %s", where)
			}
		}
	}
}

// A secret that is shown once is in no record of it, and a wrong one is told
// by nothing but that it is wrong.
func TestAPITokens_I23(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	secret, token, err := s.MintAPIToken(s.ctx, "server", "ci", enroll.RoleFactory, time.Hour)
	s.must(err)
	p, err := s.Authenticate(s.ctx, secret)
	if err != nil || p.Name != "token:"+token.ID || p.Role != enroll.RoleFactory || len(p.Seal) == 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, bearer := range []string{"", "x", secret + "x", "fce_" + secret[4:], strings.ToUpper(secret)} {
		_, err := s.Authenticate(s.ctx, bearer)
		s.wantKind(err, enroll.KindUnauthenticated, "Authorization")
		if bearer != "" && strings.Contains(err.Error(), bearer) && len(bearer) > 1 {
			t.Errorf("the error repeats %q", bearer)
		}
	}
	s.clock.forward(time.Hour)
	_, err = s.Authenticate(s.ctx, secret)
	s.wantKind(err, enroll.KindUnauthenticated, "Authorization")
	_, _, err = s.MintAPIToken(s.ctx, "server", "ci", "root", time.Hour)
	s.wantKind(err, ca.KindMalformed, "role")
	s.noSecret(secret)
}
