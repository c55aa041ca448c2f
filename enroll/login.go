package enroll

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// How logins are limited, for each user and for each address (I28): after
// freeFailures attempts without a success in between, another has to wait for
// 1, 2, 4, ... seconds, up to maxLoginWait. Failures are forgotten when none
// came for forgetFailures.
const (
	freeFailures   = 5
	maxLoginWait   = 15 * time.Minute
	forgetFailures = time.Hour
)

// loginLife is how long the token of a login is valid.
const loginLife = 12 * time.Hour

// A LoginCharge is one attempt that was counted against a user or an address.
type LoginCharge struct {
	Subject string    // user:NAME or address:PREFIX
	Until   time.Time // as the attempt set it; zero for not at all
}

// A LoginLimit says how long after so many attempts the next has to wait, and
// when they are forgotten.
type LoginLimit struct {
	Wait   func(failures int64) time.Duration
	Forget time.Duration
}

// A UserLogin is what a login stores: an API token or a session.
type UserLogin struct {
	User    string
	Role    Role // that the user had; refused with KindConflict when it is another by now
	At      time.Time
	Token   *APIToken     // its owner is the user; nil for a session
	Session *Session      // nil for a token
	Checked string        // password hash that the password matched; refused with KindConflict when it is another by now
	Hash    string        // to store in its place; the same, or one that costs more
	Step    int64         // time step of the code that was given; zero for none. Refused with KindConflict when one as late was accepted before
	Charges []LoginCharge // of this attempt: the user's failures end, one of the address is taken back
}

// ChargeFailure counts a failed authentication against an address, for all
// replicas, and returns when all failures of it are worked off, at one every
// refill.
func (s *Service) ChargeFailure(ctx context.Context, address netip.Prefix, refill time.Duration) (full time.Time, err error) {
	return s.store.ChargeFailure(ctx, "bearer:"+address.String(), s.now(), refill)
}

var loginLimit = LoginLimit{Wait: loginWait, Forget: forgetFailures}

func loginWait(failures int64) time.Duration {
	n := failures - freeFailures
	switch {
	case n < 0:
		return 0
	case n >= 10: // 2^10 s is more
		return maxLoginWait
	}
	return time.Second << n
}

// LoginRequest is what a user logs in with.
type LoginRequest struct {
	Name     string `json:"name"`
	Password Secret `json:"password"`
	// Code is the six digits of the second factor, for users who have one.
	Code Secret `json:"code,omitempty"`
}

// Login makes a short-lived API token for a user who gives the right password,
// and the right code where the user has a second factor: KindSecondFactor when
// the code is missing, or when the user's role asks for a second factor and
// there is none yet. from names the address that the request came from; empty
// for none.
//
// The attempt is counted before the password is looked at, and taken back when
// it was right: however many are made at once, at one replica or at several,
// no more than the limit get to the comparison. An unknown name, a disabled
// user and a wrong password are refused alike, after the same work.
func (s *Service) Login(ctx context.Context, r LoginRequest, from string) (*APIToken, error) {
	return attemptLogin(ctx, s, r, from, func(a *acceptedLogin) (*APIToken, error) {
		if s.lacksSecondFactor(a.user) {
			return nil, ca.Errorf(KindSecondFactor, "code", "sign in to the dashboard and set up the second factor under Account",
				"the role %s asks for a second factor, and this user has none yet", a.user.Role)
		}
		t := newAPIToken(s.now(), "login", a.user.Role, loginLife)
		t.Owner = a.user.Name
		stored := *t
		stored.Token = ""
		a.login.Token = &stored
		return t, s.storeLogin(ctx, a, "user.login", map[string]any{"tokenId": t.ID, "expiresAt": t.ExpiresAt})
	})
}

// An acceptedLogin is an attempt whose password and code were right.
type acceptedLogin struct {
	user  *User
	login UserLogin
}

