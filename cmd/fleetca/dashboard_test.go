package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/web/browsertest"
)

// screenshots makes TestDashboardStory write the README's pictures anew:
// go test ./cmd/fleetca -run TestDashboardStory -screenshots
var screenshots = flag.Bool("screenshots", false, "write web/screenshots")

// picture takes one of them.
func picture(b *browsertest.Browser, name string) {
	b.Helper()
	if *screenshots {
		b.Screenshot(filepath.Join("..", "..", "web", "screenshots", name+".png"))
	}
}

const dashboardPassword = "correct horse battery"

// TestDashboardStory is what the dashboard is for: find a device, revoke it,
// and watch its session at a real Mosquitto close and the refusal appear.
func TestDashboardStory(t *testing.T) {
	t.Parallel()
	f := newMosquittoFixture(t, "")
	b := browsertest.New(t, "https://"+f.people, browsertest.Light)
	f.admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO-1", "product": "sensor", "quantity": 5})
	f.admin.send(t, "POST", "/users", map[string]any{"name": "sam", "role": "security", "password": dashboardPassword})
	for _, id := range []string{"dev-1", "dev-2"} {
		f.enroll(t, id)
	}
	stolen, good := f.session(t, "dev-1"), f.session(t, "dev-2")
	b.SignIn("sam", dashboardPassword)

	// Find it, by the keyboard.
	b.Open("/devices")
	b.Press("/")
	b.Do(chromedp.KeyEvent("order:WO-1 dev-1\r"))
	b.Do(chromedp.WaitNotPresent("input[name=device][value=dev-2]"))
	b.WaitFor("output[data-ticked]", "(0)") // by the script
	b.Do(chromedp.KeyEvent("j"), chromedp.KeyEvent("\r"))
	b.WaitFor("h1", "dev-1")
	b.WaitFor("[data-part=device-title]", "active")

	// What it will do is said before: the session is the one that Mosquitto has.
	b.Do(chromedp.Click("#deed-revoke a"))
	b.WaitFor("h2", "1 session open now")
	b.WaitFor(".at-broker", "mosq mosquitto gets the new CRL from here and closes the sessions. client dev-1")
	b.Do(chromedp.SendKeys("textarea[name=comment]", "found in a bin"), chromedp.SendKeys("input[name=confirm]", "dev-2\r"))
	b.WaitFor("[role=alert]", "is not the id of this device")
	if !stolen.client.IsConnectionOpen() {
		t.Fatal("the session ended before the device was revoked")
	}
	b.Do(chromedp.Evaluate(`document.querySelector("input[name=confirm]").value = ""`, nil), chromedp.SendKeys("input[name=confirm]", "dev-1"), chromedp.Click("main form button.danger"))

	// Watch it, on the same page, until the refusal was seen.
	b.WaitFor("h1", "Revocation of dev-1")
	b.Do(chromedp.Evaluate(`window.stayed = true`, nil))
	stolen.wantLost(t)
	at := func(broker, step string) string {
		return `section:has(h2 a[href="/brokers/` + broker + `"]) [data-step=` + step + `][data-state=done]`
	}
	b.WaitFor(at("mosq", "canary_admitted"), "got its CONNACK")
	b.WaitFor(at("mosq", "session_closed"), "1 closed")
	b.WaitFor(at("mosq", "refusal_seen"), "TLS alert 44 (certificate_revoked); a good canary is admitted")
	b.WaitFor("[data-part=revocation-verdict]", "Proven")
	b.WaitFor("[data-part=revocation-evidence] tr", "mosq")
	if !browsertest.Eval[bool](b, `window.stayed === true`) {
		t.Error("the page was loaded again")
	}
	b.Axe()
	picture(b, "revocation")

	// The world agrees with the page.
	if out, err := f.publish(t, "dev-1", "refused"); err == nil {
		t.Errorf("the revoked device can publish: %s", out)
	}
	if !good.client.IsConnectionOpen() {
		t.Error("the session of the other device is gone")
	}
	good.wantEcho(t)
	var revocation enroll.Revocation
	unmarshal(t, string(f.admin.send(t, "GET", b.Path(), nil).body), &revocation) // the page has the path that the API has
	if revocation.State != enroll.RevocationProven || revocation.Comment != "found in a bin" {
		t.Errorf("%+v", revocation)
	}
	if text := b.Text("[data-part=revocation-evidence]"); !strings.Contains(text, revocation.Evidence.SHA256) {
		t.Errorf("the page shows other evidence: %s", text)
	}
	b.Open("/devices/dev-1")
	b.WaitFor("[data-part=device-title]", "revoked")
	b.WaitFor("[data-part=device-timeline]", "user:sam")
	b.Open("/devices")
	b.WaitFor("main", "dev-2")
	picture(b, "devices")
	b.Open("/brokers/mosq")
	b.WaitFor("[data-part=verification]", "Publish and subscribe")
	picture(b, "broker")
}

