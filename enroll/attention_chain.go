package enroll

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// attentionToChains looks at every element of every chain (I17): roots, what
// stands between, issuers. One that has a successor, with more of its life
// before it, is no worry.
func (s *Service) attentionToChains(ctx context.Context, now time.Time) ([]Attention, error) {
	return s.ChainsDue(ctx, now)
}

// ChainsDue tells of issuers whose successor is missing: of each that has at most
// a third of its life left, and of each that cannot cover a certificate's full
// lifetime any more.
func (s *Service) ChainsDue(ctx context.Context, now time.Time) ([]Attention, error) {
	profiles, err := s.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	var all []Attention
	issuers := s.ca.Issuers()
	for _, i := range issuers {
		if !inUse(issuers, i) || slices.ContainsFunc(issuers, func(o ca.Issuer) bool { return s.succeeds(o, i, profiles, now) }) {
			continue
		}
		subject := "issuer:" + i.ID
		if a := lastThird(i.Certificate.NotBefore, i.Certificate.NotAfter, now, "issuer "+i.ID); a != nil {
			a.Kind, a.Subject, a.Action = AttentionChain, subject, ActionOpenIssuer
			all = append(all, *a)
		}
		if end, leaf := s.ca.ValidUntil(i.ID), longestLeaf(profiles, i); leaf > 0 && end.Sub(now) < leaf {
			all = append(all, Attention{
				Kind: AttentionCover, Severity: SeverityCritical, Subject: subject, Since: end.Add(-leaf), Action: ActionOpenIssuer,
				Message: fmt.Sprintf("issuer %s, or what stands above it, ends in %s, sooner than a certificate of %s: what it signs gets shorter, until it has a successor",
					i.ID, inDays(max(0, end.Sub(now))), inDays(leaf)),
			})
		}
	}
	return all, nil
}

// inUse reports whether an issuer is active, or stands above one that is.
func inUse(issuers []ca.Issuer, i ca.Issuer) bool {
	return i.State == ca.IssuerActive || slices.ContainsFunc(issuers, func(o ca.Issuer) bool {
		return o.Parent == i.ID && o.ID != i.ID && inUse(issuers, o)
	})
}

// succeeds reports whether an issuer stands ready for another: for the same, out
// in the field, in the first two thirds of its life, and able to cover every
// certificate.
func (s *Service) succeeds(o, i ca.Issuer, profiles []*ca.Profile, now time.Time) bool {
	ready := o.State == ca.IssuerActive || o.State == ca.IssuerPublished
	return o.ID != i.ID && o.Purpose == i.Purpose && o.Product == i.Product && o.Site == i.Site && ready &&
		lastThird(o.Certificate.NotBefore, o.Certificate.NotAfter, now, "") == nil && s.ca.ValidUntil(o.ID).Sub(now) >= longestLeaf(profiles, o)
}

// longestLeaf returns the longest life of what an issuer signs; zero for one
// that signs no certificates of holders.
func longestLeaf(profiles []*ca.Profile, i ca.Issuer) time.Duration {
	var longest time.Duration
	for _, profile := range profiles {
		if profile.Purpose == i.Purpose && (profile.IssuerID == "" || profile.IssuerID == i.ID) {
			longest = max(longest, profile.Validity)
		}
	}
	return longest
}
