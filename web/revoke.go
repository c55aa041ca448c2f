package web

import (
	"errors"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// revokeRoutes end a device: what that will do, and the deed.
func revokeRoutes() []route {
	return []route{
		{Method: get, Pattern: "/devices/{id}/revoke", Permission: enroll.MayRevoke, handle: getRevoke},
		{Method: post, Pattern: "/devices/{id}/revoke", Permission: enroll.MayRevoke, handle: postRevoke},
		{Method: get, Pattern: "/devices/{id}/retire", Permission: enroll.MayRetire, handle: getRetire},
		{Method: post, Pattern: "/devices/{id}/retire", Permission: enroll.MayRetire, handle: postRetire},
	}
}

// A revokePage says what revoking or retiring a device will do, and asks for it.
type revokePage struct {
	Plan    *enroll.RevocationPlan
	Retire  bool
	Path    string // of the form
	Reasons []reasonChoice
	Request enroll.RevokeRequest
	Confirm string // as it was typed
	Command command
	Error   *refusal
}

// Sessions returns how many sessions of the device are open, as far as brokers
// say.
func (p revokePage) Sessions() int {
	n := 0
	for _, b := range p.Plan.Brokers {
		n += len(b.Sessions)
	}
	return n
}

func getRevoke(v *visit) (answer, error) {
	return revokeAnswer(v, revokePage{Request: enroll.RevokeRequest{Reason: string(ca.ReasonKeyCompromise)}})
}

func getRetire(v *visit) (answer, error) { return revokeAnswer(v, revokePage{Retire: true}) }

// revokeAnswer is the form, filled in as p says.
func revokeAnswer(v *visit, p revokePage) (answer, error) {
	var err error
	id := v.param("id")
	if p.Plan, err = v.site.service.RevocationPlan(v.ctx(), id); err != nil {
		return nil, err
	}
	p.Reasons = reasonChoices
	title := "Revoke " + id
	if p.Retire {
		title = "Retire " + id
		p.Path, p.Command = deviceURL(id, "retire"), retireCommand(v.site, id)
	} else {
		p.Path, p.Command = deviceURL(id, "revoke"), revokeCommand(v.site, id)
	}
	return page{name: "revoke", title: title, data: p}, nil
}

// errConfirm refuses a form whose device was not typed to confirm it.
func errConfirm(id string) error {
	return ca.Errorf(ca.KindMalformed, "confirm", "type "+id+" to confirm", "is not the id of this device")
}

func postRevoke(v *visit) (answer, error) {
	p := revokePage{Request: enroll.RevokeRequest{Reason: v.form("reason"), Comment: strings.TrimSpace(v.form("comment"))}, Confirm: v.form("confirm")}
	return v.endDevice(p, func(id string) (*enroll.Revocation, error) {
		return v.site.service.RevokeDevice(v.ctx(), v.call(), id, p.Request)
	})
}

func postRetire(v *visit) (answer, error) {
	p := revokePage{Retire: true, Request: enroll.RevokeRequest{Comment: strings.TrimSpace(v.form("comment"))}, Confirm: v.form("confirm")}
	return v.endDevice(p, func(id string) (*enroll.Revocation, error) {
		return v.site.service.RetireDevice(v.ctx(), v.call(), id, enroll.RetireRequest{Comment: p.Request.Comment})
	})
}

// endDevice does what a form asks for once its device is confirmed, and leads
// to the revocation.
func (v *visit) endDevice(p revokePage, end func(id string) (*enroll.Revocation, error)) (answer, error) {
	id := v.param("id")
	var r *enroll.Revocation
	err := errConfirm(id)
	if strings.TrimSpace(p.Confirm) == id {
		r, err = end(id)
		if again, ok := errors.AsType[*enroll.Replay](err); ok {
			r, err = replayed[enroll.Revocation](again)
		}
	}
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) {
			p.Error = r
			return revokeAnswer(v, p)
		})
	}
	return redirect{revocationURL(r.ID)}, nil
}
