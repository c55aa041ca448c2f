package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/PuerkitoBio/goquery"
	"github.com/google/uuid"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// markup is what a certificate, a broker or a person may put anywhere.
const markup = `<img src=x onerror=alert(1)>"'<script>alert(2)</script>`

// wantHarmless ends the test when a page made an element of markup text, or
// does not show it.
func (p *shown) wantHarmless() *shown {
	p.v.Helper()
	p.count("main img, main script", 0)
	return p.has(markup)
}

// noted ends the test unless the page says so of the form that led to it.
func (p *shown) noted(words string) *shown {
	p.v.Helper()
	if got := p.Find(".note").Text(); !strings.Contains(got, words) {
		p.v.Fatalf("%s notes %q, not %q", p.path, got, words)
	}
	return p
}

// lacks ends the test when the page has the words.
func (p *shown) lacks(words string) *shown {
	p.v.Helper()
	if strings.Contains(p.text(), words) {
		p.v.Fatalf("%s says %q:\n%s", p.path, words, p.text())
	}
	return p
}

// saveReport keeps a report of a broker, as a verification would.
func (s *site) saveReport(broker string, r *mqtts.Report) enroll.Verification {
	s.Helper()
	v := enroll.Verification{ID: uuid.Must(uuid.NewV7()).String(), Broker: broker, At: time.Now().UTC().Truncate(time.Microsecond), Report: r}
	s.must(s.store.SaveVerification(s.ctx, v, enroll.Change{Event: enroll.Event{
		ID: uuid.Must(uuid.NewV7()).String(), At: time.Now(), Actor: "test", Action: "broker.verify", Subject: "broker:" + broker, Detail: json.RawMessage(`{}`)}}))
	return v
}

// createBroker registers a broker that nothing here drives.
func (s *site) createBroker(n enroll.NewBroker) {
	s.Helper()
	_, err := s.service.CreateBroker(s.ctx, admin(), n)
	s.must(err)
}

func TestNoBrokers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, role := range enroll.Roles() {
		p := s.as(role).get("/brokers").want(http.StatusOK).has("No broker is registered here.", "fleetca broker register mqtts://mqtt.example:8883")
		forms := 0
		if role.May(enroll.MayRunBrokers) {
			forms = 1
		}
		p.count("main form", forms)
		want := http.StatusForbidden
		if role.May(enroll.MaySeeRotations) {
			want = http.StatusOK
		}
		if p := s.as(role).get("/rotations").want(want); want == http.StatusOK {
			p.has("No certificate was rotated", "fleetca broker rotate BROKER --wait")
		}
		s.as(role).get("/brokers/none").want(http.StatusNotFound)
	}
}

func TestRegisterBroker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.as(enroll.RoleOperator)
	form := v.get("/brokers")
	wrong := form.submit("main form", "url", "http://b.test", "id", "hall", "names", markup, "kind", "nats").want(http.StatusUnprocessableEntity)
	wrong.has("url: the scheme \"http\" is not mqtts", "write mqtts://HOST:8883").lacks("url: url:").count("main img, main script", 0)
	wrong.count(`main input[name=url][value="http://b.test"]`, 1).count("main details[open] form", 1)
	if typed := wrong.Find("main textarea[name=names]").Text(); typed != markup {
		t.Errorf("the names that were typed are %q", typed)
	}
	for range 2 { // a form that is sent twice registers one broker
		p := form.submit("main form", "url", "mqtts://b.test", "id", "hall", "names", "b.test, 192.0.2.1\nc.test", "kind", "nats").want(http.StatusOK)
		if p.path != "/brokers/hall?note=broker-registered" {
			t.Fatalf("got to %s", p.path)
		}
		p.has("mqtts://b.test:8883", "192.0.2.1", "c.test", "Nobody has looked at this broker yet.", "not seen")
	}
	v.get("/brokers").submit("main form", "url", "mqtts://b.test", "id", "hall").want(http.StatusConflict).has("exists")
	v.get("/brokers").count("main table tbody tr", 1).count(`a[href="/brokers/hall"]`, 1).count("table[data-rows]", 1)
	for _, role := range []enroll.Role{enroll.RoleSecurity, enroll.RoleFactory, enroll.RoleAuditor} {
		s.as(role).post("/brokers", "url", "mqtts://mine.test").want(http.StatusForbidden)
	}
}

