package web_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func TestRevoke(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("embedded")
	s.enroll("pump-1")
	v := s.as(enroll.RoleSecurity)
	form := v.get("/devices/pump-1/revoke").want(http.StatusOK).has("1 certificate is revoked", "embedded", "0 sessions open now", "the next after number")
	form.count("input[name=reason]", len(ca.Reasons())).count("input[name=reason][checked]", 1)
	form.Find("label.reason").Each(func(_ int, l *selection) {
		if l.Find(".hint").Text() == "" {
			t.Errorf("no meaning: %s", l.Text())
		}
	})
	p := form.submit("main form", "reason", "privilegeWithdrawn", "comment", "gone wild", "confirm", "pump-2").want(http.StatusUnprocessableEntity)
	p.has("confirm: is not the id of this device", "type pump-1 to confirm").count("input[name=confirm][value=pump-2]", 1).count("input[value=privilegeWithdrawn][checked]", 1)
	if p.Find("textarea").Text() != "gone wild" {
		t.Error("the comment is lost")
	}
	p.submit("main form", "reason", "whim", "confirm", "pump-1").want(http.StatusUnprocessableEntity).has("is not a revocation reason")
	if d, err := s.service.Device(s.ctx, "pump-1"); err != nil || d.Status != enroll.DeviceActive {
		t.Fatalf("%+v, %v", d, err)
	}
	p = form.submit("main form", "reason", "keyCompromise", "comment", "found in a bin", "confirm", "pump-1").want(http.StatusOK)
	at := p.path
	if !strings.HasPrefix(at, "/revocations/") {
		t.Fatalf("got to %s", at)
	}
	if again := form.submit("main form", "reason", "keyCompromise", "comment", "found in a bin", "confirm", "pump-1"); again.path != at {
		t.Errorf("the same form leads to %s, at first to %s", again.path, at)
	}
	form.submit("main form", "reason", "superseded", "confirm", "pump-1").want(http.StatusConflict)
	r := s.proof(strings.TrimPrefix(at, "/revocations/"))
	if r.State != enroll.RevocationProven {
		t.Fatalf("%+v", r)
	}
	p = v.get(at).want(http.StatusOK).has("Revocation of pump-1", "proven", "found in a bin", "Every broker was seen to refuse", r.Evidence.SHA256, "TLS alert", string(r.SerialNumbers[0]))
	p.count("[data-step]", len(r.Steps)).count("[data-step][data-state=done]", len(r.Steps))
	v.get("/devices/pump-1").has("revoked", "keyCompromise")
	v.get("/devices/pump-1/revoke").want(http.StatusOK).count("[role=alert]", 1)
}

// Anybody can check the evidence that is downloaded against its hash.
func TestRevocationJSON(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("embedded")
	s.enroll("pump-1")
	r := s.revoke("pump-1")
	v := s.as(enroll.RoleAuditor)
	href := v.get("/revocations/"+r.ID).Find(`a:contains("JSON")`).AttrOr("href", "")
	file := v.get(href).want(http.StatusOK)
	var got struct {
		Device   string
		Evidence json.RawMessage
	}
	s.must(json.Unmarshal([]byte(file.body), &got))
	var evidence enroll.Evidence
	s.must(json.Unmarshal(got.Evidence, &evidence))
	hash := evidence.SHA256
	evidence.SHA256 = ""
	text, err := json.Marshal(evidence)
	s.must(err)
	sum := sha256.Sum256(text)
	if got.Device != "pump-1" || hex.EncodeToString(sum[:]) != hash {
		t.Errorf("%s: hash %x, want %s", got.Device, sum, hash)
	}
	v.get("/revocations/nothing/revocation.json").want(http.StatusNotFound)
}

func TestRevocations(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.as(enroll.RoleFactory)
	v.get("/revocations").want(http.StatusOK).has("No device was revoked yet", "fleetca device revoke")
	for _, id := range []string{"pump-1", "pump-2"} {
		s.enroll(id)
		s.revoke(id)
	}
	p := v.get("/revocations").want(http.StatusOK).count("tbody tr", 2).has("recorded", "keyCompromise", "found in a bin")
	v.get(p.Find("tbody a").First().AttrOr("href", "")).want(http.StatusOK).has("pump-2", "There was nothing to prove", "Register the brokers")
	v.get("/revocations?device=pump-1").count("tbody tr", 1).count(`a[href="/devices/pump-2"]`, 0)
	v.get("/revocations?device=pump-9").has("pump-9 was never revoked")
	v.get("/revocations/nothing").want(http.StatusNotFound)
}

func TestRetire(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("pump-1")
	s.register("pump-2", "", nil)
	v := s.as(enroll.RoleSecurity)
	form := v.get("/devices/pump-1/retire").want(http.StatusOK).count("input[name=reason]", 0)
	form.submit("main form", "confirm", "pump").want(http.StatusUnprocessableEntity).has("is not the id of this device")
	p := form.submit("main form", "confirm", "pump-1", "comment", "scrapped").want(http.StatusOK)
	if again := form.submit("main form", "confirm", "pump-1", "comment", "scrapped"); again.path != p.path || !strings.HasPrefix(p.path, "/revocations/") {
		t.Errorf("got to %s, and then to %s", p.path, again.path)
	}
	v.get("/devices/pump-1").has("retired", "cessationOfOperation", "scrapped").count(".deed", 0)
	v.get("/devices/pump-2/retire").want(http.StatusOK).submit("main form", "confirm", "pump-2").want(http.StatusOK)
	v.get("/devices/pump-2").has("retired")
}
