package web

import (
	"encoding/json"
	"errors"
	"net/url"

	"github.com/fleetca/fleetca/enroll"
)

func accessRoutes() []route {
	const may = enroll.MayAdminister
	return []route{
		{Method: get, Pattern: "/access", Permission: may, handle: getUsers},
		{Method: post, Pattern: "/access", Permission: may, handle: postUser},
		{Method: get, Pattern: "/access/users/{name}", Permission: may, handle: getUser},
		{Method: post, Pattern: "/access/users/{name}/password", Permission: may, handle: postReset},
		{Method: post, Pattern: "/access/users/{name}/role", Permission: may, handle: postRole},
		{Method: post, Pattern: "/access/users/{name}/disabling", Permission: may, handle: postDisabling},
		{Method: post, Pattern: "/access/users/{name}/enabling", Permission: may, handle: postEnabling},
		{Method: get, Pattern: "/access/tokens", Permission: may, handle: getTokens},
		{Method: post, Pattern: "/access/tokens", Permission: may, handle: postToken},
		{Method: post, Pattern: "/access/tokens/{id}/revocation", Permission: may, handle: postTokenRevocation},
		{Method: get, Pattern: "/access/sessions", Permission: may, handle: getSessions},
		{Method: post, Pattern: "/access/sessions/{id}/end", Permission: may, handle: postEndSession},
	}
}

// A usersPage lists users, and adds one.
type usersPage struct {
	Users      []*enroll.User
	Next       string
	Roles      []enroll.Role
	Name, Role string // as typed
	Error      *refusal
}

func getUsers(v *visit) (answer, error) {
	return usersAnswer(v, usersPage{Role: string(enroll.RoleOperator)})
}

func usersAnswer(v *visit, p usersPage) (answer, error) {
	users, next, err := v.site.service.Users(v.ctx(), v.page(100))
	if err != nil {
		return nil, err
	}
	p.Users, p.Next, p.Roles = users, nextPage(v, next), enroll.Roles()
	return page{name: "users", title: "Access", data: p}, nil
}

func postUser(v *visit) (answer, error) {
	name := v.form("name")
	_, err := v.site.service.AddUser(v.ctx(), v.call(), enroll.NewUser{Name: name, Role: enroll.Role(v.form("role")), Password: v.secret("password")})
	if err = doneBefore(err); err != nil {
		return v.refused(err, func(r *refusal) (answer, error) {
			return usersAnswer(v, usersPage{Name: name, Role: v.form("role"), Error: r})
		})
	}
	return redirect{userPath(name) + "?note=user-added"}, nil
}

// doneBefore takes a form that was sent twice for done, as the first time.
func doneBefore(err error) error {
	if _, ok := errors.AsType[*enroll.Replay](err); ok {
		return nil
	}
	return err
}

func userPath(name string) string { return "/access/users/" + url.PathEscape(name) }

// A userPage is one user, with what an admin may do.
type userPage struct {
	User     *enroll.User
	Sessions []*enroll.Session
	Roles    []enroll.Role
	Self     bool // the visitor's own
	Required bool // the role asks for a second factor
	Form     string
	Error    *refusal
}

func getUser(v *visit) (answer, error) { return userAnswer(v, "", nil) }

func userAnswer(v *visit, form string, r *refusal) (answer, error) {
	user, err := v.site.service.User(v.ctx(), v.param("name"))
	if err != nil {
		return nil, err
	}
	sessions, _, err := v.site.service.Sessions(v.ctx(), v.call(), user.Name, enroll.Page{Limit: 100})
	if err != nil {
		return nil, err
	}
	return page{name: "user", title: user.Name, data: userPage{User: user, Sessions: sessions, Roles: enroll.Roles(), Self: user.Name == v.userName(),
		Required: v.site.service.RequiresSecondFactor(user.Role), Form: form, Error: r}}, nil
}

// changeUser answers a form that changed a user.
func changeUser(v *visit, form, note string, err error) (answer, error) {
	if err = doneBefore(err); err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return userAnswer(v, form, r) })
	}
	return redirect{userPath(v.param("name")) + "?note=" + note}, nil
}

