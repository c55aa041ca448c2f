package web_test

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/web/browsertest"
)

// Each page of devices is judged in both themes, with data and without.
func TestBrowserDevicePagesAreAccessible(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	empty := newSite(t)
	s.broker("embedded")
	s.register("new", "hall-2", map[string]string{"site": "Hall 2"})
	s.enroll("pump-1")
	s.enroll("pump-2")
	d, err := s.service.Device(s.ctx, "pump-1")
	s.must(err)
	certificate := "/certificates/" + string(d.Certificates[0].SerialNumber)
	revocation := "/revocations/" + s.revoke("pump-2").ID
	for _, theme := range []browsertest.Theme{browsertest.Light, browsertest.Dark} {
		b := s.browser(enroll.RoleAdmin, theme)
		for _, path := range []string{"/devices", "/devices?q=status:broken", "/devices?q=nothing", "/devices/pump-1", "/devices/pump-2", "/devices/new", "/devices/pump-1/revoke",
			"/devices/pump-2/revoke", "/devices/pump-1/retire", "/revocations", revocation, certificate, certificate + "/revoke"} {
			b.Open(path)
			b.Do(chromedp.Evaluate(`document.querySelectorAll("details").forEach((d) => { d.open = true; })`, nil))
			b.Axe()
		}
		b.Open("/devices/pump-1")
		b.Do(chromedp.Submit("#deed-renewal-link form"), chromedp.WaitVisible("#token"))
		b.Axe()
		b.Open("/devices?q=status:active")
		b.Do(chromedp.Click("thead input[type=checkbox]"), chromedp.Submit("form.list"), chromedp.WaitVisible("form[action='/bulk']"))
		b.Axe()
		b.Do(chromedp.Submit("form[action='/bulk']"), chromedp.WaitVisible("[data-part=bulk-progress]"))
		b.WaitFor("[data-part=bulk-title]", "done")
		b.Axe()
		b.Open("/bulk")
		b.Axe()
		_, err := s.service.ReleaseDevice(s.ctx, admin(), "pump-1")
		s.must(err)
		b = empty.browser(enroll.RoleAdmin, theme)
		for _, path := range []string{"/devices", "/revocations", "/bulk"} {
			b.Open(path)
			b.Axe()
		}
	}
}

// Without a mouse: find, move, select, open.
func TestBrowserDevicesByKeyboard(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for n := range 5 {
		s.register(fmt.Sprintf("pump-%d", n), "hall-2", nil)
	}
	s.register("valve", "", nil)
	b := s.browser(enroll.RoleSecurity, browsertest.Light)
	b.Open("/revocations")
	b.Press("/") // from where there is no field of its own
	b.WaitFor("h1", "Devices")
	s.eventually("the focus", func() (bool, error) {
		return browsertest.Eval[string](b, `document.activeElement.name || ""`) == "q", nil
	})
	b.Open("/devices")
	b.Press("/")
	if focused := browsertest.Eval[string](b, `document.activeElement.name`); focused != "q" {
		t.Fatalf("/ leads to %q", focused)
	}
	b.Do(chromedp.KeyEvent("group:hall-2\r"), chromedp.WaitNotPresent("input[name=device][value=valve]"))
	b.WaitFor("output[data-ticked]", "(0)") // by the script
	if path := b.Path(); path != "/devices?q=group%3Ahall-2" {
		t.Errorf("the query leads to %s", path)
	}
	b.Do(chromedp.KeyEvent("j"), chromedp.KeyEvent("j"), chromedp.KeyEvent("k"), chromedp.KeyEvent("j"), chromedp.KeyEvent("x"))
	b.WaitFor("tr.at", "pump-1")
	b.WaitFor("output[data-ticked]", "(1)")
	if ticked := browsertest.Eval[string](b, `document.querySelector("input[name=device]:checked").value`); ticked != "pump-1" {
		t.Errorf("x selects %s", ticked)
	}
	b.Do(chromedp.Click("thead input[type=checkbox]"))
	b.WaitFor("output[data-ticked]", "(5)")
	b.Do(chromedp.KeyEvent("j"), chromedp.KeyEvent("k"), chromedp.KeyEvent("\r")) // from the box, which has the focus
	b.WaitFor("h1", "pump-1")
}

