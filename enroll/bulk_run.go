package enroll

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/fleetca/fleetca/ca"
)

// How a bulk change runs.
const (
	bulkBatch   = 100 // devices between two looks at how far it is
	bulkWorkers = 16  // at once: their transactions are committed together
)

// RunBulk starts a bulk change in the background, and returns its row;
// BulkResult shows how far it is. It resumes after a crash, and changes no
// device twice (I2). KindConflict when the fingerprint is not that of what
// would be done now.
func (s *Service) RunBulk(ctx context.Context, c Call, b Bulk) (*BulkResult, error) {
	if action, known := bulkActions[b.Action]; known && !c.Principal.Role.May(action.permission) {
		return nil, ca.Errorf(KindForbidden, "action", "ask somebody with another role", "role %s may not %s devices", c.Principal.Role, b.Action)
	}
	before, err := c.idempotency("bulk.start", b, nil)
	if err == nil {
		err = s.replayed(ctx, before)
	}
	if err != nil {
		return nil, err
	}
	plan, devices, err := s.planBulk(ctx, b)
	if err != nil {
		return nil, err
	}
	switch {
	case b.Fingerprint == "":
		return nil, ca.Errorf(ca.KindMalformed, "fingerprint", "make the plan first, and give its fingerprint", "is missing")
	case b.Fingerprint != plan.Fingerprint:
		return nil, ca.Errorf(KindConflict, "fingerprint", "look at the plan again", "devices changed since the plan was made")
	case len(devices) == 0:
		return nil, ca.Errorf(KindConflict, "devices", "look at the plan: it says why", "no device would change")
	}
	r := &BulkResult{
		ID: newID(), Action: b.Action, Reason: b.Reason, Comment: b.Comment, Query: b.Query, Actor: c.Principal.Name,
		State: BulkRunning, Total: len(devices), Failures: []BulkFailure{}, At: s.now(), Version: 1,
	}
	detail := map[string]any{"action": b.Action, "reason": b.Reason, "comment": b.Comment, "query": b.Query, "total": r.Total, "fingerprint": plan.Fingerprint}
	err = s.repeatable(ctx, c, "bulk.start", b, r, func(i *Idempotency) error {
		return s.store.CreateBulk(ctx, *r, devices, Change{
			Idempotency: i, Event: newEvent(r.At, c.Principal.Name, "bulk.start", "bulk:"+r.ID, detail), Jobs: []Job{{Kind: JobBulk, Subject: r.ID}},
		})
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// BulkResult returns a bulk change.
func (s *Service) BulkResult(ctx context.Context, id string) (*BulkResult, error) {
	return s.store.Bulk(ctx, id)
}

// BulkResults lists bulk changes, newest first.
func (s *Service) BulkResults(ctx context.Context, p Page) ([]*BulkResult, string, error) {
	return s.store.Bulks(ctx, p)
}

// advanceBulk handles JobBulk. Each device is changed by the call that changes
// one alone, under an idempotency key of its own: after a crash the repeated
// call finds that it was done.
func (s *Service) advanceBulk(ctx context.Context, id string) error {
	b, err := s.store.Bulk(ctx, id)
	if err != nil {
		return err
	}
	for {
		devices, err := s.store.BulkWaiting(ctx, id, bulkBatch)
		if err != nil || len(devices) == 0 {
			return err
		}
		outcomes, stopped := s.changeAll(ctx, b, devices)
		if len(outcomes) > 0 {
			event := newEvent(s.now(), "server", "bulk.progress", "bulk:"+id, map[string]any{"devices": len(outcomes)})
			if err := s.store.SaveBulk(ctx, id, outcomes, s.now(), Change{Event: event}); err != nil {
				return errors.Join(err, stopped)
			}
		}
		if stopped != nil {
			return fmt.Errorf("bulk change %s: %w", id, stopped)
		}
	}
}

// changeAll changes devices, several at once, and returns what became of each:
// empty for done. Those that our side could not change are left out, with the
// error.
func (s *Service) changeAll(ctx context.Context, b *BulkResult, devices []string) (map[string]string, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var stopped error
	outcomes := map[string]string{}
	next := make(chan string)
	for range min(bulkWorkers, len(devices)) {
		wg.Go(func() {
			for device := range next {
				err := s.changeOne(ctx, b, device)
				refused, ok := errors.AsType[*ca.Error](err)
				_, before := errors.AsType[*Replay](err)
				mu.Lock()
				switch {
				case err == nil || before:
					outcomes[device] = ""
				case ok && refused.Kind != KindUnavailable:
					outcomes[device] = refused.Text()
				default:
					stopped = err
				}
				mu.Unlock()
			}
		})
	}
	for _, device := range devices {
		next <- device
	}
	close(next)
	wg.Wait()
	return outcomes, stopped
}

// changeOne changes one device.
func (s *Service) changeOne(ctx context.Context, b *BulkResult, device string) error {
	c := Call{Principal: Principal{Name: b.Actor}, IdempotencyKey: "bulk:" + b.ID + ":" + device}
	var err error
	switch b.Action {
	case BulkHold:
		_, err = s.HoldDevice(ctx, c, device)
	case BulkRelease:
		_, err = s.ReleaseDevice(ctx, c, device)
	case BulkRevoke:
		_, err = s.RevokeDevice(ctx, c, device, RevokeRequest{Reason: b.Reason, Comment: b.Comment})
	case BulkRetire:
		_, err = s.RetireDevice(ctx, c, device, RetireRequest{Comment: b.Comment})
	}
	return err
}
