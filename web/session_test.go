package web_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/fleetca/fleetca/enroll"
)

const cookieName = "__Host-fleetca"

// cookie returns the visitor's session, and what was set for it.
func (v *visitor) cookie() string {
	u, err := url.Parse(v.server.URL)
	v.must(err)
	for _, c := range v.jar.Cookies(u) {
		if c.Name == cookieName {
			return c.Value
		}
	}
	return ""
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addUser("eve", enroll.RoleSecurity)
	v := s.visitor()
	p := v.get("/account").want(http.StatusOK)
	if p.path != "/sign-in?next=%2Faccount" {
		t.Fatalf("without a session at %s", p.path)
	}
	p = p.submit("main form", "name", "eve", "password", "not the password").want(http.StatusUnauthorized)
	p.count("[role=alert]", 1).has("the name or the password is wrong")
	if got := p.Find("input[name=name]").AttrOr("value", ""); got != "eve" {
		t.Errorf("the name is %q in the form again", got)
	}
	if v.cookie() != "" {
		t.Error("a session without a right password")
	}
	p = p.submit("main form", "name", "eve", "password", password).want(http.StatusOK)
	if p.path != "/account" {
		t.Fatalf("signed in, and got to %s", p.path)
	}
	p.has("eve", "security")
	if p := v.get("/sign-in"); p.path != "/" {
		t.Errorf("signed in, and can sign in again at %s", p.path)
	}
	p = v.post("/sign-out").want(http.StatusOK)
	if p.path != "/sign-in?note=signed-out" || v.cookie() != "" {
		t.Errorf("signed out: at %s with cookie %q", p.path, v.cookie())
	}
}

// The cookie is out of reach of scripts, of other sites and of plain HTTP.
func TestCookie(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addUser("eve", enroll.RoleSecurity)
	v := s.visitor()
	v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	p := v.post("/sign-in", "name", "eve", "password", password).want(http.StatusSeeOther)
	set := p.header.Get("Set-Cookie")
	for _, want := range []string{cookieName + "=fcs_", "; Path=/", "; Secure", "; HttpOnly", "; SameSite=Strict"} {
		if !strings.Contains(set, want) {
			t.Errorf("Set-Cookie %q lacks %q", set, want)
		}
	}
	if strings.Contains(set, "Domain") || strings.Contains(set, "Max-Age") || strings.Contains(set, "Expires") {
		t.Errorf("Set-Cookie %q", set)
	}
}

// A session that somebody else put into the browser is not the one of the
// person who signs in with it (fixation), and ends.
func TestSessionFixation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	attacker := s.as(enroll.RoleAuditor)
	planted := attacker.cookie()
	s.addUser("eve", enroll.RoleAdmin)
	victim := s.visitor()
	u, err := url.Parse(s.server.URL)
	s.must(err)
	victim.jar.SetCookies(u, []*http.Cookie{{Name: cookieName, Value: planted, Path: "/", Secure: true}})
	victim.post("/sign-in", "name", "eve", "password", password)
	if victim.cookie() == planted || victim.cookie() == "" {
		t.Fatal("the session of before goes on")
	}
	victim.get("/account").has("eve", "admin")
	if p := attacker.get("/account"); !strings.HasPrefix(p.path, "/sign-in") {
		t.Errorf("the planted session goes on at %s", p.path)
	}
	made := s.visitor() // nor one that nobody was given
	made.jar.SetCookies(u, []*http.Cookie{{Name: cookieName, Value: "fcs_chosen", Path: "/", Secure: true}})
	made.post("/sign-in", "name", "eve", "password", password)
	if made.cookie() == "fcs_chosen" {
		t.Error("a session of the visitor's own making")
	}
}

func TestSessionExpiry(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.as(enroll.RoleSecurity)
	v.get("/account").want(http.StatusOK).has("eve-security")
	s.forward(enroll.DefaultSessionIdle)
	if p := v.get("/account"); !strings.HasPrefix(p.path, "/sign-in") {
		t.Errorf("an idle session goes on at %s", p.path)
	}
}

// What a session may do follows the user, at once.
func TestRoleEscalation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.as(enroll.RoleSecurity)
	_, err := s.service.DisableUser(s.ctx, admin(), "eve-security")
	s.must(err)
	if p := v.get("/account"); !strings.HasPrefix(p.path, "/sign-in") {
		t.Errorf("a disabled user's session goes on at %s", p.path)
	}
	if p := v.post("/sign-in", "name", "eve-security", "password", password); p.status != http.StatusUnauthorized {
		t.Errorf("a disabled user signs in: %d", p.status)
	}
}

