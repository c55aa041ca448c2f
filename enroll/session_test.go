package enroll_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/fleetca/fleetca/enroll"
)

func (s *site) signIn(password, code enroll.Secret) (*enroll.Session, error) {
	return s.SignIn(s.ctx, enroll.LoginRequest{Name: "eve", Password: password, Code: code}, "192.0.2.1/32", "browser")
}

// asSession returns a call in a session.
func (s *site) asSession(session *enroll.Session) enroll.Call {
	s.Helper()
	p, err := s.AuthenticateSession(s.ctx, session.Secret)
	s.must(err)
	return enroll.Call{Principal: *p}
}

func (s *site) wantEnded(session *enroll.Session) {
	s.Helper()
	_, err := s.AuthenticateSession(s.ctx, session.Secret)
	s.wantKind(err, enroll.KindUnauthenticated, "")
}

// code returns the code of a secret as of now.
func (s *site) code(secret string) enroll.Secret {
	s.Helper()
	code, err := totp.GenerateCode(secret, s.clock.now())
	s.must(err)
	return enroll.Secret(code)
}

func TestSession(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addEve(enroll.RoleSecurity)
	session, err := s.signIn(evesPassword, "")
	s.must(err)
	call := s.asSession(session)
	if p := call.Principal; p.Name != "user:eve" || p.Role != enroll.RoleSecurity || p.Session.Secret != "" || p.Token != nil {
		t.Fatalf("%+v", p)
	}
	other, err := s.signIn(evesPassword, "")
	s.must(err)
	listed, _, err := s.Sessions(s.ctx, call, "eve", enroll.Page{})
	s.must(err)
	if len(listed) != 2 || listed[0].ID != other.ID || listed[0].Agent != "browser" {
		t.Fatalf("%+v", listed)
	}
	_, _, err = s.Sessions(s.ctx, call, "", enroll.Page{})
	s.wantKind(err, enroll.KindForbidden, "")
	s.must(s.EndSession(s.ctx, call, other.ID))
	s.wantEnded(other)
	s.must(s.SignOut(s.ctx, call))
	s.wantEnded(session)
	_, err = s.AuthenticateSession(s.ctx, "fcs_unknown")
	s.wantKind(err, enroll.KindUnauthenticated, "")
	s.noSecret(session.Secret, other.Secret, evesPassword)
}

// A session ends when it is idle for too long, and at its end whatever is done.
func TestSessionLimits(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addEve(enroll.RoleSecurity)
	idle, err := s.signIn(evesPassword, "")
	s.must(err)
	s.clock.forward(enroll.DefaultSessionIdle)
	s.wantEnded(idle)

	busy, err := s.signIn(evesPassword, "")
	s.must(err)
	step := enroll.DefaultSessionIdle - time.Minute
	for range enroll.DefaultSessionLife / step {
		s.must(s.TouchSession(s.ctx, s.asSession(busy).Principal.Session))
		s.clock.forward(step)
	}
	s.must(s.TouchSession(s.ctx, s.asSession(busy).Principal.Session))
	s.clock.forward(enroll.DefaultSessionLife % step)
	s.wantEnded(busy)
}

// Use is known to other replicas, too, within a minute.
func TestSessionUseIsStored(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addEve(enroll.RoleSecurity)
	session, err := s.signIn(evesPassword, "")
	s.must(err)
	for range 50 {
		s.clock.forward(50 * time.Second)
		s.must(s.TouchSession(s.ctx, s.asSession(session).Principal.Session))
	}
	stored, err := s.store.Session(s.ctx, session.ID)
	s.must(err)
	if behind := s.clock.now().Sub(stored.SeenAt); behind > 2*time.Minute {
		t.Errorf("the store is %v behind", behind)
	}
}

