package enroll

import (
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A StoredProfile is a version of a profile as the store keeps it.
type StoredProfile struct {
	Name    string
	Version int64
	Body    string // the JSON of a ca.ProfileForm
	Widens  bool
	Actor   string
	At      time.Time
}

// A ProfileVersion is a version of a profile, and how it came about.
type ProfileVersion struct {
	Profile ca.ProfileForm     `json:"profile"`
	Changes []ca.ProfileChange `json:"changes"`      // since the version before; empty for a built-in one
	Widens  bool               `json:"widens"`       // something is issued that was not before
	Actor   string             `json:"actor"`        // who applied it; empty for a built-in one
	At      *time.Time         `json:"at,omitempty"` // when; missing for a built-in one
	Current bool               `json:"current"`      // it is the one in force
}

// NewProfileVersion is a version of a profile that somebody wants.
type NewProfileVersion struct {
	Profile ca.ProfileForm `json:"profile"`
	// BaseVersion is the version that the change begins with: refused when
	// another is in force. 0 is a profile that there is not yet; the profile's
	// own version when missing; a plan then takes the one in force.
	BaseVersion *int64 `json:"baseVersion,omitempty"`
}

// A ProfilePlan is what another version of a profile does.
type ProfilePlan struct {
	Name        string              `json:"name"`
	BaseVersion int64               `json:"baseVersion"` // that it begins with; 0 for a profile that there is not yet
	Version     int64               `json:"version"`     // that it makes
	Applied     bool                `json:"applied"`     // it is in force; else this is a plan
	Changes     []ca.ProfileChange  `json:"changes"`     // none: nothing to apply
	Widens      bool                `json:"widens"`      // something is issued that was not before
	Findings    []ca.ProfileFinding `json:"findings"`    // an error among them: it is not applied
	Effect      ProfileEffect       `json:"effect"`
	Before      string              `json:"before"` // a sample certificate under the base version, in words; empty for none
	After       string              `json:"after"`  // the same under the new version
}

// Bounds of what a plan looks at, so that it takes as long in any fleet.
const (
	profileCertificates = 1000 // the newest certificates of a profile
	profileOrders       = 100
	profileTrials       = 100 // certificates whose renewal is tried
	profileExamples     = 5   // of what is refused, by reason
)

// A ProfileEffect is whom a change of a profile concerns: among its newest
// certificates, and by trying the renewal of some of them under the new version.
type ProfileEffect struct {
	Certificates int              `json:"certificates"` // good and not expired, among the newest
	Holders      int              `json:"holders"`      // of these
	More         bool             `json:"more"`         // there are certificates that were not looked at
	WorkOrders   int              `json:"workOrders"`   // open ones that enroll by the profile
	MoreOrders   bool             `json:"moreWorkOrders"`
	Tried        int              `json:"tried"`    // renewals with the same key that were tried
	Refused      []ProfileRefusal `json:"refused"`  // of those, what would be refused and is not today
	Admitted     []ProfileRefusal `json:"admitted"` // what would not be refused any more
}

// A ProfileRefusal is one reason for which renewals are refused.
type ProfileRefusal struct {
	Reason  string   `json:"reason"`
	Count   int      `json:"count"`
	Holders []string `json:"holders"` // some of them
}

// A ProfileUse is who uses a profile.
type ProfileUse struct {
	Certificates, Holders int
	More                  bool
	Orders                int
	MoreOrders            bool
}