// Forms from other sites are refused, with or without a session.
func TestCrossOrigin(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.as(enroll.RoleAdmin)
	for name, header := range map[string][2]string{
		"another site": {"Sec-Fetch-Site", "cross-site"}, "another host of the site": {"Sec-Fetch-Site", "same-site"},
		"an old browser": {"Origin", "https://evil.example"}, "a sandboxed frame": {"Origin", "null"},
	} {
		r, err := http.NewRequestWithContext(s.ctx, http.MethodPost, s.server.URL+"/account/password",
			strings.NewReader(url.Values{"password": {password}, "new": {"another horse battery"}, "again": {"another horse battery"}}.Encode()))
		s.must(err)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set(header[0], header[1])
		if p := v.do(r); p.status != http.StatusForbidden {
			t.Errorf("from %s: %d", name, p.status)
		}
	}
	s.visitor().signIn("eve-admin") // the password is what it was
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, path := range []string{"/sign-in", "/nothing"} {
		h := s.visitor().get(path).header
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: policy %q lacks %q", path, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") || h.Get("X-Frame-Options") != "DENY" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", path, h)
		}
	}
}

// Where sign-in leads is a path of this site, whatever the link says.
func TestOpenRedirect(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addUser("eve", enroll.RoleAuditor)
	for _, next := range []string{"https://evil.example/", "//evil.example", `/\evil.example`, "/\t/evil.example", "javascript:alert(1)", "evil", ""} {
		v := s.visitor()
		v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		p := v.post("/sign-in", "name", "eve", "password", password, "next", next).want(http.StatusSeeOther)
		if to := p.header.Get("Location"); to != "/" {
			t.Errorf("next %q leads to %q", next, to)
		}
	}
}

func TestSignInIsLimited(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.stop()
	s.addUser("eve", enroll.RoleAuditor)
	var p *shown
	for range 6 {
		p = s.visitor().post("/sign-in", "name", "eve", "password", "not the password")
	}
	p.want(http.StatusTooManyRequests).has("too many attempts")
	if p.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestSecondFactorPages(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *enroll.Config) { c.RequireSecondFactor = []enroll.Role{enroll.RoleAdmin} })
	s.addUser("eve", enroll.RoleAdmin)
	v := s.visitor()
	p := v.post("/sign-in", "name", "eve", "password", password).want(http.StatusOK)
	if p.path != "/account/second-factor" {
		t.Fatalf("without the second factor that the role asks for at %s", p.path)
	}
	p.count("svg.qr", 1).count("header nav", 0)
	secret := p.Find("code.secret").Text()
	code := func() string {
		text, err := totp.GenerateCode(secret, s.now())
		s.must(err)
		return text
	}
	p = p.submit("main form", "code", "1", "password", password).want(http.StatusUnauthorized).has("the code is wrong")
	if again := p.Find("code.secret").Text(); again != secret {
		t.Errorf("the secret is another one after a mistake: %s", again)
	}
	p = p.submit("main form", "code", code(), "password", password).want(http.StatusOK)
	if p.path != "/account?note=second-factor" {
		t.Fatalf("got to %s", p.path)
	}
	p.has("enabled")
	s.forward(time.Minute)
	p = s.visitor().post("/sign-in", "name", "eve", "password", password).want(http.StatusUnauthorized)
	p.has("signs in with a code")
	p = p.submit("main form", "name", "eve", "password", password, "code", code())
	if p.path != "/" {
		t.Fatalf("with a code at %s: %s", p.path, p.text())
	}
}

func TestOwnPassword(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v, other := s.as(enroll.RoleSecurity), s.as(enroll.RoleSecurity)
	change := func(old, password, again string) *shown {
		return v.post("/account/password", "password", old, "new", password, "again", again)
	}
	change(password, "another horse battery", "another horse").want(http.StatusUnprocessableEntity).has("the two are not the same")
	change("wrong", "another horse battery", "another horse battery").want(http.StatusUnauthorized).has("the password is wrong")
	change(password, "short", "short").want(http.StatusUnprocessableEntity).has("new: is shorter than 12 characters")
	if p := change(password, "another horse battery", "another horse battery").want(http.StatusOK); p.path != "/account?note=password" {
		t.Errorf("got to %s", p.path)
	}
	if p := other.get("/account"); !strings.HasPrefix(p.path, "/sign-in") {
		t.Errorf("the other session goes on at %s", p.path)
	}
}
