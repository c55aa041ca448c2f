package enroll

import "time"

// A DeviceFilter narrows a listing of devices; empty fields do not. All that
// are given must hold. ParseQuery reads one from text, Query writes it.
type DeviceFilter struct {
	Status     DeviceStatus
	Group      string
	WorkOrder  string
	Serial     string            // first digits of the serial number of one of its certificates, lower-case hex
	Attributes map[string]string // name and value, exactly
	Prefix     string            // first characters of the id
	Match      string            // id, group or an attribute's value matches this, with * for any text; case of ASCII letters apart

	// Of the last good certificate to expire. Under and Over leave out what
	// has expired already.
	ExpiresUnder time.Duration // in less than this
	ExpiresOver  time.Duration // in more than this
	Expired      bool          // it has
}

// ParseQuery reads what a person types to find devices: terms between spaces,
// all of which must hold, each at most once but for attributes.
//
//	status:active        registered, active, held, revoked or retired
//	group:hall-2         the group
//	order:WO-7           the work order
//	serial:ab12          a certificate's serial number begins so
//	expires<30d          the last good certificate expires within 30 days (h, d, w, y)
//	expires>7d           and not within 7
//	expires:expired      it has expired
//	attr.site:"Hall 2"   an attribute, exactly
//	pump-00              the id begins so
//	*pump*               id, group or an attribute's value holds this
//
// An error is of ca.KindMalformed, and names the term and what is allowed.
func ParseQuery(text string) (DeviceFilter, error) { return DeviceFilter{}, errNotYet }

// Query writes the filter as ParseQuery reads it. The empty filter is empty
// text.
func (f DeviceFilter) Query() string { return "" }
