package web

import (
	"errors"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// accountRoutes are the ways in and out, and the visitor's own account.
func accountRoutes() []route {
	return []route{
		{Method: get, Pattern: "/sign-in", Public: true, handle: getSignIn},
		{Method: post, Pattern: "/sign-in", Public: true, handle: postSignIn},
		{Method: get, Pattern: livePath, handle: getLive},
		{Method: post, Pattern: "/sign-out", Account: true, handle: postSignOut},
		{Method: get, Pattern: "/account", Account: true, handle: getAccount},
		{Method: post, Pattern: "/account/password", Account: true, handle: postOwnPassword},
		{Method: get, Pattern: "/account/second-factor", Account: true, handle: getSecondFactor},
		{Method: post, Pattern: "/account/second-factor", Account: true, handle: postSecondFactor},
		{Method: post, Pattern: "/account/second-factor/removal", Account: true, handle: postSecondFactorRemoval},
		{Method: post, Pattern: "/account/sessions/{id}/end", Account: true, handle: postEndOwnSession},
	}
}

// An accountPage is the visitor's own account.
type accountPage struct {
	User     *enroll.User
	Sessions []*enroll.Session
	Current  string // ID of this session
	Required bool   // the role asks for a second factor
	Error    *refusal
	Form     string // that was refused
}

func (v *visit) userName() string { return strings.TrimPrefix(v.principal.Name, "user:") }

func getAccount(v *visit) (answer, error) { return accountAnswer(v, "", nil) }

func accountAnswer(v *visit, form string, r *refusal) (answer, error) {
	user, err := v.site.service.User(v.ctx(), v.userName())
	if err != nil {
		return nil, err
	}
	sessions, _, err := v.site.service.Sessions(v.ctx(), v.call(), user.Name, enroll.Page{Limit: 50})
	if err != nil {
		return nil, err
	}
	return page{name: "account", title: "Your account", data: accountPage{
		User: user, Sessions: sessions, Current: v.principal.Session.ID, Required: v.site.service.RequiresSecondFactor(user.Role), Form: form, Error: r}}, nil
}

var errTwoPasswords = ca.Errorf(ca.KindMalformed, "again", "type the new password twice", "the two are not the same")

func postOwnPassword(v *visit) (answer, error) {
	err := error(errTwoPasswords)
	if v.form("new") == v.form("again") {
		err = v.site.service.ChangePassword(v.ctx(), v.call(), v.secret("password"), v.secret("new"))
	}
	if err != nil {
		return v.refused(newPasswordField(err), func(r *refusal) (answer, error) { return accountAnswer(v, "password", r) })
	}
	return redirect{"/account?note=password"}, nil
}

// newPasswordField names the field of a password that was refused for what it
// is, not for being wrong.
func newPasswordField(err error) error {
	if e, ok := errors.AsType[*ca.Error](err); ok && e.Kind == ca.KindMalformed && e.Field == "password" {
		named := *e
		named.Field = "new"
		return &named
	}
	return err
}

// A secondFactorPage sets up codes.
type secondFactorPage struct {
	Offer   *enroll.SecondFactorOffer
	QR      qrCode
	Replace bool // the user has one
	Error   *refusal
}

func getSecondFactor(v *visit) (answer, error) {
	return secondFactorAnswer(v, v.site.service.OfferSecondFactor(v.userName()), nil)
}

func secondFactorAnswer(v *visit, offer *enroll.SecondFactorOffer, r *refusal) (answer, error) {
	user, err := v.site.service.User(v.ctx(), v.userName())
	if err != nil {
		return nil, err
	}
	qr, err := newQRCode(offer.URI)
	if err != nil {
		return nil, err
	}
	return page{name: "second-factor", title: "Second factor", data: secondFactorPage{Offer: offer, QR: qr, Replace: user.HasSecondFactor, Error: r}}, nil
}

func postSecondFactor(v *visit) (answer, error) {
	offer, err := v.site.service.RepeatSecondFactorOffer(v.userName(), v.form("secret"))
	if err != nil {
		return nil, err
	}
	err = v.site.service.EnrollSecondFactor(v.ctx(), v.call(), enroll.SecondFactorRequest{
		Secret: v.secret("secret"), Code: v.secret("code"), Password: v.secret("password")})
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return secondFactorAnswer(v, offer, r) })
	}
	return redirect{"/account?note=second-factor"}, nil
}

func postSecondFactorRemoval(v *visit) (answer, error) {
	if err := v.site.service.RemoveSecondFactor(v.ctx(), v.call(), v.secret("password")); err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return accountAnswer(v, "removal", r) })
	}
	return redirect{"/account?note=no-second-factor"}, nil
}

func postEndOwnSession(v *visit) (answer, error) {
	id := v.param("id")
	if err := v.site.service.EndSession(v.ctx(), v.call(), id); err != nil {
		return nil, err
	}
	if id == v.principal.Session.ID {
		return redirect{"/sign-in?note=signed-out"}, nil
	}
	return redirect{"/account?note=session-ended"}, nil
}