// A real broker is verified, and what was seen is drawn, kept and linked.
func TestVerifyBroker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	real := s.broker("hall")
	v := s.as(enroll.RoleSecurity)
	first := v.get("/brokers/hall").has("Nobody has looked", "installed from here").count(`form[action="/brokers/hall/rotations"], a[href="/brokers/hall/rotate"]`, 0)
	p := first.submit(`form[action="/brokers/hall/verifications"]:not(:has(input[name=negative]))`).want(http.StatusOK).noted("The broker was looked at").has("serves it", "Chain and name verified")
	p.count("table.trace tr.step", 8).count("table.trace .state.bad", 0)
	first.submit(`form[action="/brokers/hall/verifications"]:not(:has(input[name=negative]))`) // sent twice, looked at once
	s.must(real.Close())
	p = p.submit(`form[action="/brokers/hall/verifications"]:not(:has(input[name=negative]))`).has("failing", "TCP connection", "Fix:")
	p.count("table.trace tr.step.failed", 1)
	strip := p.Find("[data-part=history] svg.strip a")
	if strip.Length() != 2 || !strings.HasPrefix(strip.First().AttrOr("aria-label", ""), "pass, ") || !strings.HasPrefix(strip.Last().AttrOr("aria-label", ""), "fail, ") ||
		!strings.HasSuffix(strip.Last().AttrOr("aria-label", ""), "at step: TCP connection") || !strip.Last().HasClass("bad") || !strip.First().HasClass("ok") {
		t.Errorf("the strip is %v", strip.Map(func(_ int, a *goquery.Selection) string { return a.AttrOr("aria-label", "") }))
	}
	report := v.get(strip.First().AttrOr("href", "")).want(http.StatusOK).has("Verification of hall", "pass").count("table.trace tr.step", 8)
	file := v.get(report.Find("a[download]").AttrOr("href", "")).want(http.StatusOK)
	var got mqtts.Report
	s.must(json.Unmarshal([]byte(file.body), &got))
	if got.Verdict != mqtts.VerdictPass || len(got.Steps) != 8 || !strings.HasPrefix(file.header.Get("Content-Disposition"), "attachment") {
		t.Errorf("%+v", got)
	}
	v.get("/brokers/hall/verifications").has("pass", "fail", "TCP connection").count("tbody tr", 2)
	v.get("/brokers/hall/verifications/none").want(http.StatusNotFound)
	v.get("/brokers").has("failed: TCP connection").count("svg.strip a", 2)

	factory := s.as(enroll.RoleFactory) // sees the last look, no reports, and has no button
	factory.get("/brokers/hall").has("Last verification", "TCP connection").count("main form", 0).count("svg.strip", 0).count(`a[href*="verifications"]`, 0)
	factory.get("/brokers").count("svg.strip", 0)
	factory.get("/brokers/hall/verifications").want(http.StatusForbidden)
	factory.get(report.path).want(http.StatusForbidden)
	factory.post("/brokers/hall/verifications").want(http.StatusForbidden)
	s.as(enroll.RoleAuditor).get("/brokers/hall").count("main form", 0).count("[data-part=history] svg.strip", 1)
}

// What must be refused is tried at a real broker, beside its control.
func TestVerifyWhatMustBeRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("hall")
	v := s.as(enroll.RoleSecurity)
	p := v.get("/brokers/hall").has("broker verify hall --negative").submit(`form[action="/brokers/hall/verifications"]:has(input[name=negative])`).want(http.StatusOK).noted("The broker was looked at")
	p.has("What must be refused", "A foreign authority's certificate", "A revoked certificate").count("[data-part=verification] h3:contains('What must be refused') + .scroll tbody tr", 10)
	if refused := p.Find("[data-part=verification] h3:contains('What must be refused') + .scroll .state.ok").Length(); refused < 5 {
		t.Errorf("only %d checks passed: %s", refused, p.text())
	}
	report := v.get(p.Find("[data-part=history] svg.strip a").AttrOr("href", "")).has("What must be refused", "--negative")
	if report.Find("table.trace").Length() != 2 {
		t.Errorf("%d tables", report.Find("table.trace").Length())
	}
	s.as(enroll.RoleFactory).post("/brokers/hall/verifications", "negative", "yes").want(http.StatusForbidden)
}

