package client

import (
	"context"
	"iter"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// Login makes an API token for a user; its secret is in the answer alone.
// Every call makes another. The code is for users with a second factor; one
// that is missing is a Problem of enroll.KindSecondFactor.
func (c *Client) Login(ctx context.Context, name string, password, code Secret) (*enroll.APIToken, error) {
	in := struct { // a Secret does not marshal
		Name     string `json:"name"`
		Password string `json:"password"`
		Code     string `json:"code,omitempty"`
	}{name, string(password), string(code)}
	return send[enroll.APIToken](ctx, c, "/login", in, nil)
}

// Logout ends the client's own API token.
func (c *Client) Logout(ctx context.Context) (*enroll.APIToken, error) {
	return send[enroll.APIToken](ctx, c, "/logout", none, nil)
}

// A Whoami says who calls are made as.
type Whoami struct {
	Actor     string      `json:"actor"` // as the audit trail names the caller
	Role      enroll.Role `json:"role"`
	User      string      `json:"user"` // empty for a program's token
	TokenID   string      `json:"tokenId"`
	WorkOrder string      `json:"workOrder"` // the one that the token may enroll for; empty for any
	ExpiresAt time.Time   `json:"expiresAt"`
}

// Whoami says who calls are made as.
func (c *Client) Whoami(ctx context.Context) (*Whoami, error) {
	return fetch[Whoami](ctx, c, "/whoami")
}

// AddUser adds a user who logs in with a password.
func (c *Client) AddUser(ctx context.Context, u enroll.NewUser, opts ...Option) (*enroll.User, error) {
	in := struct {
		Name     string      `json:"name"`
		Role     enroll.Role `json:"role"`
		Password string      `json:"password"`
	}{u.Name, u.Role, string(u.Password)}
	return send[enroll.User](ctx, c, "/users", in, opts)
}

// ResetPassword gives a user another password, and ends the user's logins.
func (c *Client) ResetPassword(ctx context.Context, name string, password Secret, opts ...Option) (*enroll.User, error) {
	in := struct {
		Password string `json:"password"`
	}{string(password)}
	return send[enroll.User](ctx, c, at("users", name, "password"), in, opts)
}

// SetRole gives a user another role, and ends the user's logins.
func (c *Client) SetRole(ctx context.Context, name string, role enroll.Role, opts ...Option) (*enroll.User, error) {
	in := struct {
		Role enroll.Role `json:"role"`
	}{role}
	return send[enroll.User](ctx, c, at("users", name, "role"), in, opts)
}

// DisableUser keeps a user out, and ends the user's logins.
func (c *Client) DisableUser(ctx context.Context, name string, opts ...Option) (*enroll.User, error) {
	return send[enroll.User](ctx, c, at("users", name, "disabling"), none, opts)
}

// EnableUser lets a disabled user log in again.
func (c *Client) EnableUser(ctx context.Context, name string, opts ...Option) (*enroll.User, error) {
	return send[enroll.User](ctx, c, at("users", name, "enabling"), none, opts)
}

// User returns a user.
func (c *Client) User(ctx context.Context, name string) (*enroll.User, error) {
	return fetch[enroll.User](ctx, c, at("users", name))
}

// Users lists users by name.
func (c *Client) Users(ctx context.Context) iter.Seq2[*enroll.User, error] {
	return list[*enroll.User](ctx, c, "/users", nil)
}

// CreateAPIToken makes an API token for a program; its secret is in the answer
// alone.
func (c *Client) CreateAPIToken(ctx context.Context, t enroll.NewAPIToken, opts ...Option) (*enroll.APIToken, error) {
	return send[enroll.APIToken](ctx, c, "/tokens", t, opts)
}

// APIToken returns an API token, without its secret.
func (c *Client) APIToken(ctx context.Context, id string) (*enroll.APIToken, error) {
	return fetch[enroll.APIToken](ctx, c, at("tokens", id))
}

// APITokens lists API tokens, newest first.
func (c *Client) APITokens(ctx context.Context) iter.Seq2[*enroll.APIToken, error] {
	return list[*enroll.APIToken](ctx, c, "/tokens", nil)
}

// RevokeAPIToken ends an API token at once.
func (c *Client) RevokeAPIToken(ctx context.Context, id string, opts ...Option) (*enroll.APIToken, error) {
	return send[enroll.APIToken](ctx, c, at("tokens", id, "revocation"), none, opts)
}
