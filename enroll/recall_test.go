package enroll_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A readingStore counts what enrollments read before they are signed.
type readingStore struct {
	enroll.Store
	tokens, profiles, orders atomic.Int64
}

func (c *readingStore) APITokenByHash(ctx context.Context, hash []byte) (*enroll.APIToken, error) {
	c.tokens.Add(1)
	return c.Store.APITokenByHash(ctx, hash)
}

func (c *readingStore) Profile(ctx context.Context, name string) (*enroll.StoredProfile, error) {
	c.profiles.Add(1)
	return c.Store.Profile(ctx, name)
}

func (c *readingStore) ProfiledOrder(ctx context.Context, id string) (*enroll.WorkOrder, *enroll.StoredProfile, error) {
	c.orders.Add(1)
	return c.Store.ProfiledOrder(ctx, id)
}

func (c *readingStore) reads() string {
	return fmt.Sprint(c.tokens.Swap(0), c.profiles.Swap(0), c.orders.Swap(0))
}

// What enrollments read is read once; and what became of it since, at another
// server, holds for the very next one.
func TestRecalledIsLookedAtByTheTransaction(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	counted := &readingStore{Store: s.store}
	var server *enroll.Service
	token := must(s.CreateAPIToken(s.ctx, asAdmin(""), enroll.NewAPIToken{Name: "line", Role: enroll.RoleOperator}))
	enrolls := func(id, order string) (*enroll.Enrollment, error) {
		p := server.Recall(token.Token)
		if p == nil {
			var err error
			if p, err = server.Authenticate(s.ctx, token.Token); err != nil {
				return nil, err
			}
		}
		return server.EnrollDevice(s.ctx, enroll.Call{Principal: *p}, enroll.EnrollRequest{DeviceID: id, WorkOrder: order, CSR: newCSR(t, newKey(t), id)})
	}
	devices := 0
	granted := func(order, reads string) *enroll.Enrollment {
		t.Helper()
		devices++
		e, err := enrolls(fmt.Sprint("d", devices), order)
		s.must(err)
		if got := counted.reads(); got != reads {
			t.Errorf("device %d: reads of token, profile, order: %s, not %s", devices, got, reads)
		}
		return e
	}
	begin := func() { // a server that remembers nothing
		server = s.server(counted)
		granted("", "1 1 0")
		granted("o", "0 0 1")
		granted("", "0 0 0")
		granted("o", "0 0 0")
	}
	refused := func(order string, kind ca.Kind, field string) {
		t.Helper()
		s.unchanged(func() {
			_, err := enrolls("refused", order)
			s.wantKind(err, kind, field)
		})
		counted.reads()
	}
	s.order("o", 100, enroll.NewToken{})

	begin()
	s.apply(ca.ProfileForm{Name: "device", Validity: "60d"})
	if e := granted("", "1 1 0"); e.Certificate.ProfileVersion != 2 {
		t.Errorf("issued by version %d of its profile", e.Certificate.ProfileVersion)
	}
	begin()
	s.apply(ca.ProfileForm{Name: "device", Validity: "50d"})
	if e := granted("o", "1 0 1"); e.Certificate.ProfileVersion != 3 {
		t.Errorf("issued by version %d of its order's profile", e.Certificate.ProfileVersion)
	}

	begin()
	closed := enroll.OrderClosed
	must(s.UpdateWorkOrder(s.ctx, asAdmin(""), "o", enroll.WorkOrderUpdate{State: &closed}))
	refused("o", enroll.KindOrderClosed, "workOrder")

	opened := enroll.OrderOpen
	must(s.UpdateWorkOrder(s.ctx, asAdmin(""), "o", enroll.WorkOrderUpdate{State: &opened}))
	begin()
	must(s.RevokeAPIToken(s.ctx, asAdmin(""), token.ID))
	refused("", enroll.KindUnauthenticated, "Authorization")
	// Nor does a token that holds no longer learn anything else.
	server = s.server(counted)
	if p, err := server.Authenticate(s.ctx, token.Token); err == nil || p != nil || server.Recall(token.Token) != nil {
		t.Errorf("a disabled token is %v, %v", p, err)
	}
}

// A refusal that something else would give says nothing to a token that was
// disabled since it was read.
func TestRecalledTokenLearnsNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := must(s.CreateAPIToken(s.ctx, asAdmin(""), enroll.NewAPIToken{Name: "line", Role: enroll.RoleOperator}))
	server := s.server(s.store)
	must(server.Authenticate(s.ctx, token.Token))
	p := server.Recall(token.Token)
	must(s.RevokeAPIToken(s.ctx, asAdmin(""), token.ID))
	for name, r := range map[string]enroll.EnrollRequest{
		"bad id": {DeviceID: "no id", CSR: "x"}, "bad request": {DeviceID: "d", CSR: "x"},
		"no such order": {DeviceID: "d", WorkOrder: "none", CSR: newCSR(t, newKey(t), "d")},
	} {
		t.Log(name)
		_, err := server.EnrollDevice(s.ctx, enroll.Call{Principal: *p}, r)
		s.wantKind(err, enroll.KindUnauthenticated, "Authorization")
	}
}
