package storetest

import (
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// signInOf returns the login of a user that makes a session.
func (f *fixture) signInOf(u enroll.User, id string) enroll.UserLogin {
	return enroll.UserLogin{
		User: u.Name, Role: u.Role, At: f.now, Checked: u.PasswordHash, Hash: u.PasswordHash,
		Session: &enroll.Session{ID: id, Hash: sum(id), User: u.Name, Role: u.Role, Address: "192.0.2.1/32", Agent: "browser",
			CreatedAt: f.now, SeenAt: f.now, ExpiresAt: f.now.Add(time1h)},
	}
}

// hasSession reports whether there is such a session.
func (f *fixture) hasSession(id string) bool {
	f.Helper()
	_, _, err := f.store.SessionByHash(f.ctx, sum(id))
	if err != nil {
		f.wantKind(err, ca.KindNotFound)
	}
	return err == nil
}

var sessionTests = []test{
	{"a session reads back with its user, and ends", func(f *fixture) {
		eve := f.user("eve", enroll.RoleSecurity)
		l := f.signInOf(eve, "s1")
		f.must(f.login(l))
		got, user, err := f.store.SessionByHash(f.ctx, sum("s1"))
		f.must(err)
		f.sameJSON(got, l.Session)
		if user.Name != "eve" || user.Role != enroll.RoleSecurity || user.LastLoginAt == nil {
			f.Fatalf("%+v", user)
		}
		seen := f.now.Add(time.Minute)
		f.must(f.store.TouchSession(f.ctx, "s1", seen))
		f.must(f.store.TouchSession(f.ctx, "s1", f.now)) // never back
		if got, err = f.store.Session(f.ctx, "s1"); err != nil || !got.SeenAt.Equal(seen) {
			f.Fatalf("%+v, %v", got, err)
		}
		f.must(f.store.EndSession(f.ctx, "s1", f.change("user.sign-out", "user:eve")))
		if f.hasSession("s1") {
			f.Fatal("the session has not ended")
		}
		f.unchanged(func() {
			f.wantKind(f.store.EndSession(f.ctx, "s1", f.change("user.sign-out", "user:eve")), ca.KindNotFound)
		})
	}},
	{"sessions are listed for one user or all, without those that expired", func(f *fixture) {
		eve, bob := f.user("eve", enroll.RoleAdmin), f.user("bob", enroll.RoleAdmin)
		f.must(f.login(f.signInOf(eve, "s1")))
		f.must(f.login(f.signInOf(bob, "s2")))
		count := func(user string, at time.Time) int {
			f.Helper()
			all, _, err := f.store.Sessions(f.ctx, user, at, enroll.Page{})
			f.must(err)
			return len(all)
		}
		if count("", f.now) != 2 || count("eve", f.now) != 1 || count("", f.now.Add(time1h)) != 0 {
			f.Fatal("not the sessions of one, of all, and of none")
		}
		late := f.signInOf(eve, "s3")
		late.At, late.Session.CreatedAt, late.Session.ExpiresAt = f.now.Add(time1h), f.now.Add(time1h), f.now.Add(2*time1h)
		f.must(f.login(late))
		if f.hasSession("s1") || f.hasSession("s2") || !f.hasSession("s3") {
			f.Fatal("a sign-in does not clear away sessions that expired, and those alone")
		}
	}},
	{"I28 a disabled user, and another password, end sessions", func(f *fixture) {
		eve, bob := f.user("eve", enroll.RoleAdmin), f.user("bob", enroll.RoleAdmin)
		for _, id := range []string{"s1", "s2"} {
			f.must(f.login(f.signInOf(eve, id)))
		}
		f.must(f.login(f.signInOf(bob, "b1")))
		f.must(f.store.SetPassword(f.ctx, enroll.NewPassword{User: "eve", Checked: eve.PasswordHash, Hash: "another", KeepSession: "s2", At: f.now},
			f.change("user.password", "user:eve")))
		if f.hasSession("s1") || !f.hasSession("s2") || !f.hasSession("b1") {
			f.Fatal("not all sessions but the one to keep, of this user alone")
		}
		f.unchanged(func() { // the old hash was checked
			f.wantKind(f.store.SetPassword(f.ctx, enroll.NewPassword{User: "eve", Checked: eve.PasswordHash, Hash: "third", At: f.now},
				f.change("user.password", "user:eve")), enroll.KindConflict)
		})
		f.must(f.store.SetUserDisabled(f.ctx, "eve", true, f.now, f.change("user.disable", "user:eve")))
		if f.hasSession("s2") || !f.hasSession("b1") {
			f.Fatal("not the sessions of the disabled user, and those alone")
		}
	}},
	{"I6 a code's time step is accepted once, however many try", func(f *fixture) {
		eve := f.user("eve", enroll.RoleAdmin)
		f.must(f.store.SetSecondFactor(f.ctx, enroll.NewSecondFactor{User: "eve", Checked: eve.PasswordHash, Sealed: "sealed", Step: 7, At: f.now},
			f.change("user.second-factor", "user:eve")))
		got, err := f.store.User(f.ctx, "eve")
		f.must(err)
		if got.SecondFactor != "sealed" || got.SecondFactorStep != 7 || !got.HasSecondFactor {
			f.Fatalf("%+v", got)
		}
		try := func(id string, step int64) error {
			l := f.signInOf(eve, id)
			l.Step = step
			return f.login(l)
		}
		f.unchanged(func() {
			f.wantKind(try("s0", 0), enroll.KindConflict) // no code
			f.wantKind(try("s7", 7), enroll.KindConflict) // used
		})
		errs := race(8, func(i int) error { return try(string(rune('a'+i)), 8) })
		accepted := 0
		for _, err := range errs {
			if err == nil {
				accepted++
			} else {
				f.wantKind(err, enroll.KindConflict)
			}
		}
		if accepted != 1 {
			f.Fatalf("%d sign-ins with the same code", accepted)
		}
		f.unchanged(func() {
			f.wantKind(f.store.SetSecondFactor(f.ctx, enroll.NewSecondFactor{User: "eve", Checked: "another hash", Sealed: "x", At: f.now},
				f.change("user.second-factor", "user:eve")), enroll.KindConflict)
		})
	}},
}
