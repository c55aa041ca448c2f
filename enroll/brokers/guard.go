package brokers

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// A Guard decides whether a broker may see a bundle of revocation lists. The
// zero value is ready to use. It checks, in this order:
//
//  1. the bundle is not empty, not too large, and nothing but revocation lists;
//  2. every list belongs to exactly one scope: same issuer name (RFC 5280
//     section 5.1.2.3), a signature that verifies with the issuer's key, and,
//     where the issuer has several, an issuing distribution point that is the
//     scope's;
//  3. every scope has exactly one list;
//  4. the list is current: this update is not in the future, next update is;
//  5. it says which certificates it speaks for, all of its issuer's that name
//     one of the scope's distribution points (section 5.2.5), and it is
//     complete, not a delta (section 5.2.4);
//  6. its number (section 5.2.3) is larger than that of the list it replaces,
//     or it is that same list.
type Guard struct {
	Now      func() time.Time // the clock; nil is time.Now
	Skew     time.Duration    // how far in the future this update may be; 0 is 5 minutes
	MaxBytes int              // largest bundle; 0 is 256 MiB
}

const (
	defaultSkew = 5 * time.Minute
	// A revoked certificate takes 75 bytes of PEM at most: this is three million.
	defaultMaxBytes = 256 << 20
)

// A Problem is why a [Guard] refused a bundle, as a fixed word.
type Problem string

// Problems that a Guard finds.
const (
	ProblemEmpty         Problem = "empty"          // no list in the bundle
	ProblemOversized     Problem = "oversized"      // larger than the limit
	ProblemMalformed     Problem = "malformed"      // does not parse, or has something beside the lists
	ProblemUnknownIssuer Problem = "unknown-issuer" // a list of an issuer without a scope
	ProblemSignature     Problem = "signature"      // not signed by the issuer that it names
	ProblemDuplicate     Problem = "duplicate"      // two lists for one scope
	ProblemMissing       Problem = "missing"        // no list for a scope
	ProblemExpired       Problem = "expired"        // next update is past, or absent
	ProblemNotYetValid   Problem = "not-yet-valid"  // this update is in the future
	ProblemScope         Problem = "scope"          // partial, delta, indirect, or without a usable scope
	ProblemUncovered     Problem = "uncovered"      // a distribution point is not listed
	ProblemNumber        Problem = "number"         // no number, an older one, or the same with other content
)

// A GuardError says which revocation list was refused, and why.
type GuardError struct {
	Problem Problem
	Issuer  string   // subject of the issuer as text; empty when it is about the whole bundle
	Number  *big.Int // the list's number; nil when it has none
	Err     error    // the details
}

func (e *GuardError) Error() string {
	switch {
	case e.Issuer == "":
		return fmt.Sprintf("revocation bundle refused: %v", e.Err)
	case e.Number == nil:
		return fmt.Sprintf("revocation list of %q refused: %v", e.Issuer, e.Err)
	}
	return fmt.Sprintf("revocation list %v of %q refused: %v", e.Number, e.Issuer, e.Err)
}

// Unwrap returns the details.
func (e *GuardError) Unwrap() error { return e.Err }

// Check returns the lists of the bundle in the order of its scopes, or a
// *GuardError. The previous lists are those that the broker has now; nil is a
// broker that never had one.
func (g *Guard) Check(b Bundle, previous []*x509.RevocationList) ([]*x509.RevocationList, error) {
	limit := g.MaxBytes
	if limit == 0 {
		limit = defaultMaxBytes
	}
	if len(b.PEM) > limit {
		return nil, &GuardError{Problem: ProblemOversized, Err: fmt.Errorf("%d bytes, at most %d are allowed", len(b.PEM), limit)}
	}
	lists, err := ParseBundle(b.PEM)
	switch {
	case errors.Is(err, errEmptyBundle):
		return nil, &GuardError{Problem: ProblemEmpty, Err: err}
	case err != nil:
		return nil, &GuardError{Problem: ProblemMalformed, Err: err}
	case len(b.Scopes) == 0:
		return nil, &GuardError{Problem: ProblemUnknownIssuer, Err: errors.New("no issuer in scope")}
	}
	ordered, err := assign(lists, b.Scopes)
	if err != nil {
		return nil, err
	}
	for i, list := range ordered {
		if err := g.checkList(list, b.Scopes[i], previous); err != nil {
			return nil, err
		}
	}
	return ordered, nil
}

// assign finds the list for each scope: exactly one, and no list is left over.
func assign(lists []*x509.RevocationList, scopes []Scope) ([]*x509.RevocationList, error) {
	ordered := make([]*x509.RevocationList, len(scopes))
	for _, list := range lists {
		i, err := scopeOf(list, scopes)
		if err != nil {
			return nil, err
		}
		if ordered[i] != nil {
			return nil, refuse(ProblemDuplicate, list, errors.New("a second list for the same certificates of this issuer"))
		}
		ordered[i] = list
	}
	for i, list := range ordered {
		if list == nil {
			return nil, &GuardError{Problem: ProblemMissing, Issuer: scopes[i].Issuer.Subject.String(),
				Err: scopes[i].missing()}
		}
	}
	return ordered, nil
}

