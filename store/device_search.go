package store

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// A foundDevice stands in its list by its id, by when it expires, or by the
// serial number that it was found by.
type foundDevice struct {
	*enroll.Device
	serial string
}

// Devices implements enroll.DeviceStore; without their certificates.
func (s *Store) Devices(ctx context.Context, f enroll.DeviceFilter, p enroll.Page) ([]*enroll.Device, string, error) {
	if hasExpiry(f) && f.Status != "" && f.Status != enroll.DeviceActive {
		return []*enroll.Device{}, "", nil // others have no good certificate
	}
	l := deviceListing(f, s.now())
	found, next, err := l.page(ctx, s.db, p)
	if err != nil {
		return nil, "", s.explain("list devices", err)
	}
	all := make([]*enroll.Device, 0, len(found))
	for _, d := range found {
		if f.Holds(d.Device) {
			all = append(all, d.Device)
		}
	}
	return all, next, nil
}

// deviceListing chooses the index that leads a search. The first that the
// filter has gives the order, too:
//
//	serial number   certificates by serial number
//	work order      work order and id, or work order, status and id
//	expiry          expiry and id, or group, expiry and id; unless an id's beginning is given
//	group           group and id, or group, status and id
//	status          status and id
//	nothing         id
//
// The beginning of an id narrows each that is in the order of ids. Indexes
// with a status have what is not active, which is little: among the active the
// status is looked at row by row, like all that the index does not tell.
func deviceListing(f enroll.DeviceFilter, now time.Time) *listing[foundDevice] {
	l := &listing[foundDevice]{
		name: "devices", query: selectDevice, id: "id",
		scan:  func(row scanner) (d foundDevice, err error) { d.Device, err = scanDevice(row); return d, err },
		keyOf: func(d foundDevice) key { return key{ID: d.ID} },
	}
	rest := f // what the index leaves
	switch {
	case f.Serial != "":
		leadBySerial(l, f.Serial)
		rest.Serial = ""
		l.rest = append(l.rest, restOf(rest, now)...)
		return l
	case f.WorkOrder != "":
		l.filters = []filter{where("work_order <> ''"), where("work_order = ?", f.WorkOrder)}
		rest.WorkOrder = ""
		leadByOther(l, &rest)
	case hasExpiry(f) && f.Prefix == "":
		leadByExpiry(l, f, now)
		rest.Group, rest.Expired, rest.ExpiresUnder, rest.ExpiresOver = "", false, 0, 0
		rest.Status = "" // active: others have no good certificate
	case f.Group != "":
		l.filters = []filter{where("group_name <> ''"), where("group_name = ?", f.Group)}
		rest.Group = ""
		leadByOther(l, &rest)
	case f.Status != "":
		l.equals("status", string(f.Status))
		rest.Status = ""
	}
	if l.byTime == "" && f.Prefix != "" {
		l.filters = append(l.filters, beginning("id", f.Prefix)...)
		rest.Prefix = ""
	}
	l.rest = restOf(rest, now)
	return l
}

func hasExpiry(f enroll.DeviceFilter) bool {
	return f.Expired || f.ExpiresUnder > 0 || f.ExpiresOver > 0
}

// beginning returns the conditions of a column's text that begins with some
// ASCII.
func beginning(column, prefix string) []filter {
	last := prefix[len(prefix)-1]
	return []filter{where(column+" >= ?", prefix), where(column+" < ?", prefix[:len(prefix)-1]+string(rune(last+1)))}
}

// leadByOther takes the index that has a status other than active.
func leadByOther(l *listing[foundDevice], rest *enroll.DeviceFilter) {
	if rest.Status == "" || rest.Status == enroll.DeviceActive {
		return
	}
	l.filters = append(l.filters, where("status <> 'active'"), where("status = ?", string(rest.Status)))
	rest.Status = ""
}

// leadByExpiry lists by expiry, the first to expire first.
func leadByExpiry(l *listing[foundDevice], f enroll.DeviceFilter, now time.Time) {
	l.byTime = "not_after"
	l.keyOf = func(d foundDevice) key { return key{micros(*d.ExpiresAt), d.ID} }
	if f.Group != "" {
		l.filters = append(l.filters, where("group_name <> ''"), where("group_name = ?", f.Group))
	}
	l.filters = append(l.filters, expiryConditions(f, now)...)
}

