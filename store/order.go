package store

import (
	"context"
	"errors"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const (
	orderColumns    = `o.id, o.product, o.quantity, o.issued, o.profile, o.state, o.created_at, o.full_at, o.site`
	selectWorkOrder = `SELECT ` + orderColumns + ` FROM work_orders o`
)

func scanWorkOrder(row scanner) (*enroll.WorkOrder, error) { return scanOrderAnd(row) }

// scanOrderAnd reads a work order, and more that follows it in the row.
func scanOrderAnd(row scanner, more ...any) (*enroll.WorkOrder, error) {
	o := &enroll.WorkOrder{}
	return o, row.Scan(append([]any{&o.ID, &o.Product, &o.Quantity, &o.Issued, &o.Profile, &o.State, atTime{&o.CreatedAt}, atSome{&o.FullAt}, &o.Site}, more...)...)
}

const selectEnrollmentToken = `SELECT id, hash, work_order, device_id, renews, uses, used, expires_at, created_at FROM enrollment_tokens`

func scanEnrollmentToken(row scanner) (*enroll.EnrollmentToken, error) {
	t := &enroll.EnrollmentToken{}
	return t, row.Scan(&t.ID, &t.Hash, &t.WorkOrder, &t.DeviceID, asBool{&t.Renews}, &t.Uses, &t.Used, atTime{&t.ExpiresAt}, atTime{&t.CreatedAt})
}

// CreateWorkOrder implements enroll.OrderStore.
func (s *Store) CreateWorkOrder(ctx context.Context, o enroll.WorkOrder, c enroll.Change) error {
	return s.change(ctx, "create work order", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `INSERT INTO work_orders (id, product, quantity, issued, profile, state, created_at, site)
			VALUES ($1, $2, $3, 0, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING`,
			o.ID, o.Product, o.Quantity, o.Profile, o.State, micros(o.CreatedAt), o.Site)
		if err == nil && n == 0 {
			return conflict("id", "choose another work order id", "work order %q exists", o.ID)
		}
		return err
	})
}

// WorkOrder implements enroll.OrderStore.
func (s *Store) WorkOrder(ctx context.Context, id string) (*enroll.WorkOrder, error) {
	o, err := one(ctx, s.db, scanWorkOrder, selectWorkOrder+` WHERE id = $1`, id)
	switch {
	case errors.Is(err, errNoRows):
		return nil, notFound("workOrder", "work order", id)
	case err != nil:
		return nil, s.explain("read work order", err)
	}
	return o, nil
}

// ProfiledOrder implements enroll.OrderStore.
func (s *Store) ProfiledOrder(ctx context.Context, id string) (*enroll.WorkOrder, *enroll.StoredProfile, error) {
	p := &enroll.StoredProfile{}
	o, err := one(ctx, s.db, func(row scanner) (*enroll.WorkOrder, error) {
		return scanOrderAnd(row, &p.Version, &p.Body)
	}, `SELECT `+orderColumns+`, COALESCE(p.version, 0), COALESCE(p.body, '')
		FROM work_orders o LEFT JOIN profiles p ON p.name = o.profile AND p.version = (SELECT MAX(version) FROM profiles n WHERE n.name = o.profile)
		WHERE o.id = $1`, id)
	switch {
	case errors.Is(err, errNoRows):
		return nil, nil, notFound("workOrder", "work order", id)
	case err != nil:
		return nil, nil, s.explain("read work order", err)
	case p.Version == 0:
		return o, nil, nil
	}
	p.Name = o.Profile
	return o, p, nil
}

// WorkOrders implements enroll.OrderStore; newest first.
func (s *Store) WorkOrders(ctx context.Context, p enroll.Page) ([]*enroll.WorkOrder, string, error) {
	l := listing[*enroll.WorkOrder]{
		name: "work-orders", query: selectWorkOrder, byTime: "created_at", id: "id", newest: true,
		scan: scanWorkOrder, keyOf: func(o *enroll.WorkOrder) key { return key{micros(o.CreatedAt), o.ID} },
	}
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list work orders", err)
}