// A role, a disabling and a reset take effect on sessions at once.
func TestSessionFollowsUser(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addEve(enroll.RoleSecurity)
	session, err := s.signIn(evesPassword, "")
	s.must(err)
	_, err = s.DisableUser(s.ctx, asAdmin(""), "eve")
	s.must(err)
	s.wantEnded(session)
	_, err = s.EnableUser(s.ctx, asAdmin(""), "eve")
	s.must(err)
	s.wantEnded(session)
	session, err = s.signIn(evesPassword, "")
	s.must(err)
	_, err = s.ResetPassword(s.ctx, asAdmin(""), "eve", "another horse battery")
	s.must(err)
	s.wantEnded(session)
}

func TestSecondFactor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.clock.stop()
	s.addEve(enroll.RoleAdmin)
	session, err := s.signIn(evesPassword, "")
	s.must(err)
	call, offer := s.asSession(session), s.OfferSecondFactor("eve")
	if !strings.HasPrefix(offer.URI, "otpauth://totp/fleetca:eve?") || !strings.Contains(offer.URI, "secret="+offer.Secret) {
		t.Error(offer.URI)
	}
	enrollWith := func(code, password enroll.Secret) error {
		return s.EnrollSecondFactor(s.ctx, call, enroll.SecondFactorRequest{Secret: enroll.Secret(offer.Secret), Code: code, Password: password})
	}
	s.wantKind(enrollWith("000000x", evesPassword), enroll.KindUnauthenticated, "code")
	s.wantKind(enrollWith(s.code(offer.Secret), "not her password"), enroll.KindUnauthenticated, "password")
	s.must(enrollWith(s.code(offer.Secret), evesPassword))

	_, err = s.signIn(evesPassword, "")
	s.wantKind(err, enroll.KindSecondFactor, "code")
	_, err = s.login("eve", evesPassword, "")
	s.wantKind(err, enroll.KindSecondFactor, "code")
	_, err = s.signIn(evesPassword, s.code(offer.Secret)) // the code that set it up
	s.wantKind(err, enroll.KindUnauthenticated, "code")
	s.clock.forward(time.Minute)
	code := s.code(offer.Secret)
	_, err = s.signIn("not her password", code)
	s.wantKind(err, enroll.KindUnauthenticated, "password")
	again, err := s.signIn(evesPassword, code[:3]+" "+code[3:])
	s.must(err)
	if !again.SecondFactor {
		t.Error("the session does not say that a code was given")
	}
	_, err = s.signIn(evesPassword, code)
	s.wantKind(err, enroll.KindUnauthenticated, "code")

	// It stays when the user changes the password, and goes when an admin does.
	s.must(s.ChangePassword(s.ctx, s.asSession(again), evesPassword, "another horse battery"))
	s.wantEnded(session)
	s.clock.forward(time.Minute)
	_, err = s.signIn("another horse battery", s.code(offer.Secret))
	s.must(err)
	_, err = s.ResetPassword(s.ctx, asAdmin(""), "eve", evesPassword)
	s.must(err)
	_, err = s.signIn(evesPassword, "")
	s.must(err)
	s.noSecret(offer.Secret, string(code), evesPassword, "another horse battery")
}

// Guessing codes is limited as guessing passwords is, also across sign-ins
// whose password was right.
func TestCodesAreLimited(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.clock.stop()
	s.addEve(enroll.RoleAdmin)
	session, err := s.signIn(evesPassword, "")
	s.must(err)
	offer := s.OfferSecondFactor("eve")
	s.must(s.EnrollSecondFactor(s.ctx, s.asSession(session), enroll.SecondFactorRequest{Secret: enroll.Secret(offer.Secret), Code: s.code(offer.Secret), Password: evesPassword}))
	for n := range 5 {
		_, err := s.signIn(evesPassword, "12345")
		s.wantKind(err, enroll.KindUnauthenticated, "code")
		if n < 4 { // counts for nothing, and takes nothing back
			_, err = s.signIn(evesPassword, "")
			s.wantKind(err, enroll.KindSecondFactor, "code")
		}
	}
	_, err = s.signIn(evesPassword, "12345")
	s.wantKind(err, enroll.KindRateLimited, "")
}
