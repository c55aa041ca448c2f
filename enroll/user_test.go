package enroll_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// asAdmin returns a call of an admin.
func asAdmin(key string) enroll.Call {
	c := as("admin", key)
	c.Principal.Role = enroll.RoleAdmin
	return c
}

const evesPassword = "CANARY-password-of-eve-7f3a9c" // known to leaktest

// addEve adds a user.
func (s *site) addEve(role enroll.Role) {
	s.Helper()
	_, err := s.AddUser(s.ctx, asAdmin(""), enroll.NewUser{Name: "eve", Role: role, Password: evesPassword})
	s.must(err)
}

func (s *site) login(name string, password enroll.Secret, from string) (*enroll.APIToken, error) {
	return s.Login(s.ctx, enroll.LoginRequest{Name: name, Password: password}, from)
}

// wantLater ends the test unless err says to wait so long: at most what is
// given, and more than the half of it, which was the limit before. Of short
// ones nothing may be left on a busy machine.
func (s *site) wantLater(err error, after time.Duration) {
	s.Helper()
	s.wantKind(err, enroll.KindRateLimited, "")
	if l, ok := errors.AsType[*enroll.Later](err); !ok || l.After > after || after > 2*time.Second && l.After <= after/2 {
		s.Fatalf("%v: %+v, want to wait %v", err, l, after)
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addEve(enroll.RoleSecurity)
	token, err := s.login("eve", evesPassword, "192.0.2.1/32")
	s.must(err)
	p, err := s.Authenticate(s.ctx, token.Token)
	s.must(err)
	if p.Name != "user:eve" || p.Role != enroll.RoleSecurity || p.Token.Owner != "eve" || p.Token.Token != "" {
		t.Fatalf("%+v", p)
	}
	users, _, err := s.Users(s.ctx, enroll.Page{})
	s.must(err)
	if len(users) != 1 || users[0].LastLoginAt == nil {
		t.Fatalf("%+v", users)
	}
	ended, err := s.Logout(s.ctx, enroll.Call{Principal: *p})
	s.must(err)
	if !ended.Disabled {
		t.Error("the token has not ended")
	}
	_, err = s.Authenticate(s.ctx, token.Token)
	s.wantKind(err, enroll.KindUnauthenticated, "Authorization")

	late, err := s.login("eve", evesPassword, "")
	s.must(err)
	s.clock.forward(12 * time.Hour)
	_, err = s.Authenticate(s.ctx, late.Token)
	s.wantKind(err, enroll.KindUnauthenticated, "Authorization")
	s.noSecret(token.Token, late.Token, evesPassword)
}

// What is wrong with a login is not told: not by the error, nor by the time.
func TestRefusedLoginsAreAlike(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addEve(enroll.RoleAdmin)
	_, err := s.AddUser(s.ctx, asAdmin(""), enroll.NewUser{Name: "out", Role: enroll.RoleAdmin, Password: evesPassword})
	s.must(err)
	_, err = s.DisableUser(s.ctx, asAdmin(""), "out")
	s.must(err)
	var texts []string
	for name, password := range map[string]enroll.Secret{"eve": "incorrect horse", "out": evesPassword, "nobody": evesPassword} {
		_, err := s.login(name, password, "")
		s.wantKind(err, enroll.KindUnauthenticated, "password")
		texts = append(texts, fmt.Sprintf("%#v", err))
	}
	if texts[0] != texts[1] || texts[1] != texts[2] {
		t.Errorf("%q", texts)
	}
}

func TestLoginLimits_I28(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.clock.stop()
	s.addEve(enroll.RoleAdmin)
	replica := s.server(s.openStore())
	events := s.newEvents(func() {
		for n := range 5 {
			on := s.Service
			if n%2 == 1 {
				on = replica
			}
			_, err := on.Login(s.ctx, enroll.LoginRequest{Name: "eve", Password: "wrong password"}, fmt.Sprintf("192.0.2.%d/32", n))
			s.wantKind(err, enroll.KindUnauthenticated, "password")
		}
	})
	if len(events) != 1 || !strings.Contains(events[0], "login.limited") {
		t.Errorf("events %v", events)
	}
	for wait := time.Second; wait < 17*time.Minute; wait *= 2 {
		limit := min(wait, 15*time.Minute)
		_, err := s.login("eve", evesPassword, "192.0.2.9/32") // also with the right one
		s.wantLater(err, limit)
		s.clock.forward(limit)
		_, err = s.login("eve", "wrong password", "")
		s.wantKind(err, enroll.KindUnauthenticated, "password")
	}
	s.clock.forward(15 * time.Minute)
	_, err := s.login("eve", evesPassword, "")
	s.must(err)
	for range 5 { // the success ended them all
		_, err = s.login("eve", "wrong password", "")
		s.wantKind(err, enroll.KindUnauthenticated, "password")
	}
}

// An address that tries one name after another is limited too, and those who
// know their passwords do not use up its attempts.
func TestLoginLimitOfAddress_I28(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.clock.stop()
	s.addEve(enroll.RoleAdmin)
	const from = "2001:db8::/64"
	for range 8 {
		_, err := s.login("eve", evesPassword, from)
		s.must(err)
	}
	for n := range 5 {
		_, err := s.login(fmt.Sprint("user", n), "wrong password", from)
		s.wantKind(err, enroll.KindUnauthenticated, "password")
	}
	_, err := s.login("eve", evesPassword, from)
	s.wantLater(err, time.Second)
	_, err = s.login("eve", evesPassword, "2001:db8:1::/64")
	s.must(err)
}

func TestRefusedUsersChangeNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addEve(enroll.RoleAdmin)
	operator := as("op", "")
	add := func(c enroll.Call, name string, role enroll.Role, password string) error {
		_, err := s.AddUser(s.ctx, c, enroll.NewUser{Name: name, Role: role, Password: enroll.Secret(password)})
		return err
	}
	reset := func(c enroll.Call, name, password string) error {
		_, err := s.ResetPassword(s.ctx, c, name, enroll.Secret(password))
		return err
	}
	mint := func(c enroll.Call, n enroll.NewAPIToken) error { _, err := s.CreateAPIToken(s.ctx, c, n); return err }
	disable := func(c enroll.Call, name string) error { _, err := s.DisableUser(s.ctx, c, name); return err }
	revoke := func(c enroll.Call, id string) error { _, err := s.RevokeAPIToken(s.ctx, c, id); return err }
	good := "long enough, is it not"
	for what, r := range map[string]refusal{
		"by an operator":           {func() error { return add(operator, "bob", enroll.RoleAuditor, good) }, enroll.KindForbidden, ""},
		"by nobody":                {func() error { return add(enroll.Call{}, "bob", enroll.RoleAuditor, good) }, enroll.KindForbidden, ""},
		"by a device":              {func() error { return add(device(&ca.Certificate{}, ""), "bob", enroll.RoleAuditor, good) }, enroll.KindForbidden, ""},
		"a taken name":             {func() error { return add(asAdmin(""), "eve", enroll.RoleAuditor, good) }, enroll.KindConflict, "name"},
		"no name":                  {func() error { return add(asAdmin(""), "", enroll.RoleAuditor, good) }, ca.KindMalformed, "name"},
		"a name with a slash":      {func() error { return add(asAdmin(""), "a/b", enroll.RoleAuditor, good) }, ca.KindMalformed, "name"},
		"no role":                  {func() error { return add(asAdmin(""), "bob", "", good) }, ca.KindMalformed, "role"},
		"no such role":             {func() error { return add(asAdmin(""), "bob", "king", good) }, ca.KindMalformed, "role"},
		"no password":              {func() error { return add(asAdmin(""), "bob", enroll.RoleAuditor, "") }, ca.KindMalformed, "password"},
		"11 characters":            {func() error { return add(asAdmin(""), "bob", enroll.RoleAuditor, strings.Repeat("ü", 11)) }, ca.KindMalformed, "password"},
		"257 octets":               {func() error { return add(asAdmin(""), "bob", enroll.RoleAuditor, strings.Repeat("x", 257)) }, ca.KindMalformed, "password"},
		"the name":                 {func() error { return add(asAdmin(""), "Bob.Miller.42", enroll.RoleAuditor, "bob.miller.42") }, ca.KindMalformed, "password"},
		"not UTF-8":                {func() error { return add(asAdmin(""), "bob", enroll.RoleAuditor, "\xff"+good) }, ca.KindMalformed, "password"},
		"reset by an operator":     {func() error { return reset(operator, "eve", good) }, enroll.KindForbidden, ""},
		"reset of nobody":          {func() error { return reset(asAdmin(""), "none", good) }, ca.KindNotFound, "name"},
		"reset to a short one":     {func() error { return reset(asAdmin(""), "eve", "short") }, ca.KindMalformed, "password"},
		"disabling by an operator": {func() error { return disable(operator, "eve") }, enroll.KindForbidden, ""},
		"disabling of nobody":      {func() error { return disable(asAdmin(""), "none") }, ca.KindNotFound, "name"},
		"a token by an operator":   {func() error { return mint(operator, enroll.NewAPIToken{Name: "n", Role: enroll.RoleAuditor}) }, enroll.KindForbidden, ""},
		"a token without a name":   {func() error { return mint(asAdmin(""), enroll.NewAPIToken{Role: enroll.RoleAuditor}) }, ca.KindMalformed, "name"},
		"a token without a role":   {func() error { return mint(asAdmin(""), enroll.NewAPIToken{Name: "n"}) }, ca.KindMalformed, "role"},
		"a token of no duration": {func() error {
			return mint(asAdmin(""), enroll.NewAPIToken{Name: "n", Role: enroll.RoleAdmin, ExpiresIn: "soon"})
		}, ca.KindMalformed, "expiresIn"},
		"a token for ever": {func() error {
			return mint(asAdmin(""), enroll.NewAPIToken{Name: "n", Role: enroll.RoleAdmin, ExpiresIn: "9000h"})
		}, ca.KindMalformed, "expiresIn"},
		"a bound token of an admin": {func() error {
			return mint(asAdmin(""), enroll.NewAPIToken{Name: "n", Role: enroll.RoleAdmin, WorkOrder: "o"})
		}, ca.KindMalformed, "workOrder"},
		"a token bound to nothing": {func() error {
			return mint(asAdmin(""), enroll.NewAPIToken{Name: "n", Role: enroll.RoleFactory, WorkOrder: "none"})
		}, ca.KindNotFound, "workOrder"},
		"revocation by an operator": {func() error { return revoke(operator, "x") }, enroll.KindForbidden, ""},
		"revocation of nothing":     {func() error { return revoke(asAdmin(""), "none") }, ca.KindNotFound, "id"},
		"logout without a token":    {func() error { _, err := s.Logout(s.ctx, asAdmin("")); return err }, enroll.KindForbidden, ""},
		"a login of 257 octets":     {func() error { _, err := s.login("eve", enroll.Secret(strings.Repeat("x", 257)), ""); return err }, ca.KindMalformed, "password"},
		"a login without a name":    {func() error { _, err := s.login("", enroll.Secret(good), ""); return err }, ca.KindMalformed, "name"},
	} {
		t.Log(what)
		s.unchanged(func() { s.wantKind(r.do(), r.kind, r.field) })
	}
}