// Whatever a broker says stays text; what must be refused is shown beside it.
func TestHostileReport(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.createBroker(enroll.NewBroker{ID: "evil", URL: "mqtts://evil.test"})
	refused := &mqtts.Observed{Step: mqtts.StepConnack, Error: markup}
	kept := s.saveReport("evil", &mqtts.Report{
		Target: mqtts.ReportTarget{URL: "mqtts://elsewhere.test:8883", ServerName: markup, Address: markup}, Verdict: mqtts.VerdictFail, StartedAt: time.Now(),
		Steps:     []mqtts.Step{{Name: mqtts.StepTCP, Result: mqtts.ResultPass, DurationMs: 3, Detail: markup}, {Name: mqtts.StepConnack, Result: mqtts.ResultFail, DurationMs: 1, Detail: markup}},
		Diagnosis: []mqtts.Diagnosis{{Code: "c", Severity: mqtts.SeverityError, Step: mqtts.StepConnack, Message: markup, Fix: markup}},
		Checks: []mqtts.Check{
			{Name: mqtts.CheckExpired, Expect: mqtts.ExpectRefused, Result: mqtts.CheckPass, Observed: refused},
			{Name: mqtts.CheckPlaintext, Expect: mqtts.ExpectRefused, Result: mqtts.CheckFail, Observed: &mqtts.Observed{Step: mqtts.StepConnack}},
			{Name: mqtts.CheckRevoked, Expect: mqtts.ExpectRefused, Result: mqtts.CheckSkipped},
		},
		ServerCertificate: &mqtts.ServerCertificate{Subject: markup, Issuer: markup, DNSNames: []string{markup}, TrustAnchor: markup, SHA256: strings.Repeat("ab", 32)},
		TLS:               &mqtts.TLS{Version: markup, CipherSuite: markup, ALPN: markup}, MQTT: &mqtts.MQTT{Reason: markup, Raw: markup},
		Refused: &mqtts.Refusal{Step: mqtts.StepConnack, AlertName: markup, Detail: markup},
	})
	v := s.as(enroll.RoleOperator)
	for _, path := range []string{"/brokers/evil", "/brokers/evil/verifications/" + kept.ID} {
		p := v.get(path).want(http.StatusOK).wantHarmless()
		p.has("What must be refused", "An expired certificate", "MQTT without TLS", "accepted, at MQTT CONNACK", "not tried")
	}
	v.get("/brokers/evil").has("It was of mqtts://elsewhere.test:8883, where the broker was then", "serves another")
	v.get("/brokers").has("serves another", "ababab…ababab")
}

func TestChangeBroker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.createBroker(enroll.NewBroker{ID: "hall", URL: "mqtts://b.test"})
	v := s.as(enroll.RoleOperator)
	form := `form[action="/brokers/hall"]`
	wrong := v.get("/brokers/hall").submit(form, "url", "mqtts://c.test", "names", "b.test").want(http.StatusUnprocessableEntity)
	wrong.has("names: do not hold c.test").count(`main details[open] input[name=url][value="mqtts://c.test"]`, 1)
	v.get("/brokers/hall").submit(form, "url", "mqtts://c.test", "names", " ").want(http.StatusUnprocessableEntity).has("names: are missing")
	v.get("/brokers/hall").submit(form, "url", "mqtts://c.test", "names", "c.test b.test").want(http.StatusOK).noted("The broker is changed").has("mqtts://c.test:8883")
	s.as(enroll.RoleSecurity).post("/brokers/hall", "url", "mqtts://mine.test", "names", "mine.test").want(http.StatusForbidden)
}

