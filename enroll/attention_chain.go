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
func (s *Service) attentionToChains(_ context.Context, now time.Time) ([]Attention, error) {
	return s.ChainsDue(now), nil
}

// ChainsDue tells of issuers whose successor is missing: of each that has at most
// a third of its life left, and of each that cannot cover a certificate's full
// lifetime any more.
func (s *Service) ChainsDue(now time.Time) []Attention {
	var all []Attention
	issuers := s.ca.Issuers()
	for _, i := range issuers {
		if i.State != ca.IssuerActive || slices.ContainsFunc(issuers, func(o ca.Issuer) bool { return s.succeeds(o, i, now) }) {
			continue
		}
		subject := "issuer:" + i.ID
		if a := lastThird(i.Certificate.NotBefore, i.Certificate.NotAfter, now, "issuer "+i.ID); a != nil {
			a.Kind, a.Subject, a.Action = AttentionChain, subject, ActionOpenIssuer
			all = append(all, *a)
		}
		if end, leaf := s.ca.ValidUntil(i.ID), s.longestLeaf(i.Purpose); leaf > 0 && end.Sub(now) < leaf {
			all = append(all, Attention{
				Kind: AttentionCover, Severity: SeverityCritical, Subject: subject, Since: end.Add(-leaf), Action: ActionOpenIssuer,
				Message: fmt.Sprintf("issuer %s, or what stands above it, ends in %s, sooner than a certificate of %s: what it signs gets shorter, until it has a successor",
					i.ID, inDays(max(0, end.Sub(now))), inDays(leaf)),
			})
		}
	}
	return all
}

// succeeds reports whether an issuer stands ready for another: for the same, out
// in the field, in the first two thirds of its life, and able to cover every
// certificate.
func (s *Service) succeeds(o, i ca.Issuer, now time.Time) bool {
	ready := o.State == ca.IssuerActive || o.State == ca.IssuerPublished
	return o.ID != i.ID && o.Purpose == i.Purpose && o.Product == i.Product && o.Site == i.Site && ready &&
		lastThird(o.Certificate.NotBefore, o.Certificate.NotAfter, now, "") == nil && s.ca.ValidUntil(o.ID).Sub(now) >= s.longestLeaf(o.Purpose)
}

// longestLeaf returns the longest life of what issuers of a purpose sign; zero
// for those that sign no certificates of holders.
func (s *Service) longestLeaf(p ca.Purpose) time.Duration {
	var longest time.Duration
	for _, profile := range s.Profiles() {
		if profile.Purpose == p {
			longest = max(longest, profile.Validity)
		}
	}
	return longest
}
