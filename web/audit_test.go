package web_test

import (
	"encoding/csv"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"

	"github.com/fleetca/fleetca/enroll"
)

type selection = goquery.Selection

func TestAudit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("sensor-1")
	s.enroll("sensor-2")
	v := s.as(enroll.RoleAuditor)
	v.get("/audit").want(http.StatusOK).has("device.enroll", "device:sensor-1", "user.sign-in")
	p := v.get("/audit?action=device.*&subject=device:sensor-1").count("tbody tr", 1)
	event := p.Find("tbody a").AttrOr("href", "")
	p = v.get(event).want(http.StatusOK).has("device.enroll", "device:sensor-1", "Leaf hash")
	if p.Find(`dd a[href="/devices/sensor-1"]`).Length() != 1 {
		t.Error("no way to the device")
	}
	v.get("/audit?actor=nobody").has("No event is like that")
	v.get("/audit?from=yesterday").want(http.StatusUnprocessableEntity).has("from:", "2026-11-28").count(`input[name=from][value=yesterday]`, 1)
	v.get("/audit?from=2999-01-01").count("tbody tr", 0)
	v.get("/audit/nothing").want(http.StatusNotFound)
	s.as(enroll.RoleSecurity).get("/audit").want(http.StatusForbidden)
}

// The whole of what is shown can be had as a file.
func TestAuditExport(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("sensor-1")
	v := s.as(enroll.RoleAuditor)
	p := v.get("/audit?action=device.enroll")
	for _, link := range []string{"CSV", "JSON"} {
		href := p.Find(".actions a").FilterFunction(func(_ int, a *selection) bool { return strings.Contains(a.Text(), link) }).AttrOr("href", "")
		file := v.get(href).want(http.StatusOK)
		if got := file.header.Get("Content-Disposition"); !strings.HasPrefix(got, "attachment;") {
			t.Errorf("%s: %q", link, got)
		}
		if link == "CSV" {
			rows, err := csv.NewReader(strings.NewReader(file.body)).ReadAll()
			if err != nil || len(rows) != 2 {
				t.Errorf("%d rows, %v", len(rows), err)
			}
			continue
		}
		var events []enroll.Event
		if err := json.Unmarshal([]byte(file.body), &events); err != nil || len(events) != 1 || events[0].Subject != "device:sensor-1" {
			t.Errorf("%+v, %v", events, err)
		}
	}
	v.get("/audit/export?format=xml").want(http.StatusUnprocessableEntity)
	s.as(enroll.RoleOperator).get("/audit/export?" + url.Values{"format": {"csv"}}.Encode()).want(http.StatusForbidden)
}
