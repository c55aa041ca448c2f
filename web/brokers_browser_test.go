package web_test

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
	"github.com/fleetca/fleetca/web/browsertest"
)

// wantFits fails the test when the page is wider than the window.
func wantFits(b *browsertest.Browser) {
	b.Helper()
	if width := browsertest.Eval[int](b, `document.documentElement.scrollWidth`); width > browsertest.Width {
		b.Errorf("%s is %d pixels wide", b.Path(), width)
	}
}

// fill types into a field what it shall hold.
func fill(field, text string) chromedp.Action {
	return chromedp.Tasks{
		chromedp.Evaluate(`document.querySelector("`+field+`").value = ""`, nil),
		chromedp.SendKeys(field, text, chromedp.ByQuery),
	}
}

// click clicks the first element with the words, among those of a selector.
func click(b *browsertest.Browser, selector, words string) {
	b.Helper()
	b.WaitFor(selector, words)
	browsertest.Eval[bool](b, `(() => { [...document.querySelectorAll("`+selector+`")].find(e => e.innerText.includes("`+words+`")).click(); return true })()`)
}

// A broker is registered, looked at and found by keys, in a real browser.
func TestBrowserBrokers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("hall")
	b := s.browser(enroll.RoleOperator, browsertest.Light)
	b.Open("/brokers")
	wantFits(b)
	click(b, "summary", "Register a broker")
	b.Do(chromedp.WaitVisible(`form input[name=url]`), fill(`input[name=url]`, "mqtts://127.0.0.1:1"), fill(`input[name=id]`, "attic"))
	click(b, "form button", "Register")
	b.WaitFor(".note", "The broker is registered")
	click(b, "button", "Verify now")
	b.WaitFor(".note", "The broker was looked at")
	b.WaitFor("tr.failed", "TCP connection")
	wantFits(b)
	b.Open("/brokers")
	b.Do(chromedp.KeyEvent("j"), chromedp.KeyEvent("j"), chromedp.KeyEvent(kb.Enter))
	b.WaitFor("h1", "hall")
	b.WaitFor("[data-part=verification]", "Nobody has looked at this broker yet.")

	// Live: what others do appears, and what is typed meanwhile stays.
	click(b, "summary", "Change URL and names")
	b.Do(fill("textarea[name=names]", "half a na"))
	if _, err := s.service.VerifyBroker(s.ctx, admin(), "hall", false); err != nil {
		t.Fatal(err)
	}
	b.WaitFor("[data-part=verification] table", "Publish and subscribe")
	b.WaitFor("[data-part=served]", "serves it")
	if typed := browsertest.Eval[string](b, `document.querySelector("textarea[name=names]").value`); typed != "half a na" {
		t.Errorf("what was typed is now %q", typed)
	}
	if marks := browsertest.Eval[int](b, `document.querySelectorAll("[data-part=history] svg.strip a").length`); marks != 1 {
		t.Errorf("%d marks", marks)
	}
	b.Do(chromedp.Focus("[data-part=history] svg.strip a"), chromedp.KeyEvent(kb.Enter))
	b.WaitFor("h1", "Verification of hall")
	if b.Path() == "/brokers/hall" {
		t.Error("the mark does not lead to the report")
	}
	wantFits(b)
	b.Do(emulation.SetEmulatedMedia().WithMedia("print"))
	if shown := browsertest.Eval[bool](b, `getComputedStyle(document.querySelector(".bar nav")).display !== "none" || getComputedStyle(document.querySelector(".title .actions")).display !== "none"`); shown {
		t.Error("navigation and buttons are printed")
	}
}

// A rotation is planned, confirmed and followed to its end without a reload.
func TestBrowserRotation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("hall")
	b := s.browser(enroll.RoleOperator, browsertest.Dark)
	b.Open("/brokers/hall")
	click(b, ".actions a", "Rotate")
	b.WaitFor("h1", "Rotate hall")
	wantFits(b)
	click(b, "form button", "Rotate now")
	b.WaitFor("h1", "Rotation of hall")
	browsertest.Eval[bool](b, `window.here = true`)
	b.WaitFor("[data-part=title] .state.ok", "done")
	b.WaitFor("[data-part=steps] tr:last-child", "the broker serves")
	b.WaitFor("[data-part=outcome]", "0 dropped")
	if here := browsertest.Eval[bool](b, `window.here === true && document.querySelectorAll("[data-since]").length === 0`); !here {
		t.Error("the page was loaded anew, or a clock still runs")
	}
	wantFits(b)
}

