package web_test

import (
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/web/browsertest"
)

// browser opens a window on the site, signed in with a role.
func (s *site) browser(role enroll.Role, theme browsertest.Theme) *browsertest.Browser {
	s.Helper()
	b := browsertest.New(s.T, s.server.URL, theme)
	name := "eve-" + string(role)
	s.addUser(name, role)
	b.SignIn(name, password)
	return b
}

func TestBrowserAccount(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, theme := range []browsertest.Theme{browsertest.Light, browsertest.Dark} {
		b := s.browser(enroll.RoleAdmin, theme)
		for _, path := range []string{"/account", "/account/second-factor", "/nothing", "/", "/audit", "/audit?from=then", "/access", "/access/users/eve-admin", "/access/tokens", "/access/sessions"} {
			b.Open(path)
			b.Axe()
			wantFits(b)
		}
		b.Open("/audit")
		click(b, "tbody a", "UTC")
		b.WaitFor("h2", "As recorded")
		b.Axe()
		b.Open("/account")
		b.WaitFor("time", "UTC")
		if local := browsertest.Eval[string](b, `document.querySelector("time").dataset.local`); local == "" {
			t.Error("no local time")
		}
		b.Do(chromedp.KeyEvent("?"), chromedp.WaitVisible("dialog#keys"))
		b.Axe()
		b.Do(chromedp.KeyEvent("\x1b"), chromedp.WaitNotVisible("dialog#keys"), chromedp.KeyEvent("g"), chromedp.KeyEvent("n"))
		b.WaitFor("h1", "Now")
	}
}

func TestBrowserSignIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.addUser("eve", enroll.RoleAuditor)
	b := browsertest.New(t, s.server.URL, browsertest.Dark)
	b.Open("/account")
	b.Axe()
	b.Do(chromedp.SendKeys("input[name=name]", "eve"), chromedp.SendKeys("input[name=password]", "not the password\r"), chromedp.WaitVisible("[role=alert]"))
	b.Axe()
	b.Do(chromedp.SendKeys("input[name=password]", password+"\r"))
	b.WaitFor("h1", "Your account")
}
