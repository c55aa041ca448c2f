package enroll

import (
	"context"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A WorkOrderUpdate says what is to change of a work order; nil fields stay.
type WorkOrderUpdate struct {
	Quantity *int64      `json:"quantity,omitempty"` // not below what was issued
	State    *OrderState `json:"state,omitempty"`    // open or closed
}

// UpdateWorkOrder changes a work order's quota, or closes or reopens it.
// KindConflict when more were issued already than the new quantity.
func (s *Service) UpdateWorkOrder(ctx context.Context, c Call, id string, u WorkOrderUpdate) (*WorkOrder, error) {
	if err := checkID("workOrder", id); err != nil {
		return nil, err
	}
	if err := c.Principal.mayServe(id); err != nil {
		return nil, err
	}
	if err := u.check(); err != nil {
		return nil, err
	}
	now := s.now()
	err := s.repeatable(ctx, c, "work-order.update "+id, u, nil, func(i *Idempotency) error {
		_, err := s.store.UpdateWorkOrder(ctx, id, u, now, Change{Idempotency: i,
			Event: newEvent(now, c.Principal.Name, "work-order.update", "work-order:"+id, u)})
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.store.WorkOrder(ctx, id)
}

func (u WorkOrderUpdate) check() error {
	switch {
	case u.Quantity == nil && u.State == nil:
		return ca.Errorf(ca.KindMalformed, "quantity", "give quantity, state or both", "is missing, and so is state")
	case u.Quantity != nil && (*u.Quantity < 1 || *u.Quantity > maxQuantity):
		return ca.Errorf(ca.KindMalformed, "quantity", "give how many devices are to be built", "must be 1 to %d", maxQuantity)
	case u.State != nil && *u.State != OrderOpen && *u.State != OrderClosed:
		return ca.Errorf(ca.KindMalformed, "state", "open or closed", "%.40q is no state of a work order", string(*u.State))
	}
	return nil
}

// A WorkOrderProgress is how a work order comes along.
type WorkOrderProgress struct {
	Order       *WorkOrder     `json:"order"`
	PerMinute   []MinuteCount  `json:"perMinute"`   // 60, the present minute last
	LastUnits   []EnrolledUnit `json:"lastUnits"`   // newest first, at most 20
	Refusals    []RefusalCount `json:"refusals"`    // by kind, the most frequent first
	LastRefused []RefusedUnit  `json:"lastRefused"` // newest first, at most 20
}

// A MinuteCount is how many devices were enrolled in one minute.
type MinuteCount struct {
	At     time.Time `json:"at"` // its beginning
	Issued int64     `json:"issued"`
}

// An EnrolledUnit is a device that was enrolled for a work order.
type EnrolledUnit struct {
	Device string       `json:"device"`
	Status DeviceStatus `json:"status"`
	At     time.Time    `json:"at"`
}

// A RefusalCount is how often enrollments for a work order were refused for one
// kind of error. Counts are written every few seconds; a crash loses those.
type RefusalCount struct {
	Kind   ca.Kind   `json:"kind"`
	Count  int64     `json:"count"`
	LastAt time.Time `json:"lastAt"`
}

// A RefusedUnit is one refused enrollment.
type RefusedUnit struct {
	ID      string    `json:"-"`      // UUIDv7
	Device  string    `json:"device"` // as it called itself; empty when that is no device id
	Kind    ca.Kind   `json:"kind"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// Bounds of a work order's progress.
const (
	progressMinutes = 60
	progressUnits   = 20
)

// WorkOrderProgress returns how a work order comes along.
func (s *Service) WorkOrderProgress(ctx context.Context, id string) (*WorkOrderProgress, error) {
	o, err := s.WorkOrder(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := s.store.OrderProgress(ctx, id, s.now().Truncate(time.Minute).Add(-(progressMinutes-1)*time.Minute), progressMinutes, progressUnits)
	if err != nil {
		return nil, err
	}
	p.Order = o
	return p, nil
}
