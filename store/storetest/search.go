package storetest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

var searchTests = []test{
	{"every filter finds what it says, page by page", func(f *fixture) {
		random := rand.New(rand.NewPCG(4, 2))
		f.fleet(random)
		all := every(f, func(p enroll.Page) ([]*enroll.Device, string, error) {
			return f.store.Devices(f.ctx, enroll.DeviceFilter{}, p)
		})
		for i, d := range all {
			full, err := f.store.Device(f.ctx, d.ID)
			f.must(err)
			all[i] = full
			f.wantExpiry(full)
		}
		for range 250 {
			filter := someFilter(random, all)
			got := f.search(filter, 1+random.IntN(9))
			var want []string
			for _, d := range all {
				if f.lets(filter, d) {
					want = append(want, d.ID)
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				f.Fatalf("%s finds %v, want %v", filter.Query(), got, want)
			}
		}
	}},
	{"the first to expire come first", func(f *fixture) {
		for n, days := range []int{30, 10, 20, 10} {
			f.expiring(fmt.Sprint("d", n), time.Duration(days)*24*time.Hour)
		}
		if got := f.search(enroll.DeviceFilter{ExpiresUnder: 48 * 24 * time.Hour}, 2); !slices.Equal(got, []string{"d1", "d3", "d2", "d0"}) {
			f.Fatal(got)
		}
	}},
	{"a pattern holds what SQL would read otherwise", func(f *fixture) {
		for _, value := range []string{"50%", "a_b", "ab", "!", `say "hi"`, `c:\x`, "<&>", "Größe"} {
			i := f.enrollment(fmt.Sprintf("d%x", value))
			claimOf(i).Device.Attributes = map[string]string{"note": value}
			f.must(f.commit(i))
		}
		for pattern, want := range map[string]int{
			"*50%*": 1, "*%*": 1, "*a_b*": 1, "*_*": 1, "*!*": 1, `*"HI"*`: 1, `*:\x`: 1, "<&>*": 1, "*größe*": 1, "*GRÖße*": 0, "*GRöße*": 1, "note*": 0, "*:*": 1, "a*b": 2,
		} {
			if got := f.search(enroll.DeviceFilter{Match: pattern}, 100); len(got) != want {
				f.Errorf("%s finds %v, want %d", pattern, got, want)
			}
		}
		for value, want := range map[string]int{"ab": 1, "AB": 0, "a_b": 1, `say "hi"`: 1, "<&>": 1, "%": 0} {
			if got := f.search(enroll.DeviceFilter{Attributes: map[string]string{"note": value}}, 100); len(got) != want {
				f.Errorf("%q finds %v, want %d", value, got, want)
			}
		}
	}},
	{"expiry follows every change of a certificate", func(f *fixture) {
		first := f.expiring("d", 10*24*time.Hour)
		look := func(want time.Time) {
			f.Helper()
			d, err := f.store.Device(f.ctx, "d")
			f.must(err)
			f.wantExpiry(d)
			if got := d.ExpiresAt; (got == nil) != want.IsZero() || got != nil && !got.Equal(want) {
				f.Fatalf("expires %v, want %v", got, want)
			}
		}
		look(first.NotAfter)
		renewal := f.enrollment("d")
		renewal.Certificate.NotAfter = f.now.Add(20 * 24 * time.Hour)
		claimOf(renewal).Replaces = first.SerialNumber
		f.must(f.commit(renewal))
		second := renewal.Certificate
		look(second.NotAfter)
		shorter := f.enrollment("d")
		claimOf(shorter).Replaces = second.SerialNumber // for a day
		f.must(f.commit(shorter))
		look(second.NotAfter)
		f.revokeCertificate(second.SerialNumber, ca.ReasonCertificateHold)
		look(first.NotAfter)
		f.must(f.store.ReleaseDevice(f.ctx, "d", f.now, f.change("device.release", "device:d")))
		look(second.NotAfter)
		f.revokeCertificate(second.SerialNumber, ca.ReasonSuperseded)
		look(first.NotAfter)
		f.must(f.store.HoldDevice(f.ctx, "d", f.now, f.change("device.hold", "device:d")))
		look(time.Time{})
		f.must(f.store.ReleaseDevice(f.ctx, "d", f.now, f.change("device.release", "device:d")))
		look(first.NotAfter)
		f.revoke("d", ca.ReasonCertificateHold)
		look(time.Time{})
		f.revoke("d", ca.ReasonKeyCompromise)
		look(time.Time{})
	}},
}

// fleet makes devices of every kind.
func (f *fixture) fleet(random *rand.Rand) {
	for _, order := range []string{"wo-1", "wo-2"} {
		f.order(order, 100)
	}
	for n := range 60 {
		id := fmt.Sprintf("%s-%02d", pick(random, "pump", "valve", "PUMP", "p"), n)
		if n%10 == 9 {
			f.must(f.store.CreateDevice(f.ctx, enroll.Device{ID: id, Status: enroll.DeviceRegistered, Group: "red", Attributes: map[string]string{}, CreatedAt: f.now},
				f.change("device.register", "device:"+id)))
			continue
		}
		i := f.enrollment(id)
		c := claimOf(i)
		c.Device.Group = pick(random, "", "red", "blue")
		c.Order = pick(random, "", "wo-1", "wo-2")
		c.Device.Attributes = map[string]string{"site": pick(random, "Hall 1", "Hall 2"), "rev": pick(random, "A", "B")}
		i.Certificate.NotAfter = f.now.Add(time.Duration(random.IntN(60)-20)*24*time.Hour + time.Minute)
		f.must(f.commit(i))
		if again := f.enrollment(id); random.IntN(3) == 0 && i.Certificate.NotAfter.After(f.now) {
			claimOf(again).Replaces = i.Certificate.SerialNumber
			f.must(f.commit(again))
		}
		switch random.IntN(8) {
		case 0:
			f.revoke(id, ca.ReasonSuperseded)
		case 1:
			f.revoke(id, ca.ReasonCertificateHold)
		case 2:
			f.revokeCertificate(i.Certificate.SerialNumber, ca.ReasonSuperseded)
		}
	}
}

// expiring enrolls a device for a time.
func (f *fixture) expiring(id string, life time.Duration) ca.Certificate {
	f.Helper()
	i := f.enrollment(id)
	i.Certificate.NotAfter = f.now.Add(life)
	f.must(f.commit(i))
	return i.Certificate
}

func (f *fixture) revokeCertificate(serial ca.SerialNumber, reason ca.Reason) {
	f.Helper()
	_, err := f.store.RevokeCertificate(f.ctx, serial, reason, f.now, f.change("certificate.revoke", "certificate:"+string(serial)))
	f.must(err)
}

// search returns the ids that a filter finds, in pages of a size.
func (f *fixture) search(filter enroll.DeviceFilter, limit int) []string {
	f.Helper()
	ids := []string{}
	for cursor := ""; ; {
		page, next, err := f.store.Devices(f.ctx, filter, enroll.Page{Limit: limit, Cursor: cursor})
		f.must(err)
		for _, d := range page {
			if slices.Contains(ids, d.ID) {
				f.Fatalf("%s: %s comes twice", filter.Query(), d.ID)
			}
			ids = append(ids, d.ID)
		}
		if next == "" {
			return ids
		}
		cursor = next
	}
}

// wantExpiry ends the test unless a device expires with its last good
// certificate.
func (f *fixture) wantExpiry(d *enroll.Device) {
	f.Helper()
	var want time.Time
	for _, c := range d.Certificates {
		if c.Status == ca.StatusGood && c.NotAfter.After(want) {
			want = c.NotAfter
		}
	}
	if got := d.ExpiresAt; (got == nil) != want.IsZero() || got != nil && !got.Equal(want) {
		f.Fatalf("device %s (%s) expires %v, its certificates %v", d.ID, d.Status, got, want)
	}
}

// lets says what a filter means.
func (f *fixture) lets(filter enroll.DeviceFilter, d *enroll.Device) bool {
	left := time.Duration(0)
	if d.ExpiresAt != nil {
		left = d.ExpiresAt.Sub(f.now)
	}
	serial := func(c *ca.Certificate) bool { return strings.HasPrefix(string(c.SerialNumber), filter.Serial) }
	return cmp.Or(filter.Status, d.Status) == d.Status && cmp.Or(filter.Group, d.Group) == d.Group && cmp.Or(filter.WorkOrder, d.WorkOrder) == d.WorkOrder &&
		strings.HasPrefix(d.ID, filter.Prefix) && filter.Holds(d) && (filter.Serial == "" || slices.ContainsFunc(d.Certificates, serial)) &&
		(filter.ExpiresUnder == 0 || left > 0 && left < filter.ExpiresUnder) && (filter.ExpiresOver == 0 || left > filter.ExpiresOver) &&
		(!filter.Expired || left < 0)
}

// someFilter returns a filter with one to four conditions.
func someFilter(random *rand.Rand, all []*enroll.Device) enroll.DeviceFilter {
	var filter enroll.DeviceFilter
	d := all[random.IntN(len(all))]
	day := 24 * time.Hour
	for range 1 + random.IntN(4) {
		switch random.IntN(9) {
		case 0:
			filter.Status = pick(random, enroll.DeviceStatuses()...)
		case 1:
			filter.Group = pick(random, "red", "blue", "none")
		case 2:
			filter.WorkOrder = pick(random, "wo-1", "wo-2")
		case 3:
			if len(d.Certificates) > 0 {
				filter.Serial = string(d.Certificates[0].SerialNumber[:1+random.IntN(4)])
			}
		case 4:
			filter.Attributes = map[string]string{"site": pick(random, "Hall 1", "Hall 2", "hall 1")}
		case 5:
			filter.Prefix = d.ID[:1+random.IntN(len(d.ID))]
		case 6:
			filter.Match = pick(random, "*pump*", "p*7", "*all*", "*-1*", "*B", "hall*1")
		case 7:
			filter.Expired, filter.ExpiresUnder, filter.ExpiresOver = true, 0, 0
		default:
			filter.Expired = false
			filter.ExpiresUnder, filter.ExpiresOver = time.Duration(random.IntN(40))*day, time.Duration(random.IntN(20))*day
		}
	}
	return filter
}

// pick returns one of some values.
func pick[T any](random *rand.Rand, values ...T) T { return values[random.IntN(len(values))] }
