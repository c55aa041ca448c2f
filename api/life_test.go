package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// TestLife goes the way of a device whose key is lost, and that is retired:
// found, enrolled again by a renewal link, planned, retired, told of.
func TestLife(t *testing.T) {
	t.Parallel()
	f, ctx := shared, t.Context()
	id := unique("life-")
	operator, security := f.client(t, f.people, enroll.RoleOperator, nil), f.client(t, f.people, enroll.RoleSecurity, nil)
	device := f.client(t, f.machines, "", nil)
	_, csr := newRequest(t, id)
	token := orderAndToken(t, f, id)
	if _, err := device.Enroll(ctx, enroll.EnrollRequest{Token: token, DeviceID: id, CSR: csr, Attributes: map[string]string{"site": "Hall 2"}}); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{id, "order:" + id, "*" + id[2:] + "*", `attr.site:"Hall 2" ` + id, "expires>7d order:" + id} {
		filter, err := enroll.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if found := collect(t, operator.Devices(ctx, filter)); len(found) != 1 || found[0].ID != id || found[0].ExpiresAt == nil {
			t.Errorf("%s finds %+v", query, found)
		}
	}
	link, err := operator.CreateRenewalLink(ctx, id, enroll.NewRenewalLink{ExpiresIn: "1h"}, client.IdempotencyKey("link "+id))
	if err != nil {
		t.Fatal(err)
	}
	again, err := operator.CreateRenewalLink(ctx, id, enroll.NewRenewalLink{ExpiresIn: "1h"}, client.IdempotencyKey("link "+id))
	if err != nil || again.Token.Token != link.Token.Token {
		t.Errorf("the same link again: %+v, %v", again, err)
	}
	_, csr = newRequest(t, id)
	if _, err := device.Enroll(ctx, enroll.EnrollRequest{Token: link.Token.Token, DeviceID: id, CSR: csr}); err != nil {
		t.Fatal(err)
	}
	plan, err := security.RevocationPlan(ctx, id)
	if err != nil || len(plan.Certificates) != 1 || plan.Refused != "" || len(plan.CRLs) != 1 {
		t.Errorf("%+v, %v", plan, err)
	}
	retired, err := operator.RetireDevice(ctx, id, enroll.RetireRequest{Comment: "scrapped"}, client.IdempotencyKey("retire "+id))
	if err != nil || retired.Reason != ca.ReasonCessationOfOperation {
		t.Fatalf("%+v, %v", retired, err)
	}
	if repeated, err := operator.RetireDevice(ctx, id, enroll.RetireRequest{Comment: "scrapped"}, client.IdempotencyKey("retire "+id)); err != nil || repeated.ID != retired.ID {
		t.Errorf("retired again: %+v, %v", repeated, err)
	}
	_, err = operator.RetireDevice(ctx, id, enroll.RetireRequest{})
	isKind(t, err, ca.KindRevoked, "deviceId")
	_, err = operator.CreateRenewalLink(ctx, id, enroll.NewRenewalLink{})
	isKind(t, err, enroll.KindDeviceRevoked, "deviceId")
	var actions []string
	for _, e := range collect(t, security.DeviceEvents(ctx, id)) {
		if e.Subject == "device:"+id {
			actions = append(actions, e.Action)
		}
	}
	if !slices.Equal(actions, []string{"device.retire", "device.rekey", "device.renewal-link", "device.enroll"}) {
		t.Errorf("events %v", actions)
	}
	auditor := f.client(t, f.people, enroll.RoleAuditor, nil)
	since := enroll.EventFilter{Subject: "device:" + id, ActionPrefix: "device.re", From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour)}
	if events := collect(t, auditor.Events(ctx, since)); len(events) != 3 {
		t.Errorf("%d events", len(events))
	}
}

// Queries that cannot be read say what is wrong.
func TestQueryRefusals(t *testing.T) {
	t.Parallel()
	for path, field := range map[string]string{
		"/devices?q=colour:red": "q", "/devices?q=status:held&status=active": "status",
		"/events?from=yesterday": "from", "/events?actionPrefix=A%20B": "actionPrefix",
	} {
		resp, body := shared.raw(t, "GET", shared.people.URL+"/api/v1"+path, "", "Authorization", "Bearer "+shared.tokens[enroll.RoleAuditor])
		if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, `"field":"`+field+`"`) || !strings.Contains(body, `"hint":`) {
			t.Errorf("%s: %d, %s", path, resp.StatusCode, body)
		}
	}
}

