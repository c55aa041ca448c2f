package web_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll"
)

func TestUsers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.as(enroll.RoleAdmin)
	p := v.get("/access").want(http.StatusOK).has("eve-admin")
	p = p.submit("section form", "name", "bob", "role", "operator", "password", "short").want(http.StatusUnprocessableEntity)
	p.has("password: is shorter than 12 characters").count(`input[name=name][value=bob]`, 1)
	p.submit("section form", "name", "eve-admin", "role", "operator", "password", password).want(http.StatusConflict).has("exists")
	key := p.Find("section form input[name=key]").AttrOr("value", "")
	for range 2 { // a form that is sent twice adds one user
		p = v.post("/access", "name", "bob", "role", "operator", "password", password, "key", key).want(http.StatusOK)
		if p.path != "/access/users/bob?note=user-added" {
			t.Fatalf("got to %s: %s", p.path, p.text())
		}
	}
	bob := s.visitor()
	bob.signIn("bob")
	v.post("/access/users/bob/role", "role", "root").want(http.StatusUnprocessableEntity).has("is not a role")
	v.post("/access/users/bob/role", "role", "auditor").want(http.StatusOK).has("auditor")
	if p := bob.get("/account"); !strings.HasPrefix(p.path, "/sign-in") {
		t.Errorf("a session outlives its role at %s", p.path)
	}
	v.post("/access/users/bob/disabling").want(http.StatusOK).has("disabled")
	s.visitor().post("/sign-in", "name", "bob", "password", password).want(http.StatusUnauthorized)
	v.post("/access/users/bob/enabling").want(http.StatusOK).has("enabled")
	v.post("/access/users/bob/password", "password", "bob").want(http.StatusUnprocessableEntity)
	v.post("/access/users/bob/password", "password", "another horse battery").want(http.StatusOK)
	v.get("/access/users/nobody").want(http.StatusNotFound)
}

// A token's secret is on the page that made it, and on no other.
func TestTokens(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.as(enroll.RoleAdmin)
	p := v.get("/access/tokens").want(http.StatusOK).has("No API token yet")
	p.submit("section form", "name", "line 3", "role", "factory", "expiresIn", "a while").want(http.StatusUnprocessableEntity).has("expiresIn")
	key := p.Find("section form input[name=key]").AttrOr("value", "")
	send := func() *shown {
		return v.post("/access/tokens", "name", "line 3", "role", "factory", "expiresIn", "24h", "key", key).want(http.StatusOK)
	}
	p = send()
	secret := p.Find("code.secret").Text()
	if !strings.HasPrefix(secret, "fca_") {
		t.Fatalf("secret %q", secret)
	}
	if again := send().Find("code.secret").Text(); again != secret {
		t.Errorf("the form sent again shows %q", again)
	}
	if _, err := s.service.Authenticate(s.ctx, secret); err != nil {
		t.Fatal(err)
	}
	p = v.get("/access/tokens").count("tbody tr", 1).has("line 3", "active")
	if strings.Contains(p.body, secret) {
		t.Error("the secret is shown again")
	}
	p.submit("tbody form").want(http.StatusOK).has("ended")
	if _, err := s.service.Authenticate(s.ctx, secret); err == nil {
		t.Error("a revoked token opens")
	}
}

func TestSessionsOfAll(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v, other := s.as(enroll.RoleAdmin), s.as(enroll.RoleAuditor)
	p := v.get("/access/sessions").want(http.StatusOK).count("tbody tr", 2)
	form := p.Find("tbody tr").FilterFunction(func(_ int, row *selection) bool { return strings.Contains(row.Text(), "eve-auditor") }).Find("form").AttrOr("action", "")
	v.post(form).want(http.StatusOK).count("tbody tr", 1)
	if p := other.get("/account"); !strings.HasPrefix(p.path, "/sign-in") {
		t.Errorf("an ended session goes on at %s", p.path)
	}
	v.post("/access/sessions/none/end").want(http.StatusNotFound)
}
