package mqtts_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

var unfilled = regexp.MustCompile(`\{[a-z]+\}`)

// versions are the cells that a refusal must be told apart in.
var versions = []struct {
	tls  uint16
	mqtt string
}{
	{tls.VersionTLS12, mqtts.Version311}, {tls.VersionTLS12, mqtts.Version5},
	{tls.VersionTLS13, mqtts.Version311}, {tls.VersionTLS13, mqtts.Version5},
}

// verify runs and checks what holds for every report.
func verify(t *testing.T, target mqtts.Target) *mqtts.Report {
	t.Helper()
	r := mqtts.Verify(context.Background(), target)
	checkReport(t, r)
	return r
}

func checkReport(t *testing.T, r *mqtts.Report) {
	t.Helper()
	noteProduced(r)
	if len(r.Steps) != 8 {
		t.Fatalf("%d steps", len(r.Steps))
	}
	failed := false
	errs := 0
	for _, d := range r.Diagnosis {
		if d.Severity == mqtts.SeverityError {
			errs++
		}
		if d.Message == "" || d.Fix == "" || unfilled.MatchString(d.Message+d.Fix) {
			t.Errorf("diagnosis %s is not filled in: %q / %q", d.Code, d.Message, d.Fix)
		}
	}
	for _, s := range r.Steps {
		if failed && s.Result != mqtts.ResultSkipped {
			t.Errorf("step %s is %s after a failed one", s.Name, s.Result)
		}
		failed = failed || s.Result == mqtts.ResultFail
	}
	if failed && errs == 0 || errs > 3 {
		t.Errorf("failed %v with %d errors: %+v", failed, errs, r.Diagnosis)
	}
	failed = errs > 0
	for _, c := range r.Checks {
		failed = failed || c.Result == mqtts.CheckFail
	}
	if (r.Verdict == mqtts.VerdictFail) != failed {
		t.Errorf("verdict %s with %d errors, checks %+v", r.Verdict, errs, r.Checks)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back mqtts.Report
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*r, back) {
		t.Errorf("JSON round trip:\n%+v\n%+v", *r, back)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text, false); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text.String()) {
		if len([]rune(line)) > 101 || strings.ContainsRune(line, 0x1b) {
			t.Errorf("line of %d columns: %q", len([]rune(line)), line)
		}
	}
}

// expect checks verdict, failed step and code: "" for a run that passes.
func expect(t *testing.T, r *mqtts.Report, step mqtts.StepName, code mqtts.Code) {
	t.Helper()
	var got mqtts.StepName
	if s := r.Failed(); s != nil {
		got = s.Name
	}
	if got != step || code != "" && !r.Has(code) || step == "" && r.Verdict != mqtts.VerdictPass {
		var text bytes.Buffer
		r.WriteText(&text, false)
		t.Errorf("want %q at %q, got\n%s", code, step, text.String())
	}
}

func (f *fleet) target(url string) mqtts.Target {
	return mqtts.Target{URL: url, ServerName: "broker.test", Roots: f.roots(), Certificate: f.device,
		Timeout: 20 * time.Second, StepTimeout: 10 * time.Second} // on a machine with much else to do
}