// A plan is looked at, and stored by nobody; confirmed, it is followed to its
// end.
func TestRotateBroker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("hall")
	v := s.as(enroll.RoleOperator)
	v.get("/brokers/hall").count(`a[href="/brokers/hall/rotate"]`, 1)
	plan := v.get("/brokers/hall/rotate").want(http.StatusOK).has("Nothing was changed yet", "pending", "names 127.0.0.1, localhost", "--dry-run", "curl").count("tr.step", 6)
	v.get("/rotations").has("No certificate was rotated")
	started := plan.submit(`form[action="/brokers/hall/rotations"]`).want(http.StatusOK)
	if again := plan.submit(`form[action="/brokers/hall/rotations"]`); again.path != started.path || !strings.HasPrefix(again.path, "/rotations/") {
		t.Fatalf("sent twice, and got to %s, then %s", started.path, again.path)
	}
	var p *shown
	s.eventually("the rotation is done", func() (bool, error) {
		p = v.get(started.path)
		return p.Find("h1 + .state.ok").Text() == "done", nil
	})
	p.has("all 0 sessions live on", "0 dropped").count("tr.step .state.ok", 6)
	v.get("/rotations").count("tbody tr", 1).has("hall", "done").count(`header a[href="/brokers"][aria-current]`, 1)
	v.get("/rotations?broker=other").has("No certificate was rotated at other")
	v.get("/brokers/hall").count(`a[href="`+started.path+`"]`, 1)

	v.get("/brokers/hall").submit(`form[action="/brokers/hall"]`, "url", "mqtts://127.0.0.1:1", "names", "127.0.0.1")
	v.get("/brokers/hall/rotate").want(http.StatusConflict).has("the new certificate would lose the name localhost").count("main form", 0)
	plan.submit(`form[action="/brokers/hall/rotations"]`) // the first one again: nothing new
	v.get("/rotations").count("tbody tr", 1)
	s.createBroker(enroll.NewBroker{ID: "far", URL: "mqtts://far.test"})
	v.get("/brokers/far").count(`a[href="/brokers/far/rotate"]`, 0).has("installed by hand")
	v.get("/brokers/far/rotate").want(http.StatusUnprocessableEntity).has("no server can install a certificate at broker far")

	s.as(enroll.RoleAuditor).get(started.path).want(http.StatusOK).count("main form, details.commands", 0)
	for _, role := range []enroll.Role{enroll.RoleSecurity, enroll.RoleFactory, enroll.RoleAuditor} {
		s.as(role).get("/brokers/hall/rotate").want(http.StatusForbidden)
		s.as(role).post("/brokers/hall/rotations").want(http.StatusForbidden)
	}
	s.as(enroll.RoleSecurity).get(started.path).want(http.StatusForbidden)
}

// A rotation that fails says where and why, and that it was rolled back.
func TestFailedRotation(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *enroll.Config) { c.ProofTimeout = 300 * time.Millisecond })
	real := s.broker("hall")
	s.drivers["hall"] = stubborn{real}
	v := s.as(enroll.RoleOperator)
	started := v.get("/brokers/hall/rotate").submit(`form[action="/brokers/hall/rotations"]`).want(http.StatusOK)
	s.eventually("the rotation is rolled back", func() (bool, error) {
		return v.get(started.path).Find("h1 + .state.warn").Text() == "rolled-back", nil
	})
	v.get(started.path).has("Rolled back, because a step failed: install: no space left on device", "rollback").count("tr.step .state.bad", 1)
	v.get("/rotations").has("rolled-back", "install")
}

// A stubborn broker takes no certificate.
type stubborn struct{ brokers.Driver }

func (stubborn) Install(context.Context, [][]byte) error {
	return errors.New("no space left on device")
}

// Long lists are paged, there and back.
func TestBrokersArePaged(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for n := range 26 {
		s.createBroker(enroll.NewBroker{ID: fmt.Sprintf("b%02d", n), URL: "mqtts://b.test"})
	}
	v := s.as(enroll.RoleAuditor)
	first := v.get("/brokers").count("tbody tr", 25).count(`a[href="/brokers/b00"]`, 1)
	second := v.get(first.Find("a[rel=next]").AttrOr("href", "")).count("tbody tr", 1).has("b25").count("a[rel=next]", 0)
	v.get(second.Find("nav.pages a").AttrOr("href", "")).has("b00")
	v.get("/brokers?cursor=nonsense").want(http.StatusUnprocessableEntity)
}
