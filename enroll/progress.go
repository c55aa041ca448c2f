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
	return nil, errNotYet
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
	Device  string    `json:"device"` // as it called itself; empty when that is no device id
	Kind    ca.Kind   `json:"kind"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// WorkOrderProgress returns how a work order comes along.
func (s *Service) WorkOrderProgress(ctx context.Context, id string) (*WorkOrderProgress, error) {
	return nil, errNotYet
}
