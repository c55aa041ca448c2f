package api

import (
	"time"

	"github.com/fleetca/fleetca/enroll"
)

func (a *API) listUsers(x *exchange) ([]*enroll.User, string, error) {
	return a.service.Users(x.ctx(), x.page)
}

func (a *API) getUser(x *exchange) (*enroll.User, error) {
	return a.service.User(x.ctx(), x.param("name"))
}

func (a *API) postUser(x *exchange, in enroll.NewUser) (*enroll.User, error) {
	u, err := a.service.AddUser(x.ctx(), x.call(), in)
	if err != nil {
		return nil, err
	}
	x.location = "/users/" + u.Name
	return u, nil
}

// PasswordRequest is the body of a password's reset.
type PasswordRequest struct {
	Password enroll.Secret `json:"password"` // the new one: 12 characters or more
}

func (a *API) postPassword(x *exchange, in PasswordRequest) (*enroll.User, error) {
	return a.service.ResetPassword(x.ctx(), x.call(), x.param("name"), in.Password)
}

// RoleRequest is the body of a change of role.
type RoleRequest struct {
	Role enroll.Role `json:"role"` // the new one
}

func (a *API) postRole(x *exchange, in RoleRequest) (*enroll.User, error) {
	return a.service.SetRole(x.ctx(), x.call(), x.param("name"), in.Role)
}

func (a *API) postDisabling(x *exchange, _ nothing) (*enroll.User, error) {
	return a.service.DisableUser(x.ctx(), x.call(), x.param("name"))
}

func (a *API) postEnabling(x *exchange, _ nothing) (*enroll.User, error) {
	return a.service.EnableUser(x.ctx(), x.call(), x.param("name"))
}

// postLogin counts failures in the store, for all replicas; see enroll.Login.
func (a *API) postLogin(x *exchange, in enroll.LoginRequest) (*enroll.APIToken, error) {
	return a.service.Login(x.ctx(), in, enroll.AddressGroup(x.r.RemoteAddr).String())
}

func (a *API) postLogout(x *exchange, _ nothing) (*enroll.APIToken, error) {
	return a.service.Logout(x.ctx(), x.call())
}

func (a *API) listTokens(x *exchange) ([]*enroll.APIToken, string, error) {
	return a.service.APITokens(x.ctx(), x.page)
}

func (a *API) getToken(x *exchange) (*enroll.APIToken, error) {
	return a.service.APIToken(x.ctx(), x.param("id"))
}

func (a *API) postToken(x *exchange, in enroll.NewAPIToken) (*enroll.APIToken, error) {
	t, err := a.service.CreateAPIToken(x.ctx(), x.call(), in)
	if err != nil {
		return nil, err
	}
	x.location = "/tokens/" + t.ID
	return t, nil
}

func (a *API) postTokenRevocation(x *exchange, _ nothing) (*enroll.APIToken, error) {
	return a.service.RevokeAPIToken(x.ctx(), x.call(), x.param("id"))
}

// Whoami says who a call was made as.
type Whoami struct {
	Actor     string      `json:"actor"` // as the audit trail names the caller
	Role      enroll.Role `json:"role"`
	User      string      `json:"user,omitempty"`      // who logged in; missing for a program's token
	TokenID   string      `json:"tokenId"`             // of the API token
	WorkOrder string      `json:"workOrder,omitempty"` // the one that the token may enroll for; missing for any
	ExpiresAt time.Time   `json:"expiresAt"`
}

func (a *API) getWhoami(x *exchange) (*Whoami, error) {
	p := x.principal
	return &Whoami{Actor: p.Name, Role: p.Role, User: p.Token.Owner, TokenID: p.Token.ID, WorkOrder: p.Token.WorkOrder, ExpiresAt: p.Token.ExpiresAt}, nil
}
