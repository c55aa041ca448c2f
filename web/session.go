package web

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// cookieName has the prefix that makes browsers refuse the cookie unless it is
// Secure, for this host alone and for the whole site (RFC 6265bis, 4.1.3.2).
const cookieName = "__Host-fleetca"

func sessionCookie(secret string) *http.Cookie {
	return &http.Cookie{Name: cookieName, Value: secret, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}

// admit finds out who the visitor is and whether the route is open to them. It
// returns where to go instead, or why not.
func (s *Site) admit(v *visit) (answer, error) {
	p, err := s.visitor(v.r)
	if err != nil {
		return nil, err
	}
	if p != nil {
		v.principal = *p
	}
	switch {
	case v.rt.Public:
		return nil, nil
	case p == nil:
		return s.toSignIn(v), nil
	case p.Session.MustEnrollSecondFactor && !v.rt.Account:
		return redirect{"/account/second-factor"}, nil
	case v.rt.Permission != "" && !p.Role.May(v.rt.Permission):
		return nil, ca.Errorf(enroll.KindForbidden, "", "ask an admin for a role that may", "the role %s may not do this", p.Role)
	}
	if v.r.URL.Path == livePath {
		return nil, nil // a page left open is no use of the session
	}
	return nil, s.service.TouchSession(v.ctx(), p.Session)
}

// visitor returns whose session the cookie is; nil for nobody's.
func (s *Site) visitor(r *http.Request) (*enroll.Principal, error) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return nil, nil //nolint:nilerr // http.ErrNoCookie is the only one
	}
	p, err := s.service.AuthenticateSession(r.Context(), c.Value)
	if errors.Is(err, ca.IsKind(enroll.KindUnauthenticated)) {
		return nil, nil
	}
	return p, err
}

// toSignIn sends a visitor to sign in, and back afterwards.
func (s *Site) toSignIn(v *visit) answer {
	to := "/sign-in"
	if next := v.r.URL.RequestURI(); v.r.Method == http.MethodGet && next != "/" && v.r.URL.Path != livePath {
		to += "?next=" + url.QueryEscape(next)
	}
	return redirect{to}
}

// localPath returns a path of this site; / for anything that could lead away
// from it.
func localPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") ||
		strings.ContainsAny(next, "\\\r\n\t") {
		return "/"
	}
	return next
}

// A signInPage asks for name and password.
type signInPage struct {
	Name, Next string
	WantCode   bool // the password was right, and a code is missing
	Error      *refusal
}

func getSignIn(v *visit) (answer, error) {
	next := localPath(v.query("next"))
	if v.principal.Session != nil {
		return redirect{next}, nil
	}
	return page{name: "sign-in", title: "Sign in", data: signInPage{Next: next}}, nil
}

func postSignIn(v *visit) (answer, error) {
	name, next := v.form("name"), localPath(v.form("next"))
	session, err := v.site.service.SignIn(v.ctx(), enroll.LoginRequest{Name: name, Password: v.secret("password"), Code: v.secret("code")},
		enroll.AddressGroup(v.r.RemoteAddr).String(), v.r.UserAgent())
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) {
			wantCode := errors.Is(err, ca.IsKind(enroll.KindSecondFactor)) || r.Field == "code"
			if wantCode {
				r.Status = http.StatusUnauthorized
			}
			return page{name: "sign-in", title: "Sign in", data: signInPage{Name: name, Next: next, WantCode: wantCode, Error: r}}, nil
		})
	}
	if v.principal.Session != nil { // the browser's former session is of no use any more
		if err := v.site.service.SignOut(v.ctx(), v.call()); err != nil && !errors.Is(err, ca.IsKind(ca.KindNotFound)) {
			return nil, err
		}
	}
	http.SetCookie(v.w, sessionCookie(session.Secret))
	return redirect{next}, nil
}

func postSignOut(v *visit) (answer, error) {
	if err := v.site.service.SignOut(v.ctx(), v.call()); err != nil && !errors.Is(err, ca.IsKind(ca.KindNotFound)) {
		return nil, err
	}
	gone := sessionCookie("")
	gone.MaxAge = -1
	http.SetCookie(v.w, gone)
	return redirect{"/sign-in?note=signed-out"}, nil
}
