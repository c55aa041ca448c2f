package web_test

import (
	"net/http"
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// The page of a profile shows what is in force, its versions with what changed,
// what may surprise, and how it is changed to those who may.
func TestProfilePage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	version := int64(1)
	_, err := s.service.ApplyProfile(s.ctx, admin(), "device", enroll.NewProfileVersion{BaseVersion: &version, Profile: ca.ProfileForm{
		Validity: "60d", RenewBefore: "20d", Keys: []ca.KeyAlgorithm{ca.KeyP256}, Subject: ca.SubjectTemplate{Organization: "<b>Pumps & Co</b>"}}})
	s.must(err)
	auditor := s.as(enroll.RoleAuditor)
	auditor.get("/authority").count("a[href='/authority/profiles/device']", 1)
	p := auditor.get("/authority/profiles/device").want(http.StatusOK)
	p.has("version 2", "60 days", "20 days before the end", "P-256", "a certificate may be dead before the first power-up", "all that enrolled at once renew at once", "Client Authentication", "Organization", "<b>Pumps & Co</b>")
	p.count("#findings > li", 2).count("tbody tr", 2).count("#change", 0).count("dd b", 0)
	if changes := p.Find("tbody tr").First().Find("li").Length(); changes != 4 {
		t.Errorf("%d changes", changes)
	}
	s.as(enroll.RoleSecurity).get("/authority/profiles/device").count("#change", 1).has("fleetca profile show device --yaml", "profile plan device.yaml", "/api/v1/profiles/device/versions")
	auditor.get("/authority/profiles/none").want(http.StatusNotFound)
	s.as(enroll.RoleSecurity).get("/authority/profiles/canary").want(http.StatusOK).count("#change", 0).has("the program's own")
	_, err = s.service.CreateWorkOrder(s.ctx, admin(), enroll.NewWorkOrder{ID: "WO-9", Product: "pump", Quantity: 1})
	s.must(err)
	auditor.get("/work-orders/WO-9").has("before its first power-up").count("a[href='/authority/profiles/device']", 1)
	s.enrollFor("d-1", "")
	d, err := s.service.Device(s.ctx, "d-1")
	s.must(err)
	auditor.get("/certificates/" + string(d.Certificates[0].SerialNumber)).has("version 2")
}