// expiryConditions narrow to devices by their last good certificate to expire.
//
// The upper bound is one of time and id. Of two bounds of one column, which it
// does not know, PostgreSQL guesses that they leave a two-hundredth of the rows;
// of a group so few that it would rather read all that there are, and sort them.
func expiryConditions(f enroll.DeviceFilter, now time.Time) []filter {
	before := func(at time.Time) filter { return where("(not_after, id) < (?, '')", micros(at)) }
	var all []filter
	if f.Expired {
		all = append(all, before(now))
	} else {
		all = append(all, where("not_after >= ?", micros(now.Add(f.ExpiresOver))))
	}
	if f.ExpiresUnder > 0 {
		all = append(all, before(now.Add(f.ExpiresUnder)))
	}
	return append(all, where("not_after > 0")) // last: see listing
}

// serialBound is how many certificates one page looks at. Each brings its
// device, by its id: with many the planner would rather read all devices.
const serialBound = 200

// leadBySerial lists by serial number. A device with several such certificates
// comes once, with the lowest.
func leadBySerial(l *listing[foundDevice], prefix string) {
	l.query, l.id = `SELECT serial, holder_kind, holder_id FROM certificates`, "serial"
	l.filters = []filter{where("serial >= ?", prefix)}
	below := "g" // what follows the last digit
	for last := len(prefix) - 1; last >= 0; last-- {
		if prefix[last] != 'f' {
			next := prefix[last] + 1
			if prefix[last] == '9' {
				next = 'a'
			}
			below = prefix[:last] + string(rune(next))
			break
		}
	}
	l.filters = append(l.filters, where("serial < ?", below))
	l.bound = serialBound
	l.outer = `SELECT ` + deviceColumns + `, serial FROM (%s) AS scanned JOIN devices ON id = holder_id`
	l.rest = []filter{
		where("holder_kind = 'device'"),
		where(`NOT EXISTS (SELECT 1 FROM certificates c WHERE c.holder_kind = 'device' AND c.holder_id = scanned.holder_id
			AND c.serial >= ? AND c.serial < scanned.serial)`, prefix),
	}
	l.scan = func(row scanner) (foundDevice, error) {
		d := foundDevice{Device: newScannedDevice()}
		return d, row.Scan(append(deviceTargets(d.Device), &d.serial)...)
	}
	l.keyOf = func(d foundDevice) key { return key{ID: d.serial} }
}

// restOf returns the conditions that are looked at row by row. Patterns and
// attributes are told exactly by DeviceFilter.Holds: here are conditions that
// let all of those through, and few others.
func restOf(f enroll.DeviceFilter, now time.Time) []filter {
	var all []filter
	equals := func(column, value string) {
		if value != "" {
			all = append(all, where(column+" = ?", value))
		}
	}
	equals("status", string(f.Status))
	equals("group_name", f.Group)
	equals("work_order", f.WorkOrder)
	if hasExpiry(f) {
		all = append(all, expiryConditions(f, now)...)
	}
	if f.Prefix != "" {
		all = append(all, beginning("id", f.Prefix)...)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Attributes)) {
		pair := jsonOf(map[string]string{name: f.Attributes[name]})
		all = append(all, where(`attributes LIKE ? ESCAPE '!'`, "%"+escapeLike(pair[1:len(pair)-1])+"%"))
	}
	if f.Match != "" {
		pattern := f.Pattern()
		plain := strings.ReplaceAll(escapeLike(pattern), "*", "%")
		inside, _ := json.Marshal(strings.Trim(pattern, "*")) // text always marshals
		within := "%" + strings.ReplaceAll(escapeLike(string(inside[1:len(inside)-1])), "*", "%") + "%"
		all = append(all, where(`(lower(id) LIKE ? ESCAPE '!' OR lower(group_name) LIKE ? ESCAPE '!' OR lower(attributes) LIKE ? ESCAPE '!')`,
			plain, plain, within))
	}
	return all
}

// escapeLike makes text stand for itself in LIKE with ESCAPE '!'.
func escapeLike(text string) string {
	return strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(text)
}
