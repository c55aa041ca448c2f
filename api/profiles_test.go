package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// TestProfiles plans and applies a profile through the client, enrolls by it,
// and reads its versions back.
func TestProfiles(t *testing.T) {
	ctx, name := t.Context(), strings.ToLower(unique("pump-"))
	security, factory := shared.client(t, shared.people, enroll.RoleSecurity, nil), shared.client(t, shared.people, enroll.RoleFactory, nil)
	form := ca.ProfileForm{Name: name, Validity: "60d", DNSNames: []string{"{{ .ID | lower }}.fleet.example"}}
	plan, err := security.PlanProfile(ctx, name, enroll.NewProfileVersion{Profile: form})
	if err != nil || plan.BaseVersion != 0 || plan.Version != 1 || plan.Applied || !plan.Widens || len(plan.Findings) != 1 || !strings.Contains(plan.After, "DNS:sample-1.fleet.example") {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	_, err = security.Profile(ctx, name)
	isKind(t, err, ca.KindNotFound, "profile")
	apply := enroll.NewProfileVersion{Profile: form, BaseVersion: &plan.BaseVersion}
	_, err = factory.ApplyProfile(ctx, name, apply)
	isKind(t, err, enroll.KindForbidden, "")
	for range 2 { // the second is a replay
		if plan, err = security.ApplyProfile(ctx, name, apply, client.IdempotencyKey("apply "+name)); err != nil || !plan.Applied || plan.Version != 1 {
			t.Fatalf("applied %+v, %v", plan, err)
		}
	}
	_, err = security.ApplyProfile(ctx, name, apply)
	isKind(t, err, enroll.KindConflict, "baseVersion")
	form.IssuerID, form.Version = "broker", 1
	_, err = security.ApplyProfile(ctx, name, enroll.NewProfileVersion{Profile: form})
	isKind(t, err, enroll.KindRefusedProfile, "profile.issuer")

	linted, err := factory.Profile(ctx, name)
	if err != nil || linted.Version != 1 || linted.Validity != "1440h0m0s" || len(linted.Findings) != 1 {
		t.Errorf("in force %+v, %v", linted, err)
	}
	versions := collect(t, factory.ProfileVersions(ctx, name))
	if len(versions) != 1 || !versions[0].Current || versions[0].Profile.Name != name || len(versions[0].Changes) == 0 {
		t.Errorf("versions %+v", versions)
	}
	order, err := factory.CreateWorkOrder(ctx, enroll.NewWorkOrder{Product: "pump", Quantity: 1, Profile: name})
	if err != nil || len(order.Warnings) != 1 {
		t.Fatalf("work order %+v, %v", order, err)
	}
	id := unique("Profiled-")
	_, csr := newRequest(t, id)
	e, err := factory.Enroll(ctx, enroll.EnrollRequest{DeviceID: id, WorkOrder: order.ID, CSR: csr})
	if err != nil || e.Certificate.Profile != name || e.Certificate.ProfileVersion != 1 || len(e.Certificate.Names) != 1 || len(e.Warnings) != 1 {
		t.Errorf("enrolled %+v, %v", e, err)
	}
	// What is not a field is told by its place.
	resp, text := shared.raw(t, http.MethodPost, shared.people.URL+"/api/v1/profiles/"+name+"/plan", `{"profile": {"name": "`+name+`", "validity": "60d", "isCA": true}}`,
		"Authorization", "Bearer "+shared.tokens[enroll.RoleSecurity])
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(text, `"field":"profile.isCA"`) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}
