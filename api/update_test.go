package api_test

import (
	"slices"
	"testing"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// TestUpdates changes a work order and a broker, lists tokens, and ends one,
// through the client.
func TestUpdates(t *testing.T) {
	ctx, id := t.Context(), unique("update-")
	c := shared.client(t, shared.people, enroll.RoleOperator, nil)
	if _, err := c.CreateWorkOrder(ctx, enroll.NewWorkOrder{ID: id, Product: "pump", Quantity: 2}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // repeated under one key, it is answered alike
		o, err := c.UpdateWorkOrder(ctx, id, enroll.WorkOrderUpdate{Quantity: new(int64(5))}, client.IdempotencyKey("raise "+id))
		if err != nil || o.Quantity != 5 || o.State != enroll.OrderOpen {
			t.Fatalf("%+v, %v", o, err)
		}
	}
	_, err := c.UpdateWorkOrder(ctx, id, enroll.WorkOrderUpdate{})
	isKind(t, err, ca.KindMalformed, "quantity")
	_, err = c.UpdateWorkOrder(ctx, "none", enroll.WorkOrderUpdate{Quantity: new(int64(5))})
	isKind(t, err, ca.KindNotFound, "workOrder")

	made, err := c.CreateEnrollmentToken(ctx, id, enroll.NewToken{Uses: 2})
	if err != nil {
		t.Fatal(err)
	}
	if listed := collect(t, c.EnrollmentTokens(ctx, id)); len(listed) != 1 || listed[0].ID != made.ID || listed[0].Token != "" {
		t.Fatalf("%+v", listed)
	}
	ended, err := c.EndEnrollmentToken(ctx, id, made.ID)
	if err != nil || !ended.ExpiresAt.Before(made.ExpiresAt) {
		t.Fatalf("%+v, %v", ended, err)
	}
	_, err = c.EndEnrollmentToken(ctx, id, made.ID)
	isKind(t, err, enroll.KindConflict, "token")

	if _, err := c.CreateBroker(ctx, enroll.NewBroker{ID: id, URL: "mqtts://b.test"}); err != nil {
		t.Fatal(err)
	}
	b, err := c.UpdateBroker(ctx, id, enroll.BrokerUpdate{Names: []string{"b.test", "c.test"}})
	if err != nil || !slices.Equal(b.Names, []string{"b.test", "c.test"}) || b.URL != "mqtts://b.test:8883" {
		t.Fatalf("%+v, %v", b, err)
	}
	_, err = c.UpdateBroker(ctx, id, enroll.BrokerUpdate{URL: new("mqtts://d.test")})
	isKind(t, err, ca.KindNameNotAllowed, "names")
	if _, err := c.VerifyBroker(ctx, id, false); err != nil {
		t.Fatal(err)
	}
	for v, err := range c.Verifications(ctx, id) {
		if err != nil {
			t.Fatal(err)
		}
		one, err := c.Verification(ctx, id, v.ID)
		if err != nil || one.ID != v.ID || one.Report.Verdict != v.Report.Verdict {
			t.Errorf("%+v, %v", one, err)
		}
	}
	_, err = c.Verification(ctx, id, "none")
	isKind(t, err, ca.KindNotFound, "id")
}
