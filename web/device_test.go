package web_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll"
)

func TestDevice(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.register("pump-1", "hall-2", map[string]string{"site": "Hall 2"})
	s.enroll("pump-1")
	v := s.as(enroll.RoleAuditor)
	p := v.get("/devices/pump-1").want(http.StatusOK).has("pump-1", "active", "hall-2", "siteHall 2", "device.enroll", "Public-Key: (256 bit)")
	kinds := p.Find(".chain .kind").Map(func(_ int, k *selection) string { return k.Text() })
	if got := strings.Join(kinds, " > "); got != "root > issuer > certificate" {
		t.Errorf("the chain is %s", got)
	}
	p.count(".chain .life svg", 3).count(".deed", 0)
	v.get("/devices/nobody").want(http.StatusNotFound)
	s.as(enroll.RoleFactory).get("/devices/pump-1").want(http.StatusOK).count("#timeline", 0)
	s.register("pump-2", "", nil)
	v.get("/devices/pump-2").want(http.StatusOK).has("It holds no certificate yet", "fleetca device enroll pump-2").count(".chain", 0)
}

// What can be done is shown to who may, while the device is so.
func TestDeviceActions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.register("registered", "", nil)
	for _, id := range []string{"active", "held", "revoked"} {
		s.enroll(id)
	}
	_, err := s.service.HoldDevice(s.ctx, admin(), "held")
	s.must(err)
	s.revoke("revoked")
	for role, want := range map[enroll.Role][4]string{
		//                    registered       active                                held                     revoked
		enroll.RoleAdmin:    {"retire revoke", "renewal-link hold retire revoke", "release retire revoke", ""},
		enroll.RoleSecurity: {"retire revoke", "hold retire revoke", "release retire revoke", ""},
		enroll.RoleOperator: {"retire", "renewal-link hold retire", "release retire", ""},
		enroll.RoleFactory:  {"", "", "", ""},
		enroll.RoleAuditor:  {"", "", "", ""},
	} {
		v := s.as(role)
		for i, id := range []string{"registered", "active", "held", "revoked"} {
			p := v.get("/devices/" + id).want(http.StatusOK)
			deeds := p.Find(".deed").Map(func(_ int, d *selection) string { return strings.TrimPrefix(d.AttrOr("id", ""), "deed-") })
			if got := strings.Join(deeds, " "); got != want[i] {
				t.Errorf("%s, %s: %q, want %q", role, id, got, want[i])
			}
			p.Find("a.button.danger").Each(func(_ int, a *selection) { v.get(a.AttrOr("href", "")).want(http.StatusOK) })
		}
		if strings.Contains(want[1], "hold") {
			continue
		}
		for _, path := range []string{"/devices/active/hold", "/devices/held/release", "/devices/active/revoke", "/devices/active/retire"} {
			v.post(path, "confirm", "active", "reason", "keyCompromise").want(http.StatusForbidden)
		}
		v.get("/devices/active/revoke").want(http.StatusForbidden)
	}
	if d, err := s.service.Device(s.ctx, "active"); err != nil || d.Status != enroll.DeviceActive {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestHoldAndRelease(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("pump-1")
	v := s.as(enroll.RoleOperator)
	before := v.get("/devices/pump-1")
	for _, round := range []string{"first", "second"} {
		p := v.get("/devices/pump-1").submit("#deed-hold form").want(http.StatusOK).has("held")
		if p.path != "/devices/pump-1?note=hold" {
			t.Errorf("%s hold leads to %s", round, p.path)
		}
		p.submit("#deed-release form").want(http.StatusOK).has("active").count("#deed-hold", 1)
	}
	// The form of the beginning was sent already: it takes no effect again.
	before.submit("#deed-hold form").want(http.StatusOK).has("active")
	// One that no longer fits is refused in place.
	v.post("/devices/pump-1/release", "key", "other").want(http.StatusUnprocessableEntity).count("[role=alert]", 1).has("pump-1")
	v.post("/devices/nobody/hold").want(http.StatusNotFound)
}

func TestRenewalLink(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("pump-1")
	v := s.as(enroll.RoleOperator)
	form := v.get("/devices/pump-1")
	p := form.submit("#deed-renewal-link form").want(http.StatusOK).has("shown this once").count("svg.qr", 1)
	token := p.Find("#token").Text()
	if again := form.submit("#deed-renewal-link form").want(http.StatusOK).Find("#token").Text(); again != token {
		t.Error("the same form makes another token")
	}
	if strings.Contains(v.get("/devices/pump-1").body, token) {
		t.Error("the token is shown again")
	}
	_, csr := s.request("pump-1")
	if _, err := s.service.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{DeviceID: "pump-1", CSR: csr, Token: token}); err != nil {
		t.Fatal(err)
	}
	v.get("/devices/pump-1").has("superseded", "device.renewal-link")
	s.revoke("pump-1")
	v.post("/devices/pump-1/renewal-link", "key", "other").want(http.StatusUnprocessableEntity).has("is revoked")
}

func TestTimelinePaging(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("pump-1")
	for range 20 {
		_, err := s.service.HoldDevice(s.ctx, admin(), "pump-1")
		s.must(err)
		_, err = s.service.ReleaseDevice(s.ctx, admin(), "pump-1")
		s.must(err)
	}
	v := s.as(enroll.RoleSecurity)
	p := v.get("/devices/pump-1")
	key := p.Find("#deed-hold input[name=key]").AttrOr("value", "")
	total := 0
	for range 5 {
		total += p.Find("section[data-part=device-timeline] tbody tr").Length()
		next := p.Find("section[data-part=device-timeline] a[rel=next]").AttrOr("href", "")
		if next == "" {
			break
		}
		p = v.get(next).want(http.StatusOK).count(`a:contains("Newest")`, 1)
		if got := p.Find("#deed-hold input[name=key]").AttrOr("value", ""); got != key {
			t.Error("the form is another one on an older page of the timeline")
		}
	}
	if total < 41 {
		t.Errorf("%d events, of 41", total)
	}
	p.has("device.enroll")
	v.get("/devices/pump-1?events=nonsense").want(http.StatusUnprocessableEntity)
}