// scopeOf finds the scope of a list by the issuer's name and key, and by the
// issuing distribution point where that issuer has several. Two issuers may
// share a name, after a change of key.
func scopeOf(list *x509.RevocationList, scopes []Scope) (int, error) {
	var failure error
	var signed []int
	for i, scope := range scopes {
		switch err := scope.signed(list); {
		case err == nil:
			signed = append(signed, i)
		case bytes.Equal(list.RawIssuer, scope.Issuer.RawSubject):
			failure = err
		}
	}
	switch {
	case len(signed) == 1:
		return signed[0], nil // whether it covers what it must is looked at later
	case len(signed) > 1:
		return shardOf(list, scopes, signed)
	case failure != nil:
		return 0, refuse(ProblemSignature, list, fmt.Errorf("check signature: %w", failure))
	}
	return 0, refuse(ProblemUnknownIssuer, list, errors.New("the broker does not trust this issuer"))
}

// shardOf finds the one scope of several of an issuer that a list is for.
func shardOf(list *x509.RevocationList, scopes []Scope, candidates []int) (int, error) {
	point, err := FindIssuingDistributionPoint(list)
	switch {
	case err != nil:
		return 0, refuse(ProblemScope, list, err)
	case point == nil:
		return 0, refuse(ProblemScope, list, errors.New("it has no issuing distribution point, and its issuer has several lists"))
	}
	found := slices.DeleteFunc(candidates, func(i int) bool { return !slices.ContainsFunc(scopes[i].DistributionPoints, point.Covers) })
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return 0, refuse(ProblemUncovered, list, errors.New("it covers no distribution point that certificates of this issuer name"))
	}
	return 0, refuse(ProblemScope, list, errors.New("it speaks for certificates that another list of its issuer speaks for"))
}

func (g *Guard) checkList(list *x509.RevocationList, scope Scope, previous []*x509.RevocationList) error {
	if err := g.checkTime(list); err != nil {
		return err
	}
	if err := checkExtensions(list, scope); err != nil {
		return err
	}
	return checkNumber(list, scope, previous)
}

func (g *Guard) checkTime(list *x509.RevocationList) error {
	now, skew := time.Now(), g.Skew
	if g.Now != nil {
		now = g.Now()
	}
	if skew == 0 {
		skew = defaultSkew
	}
	switch {
	case list.NextUpdate.IsZero():
		return refuse(ProblemExpired, list, errors.New("it has no next update"))
	case !list.NextUpdate.After(now):
		return refuse(ProblemExpired, list, fmt.Errorf("next update was %s", stamp(list.NextUpdate)))
	case list.ThisUpdate.After(now.Add(skew)):
		return refuse(ProblemNotYetValid, list, fmt.Errorf("this update is %s, in the future", stamp(list.ThisUpdate)))
	}
	return nil
}

// checkExtensions refuses lists that a broker could read otherwise than they
// are meant: any critical extension but the issuing distribution point, which
// must be critical, present once, and cover what the scope asks for. An entry
// with a critical extension is one of an indirect list (RFC 5280 section 5.3.3).
func checkExtensions(list *x509.RevocationList, scope Scope) error {
	var point *IssuingDistributionPoint
	for _, extension := range list.Extensions {
		if !extension.Id.Equal(oidIssuingDistributionPoint) {
			if extension.Critical {
				return refuse(ProblemScope, list, fmt.Errorf("critical extension %v, as in a delta list", extension.Id))
			}
			continue
		}
		if point != nil || !extension.Critical {
			return refuse(ProblemScope, list, errors.New("the issuing distribution point is repeated or not critical"))
		}
		var err error
		if point, err = ParseIssuingDistributionPoint(extension.Value); err != nil {
			return refuse(ProblemScope, list, err)
		}
	}
	switch {
	case point == nil && len(scope.DistributionPoints) == 0:
		// It speaks for all of the issuer's certificates, none of which names
		// a distribution point: an offline root's list.
		point = &IssuingDistributionPoint{}
	case point == nil:
		return refuse(ProblemScope, list, errors.New("it has no issuing distribution point"))
	case point.Partial():
		return refuse(ProblemScope, list, errors.New("it speaks for a part of the issuer's certificates, or for other issuers"))
	case len(point.URIs) == 0:
		return refuse(ProblemScope, list, errors.New("its issuing distribution point has no URI"))
	}
	for _, uri := range scope.DistributionPoints {
		if !point.Covers(uri) {
			return refuse(ProblemUncovered, list, fmt.Errorf("it does not cover %q, which certificates of this issuer name", uri))
		}
	}
	for _, entry := range list.RevokedCertificateEntries {
		for _, extension := range entry.Extensions {
			if extension.Critical {
				return refuse(ProblemScope, list, fmt.Errorf("entry %x has the critical extension %v", entry.SerialNumber, extension.Id))
			}
		}
	}
	return nil
}

func checkNumber(list *x509.RevocationList, scope Scope, previous []*x509.RevocationList) error {
	if list.Number == nil || list.Number.Sign() < 0 || list.Number.BitLen() > 159 {
		return refuse(ProblemNumber, list, errors.New("it has no number between 0 and 2^159"))
	}
	i := slices.IndexFunc(previous, scope.has)
	if i < 0 || previous[i].Number == nil {
		return nil
	}
	switch list.Number.Cmp(previous[i].Number) {
	case -1:
		return refuse(ProblemNumber, list, fmt.Errorf("the broker has the newer list %v", previous[i].Number))
	case 0:
		if !bytes.Equal(list.Raw, previous[i].Raw) {
			return refuse(ProblemNumber, list, errors.New("the broker has another list with this number"))
		}
	}
	return nil
}

func refuse(problem Problem, list *x509.RevocationList, err error) *GuardError {
	return &GuardError{Problem: problem, Issuer: list.Issuer.String(), Number: list.Number, Err: err}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