func TestPass(t *testing.T) {
	f := newFleet(t)
	url := broker{tls: f.mutual()}.start(t)
	for _, v := range versions {
		t.Run(fmt.Sprintf("%s/%s", tls.VersionName(v.tls), v.mqtt), func(t *testing.T) {
			target := f.target(url)
			target.Version, target.MinTLS, target.MaxTLS = v.mqtt, v.tls, v.tls
			r := verify(t, target)
			expect(t, r, "", "")
			want := []mqtts.State{
				{TCP: "established", TLS: "not_started", MQTT: "disconnected"},
				{TCP: "established", TLS: "in_progress", MQTT: "disconnected"},
				{TCP: "established", TLS: "in_progress", MQTT: "disconnected"},
				{TCP: "established", TLS: "certificate_verified", MQTT: "disconnected"},
				{TCP: "established", TLS: "secure_channel_ready", MQTT: "disconnected"},
				{TCP: "established", TLS: "secure_channel_ready", MQTT: "disconnected"},
				{TCP: "established", TLS: "secure_channel_ready", MQTT: "connected"},
				{TCP: "established", TLS: "secure_channel_ready", MQTT: "secure"},
			}
			for i, s := range r.Steps {
				if s.Result != mqtts.ResultPass || s.State != want[i] || s.DurationMs <= 0 || s.Detail == "" {
					t.Errorf("step %+v", s)
				}
			}
			if len(r.Diagnosis) != 0 {
				t.Errorf("diagnosis %+v", r.Diagnosis)
			}
			if r.TLS.Version != tls.VersionName(v.tls) || !r.TLS.ClientCertificateRequested || !r.TLS.ClientCertificateSent || r.TLS.Group == "" {
				t.Errorf("TLS %+v", r.TLS)
			}
			if r.MQTT.Version != v.mqtt || r.MQTT.Raw == "" || r.MQTT.ReasonCode != 0 {
				t.Errorf("MQTT %+v", r.MQTT)
			}
			if r.ServerCertificate.TrustAnchor != "CN=Fleet Root" || r.Refusal() != nil {
				t.Errorf("certificate %+v, refusal %+v", r.ServerCertificate, r.Refusal())
			}
		})
	}
}

func TestSkipPublish(t *testing.T) {
	f := newFleet(t)
	target := f.target(broker{tls: f.mutual()}.start(t))
	target.SkipPublish = true
	r := verify(t, target)
	expect(t, r, "", "")
	last := r.Step(mqtts.StepPublishSubscribe)
	if last.Result != mqtts.ResultSkipped || last.State.MQTT != mqtts.MQTTConnected {
		t.Errorf("step %+v", last)
	}
}

// TestClientRefused has every way in which a broker refuses our certificate, in
// both TLS versions and both MQTT versions.
func TestClientRefused(t *testing.T) {
	f := newFleet(t)
	foreign := newAuthority(t, "Foreign Issuer", newAuthority(t, "Foreign Root", nil))
	rogue := newAuthority(t, "Fleet Issuer", newAuthority(t, "Fleet Root", nil))
	client := usage(x509.ExtKeyUsageClientAuth)
	revoked := f.issuer.issue(t, "device-2", client)
	cases := []struct {
		name        string
		certificate *tls.Certificate
		config      *tls.Config
		crls        []*x509.RevocationList
		alert       map[uint16]int
		code        mqtts.Code
	}{
		{"none", nil, f.mutual(), nil, map[uint16]int{tls.VersionTLS12: 40, tls.VersionTLS13: 116}, mqtts.CodeClientCertificateRequired},
		{"foreign", foreign.issue(t, "device-1", client), f.mutual(), nil, both(48), mqtts.CodeClientUnknownCA},
		{"rogue of the same name", rogue.issue(t, "device-1", client), f.mutual(), nil, both(48), mqtts.CodeClientUnknownCA},
		{"expired", f.issuer.issue(t, "device-1", client, expired), f.mutual(), nil, both(45), mqtts.CodeClientCertificateExpired},
		{"not yet valid", f.issuer.issue(t, "device-1", client, notYetValid), f.mutual(), nil, both(45), mqtts.CodeClientCertificateNotYet},
		{"wrong usage", f.issuer.issue(t, "device-1", usage(x509.ExtKeyUsageServerAuth)), f.mutual(), nil, both(42), mqtts.CodeClientWrongUsage},
		{"revoked", revoked, f.refusing(), nil, both(42), mqtts.CodeBrokerCRLExpiredOrClock},
		{"revoked, CRL given", revoked, f.refusing(), []*x509.RevocationList{f.issuer.crl(t, time.Hour, revoked)}, both(42), mqtts.CodeClientCertificateRevoked},
	}
	for _, c := range cases {
		url := broker{tls: c.config}.start(t)
		for _, v := range versions {
			t.Run(fmt.Sprintf("%s/%s/%s", c.name, tls.VersionName(v.tls), v.mqtt), func(t *testing.T) {
				target := f.target(url)
				target.Version, target.MinTLS, target.MaxTLS = v.mqtt, v.tls, v.tls
				target.Certificate, target.CRLs = c.certificate, c.crls
				r := verify(t, target)
				expect(t, r, mqtts.StepSessionKeys, c.code)
				refusal := r.Refusal()
				if refusal == nil || refusal.Alert != c.alert[v.tls] || refusal.AfterFinished != (v.tls == tls.VersionTLS13) {
					t.Errorf("refusal %+v", refusal)
				}
				state := r.Step(mqtts.StepSessionKeys).State
				if state.TLS != mqtts.TLSFailed || state.MQTT != mqtts.MQTTDisconnected || r.MQTT != nil {
					t.Errorf("state %+v, MQTT %+v", state, r.MQTT)
				}
				if r.TLS == nil || !r.TLS.ClientCertificateRequested || r.TLS.ClientCertificateSent != (c.certificate != nil) {
					t.Errorf("TLS %+v", r.TLS)
				}
			})
		}
	}
}

