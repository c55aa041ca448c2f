package api_test

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/api"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func TestStatusListener(t *testing.T) {
	f := shared
	operator := f.client(t, f.people, enroll.RoleOperator, nil)
	for _, issuer := range collect(t, operator.Issuers(t.Context())) {
		resp, der := f.raw(t, "GET", f.status.URL+"/crl/"+issuer.ID+".crl", "")
		crl, err := x509.ParseRevocationList([]byte(der))
		if err != nil || resp.Header.Get("Content-Type") != "application/pkix-crl" {
			t.Fatalf("%s: %v %v", issuer.ID, err, resp.Header)
		}
		_, text := f.raw(t, "GET", f.status.URL+"/crl/"+issuer.ID+".pem", "")
		if block, _ := pem.Decode([]byte(text)); block == nil || string(block.Bytes) != der {
			t.Errorf("%s: DER and PEM differ", issuer.ID)
		}
		_, cer := f.raw(t, "GET", f.status.URL+"/issuers/"+issuer.ID+".cer", "")
		cert, err := x509.ParseCertificate([]byte(cer))
		if err != nil || crl.CheckSignatureFrom(cert) != nil {
			t.Errorf("%s: the issuer's certificate: %v", issuer.ID, err)
		}
	}
	_, bundle := f.raw(t, "GET", f.status.URL+"/crl/bundle.pem", "")
	all, err := f.service.CRLs(t.Context())
	if n := strings.Count(bundle, "BEGIN X509 CRL"); err != nil || n != len(all) || n < 3 {
		t.Errorf("%d of %d CRLs in the bundle, %v", n, len(all), err)
	}
	_, roots := f.raw(t, "GET", f.status.URL+"/trust-bundle.pem", "")
	if roots != ca.EncodeChain(f.root) {
		t.Errorf("trust bundle: %s", roots)
	}
	for path, want := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/crl/nobody.crl": 404, "/crl/device": 404, "/issuers/nobody.cer": 404,
		"/issuers/device.pem": 404, "/crl/..%2fx.crl": 404, "/api/v1/devices": 404,
	} {
		if resp, body := f.raw(t, "GET", f.status.URL+path, ""); resp.StatusCode != want {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	for _, base := range []string{f.people.URL, f.machines.URL} {
		if resp, body := f.raw(t, "GET", base+"/readyz", ""); resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", base, resp.StatusCode, body)
		}
	}
}

func TestCRLCaching(t *testing.T) {
	url := shared.status.URL + "/crl/device.crl"
	first, _ := shared.raw(t, "GET", url, "")
	etag := first.Header.Get("ETag")
	if etag == "" || !strings.Contains(first.Header.Get("Cache-Control"), "max-age=60") {
		t.Fatalf("headers %v", first.Header)
	}
	if resp, body := shared.raw(t, "GET", url, "", "If-None-Match", etag); resp.StatusCode != 304 || body != "" {
		t.Errorf("same ETag: %d", resp.StatusCode)
	}
	// Two CRLs may have one time, so that a time says nothing.
	if resp, _ := shared.raw(t, "GET", url, "", "If-Modified-Since", first.Header.Get("Date")); resp.StatusCode != 200 || resp.Header.Get("Last-Modified") == "" {
		t.Errorf("by its time: %d %v", resp.StatusCode, resp.Header)
	}
	if resp, body := shared.raw(t, "HEAD", url, ""); resp.StatusCode != 200 || body != "" || resp.Header.Get("ETag") != etag {
		t.Errorf("HEAD: %d %v", resp.StatusCode, resp.Header)
	}
}

// TestLapsedCRL looks at the CRL just before its nextUpdate, and just after (I12).
func TestLapsedCRL(t *testing.T) {
	crl, err := shared.service.CRL(t.Context(), "device")
	if err != nil {
		t.Fatal(err)
	}
	var now time.Time
	status := api.New(api.Config{Service: shared.service, Now: func() time.Time { return now }}).Status()
	do := func(path string) *http.Response {
		w := httptest.NewRecorder()
		status.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Result()
	}
	now = crl.NextUpdate.Add(-10 * time.Second)
	if resp := do("/crl/device.crl"); resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Cache-Control"), "max-age=10,") {
		t.Errorf("before: %d %v", resp.StatusCode, resp.Header)
	}
	now = crl.NextUpdate
	for _, path := range []string{"/crl/device.crl", "/crl/device.pem", "/crl/bundle.pem"} {
		resp := do(path)
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Cache-Control") != "no-store" || !strings.Contains(string(body), "status-lapsed") {
			t.Errorf("%s: %d %v %s", path, resp.StatusCode, resp.Header, body)
		}
	}
}

func TestMetrics(t *testing.T) {
	shared.raw(t, "GET", shared.status.URL+"/metrics", "")
	shared.raw(t, "GET", shared.people.URL+"/nowhere/1", "")
	shared.raw(t, "FROB", shared.people.URL+"/api/v1/devices/1", "")
	_, body := shared.raw(t, "GET", shared.status.URL+"/metrics", "")
	for _, want := range []string{
		`fleetca_crl_age_seconds{issuer="device",shard="0"}`, `fleetca_crl_next_update_timestamp_seconds{issuer="root",shard="0"}`, `fleetca_crl_readable 1`,
		`fleetca_http_requests_total{listener="people",method="GET",route="unmatched",status="404"}`, `method="other"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
}
