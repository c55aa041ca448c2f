package storetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// user creates a user, whose password hash is "hash of NAME".
func (f *fixture) user(name string, role enroll.Role) enroll.User {
	f.Helper()
	u := enroll.User{Name: name, Role: role, PasswordHash: "hash of " + name, CreatedAt: f.now, ChangedAt: f.now}
	f.must(f.store.CreateUser(f.ctx, u, f.change("user.add", "user:"+name)))
	return u
}

// loginOf returns a login of a user, with a token of its own.
func (f *fixture) loginOf(u enroll.User, token string, charges ...enroll.LoginCharge) enroll.UserLogin {
	return enroll.UserLogin{
		User: u.Name, Role: u.Role, At: f.now,
		Token:   &enroll.APIToken{ID: token, Name: "login", Role: u.Role, Owner: u.Name, Hash: sum(token), CreatedAt: f.now, ExpiresAt: f.now.Add(time1h)},
		Checked: u.PasswordHash, Hash: u.PasswordHash, Charges: charges,
	}
}

func (f *fixture) login(l enroll.UserLogin) error {
	f.Helper()
	return f.store.Login(f.ctx, l, f.change("user.login", "user:"+l.User))
}

// usable reports whether an API token is.
func (f *fixture) usable(token string) bool {
	f.Helper()
	t, err := f.store.APIToken(f.ctx, token)
	f.must(err)
	return !t.Disabled
}