// The password is in what makes two calls the same, and in nothing that is kept.
func TestUsersRepeat_I5_I23(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	n := enroll.NewUser{Name: "bob", Role: enroll.RoleOperator, Password: "a password of many letters"}
	_, err := s.AddUser(s.ctx, asAdmin("key"), n)
	s.must(err)
	s.unchanged(func() {
		_, err := s.AddUser(s.ctx, asAdmin("key"), n)
		replay := s.wantReplay(err)
		if !strings.Contains(string(replay.Answer), `"name":"bob"`) {
			t.Errorf("answer %s", replay.Answer)
		}
		other := n
		other.Password = "another password of letters"
		_, err = s.AddUser(s.ctx, asAdmin("key"), other)
		s.wantKind(err, enroll.KindIdempotency, "")
	})
	if _, err := s.login("bob", n.Password, ""); err != nil {
		t.Error(err)
	}
	s.noSecret(string(n.Password))

	made, err := s.CreateAPIToken(s.ctx, asAdmin("token"), enroll.NewAPIToken{Name: "ci", Role: enroll.RoleAuditor})
	s.must(err)
	_, err = s.CreateAPIToken(s.ctx, asAdmin("token"), enroll.NewAPIToken{Name: "ci", Role: enroll.RoleAuditor})
	if replay := s.wantReplay(err); !strings.Contains(string(replay.Answer), made.Token) {
		t.Error("the retry did not get the secret")
	}
	later := asAdmin("token") // the same admin with another credential
	later.Principal.Seal = []byte("of a later login")
	_, err = s.CreateAPIToken(s.ctx, later, enroll.NewAPIToken{Name: "ci", Role: enroll.RoleAuditor})
	s.wantKind(err, enroll.KindIdempotency, "")
	s.noSecret(made.Token)
}