func postReset(v *visit) (answer, error) {
	_, err := v.site.service.ResetPassword(v.ctx(), v.call(), v.param("name"), v.secret("password"))
	return changeUser(v, "password", "user-reset", err)
}

func postRole(v *visit) (answer, error) {
	_, err := v.site.service.SetRole(v.ctx(), v.call(), v.param("name"), enroll.Role(v.form("role")))
	return changeUser(v, "role", "user-role", err)
}

func postDisabling(v *visit) (answer, error) {
	_, err := v.site.service.DisableUser(v.ctx(), v.call(), v.param("name"))
	return changeUser(v, "disabling", "user-disabled", err)
}

func postEnabling(v *visit) (answer, error) {
	_, err := v.site.service.EnableUser(v.ctx(), v.call(), v.param("name"))
	return changeUser(v, "disabling", "user-enabled", err)
}

// A tokensPage lists API tokens, and makes one.
type tokensPage struct {
	Tokens []*enroll.APIToken
	Next   string
	Roles  []enroll.Role
	Made   *enroll.APIToken   // just now, with its secret, this once; nil for none
	Form   enroll.NewAPIToken // as typed
	Error  *refusal
}

func getTokens(v *visit) (answer, error) {
	return tokensAnswer(v, tokensPage{Form: enroll.NewAPIToken{Role: enroll.RoleFactory, ExpiresIn: "720h"}})
}

func tokensAnswer(v *visit, p tokensPage) (answer, error) {
	tokens, next, err := v.site.service.APITokens(v.ctx(), v.page(100))
	if err != nil {
		return nil, err
	}
	p.Tokens, p.Next, p.Roles = tokens, nextPage(v, next), enroll.Roles()
	return page{name: "tokens", title: "API tokens", data: p}, nil
}

// postToken answers with the page itself: the secret is nowhere to be read
// again. The same form sent twice shows the same token.
func postToken(v *visit) (answer, error) {
	form := enroll.NewAPIToken{Name: v.form("name"), Role: enroll.Role(v.form("role")), ExpiresIn: v.form("expiresIn"), WorkOrder: v.form("workOrder")}
	made, err := v.site.service.CreateAPIToken(v.ctx(), v.call(), form)
	if made, err = firstAnswer(made, err); err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return tokensAnswer(v, tokensPage{Form: form, Error: r}) })
	}
	return tokensAnswer(v, tokensPage{Made: made, Form: enroll.NewAPIToken{Role: form.Role, ExpiresIn: form.ExpiresIn}})
}

// firstAnswer returns what a form that was sent twice made the first time.
func firstAnswer[T any](made *T, err error) (*T, error) {
	replay, ok := errors.AsType[*enroll.Replay](err)
	if !ok {
		return made, err
	}
	first := new(T)
	return first, json.Unmarshal(replay.Answer, first)
}

func postTokenRevocation(v *visit) (answer, error) {
	if _, err := v.site.service.RevokeAPIToken(v.ctx(), v.call(), v.param("id")); err != nil {
		return nil, err
	}
	return redirect{"/access/tokens?note=token-revoked"}, nil
}

// A sessionsPage lists everybody's sessions.
type sessionsPage struct {
	Sessions []*enroll.Session
	Next     string
	Current  string // ID of the visitor's own
}

func getSessions(v *visit) (answer, error) {
	sessions, next, err := v.site.service.Sessions(v.ctx(), v.call(), "", v.page(100))
	if err != nil {
		return nil, err
	}
	return page{name: "sessions", title: "Sessions", data: sessionsPage{Sessions: sessions, Next: nextPage(v, next), Current: v.principal.Session.ID}}, nil
}

func postEndSession(v *visit) (answer, error) {
	if err := v.site.service.EndSession(v.ctx(), v.call(), v.param("id")); err != nil {
		return nil, err
	}
	return redirect{"/access/sessions?note=session-ended"}, nil
}