// A device's page follows what others do, and leaves open what a person opened.
func TestBrowserDeviceIsLive(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("pump-1")
	b := s.browser(enroll.RoleSecurity, browsertest.Light)
	b.Open("/devices/pump-1")
	b.Do(chromedp.Click("#command-revoke summary"), chromedp.WaitVisible("#command-revoke pre"))
	_, err := s.service.HoldDevice(s.ctx, admin(), "pump-1")
	s.must(err)
	b.WaitFor("[data-part=device-title]", "held")
	b.WaitFor("[data-part=device-timeline]", "device.hold")
	b.WaitFor("#deed-release", "Release")
	if !browsertest.Eval[bool](b, `document.querySelector("#command-revoke").open`) {
		t.Error("what was open is shut")
	}
	b.Do(chromedp.Submit("#deed-release form"))
	b.WaitFor(".note", "released")
	b.WaitFor("[data-part=device-title]", "active")
}

// A slowDriver lets a broker load CRLs once it may.
type slowDriver struct {
	brokers.Driver
	may <-chan struct{}
}

func (d slowDriver) LoadCRL(ctx context.Context, b brokers.Bundle) error {
	select {
	case <-d.may:
		return d.Driver.LoadCRL(ctx, b)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The steps of a revocation appear as they happen, the clock of the running one
// counts, and the whole is printed on one page.
func TestBrowserRevocationIsLive(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *enroll.Config) { c.ProofTimeout = patience })
	broker := s.broker("embedded")
	s.enroll("pump-1")
	may := make(chan struct{})
	s.drivers["embedded"] = slowDriver{broker, may}
	release := sync.OnceFunc(func() { close(may) })
	t.Cleanup(release)

	b := s.browser(enroll.RoleSecurity, browsertest.Light)
	b.Open("/devices/pump-1/revoke")
	b.Do(chromedp.SendKeys("textarea", "found in a bin"), chromedp.SendKeys("input[name=confirm]", "pump-1"), chromedp.Submit("main form"))
	b.WaitFor("[data-step=crl_signed][data-state=done]", "CRL signed")
	b.WaitFor("[data-step=crl_loaded][data-state=running]", "CRL loaded")
	clock := func() string { return b.Text("[data-step=crl_loaded] .step-clock") }
	first := clock()
	s.eventually("a clock that counts", func() (bool, error) { return clock() != first, nil })
	if !regexp.MustCompile(`^\d+(\.\d)? s$`).MatchString(first) {
		t.Errorf("the clock shows %q", first)
	}
	b.Do(chromedp.Evaluate(`window.stayed = true`, nil))
	release()
	b.WaitFor("[data-part=revocation-verdict]", "Proven")
	b.WaitFor("[data-step=refusal_seen][data-state=done]", "Refusal seen")
	b.WaitFor("[data-part=revocation-evidence]", "TLS alert")
	if !browsertest.Eval[bool](b, `window.stayed === true`) {
		t.Error("the page was loaded again")
	}
	var pdf []byte
	b.Do(chromedp.ActionFunc(func(ctx context.Context) (err error) {
		pdf, _, err = page.PrintToPDF().WithPaperWidth(8.27).WithPaperHeight(11.69).Do(ctx) // A4, in inches
		return err
	}))
	if pages := len(regexp.MustCompile(`/Type\s*/Page\b`).FindAll(pdf, -1)); pages != 1 || !bytes.HasPrefix(pdf, []byte("%PDF")) {
		t.Errorf("it is printed on %d pages", pages)
	}
}
