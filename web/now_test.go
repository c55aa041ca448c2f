package web_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

func TestNow(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	operator, auditor := s.as(enroll.RoleOperator), s.as(enroll.RoleAuditor)
	operator.get("/").want(http.StatusOK).has("Nothing needs you").count("main table", 0)

	_, err := s.service.CreateWorkOrder(s.ctx, admin(), enroll.NewWorkOrder{ID: "WO-1", Product: "sensor", Quantity: 1})
	s.must(err)
	s.enrollFor("sensor-1", "WO-1")
	p := operator.get("/").want(http.StatusOK).count("tbody tr", 1).has("WO-1")
	if to := p.Find("tbody a.button").AttrOr("href", ""); to != "/work-orders/WO-1" {
		t.Errorf("the button leads to %q", to)
	}
	auditor.get("/").count("tbody tr", 1).count("tbody a.button", 0).count("tbody button", 0)
}

// Figures are counted beside the requests.
func TestFigures(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("sensor-1")
	v := s.as(enroll.RoleOperator)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		p := v.get("/").want(http.StatusOK)
		if text := strings.Join(strings.Fields(p.Find(".figures").Text()), " "); strings.Contains(text, "active1") || strings.Contains(text, "active 1") {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(text)
		}
	}
}