func TestDisabledUserIsOut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addEve(enroll.RoleAdmin)
	token, err := s.login("eve", evesPassword, "")
	s.must(err)
	program, err := s.CreateAPIToken(s.ctx, asAdmin(""), enroll.NewAPIToken{Name: "ci", Role: enroll.RoleAuditor, ExpiresIn: "1h"})
	s.must(err)
	_, err = s.DisableUser(s.ctx, asAdmin(""), "eve")
	s.must(err)
	s.unchanged(func() {
		_, err = s.DisableUser(s.ctx, asAdmin(""), "eve") // again: nothing to do
		s.must(err)
	})
	_, err = s.Authenticate(s.ctx, token.Token)
	s.wantKind(err, enroll.KindUnauthenticated, "Authorization")
	_, err = s.login("eve", evesPassword, "")
	s.wantKind(err, enroll.KindUnauthenticated, "password")
	_, err = s.EnableUser(s.ctx, asAdmin(""), "eve")
	s.must(err)
	_, err = s.Authenticate(s.ctx, token.Token)
	s.wantKind(err, enroll.KindUnauthenticated, "Authorization")
	again, err := s.login("eve", evesPassword, "")
	s.must(err)
	_, err = s.ResetPassword(s.ctx, asAdmin(""), "eve", "something else entirely")
	s.must(err)
	_, err = s.Authenticate(s.ctx, again.Token)
	s.wantKind(err, enroll.KindUnauthenticated, "Authorization")
	_, err = s.login("eve", evesPassword, "")
	s.wantKind(err, enroll.KindUnauthenticated, "password")
	_, err = s.login("eve", "something else entirely", "")
	s.must(err)
	_, err = s.Authenticate(s.ctx, program.Token)
	s.must(err)
	_, err = s.RevokeAPIToken(s.ctx, asAdmin(""), program.ID)
	s.must(err)
	_, err = s.Authenticate(s.ctx, program.Token)
	s.wantKind(err, enroll.KindUnauthenticated, "Authorization")
}

