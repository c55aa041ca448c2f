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

// Nothing that a page leads to is refused: what a role may not see, it is not
// shown the way to.
func TestNoLinkIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("hall")
	_, err := s.service.CreateWorkOrder(s.ctx, admin(), enroll.NewWorkOrder{ID: "WO-1", Product: "sensor", Quantity: 2})
	s.must(err)
	s.enrollFor("sensor-1", "WO-1")
	s.enrollFor("sensor-2", "WO-1")
	_, err = s.service.VerifyBroker(s.ctx, admin(), "hall", false)
	s.must(err)
	_, err = s.service.RotateBroker(s.ctx, admin(), "hall", true)
	s.must(err)
	_, err = s.service.RevokeDevice(s.ctx, admin(), "sensor-2", enroll.RevokeRequest{Reason: "keyCompromise"})
	s.must(err)
	for _, role := range enroll.Roles() {
		v := s.as(role)
		seen, next := map[string]bool{"/": true}, []string{"/"}
		for len(next) > 0 && len(seen) < 150 {
			path := next[0]
			next = next[1:]
			p := v.get(path)
			if p.status != http.StatusOK {
				t.Errorf("%s is led to %s, which answers %d", role, path, p.status)
			}
			p.Find("a[href^='/']").Each(func(_ int, a *selection) {
				if to := a.AttrOr("href", ""); !seen[to] {
					seen[to] = true
					next = append(next, to)
				}
			})
		}
		if len(seen) < 15 {
			t.Errorf("%s was led to %d pages", role, len(seen))
		}
	}
}
