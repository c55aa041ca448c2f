package web_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll"
)

func TestBulkOfTicked(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("embedded")
	for n := range 3 {
		s.enroll(fmt.Sprintf("pump-%d", n))
	}
	s.register("new", "", nil)
	v := s.as(enroll.RoleSecurity)
	v.get("/bulk").want(http.StatusOK).has("Nothing was changed in bulk yet")
	list := v.get("/devices")
	list.submit("form.list", "scope", "selected", "action", "hold").want(http.StatusUnprocessableEntity).has("no device is selected")
	list.submit("form.list", "scope", "found", "action", "hold").want(http.StatusUnprocessableEntity).has("there is no query that narrows the fleet")
	list.submit("form.list", "scope", "selected", "action", "burn", "device", "pump-0").want(http.StatusUnprocessableEntity).
		has("is no action").count("input[name=device][value=pump-0][checked]", 1)
	plan := list.submit("form.list", "scope", "selected", "action", "revoke", "reason", "keyCompromise", "comment", "stolen", "device", "pump-0", "device", "pump-2", "device", "nobody").want(http.StatusOK)
	plan.has("Dry run: Revoke 3 devices", "2 of 3 change", "pump-0", "pump-2", "embedded", "Left as they are", "keyCompromise", "stolen")
	for _, id := range []string{"pump-0", "pump-2"} { // nothing was changed
		if d, err := s.service.Device(s.ctx, id); err != nil || d.Status != enroll.DeviceActive {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	p := plan.submit("main form").want(http.StatusOK)
	if !strings.HasPrefix(p.path, "/bulk/") {
		t.Fatalf("got to %s: %s", p.path, p.text())
	}
	at := p.path
	if again := plan.submit("main form"); again.path != at {
		t.Errorf("the same form leads to %s, at first to %s", again.path, at)
	}
	s.eventually("the end of the bulk change", func() (bool, error) { return strings.Contains(v.get(at).text(), "done"), nil })
	v.get(at).has("2 revoked", "keyCompromise", "stolen", "user:eve-security", "named one by one")
	v.get("/devices/pump-0").has("revoked", "stolen")
	v.get("/devices/pump-1").has("active")
	v.get("/bulk").want(http.StatusOK).count("tbody tr", 1).count(`a[href="`+strings.TrimSuffix(at, "?note=bulk")+`"]`, 1)
	v.get("/bulk/nothing").want(http.StatusNotFound)
}

func TestBulkOfQuery(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for n := range 60 { // more than a page shows
		s.register(fmt.Sprintf("pump-%02d", n), "hall-2", nil)
	}
	s.register("valve", "hall-3", nil)
	v := s.as(enroll.RoleAdmin)
	list := v.get("/devices?q=group:hall-2")
	plan := list.submit("form.list", "scope", "found", "action", "retire", "device", "pump-00").want(http.StatusOK).has("60 of 60 change", "Found by group:hall-2")
	plan.count("form[action='/bulk'] input[name=device]", 0)
	// Changed between the dry run and the deed: asked again, with the new plan.
	_, err := s.service.RetireDevice(s.ctx, admin(), "pump-00", enroll.RetireRequest{})
	s.must(err)
	plan = plan.submit("form[action='/bulk']").want(http.StatusConflict).count("[role=alert]", 1).has("59 of 60 change")
	p := plan.submit("form[action='/bulk']").want(http.StatusOK)
	s.eventually("the end of the bulk change", func() (bool, error) { return strings.Contains(v.get(p.path).text(), "done"), nil })
	v.get(p.path).has("59 retired").count(`a[href="/devices?q=group%3Ahall-2"]`, 1)
	v.get("/devices/valve").has("registered")
}

// What a visitor may not do is refused, even by a form that is made up.
func TestBulkByRole(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("pump-1")
	for role, refused := range map[enroll.Role][]string{
		enroll.RoleOperator: {"revoke"}, enroll.RoleFactory: {"hold", "release", "revoke", "retire"}, enroll.RoleAuditor: {"hold", "release", "revoke", "retire"},
	} {
		v := s.as(role)
		for _, action := range refused {
			for _, path := range []string{"/bulk/plan", "/bulk"} {
				v.post(path, "scope", "selected", "action", action, "reason", "keyCompromise", "device", "pump-1").want(http.StatusForbidden).has("may not")
			}
		}
	}
	if d, err := s.service.Device(s.ctx, "pump-1"); err != nil || d.Status != enroll.DeviceActive {
		t.Errorf("%+v, %v", d, err)
	}
}