// The line's numbers appear as they come; a token is there to be copied and
// scanned.
func TestBrowserOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.browser(enroll.RoleFactory, browsertest.Light)
	b.Open("/work-orders")
	click(b, "summary", "Open a work order")
	b.Do(fill("input[name=product]", "pump"), fill("input[name=quantity]", "5"), fill("input[name=id]", "wo-1"))
	click(b, "form button", "Open")
	b.WaitFor("[data-part=facts]", "0 of 5")
	b.Do(fill("input[name=uses]", "3"))
	s.enrollFor("p1", "wo-1")
	b.WaitFor("[data-part=facts]", "1 of 5")
	b.WaitFor("[data-part=units] tbody", "p1")
	b.WaitFor("[data-part=minutes]", "1 in the last hour")
	wantFits(b)
	click(b, "form button", "Make a token")
	b.WaitFor("h1", "New enrollment token")
	b.Do(chromedp.WaitVisible("svg.qr"), chromedp.Click("pre.secret"))
	if secret, selected := b.Text("pre.secret"), browsertest.Eval[string](b, `getSelection().toString().trim()`); secret == "" || selected != secret {
		t.Errorf("one click selects %q of the token", selected)
	}
	wantFits(b)
	click(b, "a", "Done")
	b.WaitFor("[data-part=tokens] tbody", "0 of 3")
	click(b, "[data-part=tokens] button", "End")
	b.WaitFor("[data-part=tokens] tbody", "expired")
}

// Every page of brokers, orders and the authority passes axe-core in both
// themes, and fits.
func TestBrowserFactoryPagesAreAccessible(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.browser(enroll.RoleAdmin, browsertest.Light)
	for _, path := range []string{"/brokers", "/rotations", "/work-orders", "/authority"} { // empty
		b.Open(path)
		b.Axe()
	}
	s.broker("hall")
	s.createBroker(enroll.NewBroker{ID: "attic", URL: "mqtts://127.0.0.1:1"})
	s.order(enroll.NewWorkOrder{ID: "wo-1", Product: "pump", Quantity: 1})
	s.enrollFor("p1", "wo-1")
	_, csr := s.request("p2")
	if _, err := s.service.EnrollDevice(s.ctx, admin(), enroll.EnrollRequest{DeviceID: "p2", CSR: csr, WorkOrder: "wo-1"}); err == nil {
		t.Fatal("the quota was exceeded")
	}
	s.must(s.service.SaveRefusals(s.ctx))
	_, err := s.service.CreateEnrollmentToken(s.ctx, admin(), "wo-1", enroll.NewToken{})
	s.must(err)
	for _, id := range []string{"hall", "attic"} {
		_, err := s.service.VerifyBroker(s.ctx, admin(), id, false)
		s.must(err)
	}
	_, err = s.service.SetCRLShards(s.ctx, admin(), "device", enroll.ShardsRequest{Shards: 15})
	s.must(err)
	s.maker("deviceId,subjectSerial,sha256,workOrder\nm1,PID:A7 SN:0001,,wo-1\nm2,," + strings.Repeat("ab", 32) + ",\n")
	kept := s.saveReport("attic", &mqtts.Report{Verdict: mqtts.VerdictFail, StartedAt: time.Now(), Steps: []mqtts.Step{{Name: mqtts.StepTCP, Result: mqtts.ResultWarn, DurationMs: 1}},
		Checks: []mqtts.Check{{Name: mqtts.CheckExpired, Result: mqtts.CheckFail, Diagnosis: []mqtts.Diagnosis{{Severity: mqtts.SeverityWarning, Message: "m", Fix: "f"}}}}})
	rotation, err := s.service.RotateBroker(s.ctx, admin(), "hall", true)
	s.must(err)
	s.must(s.store.CountFleet(s.ctx, s.now().UTC()))
	for _, theme := range []browsertest.Theme{browsertest.Light, browsertest.Dark} {
		b := s.browser(enroll.RoleAdmin, theme)
		for _, path := range []string{
			"/brokers", "/brokers/hall", "/brokers/attic", "/brokers/hall/rotate", "/brokers/attic/verifications", "/brokers/attic/verifications/" + kept.ID,
			"/rotations", "/rotations/" + rotation.ID, "/work-orders", "/work-orders/wo-1", "/authority", "/authority/profiles/device", "/authority/manufacturers/acme",
		} {
			b.Open(path)
			browsertest.Eval[bool](b, `document.querySelectorAll("main details").forEach(d => d.open = true), true`)
			b.Axe()
			wantFits(b)
		}
	}
}
