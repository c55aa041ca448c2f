package web_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func (s *site) order(n enroll.NewWorkOrder) {
	s.Helper()
	_, err := s.service.CreateWorkOrder(s.ctx, admin(), n)
	s.must(err)
}

func TestNoOrders(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, role := range enroll.Roles() {
		v := s.as(role)
		if !role.May(enroll.MaySeeOrders) {
			v.get("/work-orders").want(http.StatusForbidden)
			v.get("/work-orders/wo").want(http.StatusForbidden)
			v.get("/authority").count(`header a[href="/work-orders"]`, 0)
			continue
		}
		forms := 0
		if role.May(enroll.MayRegister) {
			forms = 1
		}
		v.get("/work-orders").want(http.StatusOK).has("There is no work order.", "fleetca order create --id wo-1042").count("main form", forms)
		v.get("/work-orders/none").want(http.StatusNotFound)
	}
}

func TestOpenOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.as(enroll.RoleFactory)
	form := v.get("/work-orders")
	if profiles := form.Find("select[name=profile] option").Map(func(_ int, o *goquery.Selection) string { return o.Text() }); strings.Join(profiles, " ") != "device" {
		t.Errorf("profiles %v", profiles)
	}
	wrong := form.submit("main form", "id", "wo 1", "product", markup, "quantity", "many", "profile", "device").want(http.StatusUnprocessableEntity)
	wrong.has(`quantity: "many" is no number`).count("main img, main script", 0).count(`main details[open] input[name=quantity][value=many]`, 1)
	form.submit("main form", "id", "wo 1", "product", "pump", "quantity", "5", "profile", "device").want(http.StatusUnprocessableEntity).has("id: ", "is not an identifier")
	form.submit("main form", "id", "wo-2", "product", "pump", "quantity", "5", "profile", "broker").want(http.StatusUnprocessableEntity).has("profile: profile broker is for a broker")
	key := v.get("/work-orders")
	for range 2 { // a form that is sent twice opens one order
		p := key.submit("main form", "product", markup, "quantity", "5", "profile", "device").want(http.StatusOK).noted("The work order is open.").wantHarmless()
		p.has("0 of 5", "No enrollment was refused.", "No token was made for this order.", "Nothing was issued in the last hour.")
	}
	v.get("/work-orders").want(http.StatusOK).wantHarmless().count("table[data-rows] tbody tr", 1)
	s.as(enroll.RoleAuditor).post("/work-orders", "product", "p", "quantity", "5").want(http.StatusForbidden)
}

// What comes off the line is counted, shown, and what was refused with it.
func TestOrderProgress(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order(enroll.NewWorkOrder{ID: "wo-1", Product: "pump", Quantity: 2})
	for _, id := range []string{"p1", "p2"} {
		s.enrollFor(id, "wo-1")
	}
	_, csr := s.request("p3")
	_, err := s.service.EnrollDevice(s.ctx, admin(), enroll.EnrollRequest{DeviceID: "p3", CSR: csr, WorkOrder: "wo-1"})
	if !errors.Is(err, ca.IsKind(enroll.KindQuotaReached)) {
		t.Fatal(err)
	}
	v := s.as(enroll.RoleAuditor)
	s.must(s.service.SaveRefusals(s.ctx))
	p := v.get("/work-orders/wo-1").want(http.StatusOK).has(string(enroll.KindQuotaReached))
	p.has("2 of 2", "(100 %)", "Full since", "2 in the last hour", "p3", "all 2 devices of work order").count("main form", 0)
	p.count("[data-part=units] tbody tr", 2).count(`a[href="/devices/p2"]`, 1).count("svg.chart .cover", 60).count(`a[href="/devices?q=order:wo-1"]`, 1)
	p.count("[data-part=failures] table", 2).count("[data-part=tokens]", 0)
	if parts := p.Find("svg.chart .part").Length(); parts != 1 && parts != 2 { // a minute may begin between them
		t.Errorf("%d columns", parts)
	}
	v.get("/work-orders").has("2 of 2", "full since")
}

func TestChangeOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order(enroll.NewWorkOrder{ID: "wo-1", Product: "pump", Quantity: 2})
	s.enrollFor("p1", "wo-1")
	s.enrollFor("p2", "wo-1")
	v := s.as(enroll.RoleOperator)
	quota, state := `form[action="/work-orders/wo-1/quantity"]`, `form[action="/work-orders/wo-1/state"]`
	v.get("/work-orders/wo-1").submit(quota, "quantity", "1").want(http.StatusConflict).count(`input[name=quantity][value="1"]`, 1).count("[role=alert]", 1)
	v.get("/work-orders/wo-1").submit(quota, "quantity", "-").want(http.StatusUnprocessableEntity).has("is no number")
	v.get("/work-orders/wo-1").submit(quota, "quantity", "3").want(http.StatusOK).noted("The quota is changed.").has("2 of 3")
	v.get("/work-orders/wo-1").submit(state).noted("The work order is closed").has("Open it again").count("h1 + .state.off", 1)
	_, csr := s.request("p3")
	if _, err := s.service.EnrollDevice(s.ctx, admin(), enroll.EnrollRequest{DeviceID: "p3", CSR: csr, WorkOrder: "wo-1"}); err == nil {
		t.Error("a closed order took an enrollment")
	}
	v.get("/work-orders/wo-1").submit(state).noted("The work order is open again.").count("h1 + .state.ok", 1)
	s.enrollFor("p3", "wo-1")
	for _, role := range []enroll.Role{enroll.RoleAuditor, enroll.RoleSecurity} {
		s.as(role).post("/work-orders/wo-1/quantity", "quantity", "100").want(http.StatusForbidden)
		s.as(role).post("/work-orders/wo-1/state", "state", "closed").want(http.StatusForbidden)
	}
}

// A token is shown once, to copy and to scan; afterwards it is listed without
// its secret, and can be ended.
func TestOrderTokens_I23(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order(enroll.NewWorkOrder{ID: "wo-1", Product: "pump", Quantity: 9})
	v := s.as(enroll.RoleFactory)
	make := `form[action="/work-orders/wo-1/tokens"]`
	wrong := v.get("/work-orders/wo-1").submit(make, "device", "p1", "uses", "2", "expires", "soon").want(http.StatusUnprocessableEntity)
	wrong.has("uses: a token for one device has one use").count(`input[name=expires][value=soon]`, 1).count(`input[name=device][value=p1]`, 1)
	v.get("/work-orders/wo-1").submit(make, "uses", "0").want(http.StatusUnprocessableEntity).has("uses: must be 1 or more")
	v.get("/work-orders/wo-1").submit(make, "uses", "1", "expires", "soon").want(http.StatusUnprocessableEntity).has("is not a duration")

	form := v.get("/work-orders/wo-1")
	made := form.submit(make, "uses", "3", "expires", "8h").want(http.StatusOK).has("It is shown this once.", "any device, 3 uses", "fleetca device enroll DEVICE").count("svg.qr", 1)
	secret := made.Find("pre.secret").Text()
	if again := form.submit(make, "uses", "3", "expires", "8h"); again.Find("pre.secret").Text() != secret || !strings.HasPrefix(secret, "fce_") || made.path != "/work-orders/wo-1/tokens" {
		t.Fatalf("sent twice, the tokens are %q and %q, at %s", secret, again.Find("pre.secret").Text(), made.path)
	}
	_, csr := s.request("p1")
	_, err := s.service.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: secret, DeviceID: "p1", CSR: csr})
	s.must(err)
	v.get("/work-orders/wo-1").submit(make, "device", "p2", "uses", "1").has("device p2, 1 use", "fleetca device enroll p2")
	p := v.get("/work-orders/wo-1").count("[data-part=tokens] tbody tr", 2).has("1 of 3", "any device", "p2")
	if strings.Contains(p.body, secret) {
		t.Error("the secret is listed")
	}
	end := p.Find("[data-part=tokens] tbody tr:last-child form").AttrOr("action", "")
	for range 2 { // the second time it has ended
		v.post(end).want(http.StatusOK).noted("The token has ended").has("expired")
	}
	v.get("/work-orders/wo-1").count("[data-part=tokens] form", 1).count("[data-part=tokens] .state.bad", 1)
	_, csr = s.request("p3")
	if _, err = s.service.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: secret, DeviceID: "p3", CSR: csr}); err == nil {
		t.Error("a token that was ended enrolled a device")
	}
	v.post("/work-orders/wo-1/tokens/none/end").want(http.StatusNotFound)
	for _, role := range []enroll.Role{enroll.RoleAuditor, enroll.RoleSecurity} {
		s.as(role).post("/work-orders/wo-1/tokens", "uses", "1").want(http.StatusForbidden)
		s.as(role).post(end).want(http.StatusForbidden)
	}
	s.as(enroll.RoleAuditor).get("/work-orders/wo-1").count("[data-part=tokens]", 0).count("main form", 0)
	events, _, err := s.service.Events(s.ctx, enroll.EventFilter{}, enroll.Page{Limit: 500})
	s.must(err)
	text, err := json.Marshal(events)
	s.must(err)
	if strings.Contains(string(text), secret) {
		t.Error("the secret is in the audit trail")
	}
}