func both(alert int) map[uint16]int {
	return map[uint16]int{tls.VersionTLS12: alert, tls.VersionTLS13: alert}
}

// TestRefusedByResumption resumes the session of a device that is then refused.
func TestRefusedByResumption(t *testing.T) {
	f := newFleet(t)
	config := f.mutual()
	refuse := make(chan struct{})
	config.VerifyConnection = func(tls.ConnectionState) error {
		select {
		case <-refuse:
			return fmt.Errorf("revoked")
		default:
			return nil
		}
	}
	url := broker{tls: config}.start(t)
	target := f.target(url)
	target.SessionCache = tls.NewLRUClientSessionCache(4)
	expect(t, verify(t, target), "", "")
	r := verify(t, target)
	expect(t, r, "", "")
	if !r.TLS.Resumed {
		t.Errorf("not resumed: %+v", r.TLS)
	}
	close(refuse)
	r = verify(t, target)
	expect(t, r, mqtts.StepSessionKeys, mqtts.CodeBrokerCRLExpiredOrClock)
	if r.Refusal() == nil || r.Refusal().Alert != 42 {
		t.Errorf("refusal %+v", r.Refusal())
	}
}

func TestConnack(t *testing.T) {
	f := newFleet(t)
	deny := func(cl *mqtt.Client, pk packets.Packet) bool { return string(pk.Connect.Password) != "secret" }
	url := broker{tls: f.mutual(), deny: deny}.start(t)
	codes := map[string]mqtts.Code{mqtts.Version311: mqtts.CodeConnackNotAuthorized, mqtts.Version5: mqtts.CodeConnackBadCredentials}
	for v, code := range codes {
		target := f.target(url)
		target.Version, target.Username, target.Password = v, "someone", "wrong"
		r := verify(t, target)
		expect(t, r, mqtts.StepConnack, code)
		if refusal := r.Refusal(); refusal == nil || refusal.Step != mqtts.StepConnack || refusal.ReasonCode == 0 {
			t.Errorf("refusal %+v", refusal)
		}
		target.Password = "secret"
		expect(t, verify(t, target), "", "")
	}
}

func TestAccessLists(t *testing.T) {
	f := newFleet(t)
	read := func(_ string, write bool) bool { return !write }
	url := broker{tls: f.mutual(), acl: read}.start(t)
	none := broker{tls: f.mutual(), acl: func(string, bool) bool { return false }}.start(t)
	for _, v := range []string{mqtts.Version311, mqtts.Version5} {
		target := f.target(url)
		target.Version, target.StepTimeout = v, 300*time.Millisecond
		expect(t, verify(t, target), mqtts.StepPublishSubscribe, mqtts.CodePublishNotDelivered)
		target.URL = none
		r := verify(t, target)
		expect(t, r, mqtts.StepPublishSubscribe, mqtts.CodeSubscribeDenied)
		if s := r.Step(mqtts.StepPublishSubscribe); s.State.MQTT != mqtts.MQTTConnected {
			t.Errorf("state %+v", s.State)
		}
	}
}

