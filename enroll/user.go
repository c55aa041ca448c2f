package enroll

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A User is a person who logs in with a password.
type User struct {
	Name         string     `json:"name"`
	Role         Role       `json:"role"`
	PasswordHash string     `json:"-"` // PHC string
	Disabled     bool       `json:"disabled"`
	CreatedAt    time.Time  `json:"createdAt"`
	ChangedAt    time.Time  `json:"changedAt"` // of the password or the role, or of being disabled or enabled
	LastLoginAt  *time.Time `json:"lastLoginAt,omitempty"`
	// SecondFactor is the secret of the user's codes (RFC 6238), sealed with the
	// password; empty for none. SecondFactorStep is the last time step that a
	// code was accepted for.
	SecondFactor     string `json:"-"`
	SecondFactorStep int64  `json:"-"`
	HasSecondFactor  bool   `json:"secondFactor"`
}

// NewUser is what a user is added with.
type NewUser struct {
	Name     string `json:"name"`
	Role     Role   `json:"role"`
	Password Secret `json:"password"`
}

// mayAdminister refuses everybody but admins, and the server's own machine.
func (p Principal) mayAdminister() error {
	if p.Role != RoleAdmin && (p.Role != "" || p.Certificate != nil || p.Name == "") {
		return ca.Errorf(KindForbidden, "", "ask an admin", "only an admin may do this")
	}
	return nil
}

// checkRole refuses what is no role.
func checkRole(role Role) error {
	if !slices.Contains(Roles(), role) {
		return ca.Errorf(ca.KindMalformed, "role", "one of admin, operator, factory, security, auditor", "%.40q is not a role", string(role))
	}
	return nil
}

// fingerprint stands for a secret in what makes two calls the same: the store
// keeps a hash of that, from which a password could be guessed, were it not
// keyed with the caller's own credential.
func (c Call) fingerprint(secret Secret) (string, error) {
	if c.IdempotencyKey == "" {
		return "", nil
	}
	if _, err := c.seal(); err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, c.Principal.Seal)
	mac.Write([]byte(c.IdempotencyKey + "\x00" + string(secret)))
	return hex.EncodeToString(mac.Sum(nil)), nil
}

// AddUser adds a user. KindConflict when the name exists.
func (s *Service) AddUser(ctx context.Context, c Call, n NewUser) (*User, error) {
	if err := c.Principal.mayAdminister(); err != nil {
		return nil, err
	}
	if err := checkID("name", n.Name); err != nil {
		return nil, err
	}
	if err := checkRole(n.Role); err != nil {
		return nil, err
	}
	if err := checkPassword(n.Name, n.Password); err != nil {
		return nil, err
	}
	same, err := c.fingerprint(n.Password)
	if err != nil {
		return nil, err
	}
	now := s.now()
	u := &User{Name: n.Name, Role: n.Role, CreatedAt: now, ChangedAt: now}
	request := map[string]any{"name": n.Name, "role": n.Role, "password": same}
	err = s.repeatable(ctx, c, "user.add", request, u, func(i *Idempotency) error {
		hash, err := newPasswordHash(ctx, n.Password)
		if err != nil {
			return err
		}
		u.PasswordHash = hash.String()
		return s.store.CreateUser(ctx, *u, Change{Idempotency: i,
			Event: newEvent(now, c.Principal.Name, "user.add", "user:"+u.Name, map[string]any{"role": u.Role})})
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// ResetPassword gives a user another password, ends their logins, and takes
// their second factor off, which was sealed with the old one.
func (s *Service) ResetPassword(ctx context.Context, c Call, name string, password Secret) (*User, error) {
	if err := c.Principal.mayAdminister(); err != nil {
		return nil, err
	}
	if _, err := s.store.User(ctx, name); err != nil {
		return nil, err
	}
	if err := checkPassword(name, password); err != nil {
		return nil, err
	}
	hash, err := newPasswordHash(ctx, password)
	if err != nil {
		return nil, err
	}
	now := s.now()
	if err := s.store.SetPassword(ctx, NewPassword{User: name, Hash: hash.String(), At: now}, Change{
		Event: newEvent(now, c.Principal.Name, "user.reset", "user:"+name, nil)}); err != nil {
		return nil, err
	}
	return s.store.User(ctx, name)
}

// DisableUser keeps a user out, and ends their logins at once. One who is out
// already stays so, and nothing changes.
func (s *Service) DisableUser(ctx context.Context, c Call, name string) (*User, error) {
	return s.setDisabled(ctx, c, name, true)
}

// EnableUser lets a disabled user log in again.
func (s *Service) EnableUser(ctx context.Context, c Call, name string) (*User, error) {
	return s.setDisabled(ctx, c, name, false)
}

func (s *Service) setDisabled(ctx context.Context, c Call, name string, disabled bool) (*User, error) {
	if err := c.Principal.mayAdminister(); err != nil {
		return nil, err
	}
	u, err := s.store.User(ctx, name)
	if err != nil || u.Disabled == disabled {
		return u, err
	}
	action := "user.enable"
	if disabled {
		action = "user.disable"
	}
	now := s.now()
	err = s.store.SetUserDisabled(ctx, name, disabled, now, Change{Event: newEvent(now, c.Principal.Name, action, "user:"+name, nil)})
	if err != nil && !isKind(err, KindConflict) { // a conflict: somebody did it meanwhile
		return nil, err
	}
	return s.store.User(ctx, name)
}

// SetRole gives a user another role, and ends their logins: each has the role
// of its time. With the role that they have nothing changes.
func (s *Service) SetRole(ctx context.Context, c Call, name string, role Role) (*User, error) {
	if err := c.Principal.mayAdminister(); err != nil {
		return nil, err
	}
	if err := checkRole(role); err != nil {
		return nil, err
	}
	u, err := s.store.User(ctx, name)
	if err != nil || u.Role == role {
		return u, err
	}
	now := s.now()
	err = s.store.SetUserRole(ctx, name, u.Role, role, now, Change{
		Event: newEvent(now, c.Principal.Name, "user.role", "user:"+name, map[string]any{"role": role, "before": u.Role})})
	if err != nil {
		return nil, err
	}
	return s.store.User(ctx, name)
}

// User returns a user.
func (s *Service) User(ctx context.Context, name string) (*User, error) {
	return s.store.User(ctx, name)
}

// Users lists users by name.
func (s *Service) Users(ctx context.Context, p Page) ([]*User, string, error) {
	return s.store.Users(ctx, p)
}
