package enroll

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/fleetca/fleetca/ca"
)

// planProfile says what another version of a profile does, and returns it.
func (s *Service) planProfile(ctx context.Context, name string, n NewProfileVersion) (*ProfilePlan, *ca.Profile, error) {
	base, err := s.profile(ctx, name)
	if err != nil && !isKind(err, ca.KindProfile) {
		return nil, nil, err
	}
	plan := &ProfilePlan{Name: name, Findings: []ca.ProfileFinding{}}
	if base != nil {
		plan.BaseVersion = base.Version
	}
	next, err := s.nextProfile(base, plan, n)
	if err != nil {
		return nil, nil, err
	}
	plan.Version = next.Version
	plan.Changes = ca.ChangesOf(base, next)
	plan.Widens = ca.Widens(plan.Changes)
	now := s.now()
	plan.Findings = s.ca.LintProfile(next, now)
	if base != nil {
		if plan.Before, err = s.SampleProfile(base); err != nil {
			return nil, nil, err
		}
		if plan.Effect, err = s.profileEffect(ctx, base, next); err != nil {
			return nil, nil, err
		}
	} else {
		plan.Effect = ProfileEffect{Refused: []ProfileRefusal{}, Admitted: []ProfileRefusal{}}
	}
	plan.After, err = s.SampleProfile(next)
	return plan, next, err
}

// nextProfile reads the version that is wanted, and holds it against the one
// that it follows.
func (s *Service) nextProfile(base *ca.Profile, plan *ProfilePlan, n NewProfileVersion) (*ca.Profile, error) {
	form := n.Profile
	if form.Name == "" {
		form.Name = plan.Name
	}
	asked := n.BaseVersion
	if asked == nil && form.Version > 0 {
		asked = &form.Version
	}
	switch {
	case form.Name != plan.Name:
		return nil, ca.Errorf(ca.KindMalformed, "profile.name", "name the same profile in both places", "%.80q is not the profile that is to be changed", form.Name)
	case base != nil && base.Fixed():
		return nil, ca.Errorf(ca.KindProfile, "profile.name", "make a profile of your own", "profile %s is the program's own: proofs and status answers rest on it", base.Name)
	case asked != nil && *asked != plan.BaseVersion:
		return nil, ca.Errorf(KindConflict, "baseVersion", "look at what changed (fleetca profile show NAME --versions), and plan again",
			"profile %s is at version %d, not %d", plan.Name, plan.BaseVersion, *asked)
	}
	form.Version = plan.BaseVersion + 1
	form.Fixed = false
	next, err := form.Profile()
	if err != nil {
		if e, ok := errors.AsType[*ca.Error](err); ok && e.Field != "" {
			e.Field = "profile." + e.Field
		}
		return nil, err
	}
	switch {
	case base == nil && next.Holder != ca.HolderDevice:
		return nil, ca.Errorf(ca.KindMalformed, "profile.holder", "change the profile "+string(next.Holder), "nobody chooses a profile for a %s: there is one, called %s", next.Holder, next.Holder)
	case base != nil && next.Holder != base.Holder:
		return nil, ca.Errorf(ca.KindMalformed, "profile.holder", "make another profile", "the holder of a profile stays: it is a %s", base.Holder)
	}
	return next, nil
}

// SampleProfile returns what a certificate of a profile looks like, in words; ""
// when none can be issued, which ProfileFindings explains.
func (s *Service) SampleProfile(p *ca.Profile) (string, error) {
	text, err := s.ca.SampleProfile(p, s.now())
	if _, ok := errors.AsType[*ca.Error](err); ok {
		return "", nil
	}
	return text, err
}

// profileEffect says whom a change concerns.
func (s *Service) profileEffect(ctx context.Context, base, next *ca.Profile) (ProfileEffect, error) {
	e := ProfileEffect{}
	use, err := s.store.ProfileUse(ctx, base.Name, s.now(), profileCertificates, profileOrders)
	if err != nil {
		return e, err
	}
	e.Certificates, e.Holders, e.More, e.WorkOrders, e.MoreOrders = use.Certificates, use.Holders, use.More, use.Orders, use.MoreOrders
	newest, _, err := s.store.Certificates(ctx, CertificateFilter{Profile: base.Name}, Page{Limit: profileTrials})
	if err != nil {
		return e, err
	}
	refused, admitted := renewalRefusals{}, renewalRefusals{}
	for _, cert := range newest {
		if cert.StatusAt(s.cfg.Now()) != ca.StatusGood {
			continue
		}
		order, err := s.renewalOrder(ctx, base, next, cert)
		if err != nil {
			return e, err
		}
		e.Tried++
		was, will := s.ca.Refusal(base, order), s.ca.Refusal(next, order)
		switch {
		case was == nil && will != nil:
			refused.add(will, cert.Holder.ID)
		case was != nil && will == nil:
			admitted.add(was, cert.Holder.ID)
		}
	}
	e.Refused, e.Admitted = refused.list(), admitted.list()
	return e, nil
}

// renewalOrder orders what a certificate's renewal with the same key would.
func (s *Service) renewalOrder(ctx context.Context, base, next *ca.Profile, cert *ca.Certificate) (ca.Order, error) {
	parsed, err := cert.X509()
	if err != nil {
		return ca.Order{}, err
	}
	o := ca.Order{Holder: cert.Holder, CommonName: cert.Holder.ID, PublicKey: parsed.PublicKey, KeySHA256: cert.KeySHA256, Facts: ca.NameFacts{ID: cert.Holder.ID}}
	if cert.Holder.Kind != ca.HolderDevice { // named by who it is, not by the profile
		o.CommonName, o.DNSNames, o.IPs = parsed.Subject.CommonName, parsed.DNSNames, parsed.IPAddresses
		if o.CommonName == "" && len(o.DNSNames) > 0 {
			o.CommonName = o.DNSNames[0]
		}
		return o, nil
	}
	if base.Templated() || next.Templated() {
		e := &enrolling{deviceID: cert.Holder.ID, facts: o.Facts}
		if err := s.completeFacts(ctx, e); err != nil {
			return o, err
		}
		o.Facts = e.facts
	}
	return o, nil
}

// renewalRefusals are refused holders by reason.
type renewalRefusals map[string]*ProfileRefusal

func (r renewalRefusals) add(err error, holder string) {
	reason := err.Error()
	if e, ok := errors.AsType[*ca.Error](err); ok {
		reason = e.Text()
	}
	if r[reason] == nil {
		r[reason] = &ProfileRefusal{Reason: reason}
	}
	one := r[reason]
	one.Count++
	if len(one.Holders) < profileExamples && !slices.Contains(one.Holders, holder) {
		one.Holders = append(one.Holders, holder)
	}
}

// list returns the reasons, the most frequent first.
func (r renewalRefusals) list() []ProfileRefusal {
	all := []ProfileRefusal{}
	for _, one := range r {
		all = append(all, *one)
	}
	slices.SortFunc(all, func(a, b ProfileRefusal) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return strings.Compare(a.Reason, b.Reason)
	})
	return all
}