func TestBoundToken(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("mine", 5, enroll.NewToken{})
	other := s.order("other", 5, enroll.NewToken{})
	made, err := s.CreateAPIToken(s.ctx, asAdmin(""), enroll.NewAPIToken{Name: "line 3", Role: enroll.RoleFactory, WorkOrder: "mine"})
	s.must(err)
	p, err := s.Authenticate(s.ctx, made.Token)
	s.must(err)
	c := enroll.Call{Principal: *p}
	csr := newCSR(t, newKey(t), "d")
	s.unchanged(func() {
		for _, r := range []enroll.EnrollRequest{{WorkOrder: "other"}, {Token: other.Token}, {WorkOrder: "none"}} {
			r.DeviceID, r.CSR = "d", csr
			_, err := s.EnrollDevice(s.ctx, c, r)
			s.wantKind(err, enroll.KindForbidden, "workOrder")
		}
		_, err = s.CreateEnrollmentToken(s.ctx, c, "other", enroll.NewToken{})
		s.wantKind(err, enroll.KindForbidden, "workOrder")
		_, err = s.CreateWorkOrder(s.ctx, c, enroll.NewWorkOrder{ID: "own", Product: "p", Quantity: 1})
		s.wantKind(err, enroll.KindForbidden, "workOrder")
		_, err = s.CreateDevice(s.ctx, c, enroll.NewDevice{ID: "d", WorkOrder: "other"})
		s.wantKind(err, enroll.KindForbidden, "workOrder")
	})
	_, err = s.EnrollDevice(s.ctx, c, enroll.EnrollRequest{DeviceID: "d", CSR: csr, WorkOrder: "mine"})
	s.must(err)
}