// TestVersionFallback has brokers without MQTT 5: some answer, some hang up.
func TestVersionFallback(t *testing.T) {
	f := newFleet(t)
	plain := &tls.Config{Certificates: []tls.Certificate{*f.broker}}
	answers := map[string][]byte{"two bytes, code 1": {0x20, 2, 0, 1}, "0x84": {0x20, 3, 0, 0x84, 0}, "closes": nil}
	for name, answer := range answers {
		for _, config := range []*tls.Config{plain, f.mutual()} {
			url := listen(t, overTLS(config, func(c *tls.Conn) { serve311(c, answer) }))
			target := f.target(url)
			r := verify(t, target)
			t.Run(name+"/auto", func(t *testing.T) { expect(t, r, "", mqtts.CodeMQTT3Only) })
			target.Version = mqtts.Version5
			r = verify(t, target)
			t.Run(name+"/5", func(t *testing.T) { expect(t, r, mqtts.StepConnack, mqtts.CodeMQTT3Only) })
			if answer != nil && !r.Has(mqtts.CodeConnackUnsupportedVersion) {
				t.Errorf("%s: %+v", name, r.Diagnosis)
			}
		}
	}
}

// serve311 is a broker of MQTT 3.1.1 that answers version 5 with answer.
func serve311(c *tls.Conn, answer []byte) {
	buf := make([]byte, 1024)
	if n, _ := c.Read(buf); n < 9 || buf[8] != 4 {
		c.Write(answer)
		return
	}
	c.Write([]byte{0x20, 2, 0, 0})
	c.Read(buf) // SUBSCRIBE
	c.Write([]byte{0x90, 3, buf[2], buf[3], 1})
	n, _ := c.Read(buf) // PUBLISH
	c.Write(buf[:n])
	drain(c)
}

// TestNotEnforced connects without a certificate where one is only asked for.
func TestNotEnforced(t *testing.T) {
	f := newFleet(t)
	config := f.mutual()
	config.ClientAuth = tls.VerifyClientCertIfGiven
	target := f.target(broker{tls: config}.start(t))
	target.Certificate = nil
	r := verify(t, target)
	expect(t, r, "", mqtts.CodeClientCertificateNotEnforced)
	if r.Step(mqtts.StepConnack).Result != mqtts.ResultWarn {
		t.Errorf("step %+v", r.Step(mqtts.StepConnack))
	}
}

// TestControl is I26: an address that is not allowed is not dialled, nor by the
// probe.
func TestControl(t *testing.T) {
	f := newFleet(t)
	dialled := 0
	target := f.target("mqtts://localhost:1")
	target.Control = func(_, address string, _ syscall.RawConn) error {
		dialled++
		return fmt.Errorf("%s is not registered", address)
	}
	expect(t, verify(t, target), mqtts.StepTCP, mqtts.CodeAddressNotAllowed)
	if dialled == 0 {
		t.Error("Control was not asked")
	}
}

func TestCancel(t *testing.T) {
	f := newFleet(t)
	target := f.target(listen(t, drain))
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	r := mqtts.Verify(ctx, target)
	checkReport(t, r)
	if r.Verdict != mqtts.VerdictInconclusive || !r.Has(mqtts.CodeInterrupted) || time.Since(start) > time.Second {
		t.Errorf("after %v: %+v", time.Since(start), r)
	}
}

