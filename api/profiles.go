package api

import (
	"fmt"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func (a *API) listProfiles(x *exchange) ([]ca.ProfileForm, string, error) {
	all, err := a.service.Profiles(x.ctx())
	if err != nil {
		return nil, "", err
	}
	forms := make([]ca.ProfileForm, len(all))
	for i, p := range all {
		forms[i] = p.Form()
	}
	return pageOf(forms, x.page, func(p ca.ProfileForm) string { return p.Name })
}

// A ProfileAnswer is the version of a profile that is in force.
type ProfileAnswer struct {
	ca.ProfileForm
	Findings []ca.ProfileFinding `json:"findings"` // what the linter says of it now
}

func (a *API) getProfile(x *exchange) (*ProfileAnswer, error) {
	p, err := a.service.Profile(x.ctx(), x.param("name"))
	if err != nil {
		return nil, err
	}
	return &ProfileAnswer{p.Form(), a.service.ProfileFindings(p)}, nil
}

func (a *API) listProfileVersions(x *exchange) ([]*enroll.ProfileVersion, string, error) {
	all, err := a.service.ProfileVersions(x.ctx(), x.param("name"))
	if err != nil {
		return nil, "", err
	}
	return pageOf(all, x.page, func(v *enroll.ProfileVersion) string { return fmt.Sprint(v.Profile.Version) })
}

func (a *API) postProfilePlan(x *exchange, in enroll.NewProfileVersion) (*enroll.ProfilePlan, error) {
	return a.service.PlanProfile(x.ctx(), x.param("name"), in)
}

func (a *API) postProfileVersion(x *exchange, in enroll.NewProfileVersion) (*enroll.ProfilePlan, error) {
	plan, err := a.service.ApplyProfile(x.ctx(), x.call(), x.param("name"), in)
	if err != nil {
		return nil, err
	}
	x.location = "/profiles/" + plan.Name
	return plan, nil
}