// TestWorkOrderLife raises a quota that was reached, and sees how the order
// comes along.
func TestWorkOrderLife(t *testing.T) {
	t.Parallel()
	f, ctx := shared, t.Context()
	id := unique("order-")
	factory := f.client(t, f.people, enroll.RoleFactory, nil)
	if _, err := factory.CreateWorkOrder(ctx, enroll.NewWorkOrder{ID: id, Product: "pump", Quantity: 1}); err != nil {
		t.Fatal(err)
	}
	enrollUnit := func(unit string) error {
		_, csr := newRequest(t, unit)
		_, err := factory.Enroll(ctx, enroll.EnrollRequest{DeviceID: unit, CSR: csr, WorkOrder: id})
		return err
	}
	if err := enrollUnit(id + "-1"); err != nil {
		t.Fatal(err)
	}
	isKind(t, enrollUnit(id+"-2"), enroll.KindQuotaReached, "workOrder")
	if o, err := factory.UpdateWorkOrder(ctx, id, enroll.WorkOrderUpdate{Quantity: new(int64(2))}); err != nil || o.Quantity != 2 || o.FullAt != nil {
		t.Errorf("%+v, %v", o, err)
	}
	if err := enrollUnit(id + "-2"); err != nil {
		t.Error(err)
	}
	_, err := factory.UpdateWorkOrder(ctx, id, enroll.WorkOrderUpdate{Quantity: new(int64(1))})
	isKind(t, err, enroll.KindConflict, "quantity")
	p, err := factory.WorkOrderProgress(ctx, id)
	if err != nil || p.Order.Issued != 2 || len(p.PerMinute) != 60 || len(p.LastUnits) != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	attention, err := factory.Attention(ctx)
	if err != nil || !slices.ContainsFunc(attention.Items, func(a enroll.Attention) bool { return a.Subject == "work-order:"+id }) {
		t.Errorf("%+v, %v", attention, err)
	}
	if figures, err := factory.Figures(ctx); err != nil || len(figures.Devices) != 5 {
		t.Errorf("%+v, %v", figures, err)
	}
	if forecast, err := factory.Forecast(ctx); err != nil || len(forecast.Weeks) != enroll.ForecastWeeks {
		t.Errorf("%+v, %v", forecast, err)
	}
}

// TestBulkChange plans a change of many devices, and starts it.
func TestBulkChange(t *testing.T) {
	t.Parallel()
	f, ctx := shared, t.Context()
	group := unique("bulk-")
	operator := f.client(t, f.people, enroll.RoleOperator, nil)
	for _, id := range []string{"-1", "-2", "-3"} {
		if _, err := operator.CreateDevice(ctx, enroll.NewDevice{ID: group + id, Group: group}); err != nil {
			t.Fatal(err)
		}
	}
	b := enroll.Bulk{Action: enroll.BulkRetire, Query: "group:" + group, Comment: "scrapped"}
	plan, err := operator.PlanBulk(ctx, b)
	if err != nil || plan.Changes != 3 || plan.First[0] != group+"-1" {
		t.Fatalf("%+v, %v", plan, err)
	}
	_, err = operator.RunBulk(ctx, b)
	isKind(t, err, ca.KindMalformed, "fingerprint")
	b.Fingerprint = plan.Fingerprint
	started, err := operator.RunBulk(ctx, b, client.IdempotencyKey("bulk "+group))
	if err != nil || started.Total != 3 || started.State != enroll.BulkRunning {
		t.Fatalf("%+v, %v", started, err)
	}
	if again, err := operator.RunBulk(ctx, b, client.IdempotencyKey("bulk "+group)); err != nil || again.ID != started.ID {
		t.Errorf("started again: %+v, %v", again, err)
	}
	if got, err := operator.Bulk(ctx, started.ID); err != nil || got.Actor != started.Actor {
		t.Errorf("%+v, %v", got, err)
	}
	if all := collect(t, operator.Bulks(ctx)); len(all) == 0 {
		t.Error("no bulk change is listed")
	}
	b.Action, b.Reason, b.Comment = enroll.BulkRevoke, "keyCompromise", ""
	if plan, err = operator.PlanBulk(ctx, b); err != nil {
		t.Fatal(err)
	}
	b.Fingerprint = plan.Fingerprint
	_, err = operator.RunBulk(ctx, b)
	isKind(t, err, enroll.KindForbidden, "action")
}