// TestInvalidTarget checks that nothing is dialled for a target that cannot be
// verified.
func TestInvalidTarget(t *testing.T) {
	f := newFleet(t)
	control := func(string, string, syscall.RawConn) error {
		t.Error("dialled")
		return nil
	}
	cases := map[string]func(*mqtts.Target){
		"no roots":    func(g *mqtts.Target) { g.Roots = nil },
		"mqtt scheme": func(g *mqtts.Target) { g.URL = "mqtt://127.0.0.1" },
		"port":        func(g *mqtts.Target) { g.URL = "mqtts://127.0.0.1:66000" },
		"no host":     func(g *mqtts.Target) { g.URL = "" },
		"address":     func(g *mqtts.Target) { g.Address = "127.0.0.1" },
		"wildcard":    func(g *mqtts.Target) { g.Topic = "a/#" },
		"version":     func(g *mqtts.Target) { g.Version = "3" },
		"old TLS":     func(g *mqtts.Target) { g.MinTLS = tls.VersionTLS10 },
		"no key":      func(g *mqtts.Target) { g.Certificate = &tls.Certificate{} },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			target := f.target("mqtts://127.0.0.1:1")
			target.Control = control
			spoil(&target)
			r := verify(t, target)
			code := mqtts.CodeInvalidTarget
			if target.Roots == nil {
				code = mqtts.CodeTrustBundleUnreadable
			}
			if r.Verdict != mqtts.VerdictFail || !r.Has(code) || r.Steps[0].Result != mqtts.ResultSkipped {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestParseURL(t *testing.T) {
	good := map[string]mqtts.Endpoint{
		"wss://b":                   {Scheme: "wss", Host: "b", Port: 443, Path: "/"},
		"WSS://b:8084/mqtt":         {Scheme: "wss", Host: "b", Port: 8084, Path: "/mqtt"},
		"wss://[::1]:8084/a/b?c=@d": {Scheme: "wss", Host: "::1", Port: 8084, Path: "/a/b?c=@d"},
		"wss://10.0.0.1?x":          {Scheme: "wss", Host: "10.0.0.1", Port: 443, Path: "/?x"},
		"broker":                    {Scheme: "mqtts", Host: "broker", Port: 8883},
	}
	for in, want := range good {
		if got, err := mqtts.ParseURL(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
	}
	bad := map[string]string{
		"ws://b/mqtt": "wss://b/mqtt", "ws://b:80/x": "wss://b/x", "wss://u:p@b/": "password", "wss://b/a b": "spaces", "wss://b/#x": "fragment",
		"wss://b/a\r\nHost: c": "ASCII", "wss://": "mqtts://", "wss:///mqtt": "broker", "wss://b:0/": "port", "tcp://b:1883": "mqtts://b",
	}
	for in, want := range bad {
		if _, err := mqtts.ParseURL(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", in, err, want)
		}
	}
	if _, _, err := mqtts.SplitURL("wss://b/mqtt"); err == nil {
		t.Error("wss:// is taken as MQTTS")
	}
}

func TestSplitURL(t *testing.T) {
	good := map[string]string{
		"mqtts://broker": "broker 8883", "broker": "broker 8883", "mqtts://broker:1/": "broker 1", "MQTTS://b:9": "b 9",
		"[::1]:8884": "::1 8884", "mqtts://[::1]": "::1 8883", "::1": "::1 8883", "10.0.0.1": "10.0.0.1 8883",
	}
	for in, want := range good {
		host, port, err := mqtts.SplitURL(in)
		if got := fmt.Sprintf("%s %d", host, port); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	bad := map[string]string{
		"mqtt://broker": "mqtts://broker", "mqtt://b:1883": "mqtts://b", "http://b": "mqtts://", "b:0": "port", "b:x": "port",
		"b:65536": "port", "mqtts://u:p@b": "password", "mqtts://b/path": "path", "": "mqtts://", "mqtts://": "mqtts://", ":8883": "host",
	}
	for in, want := range bad {
		if _, _, err := mqtts.SplitURL(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", in, err, want)
		}
	}
}