// attemptLogin counts an attempt, checks it, and makes what it is for.
func attemptLogin[T any](ctx context.Context, s *Service, r LoginRequest, from string, accept func(*acceptedLogin) (*T, error)) (*T, error) {
	if len(r.Password) > maxPassword {
		return nil, ca.Errorf(ca.KindMalformed, "password", "shorten it", "is longer than %d octets", maxPassword)
	}
	if checkID("name", r.Name) != nil { // not repeated: it may be a password
		return nil, ca.Errorf(ca.KindMalformed, "name", "give the name that the user was added with", "is not the name of a user")
	}
	subjects := []string{"user:" + r.Name}
	if from != "" {
		subjects = []string{"address:" + from, "user:" + r.Name}
	}
	charges, err := s.store.ChargeLogin(ctx, subjects, s.now(), loginLimit)
	if err != nil {
		return nil, err
	}
	giveBack := func(err error) error { // nothing was learned by trying
		return errors.Join(err, s.store.RefundLogin(context.WithoutCancel(ctx), charges))
	}
	user, right, err := s.checkLogin(ctx, r)
	switch {
	case err != nil:
		return nil, giveBack(err)
	case !right:
		return nil, s.refuseLogin(ctx, user, from, charges, errLogin)
	}
	a := &acceptedLogin{user: user, login: UserLogin{User: user.Name, Role: user.Role, At: s.now(), Checked: user.PasswordHash, Hash: user.PasswordHash, Charges: charges}}
	if user.SecondFactor != "" {
		switch a.login.Step, err = s.checkCode(ctx, user, r.Password, r.Code); {
		case errors.Is(err, errCode):
			return nil, s.refuseLogin(ctx, user, from, charges, errCode)
		case err != nil:
			return nil, giveBack(err)
		}
	}
	if err := s.strengthen(ctx, a, r.Password); err != nil {
		return nil, giveBack(err)
	}
	made, err := accept(a)
	switch {
	case isKind(err, KindSecondFactor):
		return nil, giveBack(err)
	case err != nil:
		return nil, err
	}
	return made, nil
}

var errLogin = ca.Errorf(KindUnauthenticated, "password", "check both; an admin resets a password: fleetca user reset NAME",
	"the name or the password is wrong, or the user is disabled")

// checkLogin returns the user of that name, nil for none, and whether they may
// log in with the password.
func (s *Service) checkLogin(ctx context.Context, r LoginRequest) (user *User, right bool, err error) {
	user, err = s.store.User(ctx, r.Name)
	if err != nil && !isKind(err, ca.KindNotFound) {
		return nil, false, err
	}
	hash := decoy()
	if user != nil {
		if hash, err = parsePasswordHash(user.PasswordHash); err != nil {
			return nil, false, fmt.Errorf("user %s: %w", user.Name, err)
		}
	}
	right, err = hash.matches(ctx, r.Password)
	return user, right && user != nil && !user.Disabled, err
}

// refuseLogin returns the error of a login that failed. Attempts that make
// others wait are in the audit trail: those alone, so that guessing does not
// flood it; and with the names of users alone, because a name that is none may
// be a password that was typed into the wrong field.
func (s *Service) refuseLogin(ctx context.Context, user *User, from string, charges []LoginCharge, refusal error) error {
	var until time.Time
	for _, c := range charges {
		if c.Until.After(until) {
			until = c.Until
		}
	}
	if until.IsZero() {
		return refusal
	}
	subject := "address:" + from
	if user != nil {
		subject = "user:" + user.Name
	}
	now := s.now()
	event := newEvent(now, "server", "login.limited", subject, map[string]any{"address": from, "until": until})
	if err := s.store.RecordEvent(ctx, Change{Event: event}); err != nil {
		return err
	}
	return refusal
}

// strengthen hashes the password anew when what a hash costs has risen.
func (s *Service) strengthen(ctx context.Context, a *acceptedLogin, password Secret) error {
	old, err := parsePasswordHash(a.user.PasswordHash)
	if err != nil || old.cost == passwordCost {
		return err
	}
	stronger, err := newPasswordHash(ctx, password)
	if err != nil {
		return err
	}
	a.login.Hash = stronger.String()
	return nil
}

// storeLogin stores what an accepted attempt made.
func (s *Service) storeLogin(ctx context.Context, a *acceptedLogin, action string, detail map[string]any) error {
	err := s.store.Login(ctx, a.login, Change{Event: newEvent(a.login.At, "user:"+a.user.Name, action, "user:"+a.user.Name, detail)})
	if isKind(err, KindConflict) { // disabled, or reset, or the code was used, while the password was compared
		return errLogin
	}
	return err
}

// Logout ends the token that the call was made with.
func (s *Service) Logout(ctx context.Context, c Call) (*APIToken, error) {
	if c.Principal.Token == nil {
		return nil, ca.Errorf(KindForbidden, "", "call with the API token that is to end", "there is no token to end")
	}
	return s.endAPIToken(ctx, c, c.Principal.Token.ID, "user.logout")
}
