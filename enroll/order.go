package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// Bounds of work orders and their tokens.
const (
	maxQuantity      = 100_000_000
	maxProduct       = 128
	defaultTokenLife = 24 * time.Hour
	maxTokenLife     = 366 * 24 * time.Hour
)

// NewWorkOrder is what a work order is opened with.
type NewWorkOrder struct {
	ID       string `json:"id,omitempty"` // of the manufacturing system; made when empty
	Product  string `json:"product"`
	Site     string `json:"site,omitempty"` // chooses the issuer, with the product
	Quantity int64  `json:"quantity"`
	Profile  string `json:"profile,omitempty"` // device when empty
}

// CreateWorkOrder opens a work order. KindConflict when the id exists.
func (s *Service) CreateWorkOrder(ctx context.Context, c Call, n NewWorkOrder) (*WorkOrder, error) {
	o := &WorkOrder{ID: n.ID, Product: n.Product, Site: n.Site, Quantity: n.Quantity, Profile: n.Profile, State: OrderOpen, CreatedAt: s.now()}
	if o.ID == "" {
		o.ID = "wo-" + newID()
	}
	if o.Profile == "" {
		o.Profile = defaultProfile
	}
	if err := checkID("id", o.ID); err != nil {
		return nil, err
	}
	if err := c.Principal.mayServe(o.ID); err != nil {
		return nil, err
	}
	if err := checkText("product", o.Product, maxProduct); err != nil {
		return nil, err
	}
	if err := checkSite(o.Site); err != nil {
		return nil, err
	}
	if o.Quantity < 1 || o.Quantity > maxQuantity {
		return nil, ca.Errorf(ca.KindMalformed, "quantity", "give how many devices are to be built", "must be 1 to %d", maxQuantity)
	}
	profile, err := s.beginDeviceProfile(ctx, o.Profile)(ctx)
	if err != nil {
		return nil, err
	}
	o.Warnings = s.orderWarnings(o, profile)
	err = s.repeatable(ctx, c, "work-order.create", n, o, func(i *Idempotency) error {
		return s.store.CreateWorkOrder(ctx, *o, Change{Idempotency: i,
			Event: newEvent(o.CreatedAt, c.Principal.Name, "work-order.create", "work-order:"+o.ID, o)})
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

// orderWarnings says what may surprise whoever enrolls by a profile now.
func (s *Service) orderWarnings(o *WorkOrder, p *ca.Profile) []string {
	notAfter, err := s.ca.NotAfter(p, o.Product, o.Site, s.now())
	if inactive, ok := errors.AsType[*ca.Error](err); ok && inactive.Kind == ca.KindIssuerInactive {
		return []string{"nothing can be enrolled now: " + inactive.Message}
	}
	if err != nil {
		return nil // a key that cannot be used is told where it is needed
	}
	if warning := p.ShelfWarning(s.now(), notAfter); warning != "" {
		return []string{warning}
	}
	return nil
}

// WorkOrder returns a work order; while it is open, with what its certificates
// may surprise with now.
func (s *Service) WorkOrder(ctx context.Context, id string) (*WorkOrder, error) {
	o, stored, err := s.store.ProfiledOrder(ctx, id)
	if err != nil || o.State != OrderOpen {
		return o, err
	}
	profile, err := s.inForce(o.Profile, stored)
	switch {
	case isKind(err, ca.KindProfile):
		o.Warnings = []string{"nothing can be enrolled: there is no profile " + o.Profile}
	case err != nil:
		return nil, err
	default:
		o.Warnings = s.orderWarnings(o, profile)
	}
	return o, nil
}

// WorkOrders lists work orders.
func (s *Service) WorkOrders(ctx context.Context, p Page) ([]*WorkOrder, string, error) {
	return s.store.WorkOrders(ctx, p)
}

// NewToken is what an enrollment token is made with.
type NewToken struct {
	DeviceID  string     `json:"deviceId,omitempty"`  // bound to this device: one use
	Uses      int64      `json:"uses,omitempty"`      // 1 when zero
	ExpiresIn string     `json:"expiresIn,omitempty"` // a Go duration, such as 8h
	ExpiresAt *time.Time `json:"expiresAt,omitempty"` // instead of expiresIn; 24 h from now when both are missing
}

// CreateEnrollmentToken makes a token for a work order. Its secret is in the
// answer, this once.
func (s *Service) CreateEnrollmentToken(ctx context.Context, c Call, order string, n NewToken) (*EnrollmentToken, error) {
	if err := c.Principal.mayServe(order); err != nil {
		return nil, err
	}
	keep, err := c.seal()
	if err != nil {
		return nil, err
	}
	t := &EnrollmentToken{ID: newID(), WorkOrder: order, DeviceID: n.DeviceID, Uses: max(n.Uses, 1), CreatedAt: s.now()}
	request := map[string]any{"workOrder": order, "token": n}
	err = s.repeatable(ctx, c, "enrollment-token.create", request, nil, func(i *Idempotency) error {
		// Only now: a repeated call may come after its expiresAt.
		if err := checkToken(t, n); err != nil {
			return err
		}
		if _, err := s.store.WorkOrder(ctx, order); err != nil {
			return err
		}
		t.Token, t.Hash = newSecret(enrollmentTokenPrefix)
		if i != nil {
			answer, err := json.Marshal(t)
			if err != nil {
				return err
			}
			i.Answer = keep.close(answer)
		}
		detail := map[string]any{"workOrder": order, "deviceId": t.DeviceID, "uses": t.Uses, "expiresAt": t.ExpiresAt}
		return s.store.CreateEnrollmentToken(ctx, *t, Change{Idempotency: i,
			Event: newEvent(t.CreatedAt, c.Principal.Name, "enrollment-token.create", "enrollment-token:"+t.ID, detail)})
	})
	if err != nil {
		return nil, keep.openReplay(err)
	}
	return t, nil
}

// EnrollmentTokens lists the tokens of a work order, newest first, without
// their secrets.
func (s *Service) EnrollmentTokens(ctx context.Context, order string, p Page) ([]*EnrollmentToken, string, error) {
	if _, err := s.store.WorkOrder(ctx, order); err != nil {
		return nil, "", err
	}
	return s.store.EnrollmentTokens(ctx, order, p)
}

// EndEnrollmentToken lets a token expire at once. One that has expired, or is
// used up, stays as it is: KindConflict.
func (s *Service) EndEnrollmentToken(ctx context.Context, c Call, order, id string) (*EnrollmentToken, error) {
	if err := c.Principal.mayServe(order); err != nil {
		return nil, err
	}
	at := s.now()
	return s.store.EndEnrollmentToken(ctx, order, id, at, Change{
		Event: newEvent(at, c.Principal.Name, "enrollment-token.end", "enrollment-token:"+id, map[string]any{"workOrder": order})})
}

// checkToken checks what a token is asked for, and sets its expiry.
func checkToken(t *EnrollmentToken, n NewToken) error {
	if n.DeviceID != "" {
		if err := CheckDeviceID("deviceId", n.DeviceID); err != nil {
			return err
		}
		if n.Uses > 1 {
			return ca.Errorf(ca.KindMalformed, "uses", "leave it out, or leave deviceId out", "a token for one device has one use")
		}
	}
	if n.Uses < 0 || n.Uses > maxQuantity {
		return ca.Errorf(ca.KindMalformed, "uses", "give how many devices it shall enroll", "must be 1 to %d", maxQuantity)
	}
	life := defaultTokenLife
	switch {
	case n.ExpiresIn != "" && n.ExpiresAt != nil:
		return ca.Errorf(ca.KindMalformed, "expiresIn", "give one of expiresIn and expiresAt", "stands beside expiresAt")
	case n.ExpiresIn != "":
		d, err := time.ParseDuration(n.ExpiresIn)
		if err != nil {
			return ca.Errorf(ca.KindMalformed, "expiresIn", "write a duration such as 8h or 90m", "%.40q is not a duration", n.ExpiresIn)
		}
		life = d
	case n.ExpiresAt != nil:
		life = n.ExpiresAt.Sub(t.CreatedAt)
	}
	if life <= 0 || life > maxTokenLife {
		field := "expiresIn"
		if n.ExpiresAt != nil {
			field = "expiresAt"
		}
		return ca.Errorf(ca.KindMalformed, field, "let it expire within a year from now", "must lie ahead, by at most 366 days")
	}
	t.ExpiresAt = t.CreatedAt.Add(life)
	return nil
}
