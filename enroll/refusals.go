package enroll

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// How refused enrollments are kept: counted, and the last of each work order,
// in one write every few seconds, however many there are. Who floods the
// server with them gets no more written than that.
const (
	refusalFlush   = 5 * time.Second
	refusalWindow  = 10 * time.Second // for one write
	refusalOrders  = 200              // work orders that are told apart between two writes
	refusalsOfEach = progressUnits    // last ones that are kept of each
)

// OrderRefusals are refused enrollments for one work order.
type OrderRefusals struct {
	WorkOrder string
	Counts    []RefusalCount // by kind
	Last      []RefusedUnit  // oldest first, each with its ID
}

// refusals are those that are not written yet. It is safe for concurrent use.
type refusals struct {
	mu      sync.Mutex
	byOrder map[string]*OrderRefusals
}

// note remembers that an enrollment for a work order that exists was refused.
// What went wrong on our side is no refusal.
func (r *refusals) note(order, device string, err error, now time.Time) {
	refused, ok := errors.AsType[*ca.Error](err)
	if order == "" || !ok || refused.Kind == KindUnavailable {
		return
	}
	if CheckDeviceID("", device) != nil {
		device = ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.byOrder[order]
	if o == nil {
		if len(r.byOrder) == refusalOrders {
			return
		}
		if r.byOrder == nil {
			r.byOrder = map[string]*OrderRefusals{}
		}
		o = &OrderRefusals{WorkOrder: order}
		r.byOrder[order] = o
	}
	i := slices.IndexFunc(o.Counts, func(c RefusalCount) bool { return c.Kind == refused.Kind })
	if i < 0 {
		i = len(o.Counts)
		o.Counts = append(o.Counts, RefusalCount{Kind: refused.Kind})
	}
	o.Counts[i].Count++
	o.Counts[i].LastAt = now
	if len(o.Last) == refusalsOfEach {
		o.Last = slices.Delete(o.Last, 0, 1)
	}
	o.Last = append(o.Last, RefusedUnit{ID: newID(), Device: device, Kind: refused.Kind, Message: refused.Text(), At: now})
}

// take returns what was noted, by work order and kind, and forgets it.
func (r *refusals) take() []OrderRefusals {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]OrderRefusals, 0, len(r.byOrder))
	for _, o := range r.byOrder {
		slices.SortFunc(o.Counts, func(a, b RefusalCount) int { return cmp.Compare(a.Kind, b.Kind) })
		all = append(all, *o)
	}
	r.byOrder = nil
	slices.SortFunc(all, func(a, b OrderRefusals) int { return cmp.Compare(a.WorkOrder, b.WorkOrder) })
	return all
}

// SaveRefusals writes what enrollments were refused since it last did. What
// cannot be written is dropped: nothing is decided by it.
func (s *Service) SaveRefusals(ctx context.Context) error {
	all := s.refused.take()
	if len(all) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, refusalWindow)
	defer cancel()
	return s.store.SaveRefusals(ctx, all)
}

// KeepRefusals writes refused enrollments, beside the requests, until ctx ends.
func (s *Service) KeepRefusals(ctx context.Context) {
	s.keep(ctx, refusalFlush, "keep refused enrollments", s.SaveRefusals)
}

// keep saves at an interval, until ctx ends.
func (s *Service) keep(ctx context.Context, every time.Duration, what string, save func(context.Context) error) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := save(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, what, "err", err)
			}
		}
	}
}
