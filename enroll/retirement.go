package enroll

import (
	"context"

	"github.com/fleetca/fleetca/ca"
)

// A RetireRequest says why a device is retired.
type RetireRequest struct {
	Comment string `json:"comment,omitempty"` // for people
}

// RetireDevice ends a device's life: registered, active or held, it becomes
// retired for good, and its good and held certificates are revoked for
// cessationOfOperation in the same transaction. The Revocation shows the way to
// the proof that every broker refuses it, as with RevokeDevice. ca.KindRevoked
// when it is revoked or retired already.
func (s *Service) RetireDevice(ctx context.Context, c Call, id string, req RetireRequest) (*Revocation, error) {
	if req.Comment != "" {
		if err := checkText("comment", req.Comment, maxComment); err != nil {
			return nil, err
		}
	}
	r := &Revocation{Device: id, Reason: ca.ReasonCessationOfOperation, Comment: req.Comment}
	return s.endDevice(ctx, c, "device.retire", map[string]any{"device": id, "request": req}, r, s.store.RetireDevice)
}
