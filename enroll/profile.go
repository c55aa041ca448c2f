package enroll

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"github.com/fleetca/fleetca/ca"
)

// Bounds of profiles.
const (
	maxProfiles        = 200 // beside those that are built in
	maxProfileVersions = 500 // that a listing shows
)

// Profiles returns the version in force of every profile that somebody may ask
// for, by name: all but the OCSP responder's.
func (s *Service) Profiles(ctx context.Context) ([]*ca.Profile, error) {
	stored, err := s.store.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	all := []*ca.Profile{}
	for _, builtIn := range ca.Profiles() {
		named := func(p *StoredProfile) bool { return p.Name == builtIn.Name }
		if builtIn.Name != ca.ResponderProfile && !slices.ContainsFunc(stored, named) {
			all = append(all, &builtIn)
		}
	}
	for _, v := range stored {
		p, err := s.compiled.profile(v)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *ca.Profile) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Profile returns the version of a profile that is in force.
func (s *Service) Profile(ctx context.Context, name string) (*ca.Profile, error) {
	p, err := s.profile(ctx, name)
	if isKind(err, ca.KindProfile) {
		return nil, ca.Errorf(ca.KindNotFound, "profile", "GET /api/v1/profiles lists them", "there is no profile %.64q", name)
	}
	return p, err
}

// ProfileFindings returns what the linter says of a profile as of now.
func (s *Service) ProfileFindings(p *ca.Profile) []ca.ProfileFinding {
	if p.Fixed() { // nobody can do anything about it
		return []ca.ProfileFinding{}
	}
	return s.ca.LintProfile(p, s.now())
}

// ProfileVersions returns the versions of a profile, newest first, the built-in
// one last.
func (s *Service) ProfileVersions(ctx context.Context, name string) ([]*ProfileVersion, error) {
	stored, err := s.store.ProfileVersions(ctx, name, maxProfileVersions)
	if err != nil {
		return nil, err
	}
	all := []*ProfileVersion{}
	profiles := []*ca.Profile{}
	for _, v := range stored {
		p, err := s.compiled.profile(v)
		if err != nil {
			return nil, err
		}
		profiles = append(profiles, p)
		all = append(all, &ProfileVersion{Profile: p.Form(), Widens: v.Widens, Actor: v.Actor, At: &v.At})
	}
	if builtIn, err := ca.ProfileNamed("profile", name); err == nil {
		profiles = append(profiles, builtIn)
		all = append(all, &ProfileVersion{Profile: builtIn.Form()})
	}
	if len(all) == 0 {
		return nil, ca.Errorf(ca.KindNotFound, "profile", "GET /api/v1/profiles lists them", "there is no profile %.64q", name)
	}
	all[0].Current = true
	for i, v := range all {
		v.Changes = []ca.ProfileChange{}
		switch {
		case i+1 < len(profiles):
			v.Changes = ca.ChangesOf(profiles[i+1], profiles[i])
		case v.Actor != "" && v.Profile.Version == 1:
			v.Changes = ca.ChangesOf(nil, profiles[i])
		}
	}
	return all, nil
}

// PlanProfile says what another version of a profile would do, and changes
// nothing. KindConflict when the version that the change begins with is no
// longer in force.
func (s *Service) PlanProfile(ctx context.Context, name string, n NewProfileVersion) (*ProfilePlan, error) {
	plan, _, err := s.planProfile(ctx, name, n)
	return plan, err
}

// ApplyProfile makes another version of a profile the one in force. It is
// refused as PlanProfile is, without a base version, and when the linter finds
// an error (KindRefusedProfile).
func (s *Service) ApplyProfile(ctx context.Context, c Call, name string, n NewProfileVersion) (*ProfilePlan, error) {
	var plan *ProfilePlan
	request := map[string]any{"name": name, "version": n}
	err := s.repeatable(ctx, c, "profile.apply", request, nil, func(i *Idempotency) error {
		if n.BaseVersion == nil && n.Profile.Version == 0 {
			return ca.Errorf(ca.KindMalformed, "baseVersion", "plan the change first, and give the base version that the plan says", "is missing")
		}
		var next *ca.Profile
		var err error
		if plan, next, err = s.planProfile(ctx, name, n); err != nil {
			return err
		}
		return s.applyProfile(ctx, c, plan, next, i)
	})
	if err != nil {
		return nil, err
	}
	return plan, nil
}

// applyProfile makes a planned version the one in force.
func (s *Service) applyProfile(ctx context.Context, c Call, plan *ProfilePlan, next *ca.Profile, i *Idempotency) error {
	for _, f := range plan.Findings {
		if f.Severity == ca.SeverityError {
			return ca.Errorf(KindRefusedProfile, "profile."+f.Field, f.Hint, "%s", f.Message)
		}
	}
	if len(plan.Changes) == 0 {
		return ca.Errorf(KindConflict, "profile", "change something, or leave it", "profile %s is so already, at version %d", plan.Name, plan.BaseVersion)
	}
	body, err := json.Marshal(next.Form())
	if err != nil {
		return err
	}
	plan.Applied = true
	if i != nil {
		if i.Answer, err = json.Marshal(plan); err != nil {
			return err
		}
	}
	now := s.now()
	sum := sha256.Sum256(body)
	detail := map[string]any{"version": plan.Version, "baseVersion": plan.BaseVersion, "widens": plan.Widens, "changes": plan.Changes, "sha256": hex.EncodeToString(sum[:])}
	return s.store.CreateProfileVersion(ctx, StoredProfile{
		Name: plan.Name, Version: plan.Version, Body: string(body), Widens: plan.Widens, Actor: c.Principal.Name, At: now,
	}, builtInVersion(plan.Name), maxProfiles, Change{Idempotency: i, Event: newEvent(now, c.Principal.Name, "profile.apply", "profile:"+plan.Name, detail)})
}

// builtInVersion returns the version that a profile is at with nothing stored.
func builtInVersion(name string) int64 {
	if p, err := ca.ProfileNamed("profile", name); err == nil {
		return p.Version
	}
	return 0
}
