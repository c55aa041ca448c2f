package enroll

import (
	"context"
	"errors"
	"fmt"
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

// A UserLogin is what a login stores.
type UserLogin struct {
	Token   APIToken      // its owner is the user
	Checked string        // password hash that the password matched; refused with KindConflict when it is another by now
	Hash    string        // to store in its place; the same, or one that costs more
	Charges []LoginCharge // of this attempt: the user's failures end, one of the address is taken back
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
}

// Login makes a short-lived API token for a user who gives the right password.
// from names the address that the request came from; empty for none.
//
// The attempt is counted before the password is looked at, and taken back when
// it was right: however many are made at once, at one replica or at several,
// no more than the limit get to the comparison. An unknown name, a disabled
// user and a wrong password are refused alike, after the same work.
func (s *Service) Login(ctx context.Context, r LoginRequest, from string) (*APIToken, error) {
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
	user, right, err := s.checkLogin(ctx, r)
	switch {
	case err != nil: // nothing was learned about the password
		return nil, errors.Join(err, s.store.RefundLogin(context.WithoutCancel(ctx), charges))
	case !right:
		return nil, s.refuseLogin(ctx, user, from, charges)
	}
	return s.acceptLogin(ctx, r, user, charges)
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
func (s *Service) refuseLogin(ctx context.Context, user *User, from string, charges []LoginCharge) error {
	var until time.Time
	for _, c := range charges {
		if c.Until.After(until) {
			until = c.Until
		}
	}
	if until.IsZero() {
		return errLogin
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
	return errLogin
}

// acceptLogin makes the token of a login.
func (s *Service) acceptLogin(ctx context.Context, r LoginRequest, user *User, charges []LoginCharge) (*APIToken, error) {
	now := s.now()
	t := newAPIToken(now, "login", user.Role, loginLife)
	t.Owner = user.Name
	login := UserLogin{Token: *t, Checked: user.PasswordHash, Hash: user.PasswordHash, Charges: charges}
	login.Token.Token = ""
	old, err := parsePasswordHash(user.PasswordHash)
	if err != nil {
		return nil, err
	}
	if old.cost != passwordCost {
		stronger, err := newPasswordHash(ctx, r.Password)
		if err != nil {
			return nil, err
		}
		login.Hash = stronger.String()
	}
	err = s.store.Login(ctx, login, Change{Event: newEvent(now, "user:"+user.Name, "user.login", "user:"+user.Name,
		map[string]any{"tokenId": t.ID, "expiresAt": t.ExpiresAt})})
	if isKind(err, KindConflict) { // disabled, or reset, while the password was compared
		return nil, errLogin
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Logout ends the token that the call was made with.
func (s *Service) Logout(ctx context.Context, c Call) (*APIToken, error) {
	if c.Principal.Token == nil {
		return nil, ca.Errorf(KindForbidden, "", "call with the API token that is to end", "there is no token to end")
	}
	return s.endAPIToken(ctx, c, c.Principal.Token.ID, "user.logout")
}