var userTests = []test{
	{"a user reads back, and a name is one user's", func(f *fixture) {
		want := f.user("eve", enroll.RoleOperator)
		got, err := f.store.User(f.ctx, "eve")
		f.must(err)
		f.sameJSON(got, want)
		if got.PasswordHash != want.PasswordHash {
			f.Fatalf("password hash is %q", got.PasswordHash)
		}
		_, err = f.store.User(f.ctx, "none")
		f.wantKind(err, ca.KindNotFound)
		f.unchanged(func() {
			f.wantKind(f.store.CreateUser(f.ctx, want, f.change("user.add", "user:eve")), enroll.KindConflict)
		})
	}},
	{"users are listed by name", func(f *fixture) {
		for _, name := range []string{"c", "a", "b"} {
			f.user(name, enroll.RoleAuditor)
		}
		page, next, err := f.store.Users(f.ctx, enroll.Page{Limit: 2})
		f.must(err)
		if len(page) != 2 || page[0].Name != "a" || page[1].Name != "b" || next == "" {
			f.Fatalf("%d users, cursor %q", len(page), next)
		}
		page, next, err = f.store.Users(f.ctx, enroll.Page{Limit: 2, Cursor: next})
		f.must(err)
		if len(page) != 1 || page[0].Name != "c" || next != "" {
			f.Fatalf("%d users, cursor %q", len(page), next)
		}
	}},
	{"I28 a disabled user's logins end at once, others' and programs' tokens stay", func(f *fixture) {
		eve, bob := f.user("eve", enroll.RoleAdmin), f.user("bob", enroll.RoleAdmin)
		f.must(f.login(f.loginOf(eve, "t-eve")))
		f.must(f.login(f.loginOf(bob, "t-bob")))
		f.must(f.store.CreateAPIToken(f.ctx, enroll.APIToken{ID: "t-ci", Role: enroll.RoleAdmin, Hash: sum("t-ci"), CreatedAt: f.now, ExpiresAt: f.now.Add(time1h)}, f.change("token.create", "token:t-ci")))
		at := f.now.Add(time.Second)
		f.must(f.store.SetUserDisabled(f.ctx, "eve", true, at, f.change("user.disable", "user:eve")))
		if f.usable("t-eve") || !f.usable("t-bob") || !f.usable("t-ci") {
			f.Fatal("not the tokens of the disabled user, and those alone")
		}
		f.unchanged(func() {
			f.wantKind(f.store.SetUserDisabled(f.ctx, "eve", true, at, f.change("user.disable", "user:eve")), enroll.KindConflict)
			f.wantKind(f.login(f.loginOf(eve, "t-eve2")), enroll.KindConflict)
		})
		f.must(f.store.SetUserDisabled(f.ctx, "eve", false, at, f.change("user.enable", "user:eve")))
		if f.usable("t-eve") {
			f.Fatal("the token of before can be used again")
		}
		got, err := f.store.User(f.ctx, "eve")
		f.must(err)
		if got.Disabled || !got.ChangedAt.Equal(at) {
			f.Fatalf("%+v", got)
		}
	}},
	{"I28 no login outlives a user who is disabled at the same time", func(f *fixture) {
		for n := range 10 {
			u, token := f.user(fmt.Sprint("user", n), enroll.RoleAdmin), fmt.Sprint("t", n)
			errs := race(2, func(i int) error {
				if i == 0 {
					return f.login(f.loginOf(u, token))
				}
				return f.store.SetUserDisabled(f.ctx, u.Name, true, f.now, f.change("user.disable", "user:"+u.Name))
			})
			f.must(errs[1])
			if errs[0] != nil {
				f.wantKind(errs[0], enroll.KindConflict)
			} else if f.usable(token) {
				f.Fatal("a disabled user's login can be used")
			}
		}
	}},
	{"another role ends logins, also one that is under way", func(f *fixture) {
		eve := f.user("eve", enroll.RoleAdmin)
		f.must(f.login(f.loginOf(eve, "t1")))
		at := f.now.Add(time.Second)
		f.must(f.store.SetUserRole(f.ctx, "eve", enroll.RoleAdmin, enroll.RoleAuditor, at, f.change("user.role", "user:eve")))
		if f.usable("t1") {
			f.Fatal("the token of before can be used")
		}
		f.unchanged(func() {
			f.wantKind(f.login(f.loginOf(eve, "t2")), enroll.KindConflict)
			f.wantKind(f.store.SetUserRole(f.ctx, "eve", enroll.RoleAdmin, enroll.RoleFactory, at, f.change("user.role", "user:eve")), enroll.KindConflict)
			f.wantKind(f.store.SetUserRole(f.ctx, "none", enroll.RoleAdmin, enroll.RoleFactory, at, f.change("user.role", "user:none")), enroll.KindConflict)
		})
		got, err := f.store.User(f.ctx, "eve")
		f.must(err)
		if got.Role != enroll.RoleAuditor || !got.ChangedAt.Equal(at) {
			f.Fatalf("%+v", got)
		}
		f.must(f.login(f.loginOf(*got, "t3")))
	}},
	{"another password ends logins, also one that is under way", func(f *fixture) {
		eve := f.user("eve", enroll.RoleAdmin)
		f.must(f.login(f.loginOf(eve, "t1")))
		at := f.now.Add(time.Second)
		f.must(f.store.SetPassword(f.ctx, enroll.NewPassword{User: "eve", Hash: "another", At: at}, f.change("user.reset", "user:eve")))
		if f.usable("t1") {
			f.Fatal("the token of before can be used")
		}
		f.unchanged(func() { f.wantKind(f.login(f.loginOf(eve, "t2")), enroll.KindConflict) })
		got, err := f.store.User(f.ctx, "eve")
		f.must(err)
		if got.PasswordHash != "another" || !got.ChangedAt.Equal(at) {
			f.Fatalf("%+v", got)
		}
		f.unchanged(func() {
			f.wantKind(f.store.SetPassword(f.ctx, enroll.NewPassword{User: "none", Hash: "x", At: at}, f.change("user.reset", "user:none")), ca.KindNotFound)
		})
	}},
	{"a login stores its token, its time and a stronger hash", func(f *fixture) {
		l := f.loginOf(f.user("eve", enroll.RoleSecurity), "t1")
		l.Hash = "stronger"
		f.must(f.login(l))
		got, err := f.store.User(f.ctx, "eve")
		f.must(err)
		if got.PasswordHash != "stronger" || got.LastLoginAt == nil || !got.LastLoginAt.Equal(f.now) {
			f.Fatalf("%+v", got)
		}
		token, err := f.store.APITokenByHash(f.ctx, sum("t1"))
		f.must(err)
		f.sameJSON(token, l.Token)
	}},
	{"a login takes tokens away that expired long ago", func(f *fixture) {
		eve := f.user("eve", enroll.RoleSecurity)
		old := f.loginOf(eve, "old")
		old.Token.CreatedAt, old.Token.ExpiresAt = f.now.Add(-40*24*time1h), f.now.Add(-39*24*time1h)
		f.must(f.login(old))
		f.must(f.login(f.loginOf(eve, "new")))
		_, err := f.store.APIToken(f.ctx, "old")
		f.wantKind(err, ca.KindNotFound)
	}},
	{"API tokens are listed newest first, with what they are bound to", func(f *fixture) {
		f.order("o1", 1)
		for i := range 3 {
			t := enroll.APIToken{ID: fmt.Sprintf("t%d", i), Name: "line", Role: enroll.RoleFactory, WorkOrder: "o1", Hash: sum(fmt.Sprint(i)), CreatedAt: f.now.Add(time.Duration(i) * time.Second), ExpiresAt: f.now.Add(time1h)}
			f.must(f.store.CreateAPIToken(f.ctx, t, f.change("token.create", "token:"+t.ID)))
		}
		page, next, err := f.store.APITokens(f.ctx, enroll.Page{Limit: 2})
		f.must(err)
		if len(page) != 2 || page[0].ID != "t2" || page[1].ID != "t1" || page[0].WorkOrder != "o1" || next == "" {
			f.Fatalf("%v, cursor %q", page, next)
		}
		page, _, err = f.store.APITokens(f.ctx, enroll.Page{Limit: 2, Cursor: next})
		f.must(err)
		if len(page) != 1 || page[0].ID != "t0" {
			f.Fatalf("%v", page)
		}
	}},
	{"an API token is disabled once", func(f *fixture) {
		f.must(f.store.CreateAPIToken(f.ctx, enroll.APIToken{ID: "t1", Role: enroll.RoleAdmin, Hash: sum("t1"), CreatedAt: f.now, ExpiresAt: f.now.Add(time1h)}, f.change("token.create", "token:t1")))
		f.must(f.store.DisableAPIToken(f.ctx, "t1", f.change("token.revoke", "token:t1")))
		if f.usable("t1") {
			f.Fatal("it is not disabled")
		}
		f.unchanged(func() {
			f.wantKind(f.store.DisableAPIToken(f.ctx, "t1", f.change("token.revoke", "token:t1")), enroll.KindConflict)
			f.wantKind(f.store.DisableAPIToken(f.ctx, "none", f.change("token.revoke", "token:none")), enroll.KindConflict)
		})
	}},
	{"the last use of a token only goes forward", func(f *fixture) {
		f.must(f.store.CreateAPIToken(f.ctx, enroll.APIToken{ID: "t1", Role: enroll.RoleAdmin, Hash: sum("t1"), CreatedAt: f.now, ExpiresAt: f.now.Add(time1h)}, f.change("token.create", "token:t1")))
		for _, later := range []time.Duration{time.Minute, 0} {
			f.must(f.store.SaveTokenUses(f.ctx, map[string]time.Time{"t1": f.now.Add(later), "gone": f.now}))
		}
		t, err := f.store.APIToken(f.ctx, "t1")
		f.must(err)
		if t.LastUsedAt == nil || !t.LastUsedAt.Equal(f.now.Add(time.Minute)) {
			f.Fatalf("last used at %v", t.LastUsedAt)
		}
	}},
}

