package mqtts_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// keys are the field names of the JSON, which are a contract. Those with "?" are
// left out when there is nothing to say.
var keys = map[string]string{
	"":                     "target verdict startedAt durationMs steps diagnosis checks tls? mqtt? serverCertificate? refusal?",
	"target":               "url serverName address",
	"steps.*":              "name result durationMs detail state",
	"steps.*.state":        "tcp tls mqtt",
	"diagnosis.*":          "code severity step message fix",
	"tls":                  "version cipherSuite group postQuantum alpn clientCertificateRequested clientCertificateSent resumed staple",
	"mqtt":                 "version reasonCode reason raw sessionPresent",
	"serverCertificate":    "subject issuer serialNumber sha256 notBefore notAfter daysLeft dnsNames ipAddresses trustAnchor",
	"refusal":              "step alert? alertName? afterFinished reasonCode? error",
	"checks.*":             "name expect result observed diagnosis",
	"checks.*.observed":    "alert alertName? step afterFinished reasonCode certificateRequested certificateSent resumed error",
	"checks.*.diagnosis.*": "code severity step message fix",
}

// checkKeys compares the names of an object's fields, and of those below it.
func checkKeys(t *testing.T, at string, v any) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			checkKeys(t, strings.TrimPrefix(at+".*", "."), x)
		}
	case map[string]any:
		must, may := map[string]bool{}, map[string]bool{}
		for name := range strings.FieldsSeq(keys[at]) {
			may[strings.TrimSuffix(name, "?")] = true
			if !strings.HasSuffix(name, "?") {
				must[name] = true
			}
		}
		for name, x := range v {
			if !may[name] {
				t.Errorf("%s has a field %q", at, name)
			}
			delete(must, name)
			checkKeys(t, strings.TrimPrefix(at+"."+name, "."), x)
		}
		if len(must) > 0 {
			t.Errorf("%s lacks %v", at, slices.Collect(maps.Keys(must)))
		}
	}
}

// TestJSON has the contract of the report, in the runs that differ most.
func TestJSON(t *testing.T) {
	f := newFleet(t)
	m := f.material(t)
	open := f.mutual()
	open.ClientAuth = tls.RequestClientCert
	refused := f.target(broker{tls: f.mutual()}.start(t))
	refused.Certificate = nil
	for name, target := range map[string]mqtts.Target{
		"good":        f.negative(t, broker{tls: f.strict(m.Revoked)}.start(t), m),
		"open":        f.negative(t, broker{tls: open}.start(t), m),
		"refused":     refused,
		"unreachable": f.target("mqtts://127.0.0.1:1"),
		"plain":       f.target(broker{}.start(t)),
	} {
		r := verify(t, target)
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { checkKeys(t, "", v) })
		for _, list := range []string{"steps", "diagnosis", "checks"} {
			if _, ok := v[list].([]any); !ok {
				t.Errorf("%s: %s is %v", name, list, v[list])
			}
		}
	}
}

// TestJUnit decodes what a CI server would read.
func TestJUnit(t *testing.T) {
	f := newFleet(t)
	open := f.mutual()
	open.ClientAuth = tls.RequestClientCert
	refused := f.negative(t, broker{tls: f.mutual()}.start(t), mqtts.Material{})
	refused.Certificate = nil
	cases := map[string]struct {
		target                           mqtts.Target
		tests, failures, errors, skipped int
		has                              string
	}{
		"positive": {f.target(broker{tls: f.mutual()}.start(t)), 8, 0, 0, 0, `name="publish_subscribe"`},
		"open":     {f.negative(t, broker{tls: open}.start(t), mqtts.Material{}), 18, 3, 0, 5, `type="foreign_accepted"`},
		"control":  {refused, 18, 1, 10, 3, `type="control_failed"`},
	}
	for name, c := range cases {
		var b bytes.Buffer
		if err := verify(t, c.target).WriteJUnit(&b); err != nil {
			t.Fatal(err)
		}
		var got struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Errors   int `xml:"errors,attr"`
			Skipped  int `xml:"skipped,attr"`
			Suite    struct {
				Cases []struct {
					Name string `xml:"name,attr"`
				} `xml:"testcase"`
			} `xml:"testsuite"`
		}
		if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.Tests != c.tests || len(got.Suite.Cases) != c.tests || got.Failures != c.failures || got.Errors != c.errors || got.Skipped != c.skipped || !strings.Contains(b.String(), c.has) {
			t.Errorf("%s: %+v\n%s", name, got, b.String())
		}
	}
}

// TestChanges compares runs.
func TestChanges(t *testing.T) {
	f := newFleet(t)
	target := f.target(broker{tls: f.mutual()}.start(t))
	before := verify(t, target)
	if lines := verify(t, target).Changes(before); len(lines) != 0 {
		t.Errorf("two runs that saw the same: %q", lines)
	}
	renewed := f.mutual()
	renewed.Certificates = []tls.Certificate{*f.issuer.issue(t, "broker.test")}
	renewed.MaxVersion = tls.VersionTLS12
	target.URL = broker{tls: renewed}.start(t)
	lines := strings.Join(verify(t, target).Changes(before), "\n")
	for _, want := range []string{"TLS version: TLS 1.2, was TLS 1.3", "broker's certificate: ", "address: "} {
		if !strings.Contains(lines, want) {
			t.Errorf("%q lacks %q", lines, want)
		}
	}
	target.Certificate = nil
	lines = strings.Join(verify(t, target).Changes(before), "\n")
	for _, want := range []string{"verdict: fail, was pass", "connack: skipped, was pass", "new: client_certificate_required"} {
		if !strings.Contains(lines, want) {
			t.Errorf("%q lacks %q", lines, want)
		}
	}
}