func TestTokenUses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	secret, token, err := s.MintAPIToken(s.ctx, "server", "ci", enroll.RoleAuditor, time.Hour)
	s.must(err)
	used := func() time.Time {
		s.must(s.SaveTokenUses(s.ctx))
		stored, err := s.store.APIToken(s.ctx, token.ID)
		s.must(err)
		if stored.LastUsedAt == nil {
			return time.Time{}
		}
		return *stored.LastUsedAt
	}
	if !used().IsZero() {
		t.Fatal("used before its first use")
	}
	_, err = s.Authenticate(s.ctx, secret)
	s.must(err)
	first := used()
	s.clock.forward(30 * time.Second)
	_, err = s.Authenticate(s.ctx, secret)
	s.must(err)
	if again := used(); first.IsZero() || !again.Equal(first) {
		t.Errorf("written twice in a minute: %v, %v", first, again)
	}
	s.clock.forward(time.Minute)
	_, err = s.Authenticate(s.ctx, secret)
	s.must(err)
	if again := used(); !again.After(first) {
		t.Errorf("not written after a minute: %v", again)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	s.KeepTokenUses(ctx)
}

// A password whose hash cost less than new ones do is hashed again at login.
func TestHashesRise(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addEve(enroll.RoleAdmin)
	db, err := sql.Open("sqlite", s.path)
	s.must(err)
	defer db.Close()
	hash := func() (text string) {
		s.must(db.QueryRow(`SELECT password_hash FROM users WHERE name = 'eve'`).Scan(&text))
		return text
	}
	const now = "$argon2id$v=19$m=19456,t=2,p=1$"
	if !strings.HasPrefix(hash(), now) {
		t.Fatalf("hash %s", hash())
	}
	// argon2 -id -k 64 -t 1 -p 1 -l 16 of the same password.
	_, err = db.Exec(`UPDATE users SET password_hash = $1`, enroll.WeakHash(evesPassword))
	s.must(err)
	_, err = s.login("eve", "wrong password", "")
	s.wantKind(err, enroll.KindUnauthenticated, "password")
	if strings.HasPrefix(hash(), now) {
		t.Fatal("a wrong password changed the hash")
	}
	_, err = s.login("eve", evesPassword, "")
	s.must(err)
	if !strings.HasPrefix(hash(), now) {
		t.Fatalf("hash %s", hash())
	}
	_, err = s.login("eve", evesPassword, "")
	s.must(err)
}

// Secrets do not show, however they are written.
func TestSecretsRedact_I23(t *testing.T) {
	t.Parallel()
	const canary = "canary-of-a-secret"
	var log strings.Builder
	text, logger := slog.New(slog.NewTextHandler(&log, nil)), slog.New(slog.NewJSONHandler(&log, nil))
	for _, v := range []any{
		enroll.Secret(canary), enroll.LoginRequest{Password: canary}, &enroll.LoginRequest{Password: canary}, enroll.NewUser{Password: canary},
		enroll.APIToken{Token: canary}, &enroll.APIToken{Token: canary}, &enroll.EnrollmentToken{Token: canary}, []enroll.Secret{canary},
		enroll.EnrollRequest{Token: canary}, &enroll.EnrollRequest{Token: canary}, enroll.Principal{Seal: []byte(canary)}, enroll.Call{Principal: enroll.Principal{Seal: []byte(canary)}},
	} {
		text.Info("x", "v", v)
		logger.Info("x", "v", v)
		fmt.Fprintf(&log, "%v %+v %#v %s %q\n", v, v, v, v, v)
	}
	b, err := json.Marshal(enroll.LoginRequest{Password: canary})
	if err != nil {
		t.Fatal(err)
	}
	log.Write(b)
	if strings.Contains(log.String(), canary) {
		t.Error(log.String())
	}
}
