package web_test

import (
	"net/http"
	"regexp"
	"slices"
	"testing"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/web"
)

// openToAll are the routes that no permission guards: the ways in and out, and
// the visitor's own account.
var openToAll = []string{
	"GET /sign-in", "POST /sign-in", "GET /live", "POST /sign-out", "GET /account", "POST /account/password", "GET /account/second-factor",
	"POST /account/second-factor", "POST /account/second-factor/removal", "POST /account/sessions/{id}/end",
}

var parameterPattern = regexp.MustCompile(`\{[a-z]+\}`)

// Every page and form is refused to every role that lacks its permission, and to
// nobody else; without a session all lead to sign-in.
func TestEveryRouteByEveryRole(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	table := web.Routes()
	for _, role := range append(enroll.Roles(), "") {
		v := s.visitor()
		if role != "" {
			v = s.as(role)
		}
		v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		for _, rt := range table {
			name := rt.Method + " " + rt.Pattern
			open := slices.Contains(openToAll, name)
			if open != (rt.Permission == "") {
				t.Errorf("%s asks for the permission %q", name, rt.Permission)
			}
			if open && role != "" {
				continue // some of them end the session
			}
			path := parameterPattern.ReplaceAllString(rt.Pattern, "none")
			var p *shown
			if rt.Method == http.MethodGet {
				p = v.get(path)
			} else {
				p = v.post(path)
			}
			switch {
			case role == "" && !rt.Public:
				if p.status != http.StatusSeeOther || p.header.Get("Location")[:8] != "/sign-in" {
					t.Errorf("%s without a session: %d %s", name, p.status, p.header.Get("Location"))
				}
			case role != "" && !open && (p.status == http.StatusForbidden) == role.May(rt.Permission):
				t.Errorf("%s as %s: %d, and the role may %s: %v", name, role, p.status, rt.Permission, role.May(rt.Permission))
			case p.status >= http.StatusInternalServerError:
				t.Errorf("%s as %s: %d\n%s", name, role, p.status, p.text())
			}
		}
	}
}
