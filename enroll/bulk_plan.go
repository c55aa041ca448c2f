package enroll

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/fleetca/fleetca/ca"
)

// Bounds of a plan.
const (
	bulkFirst = 10  // names that it shows of each kind
	bulkPages = 200 // of a search
)

// bulkActions say what each action makes of a device by its status, and who
// may do it. A status that is missing is refused.
var bulkActions = map[BulkAction]struct {
	permission Permission
	to         map[DeviceStatus]DeviceStatus
}{
	BulkHold:    {MayHold, map[DeviceStatus]DeviceStatus{DeviceActive: DeviceHeld}},
	BulkRelease: {MayHold, map[DeviceStatus]DeviceStatus{DeviceHeld: DeviceActive}},
	BulkRevoke:  {MayRevoke, map[DeviceStatus]DeviceStatus{DeviceRegistered: DeviceRevoked, DeviceActive: DeviceRevoked, DeviceHeld: DeviceRevoked}},
	BulkRetire:  {MayRetire, map[DeviceStatus]DeviceStatus{DeviceRegistered: DeviceRetired, DeviceActive: DeviceRetired, DeviceHeld: DeviceRetired}},
}

// whyRefused says why a device of a status stays as it is, when no action of
// the kind applies to it.
var whyRefused = map[DeviceStatus]string{
	"":               "there is no such device",
	DeviceRegistered: "it holds no certificate yet",
	DeviceActive:     "it is not on hold",
	DeviceHeld:       "it is on hold already",
	DeviceRevoked:    "it is revoked, which is final",
	DeviceRetired:    "it is retired, which is final",
}

// A bulkTarget is a device that a bulk change is about, with the status it has;
// none when there is no such device.
type bulkTarget struct {
	id     string
	status DeviceStatus
}

// PlanBulk returns what a bulk change would do. ca.KindMalformed when it names
// or finds too many devices, or none.
func (s *Service) PlanBulk(ctx context.Context, b Bulk) (*BulkPlan, error) {
	p, _, err := s.planBulk(ctx, b)
	return p, err
}

// planBulk also returns the devices that change.
func (s *Service) planBulk(ctx context.Context, b Bulk) (*BulkPlan, []string, error) {
	if err := b.check(); err != nil {
		return nil, nil, err
	}
	targets, err := s.bulkTargets(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	p := &BulkPlan{Action: b.Action, Found: len(targets), Effects: []BulkEffect{}, First: []string{}, Refused: []BulkRefusal{}}
	counts, refused, changing := map[DeviceStatus]int{}, map[string]*BulkRefusal{}, []string{}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\x00%s\x00%s\x00", b.Action, b.Reason, b.Comment)
	for _, t := range targets {
		fmt.Fprintf(sum, "%s\x00%s\x00", t.id, t.status)
		if _, changes := b.to(t.status); changes {
			counts[t.status]++
			changing = append(changing, t.id)
			continue
		}
		why := whyRefused[t.status]
		if refused[why] == nil {
			refused[why] = &BulkRefusal{Reason: why, First: []string{}}
		}
		r := refused[why]
		if r.Count++; len(r.First) < bulkFirst {
			r.First = append(r.First, t.id)
		}
	}
	for _, from := range DeviceStatuses() {
		if to, _ := b.to(from); counts[from] > 0 {
			p.Effects = append(p.Effects, BulkEffect{From: from, To: to, Count: counts[from]})
		}
	}
	for _, why := range slices.Sorted(maps.Keys(refused)) {
		p.Refused = append(p.Refused, *refused[why])
	}
	p.Changes, p.First = len(changing), changing[:min(len(changing), bulkFirst)]
	p.Fingerprint = hex.EncodeToString(sum.Sum(nil))
	p.Brokers, err = s.plannedBrokers(ctx)
	return p, changing, err
}

// to returns what becomes of a device, and whether anything does.
func (b Bulk) to(from DeviceStatus) (DeviceStatus, bool) {
	action := b.Action
	if b.Reason == string(ca.ReasonCertificateHold) {
		action = BulkHold
	}
	to, ok := bulkActions[action].to[from]
	return to, ok
}

// check refuses what cannot be a bulk change.
func (b Bulk) check() error {
	action, known := bulkActions[b.Action]
	switch {
	case !known || action.to == nil:
		return ca.Errorf(ca.KindMalformed, "action", "one of hold, release, revoke, retire", "%.40q is no action on devices", string(b.Action))
	case b.Action != BulkRevoke && b.Reason != "":
		return ca.Errorf(ca.KindMalformed, "reason", "leave it out", "belongs to revoke alone")
	case (len(b.Devices) > 0) == (b.Query != ""):
		return ca.Errorf(ca.KindMalformed, "devices", "name the devices, or give a query that finds them", "must be given, or query: one of them")
	case len(b.Devices) > MaxBulkDevices:
		return ca.Errorf(ca.KindMalformed, "devices", "give a query, or fewer", "are %d, more than %d", len(b.Devices), MaxBulkDevices)
	}
	if b.Action == BulkRevoke {
		if _, err := (RevokeRequest{Reason: b.Reason, Comment: b.Comment}).check(); err != nil {
			return err
		}
	} else if b.Comment != "" {
		if err := checkText("comment", b.Comment, maxComment); err != nil {
			return err
		}
	}
	for _, id := range b.Devices {
		if err := checkID("devices", id); err != nil {
			return err
		}
	}
	return nil
}

// bulkTargets returns the devices that a bulk change is about, by id.
func (s *Service) bulkTargets(ctx context.Context, b Bulk) ([]bulkTarget, error) {
	if b.Query != "" {
		return s.foundTargets(ctx, b.Query)
	}
	ids := slices.Clone(b.Devices)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	statuses, err := s.store.DeviceStatuses(ctx, ids)
	if err != nil {
		return nil, err
	}
	targets := make([]bulkTarget, len(ids))
	for i, id := range ids {
		targets[i] = bulkTarget{id, statuses[id]}
	}
	return targets, nil
}

// foundTargets returns what a query finds.
func (s *Service) foundTargets(ctx context.Context, query string) ([]bulkTarget, error) {
	f, err := ParseQuery(query)
	if err != nil {
		return nil, err
	}
	if f.Query() == "" {
		return nil, ca.Errorf(ca.KindMalformed, "query", "say which devices: group:NAME, say", "finds every device there is")
	}
	var targets []bulkTarget
	cursor := ""
	for range bulkPages {
		page, next, err := s.store.Devices(ctx, f, Page{Limit: 500, Cursor: cursor})
		if err != nil {
			return nil, err
		}
		for _, d := range page {
			targets = append(targets, bulkTarget{d.ID, d.Status})
		}
		if len(targets) > MaxBulkFound {
			return nil, ca.Errorf(ca.KindMalformed, "query", "narrow it, and do the rest after", "finds more than %d devices", MaxBulkFound)
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	switch {
	case cursor != "":
		return nil, ca.Errorf(ca.KindMalformed, "query", "narrow it by group:, order: or the beginning of the id", "looks at too many devices for what it finds")
	case len(targets) == 0:
		return nil, ca.Errorf(ca.KindMalformed, "query", "look at GET /api/v1/devices?q= first", "finds no device")
	}
	slices.SortFunc(targets, func(a, b bulkTarget) int { return cmp.Compare(a.id, b.id) })
	return targets, nil
}