// TestDashboardCommands: what a device's page shows as the equivalents of its
// actions does the same, from a terminal.
func TestDashboardCommands(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	admin := s.rest(t, "admin")
	admin.send(t, "POST", "/users", map[string]any{"name": "ada", "role": "admin", "password": dashboardPassword})
	admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO-1", "product": "sensor", "quantity": 5})
	b := browsertest.New(t, "https://"+s.people, browsertest.Dark)
	b.SignIn("ada", dashboardPassword)
	dir := t.TempDir()
	if err := ca.WriteNewFile(filepath.Join(dir, "token"), []byte(admin.token), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", s.bundle(), filepath.Join(dir, "trust-bundle.pem")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tool(t, "bash", "bash")
	tool(t, "curl", "curl")
	for n, how := range []string{"curl", "fleetca"} {
		for _, step := range []struct{ action, from, to string }{
			{"renewal-link", "active", "active"}, {"hold", "active", "held"}, {"release", "held", "active"}, {"revoke", "active", "revoked"}, {"retire", "active", "retired"},
		} {
			id := "dev-" + how
			if step.action == "retire" {
				id += "-2"
			}
			if step.action == "renewal-link" || step.action == "retire" {
				mustRun(t, "device", "enroll", id, "--out", filepath.Join(dir, id), "--work-order", "WO-1", "--server", "https://"+s.people, "--ca", s.bundle(), "--token-file", filepath.Join(dir, "token"))
			}
			b.Open("/devices/" + id)
			b.WaitFor("[data-part=device-title]", step.from)
			line := browsertest.Eval[[]string](b, `[...document.querySelectorAll("#command-`+step.action+` pre")].map((e) => e.textContent)`)[n]
			cmd := exec.CommandContext(t.Context(), "bash", "-c", line+" --fail-with-body")
			if how == "fleetca" {
				words := strings.Fields(line)
				cmd = program(t.Context(), words[1:]...)
			}
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			b.WaitFor("[data-part=device-title]", step.to) // live
			if step.action == "renewal-link" {
				b.WaitFor("[data-part=device-timeline]", "device.renewal-link")
			}
		}
	}
}

// A deviceSession is a live session of a device.
type deviceSession struct {
	client mqtt.Client
	topic  string
	lost   chan error
	heard  chan string
}

// session connects a device to Mosquitto as a device does, for as long as the
// broker lets it.
func (f *mosquittoFixture) session(t *testing.T, id string) *deviceSession {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(f.file(id+".pem"), f.file(id+".key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	for _, root := range parseChain(t, f.bundle()) {
		roots.AddCert(root)
	}
	s := &deviceSession{topic: "devices/" + id + "/talk", lost: make(chan error, 1), heard: make(chan string, 1)}
	options := mqtt.NewClientOptions().AddBroker("ssl://" + f.host + ":" + f.port).SetClientID(id).SetAutoReconnect(false).
		SetTLSConfig(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: f.host}).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { s.lost <- err })
	s.client = mqtt.NewClient(options)
	answered(t, s.client.Connect())
	t.Cleanup(func() { s.client.Disconnect(100) })
	answered(t, s.client.Subscribe(s.topic, 1, func(_ mqtt.Client, m mqtt.Message) { s.heard <- string(m.Payload()) }))
	s.wantEcho(t)
	return s
}

// answered waits until the broker answered.
func answered(t *testing.T, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(browsertest.Patience) || token.Error() != nil {
		t.Fatalf("no answer of the broker: %v", token.Error())
	}
}

// wantEcho sees a message of the device come back over its session.
func (s *deviceSession) wantEcho(t *testing.T) {
	t.Helper()
	answered(t, s.client.Publish(s.topic, 1, false, "hello"))
	select {
	case <-s.heard:
	case <-time.After(browsertest.Patience):
		t.Fatal("the message does not come back")
	}
}

// wantLost sees the broker end the session.
func (s *deviceSession) wantLost(t *testing.T) {
	t.Helper()
	select {
	case <-s.lost:
	case <-time.After(browsertest.Patience):
		t.Fatal("the session lives on")
	}
}