// testLimit lets two attempts go, and has the next wait a minute each.
var testLimit = enroll.LoginLimit{Forget: time1h, Wait: func(failures int64) time.Duration {
	return time.Duration(max(failures-1, 0)) * time.Minute
}}

// charge counts an attempt against subjects, some time after the start.
func (f *fixture) charge(after time.Duration, subjects ...string) ([]enroll.LoginCharge, error) {
	return f.store.ChargeLogin(f.ctx, subjects, f.now.Add(after), testLimit)
}

// wantLater ends the test unless err says to wait so long.
func (f *fixture) wantLater(err error, after time.Duration) {
	f.Helper()
	f.wantKind(err, enroll.KindRateLimited)
	if l, ok := errors.AsType[*enroll.Later](err); !ok || l.After != after {
		f.Fatalf("error is %v (%+v), want to wait %v", err, l, after)
	}
}

var loginTests = []test{
	{"I28 attempts are counted, and the next has to wait", func(f *fixture) {
		for n, at := range []time.Duration{0, 0, time.Minute} {
			charges, err := f.charge(at, "user:eve")
			f.must(err)
			if want := []time.Duration{0, time.Minute, 2 * time.Minute}[n]; len(charges) != 1 || want > 0 && !charges[0].Until.Equal(f.now.Add(at+want)) || want == 0 && !charges[0].Until.IsZero() {
				f.Fatalf("attempt %d: %+v", n, charges)
			}
		}
		_, err := f.charge(time.Minute, "user:eve")
		f.wantLater(err, 2*time.Minute)
		_, err = f.charge(3*time.Minute-time.Microsecond, "user:eve")
		f.wantLater(err, time.Microsecond)
		_, err = f.charge(3*time.Minute, "user:eve")
		f.must(err)
	}},
	{"I28 attempts are forgotten", func(f *fixture) {
		for range 2 {
			_, err := f.charge(0, "user:eve")
			f.must(err)
		}
		for range 2 {
			_, err := f.charge(2*time1h, "user:eve")
			f.must(err)
		}
		_, err := f.charge(2*time1h, "user:eve")
		f.wantLater(err, time.Minute)
	}},
	{"I28 an attempt counts against all subjects or none", func(f *fixture) {
		for range 2 {
			_, err := f.charge(0, "user:eve")
			f.must(err)
		}
		for range 3 {
			_, err := f.charge(0, "address:a", "user:eve")
			f.wantLater(err, time.Minute)
		}
		for range 2 {
			_, err := f.charge(0, "address:a", "user:bob")
			f.must(err)
		}
	}},
	{"I28 of attempts at the same time no more than the limit are let go", func(f *fixture) {
		errs := race(20, func(int) error {
			_, err := f.charge(0, "address:a", "user:eve")
			return err
		})
		let := 0
		for _, err := range errs {
			if err == nil {
				let++
				continue
			}
			f.wantKind(err, enroll.KindRateLimited)
		}
		if let != 2 {
			f.Fatalf("%d attempts were let go", let)
		}
	}},
	{"I28 failures are worked off one by one, however many count at the same time", func(f *fixture) {
		fail := func(after time.Duration) time.Duration {
			full, err := f.store.ChargeFailure(f.ctx, "bearer:a", f.now.Add(after), time.Second)
			f.must(err)
			return full.Sub(f.now)
		}
		race(10, func(int) error { fail(0); return nil })
		for n, want := range []time.Duration{11 * time.Second, 12 * time.Second, 101 * time.Second, 102 * time.Second} {
			if got := fail([]time.Duration{0, 5 * time.Second, 100 * time.Second, 100 * time.Second}[n]); got != want {
				f.Fatalf("failure %d: worked off after %v, want %v", n, got, want)
			}
		}
		if full, err := f.store.ChargeFailure(f.ctx, "bearer:b", f.now, time.Second); err != nil || !full.Equal(f.now.Add(time.Second)) {
			f.Fatalf("another: %v, %v", full, err)
		}
	}},
	{"an attempt that was taken back does not count", func(f *fixture) {
		for range 5 {
			charges, err := f.charge(0, "address:a", "user:eve")
			f.must(err)
			f.must(f.store.RefundLogin(f.ctx, charges))
		}
	}},
	{"a login ends the user's failures, and takes back the address's attempt", func(f *fixture) {
		eve := f.user("eve", enroll.RoleAdmin)
		_, err := f.charge(0, "address:a", "user:eve")
		f.must(err)
		charges, err := f.charge(0, "address:a", "user:eve")
		f.must(err)
		f.must(f.login(f.loginOf(eve, "t1", charges...)))
		_, err = f.charge(0, "user:eve")
		f.must(err)
		_, err = f.charge(0, "address:a")
		f.must(err)
		_, err = f.charge(0, "address:a")
		f.wantLater(err, time.Minute)
	}},
	{"a login that is refused takes nothing back", func(f *fixture) {
		eve := f.user("eve", enroll.RoleAdmin)
		eve.PasswordHash = "another"
		_, err := f.charge(0, "user:eve")
		f.must(err)
		charges, err := f.charge(0, "user:eve")
		f.must(err)
		f.wantKind(f.login(f.loginOf(eve, "t1", charges...)), enroll.KindConflict)
		_, err = f.charge(0, "user:eve")
		f.wantLater(err, time.Minute)
	}},
	{"a login that is cancelled changes nothing", func(f *fixture) {
		eve := f.user("eve", enroll.RoleAdmin)
		ctx, cancel := context.WithCancel(f.ctx)
		cancel()
		f.unchanged(func() {
			if err := f.store.Login(ctx, f.loginOf(eve, "t1"), f.change("user.login", "user:eve")); err == nil {
				f.Fatal("it was stored")
			}
		})
	}},
}
