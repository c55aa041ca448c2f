package web_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll"
)

// ids returns the devices that the list shows.
func (p *shown) ids() string {
	return strings.Join(p.Find("tbody tr td a[href^='/devices/']").Map(func(_ int, a *selection) string { return a.Text() }), " ")
}

func TestDevicesEmpty(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.as(enroll.RoleAdmin)
	v.get("/devices").want(http.StatusOK).has("There is no device yet", "fleetca device enroll").count("table", 0).count("#bulk", 0)
	v.get("/devices?q=status:active").want(http.StatusOK).has("No device is found by status:active").count(`a[href="/devices"]:contains("Show all")`, 1)
}

// The URL is the state: the query is in it, and comes back in the field.
func TestDevicesQuery(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("pump-1")
	s.register("pump-2", "hall-2", map[string]string{"site": "Hall 2", "a": "1", "z": "9"})
	s.register("valve-1", "hall-2", nil)
	v := s.as(enroll.RoleAuditor)
	for query, want := range map[string]string{
		"":                     "pump-1 pump-2 valve-1",
		"status:active":        "pump-1",
		"group:hall-2":         "pump-2 valve-1",
		"group:hall-2 pump":    "pump-2",
		`attr.site:"Hall 2"`:   "pump-2",
		"*alve*":               "valve-1",
		"expires>30d":          "pump-1",
		"status:registered va": "valve-1",
	} {
		p := v.get("/devices?q=" + url.QueryEscape(query)).want(http.StatusOK)
		if got := p.ids(); got != want {
			t.Errorf("%q finds %q, want %q", query, got, want)
		}
		if got := p.Find("input[name=q]").AttrOr("value", ""); got != query {
			t.Errorf("%q comes back as %q", query, got)
		}
	}
	v.get("/devices").has("a=1, site=Hall 2 and 1 more", "hall-2").count(`nav.choices a[aria-current]:contains("All")`, 1)
	v.get("/devices?q=status:held").count(`nav.choices a[aria-current]:contains("Held")`, 1)
	p := v.get("/devices?q="+url.QueryEscape("status:broken")).want(http.StatusUnprocessableEntity).count("[role=alert]", 1)
	p.count(`input[name=q][value="status:broken"][aria-invalid=true]`, 1)
	p.Find(".terms dt a").Each(func(_ int, a *selection) { // every example is a query
		v.get(a.AttrOr("href", "")).want(http.StatusOK)
	})
	s.visitor().get("/devices").count("input[name=password]", 1)
}

func TestDevicesPaging(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for n := range 120 {
		s.register(fmt.Sprintf("pump-%03d", n), "hall-2", nil)
	}
	s.register("other", "", nil)
	v := s.as(enroll.RoleFactory)
	seen := map[string]int{}
	path, pages := "/devices?q=group:hall-2", 0
	for ; path != ""; pages++ {
		p := v.get(path).want(http.StatusOK)
		for _, id := range strings.Fields(p.ids()) {
			seen[id]++
		}
		if first := p.Find(`nav.pages a:contains("First page")`).Length(); first != min(pages, 1) {
			t.Errorf("page %d: %d links to the first", pages, first)
		}
		path = p.Find("a[rel=next]").AttrOr("href", "")
	}
	if pages != 3 || len(seen) != 120 || seen["other"] > 0 {
		t.Errorf("%d devices on %d pages", len(seen), pages)
	}
	v.get("/devices?cursor=nonsense").want(http.StatusUnprocessableEntity)
}

// A visitor sees the bulk actions that are not refused, and no boxes without one.
func TestDevicesBulkByRole(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.register("pump-1", "", nil)
	for role, want := range map[enroll.Role]string{
		enroll.RoleAdmin: "hold release revoke retire", enroll.RoleSecurity: "hold release revoke retire", enroll.RoleOperator: "hold release retire",
		enroll.RoleFactory: "", enroll.RoleAuditor: "",
	} {
		p := s.as(role).get("/devices").want(http.StatusOK)
		got := strings.Join(p.Find("select[name=action] option").Map(func(_ int, o *selection) string { return o.AttrOr("value", "") }), " ")
		if got != want {
			t.Errorf("%s is offered %q, want %q", role, got, want)
		}
		if boxes := p.Find("input[name=device]").Length(); (boxes > 0) != (want != "") {
			t.Errorf("%s: %d boxes", role, boxes)
		}
	}
}

func TestDevicesExport(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.register("pump-1", "hall-2", map[string]string{"note": "=1+1"})
	s.register("pump-2", "hall-3", nil)
	v := s.as(enroll.RoleAuditor)
	p := v.get("/devices?q=group:hall-2")
	for _, format := range []string{"CSV", "JSON"} {
		href := p.Find(fmt.Sprintf(".actions a:contains(%q)", format)).AttrOr("href", "")
		file := v.get(href).want(http.StatusOK)
		if got := file.header.Get("Content-Disposition"); got != `attachment; filename="devices.`+strings.ToLower(format)+`"` {
			t.Errorf("%s: %s", format, got)
		}
		if format == "CSV" {
			rows, err := csv.NewReader(strings.NewReader(file.body)).ReadAll()
			if err != nil || len(rows) != 2 || !strings.Contains(strings.Join(rows[1], " "), "pump-1") {
				t.Errorf("%v %v", rows, err)
			}
			continue
		}
		var devices []enroll.Device
		if err := json.Unmarshal([]byte(file.body), &devices); err != nil || len(devices) != 1 || devices[0].ID != "pump-1" {
			t.Errorf("%v: %s", err, file.body)
		}
	}
	v.get("/export/devices?format=xml").want(http.StatusUnprocessableEntity)
	v.get("/export/devices?format=csv&q=status:broken").want(http.StatusUnprocessableEntity)
}