// UpdateWorkOrder implements enroll.OrderStore.
func (s *Store) UpdateWorkOrder(ctx context.Context, id string, u enroll.WorkOrderUpdate, at time.Time, c enroll.Change) (*enroll.WorkOrder, error) {
	var quantity int64 // 0 and "" leave what there is
	var state enroll.OrderState
	if u.Quantity != nil {
		quantity = *u.Quantity
	}
	if u.State != nil {
		state = *u.State
	}
	var after *enroll.WorkOrder
	err := s.change(ctx, "update work order", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE work_orders SET
				quantity = CASE WHEN CAST($2 AS BIGINT) = 0 THEN quantity ELSE $2 END,
				state = CASE WHEN CAST($3 AS TEXT) = '' THEN state ELSE $3 END,
				full_at = CASE WHEN issued < CASE WHEN CAST($2 AS BIGINT) = 0 THEN quantity ELSE $2 END THEN 0 WHEN full_at = 0 THEN $4 ELSE full_at END
			WHERE id = $1 AND ($2 = 0 OR issued <= $2)`, id, quantity, state, micros(at))
		if err != nil {
			return err
		}
		after, err = one(ctx, q, scanWorkOrder, selectWorkOrder+` WHERE id = $1`, id)
		switch {
		case errors.Is(err, errNoRows):
			return notFound("workOrder", "work order", id)
		case err == nil && n == 0:
			return conflict("quantity", "give at least that many", "%d devices of work order %q are enrolled already", after.Issued, id)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return after, nil
}

// CreateEnrollmentToken implements enroll.OrderStore. The work order, where
// one is named, must exist and be open.
func (s *Store) CreateEnrollmentToken(ctx context.Context, t enroll.EnrollmentToken, c enroll.Change) error {
	return s.change(ctx, "create enrollment token", c, func(ctx context.Context, q tx) error {
		if t.WorkOrder != "" {
			state, err := value[enroll.OrderState](ctx, q, `SELECT state FROM work_orders WHERE id = $1`, t.WorkOrder)
			switch {
			case errors.Is(err, errNoRows):
				return notFound("workOrder", "work order", t.WorkOrder)
			case err != nil:
				return err
			case state != enroll.OrderOpen:
				return ca.Errorf(enroll.KindOrderClosed, "workOrder", "name an open work order", "work order %q is %s", t.WorkOrder, state)
			}
		}
		n, err := q.exec(ctx, `INSERT INTO enrollment_tokens (id, hash, work_order, device_id, renews, uses, used, expires_at, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8) ON CONFLICT DO NOTHING`,
			t.ID, t.Hash, t.WorkOrder, t.DeviceID, bit(t.Renews), t.Uses, micros(t.ExpiresAt), micros(t.CreatedAt))
		if err == nil && n == 0 {
			return conflict("token", "make another token", "the token exists")
		}
		return err
	})
}

// EnrollmentTokenByHash implements enroll.OrderStore.
func (s *Store) EnrollmentTokenByHash(ctx context.Context, hash []byte) (*enroll.EnrollmentToken, error) {
	t, err := one(ctx, s.db, scanEnrollmentToken, selectEnrollmentToken+` WHERE hash = $1`, hash)
	switch {
	case errors.Is(err, errNoRows):
		return nil, ca.Errorf(ca.KindNotFound, "token", "", "there is no such token")
	case err != nil:
		return nil, s.explain("read enrollment token", err)
	}
	return t, nil
}

// EnrollmentTokens implements enroll.OrderStore.
func (s *Store) EnrollmentTokens(ctx context.Context, order string, p enroll.Page) ([]*enroll.EnrollmentToken, string, error) {
	l := listing[*enroll.EnrollmentToken]{
		name: "enrollment-tokens", query: selectEnrollmentToken, byTime: "created_at", id: "id", newest: true,
		scan: scanEnrollmentToken, keyOf: func(t *enroll.EnrollmentToken) key { return key{micros(t.CreatedAt), t.ID} },
		filters: []filter{where("work_order = ?", order)},
	}
	all, next, err := l.page(ctx, s.db, p)
	return all, next, s.explain("list enrollment tokens", err)
}

// EndEnrollmentToken implements enroll.OrderStore.
func (s *Store) EndEnrollmentToken(ctx context.Context, order, id string, at time.Time, c enroll.Change) (*enroll.EnrollmentToken, error) {
	var ended *enroll.EnrollmentToken
	err := s.change(ctx, "end enrollment token", c, func(ctx context.Context, q tx) error {
		n, err := q.exec(ctx, `UPDATE enrollment_tokens SET expires_at = $3 WHERE id = $1 AND work_order = $2 AND expires_at > $3 AND used < uses`, id, order, micros(at))
		if err != nil {
			return err
		}
		ended, err = one(ctx, q, scanEnrollmentToken, selectEnrollmentToken+` WHERE id = $1 AND work_order = $2`, id, order)
		switch {
		case errors.Is(err, errNoRows):
			return notFound("token", "enrollment token", id)
		case err == nil && n == 0:
			return conflict("token", "look at the token again", "the token expired before, or is used up")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return ended, nil
}
