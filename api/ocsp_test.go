package api_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/fleetca/fleetca/api"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// ocspRequest returns a request about a serial number of the devices' issuer.
func (f *fleet) ocspRequest(t testing.TB, serial ca.SerialNumber) (request []byte, issuer *x509.Certificate) {
	t.Helper()
	issuer, err := f.service.IssuerCertificate(t.Context(), "device")
	if err != nil {
		t.Fatal(err)
	}
	request, err = ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial.Int()}, issuer, nil)
	if err != nil {
		t.Fatal(err)
	}
	return request, issuer
}

// device enrolls a device, and returns its certificate.
func (f *fleet) device(t testing.TB, id string) *ca.Certificate {
	t.Helper()
	_, csr, err := request(id)
	if err != nil {
		t.Fatal(err)
	}
	e, err := f.service.EnrollDevice(t.Context(), enroll.Call{Principal: enroll.Principal{Name: "test", Role: enroll.RoleAdmin}}, enroll.EnrollRequest{DeviceID: id, CSR: csr})
	if err != nil {
		t.Fatal(err)
	}
	return e.Certificate
}

func TestOCSPOverHTTP(t *testing.T) {
	f := shared
	cert := f.device(t, "ocsp-http")
	// Requests whose base64 holds what paths treat specially.
	var der []byte
	var issuer *x509.Certificate
	text, serial := "", cert.SerialNumber
	for n := 0; !strings.Contains(text, "//") || !strings.Contains(text, "+"); n++ {
		der, issuer = f.ocspRequest(t, serial)
		text, serial = base64.StdEncoding.EncodeToString(der), ca.NewSerialNumber()
	}
	asked := func(method, path string, body []byte, want int) http.Header {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, f.status.URL, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = strings.TrimPrefix(f.status.URL, "http:") + path // as it is, without cleaning
		req.Header.Set("Content-Type", "application/ocsp-request")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/ocsp-response" {
			t.Fatalf("%s %s: %d %v", method, path, resp.StatusCode, resp.Header)
		}
		if parsed, err := ocsp.ParseResponse(answer, issuer); err != nil || parsed.Status != want {
			t.Errorf("%s %s: %v", method, path, err)
		}
		return resp.Header
	}
	for _, path := range []string{"/ocsp/" + text, "/ocsp/" + url.QueryEscape(text), "/ocsp/" + url.PathEscape(text), "/ocsp/" + strings.TrimRight(text, "=")} {
		if h := asked("GET", path, nil, ocsp.Unknown); h.Get("Cache-Control") != "no-store" {
			t.Errorf("unknown may be kept: %v", h)
		}
	}
	asked("POST", "/ocsp", der, ocsp.Unknown)
	asked("POST", "/ocsp/", der, ocsp.Unknown)
	der, _ = f.ocspRequest(t, cert.SerialNumber)
	text = url.PathEscape(base64.StdEncoding.EncodeToString(der))
	h := asked("GET", "/ocsp/"+text, nil, ocsp.Good)
	for name, want := range map[string]string{"Cache-Control": "max-age=60, public, no-transform, must-revalidate", "Etag": `"`, "Expires": "GMT", "Last-Modified": "GMT"} {
		if !strings.Contains(h.Get(name), want) {
			t.Errorf("%s: %q", name, h.Get(name))
		}
	}
	if h := asked("POST", "/ocsp", der, ocsp.Good); h.Get("Cache-Control") != "no-store" {
		t.Errorf("an answer to POST may be kept: %v", h)
	}
	if resp, body := f.raw(t, "GET", f.status.URL+"/ocsp/"+text, "", "If-None-Match", h.Get("Etag")); resp.StatusCode != 304 || body != "" {
		t.Errorf("the client has it: %d", resp.StatusCode)
	}
	for _, path := range []string{"/ocsp/%zz", "/ocsp/!!!", "/ocsp/" + strings.Repeat("A", 20_000), "/ocsp/AAAA"} {
		req := httptest.NewRequest("GET", "/ocsp/x", nil)
		req.URL.Path, req.URL.RawPath = path, path
		w := httptest.NewRecorder()
		api.New(api.Config{Service: f.service}).Status().ServeHTTP(w, req)
		if w.Code != 200 || !bytes.Equal(w.Body.Bytes(), []byte{0x30, 3, 0x0a, 1, 1}) || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%.30s: %d %x", path, w.Code, w.Body.Bytes())
		}
	}
	if resp, _ := f.raw(t, "GET", f.status.URL+"/ocsp", ""); resp.StatusCode != 400 {
		t.Errorf("the bare URL: %d", resp.StatusCode)
	}
	if resp, _ := f.raw(t, "DELETE", f.status.URL+"/ocsp/x", ""); resp.StatusCode < 400 {
		t.Errorf("DELETE: %d", resp.StatusCode)
	}
	_, metrics := f.raw(t, "GET", f.status.URL+"/metrics", "")
	for _, want := range []string{`fleetca_ocsp_answers_total{status="good"}`, `fleetca_ocsp_answers_total{status="tryLater"} 0`, "fleetca_ocsp_cached_answers",
		`fleetca_ocsp_certificate_not_after_timestamp_seconds{issuer="device"}`, "fleetca_status_refreshed_timestamp_seconds"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s", want)
		}
	}
}

// TestI13OCSPAndCRLOnEveryReplica: a revocation on one replica is on another's
// answers within seconds.
func TestI13OCSPAndCRLOnEveryReplica(t *testing.T) {
	f := shared
	other := enroll.New(enroll.Config{Authority: f.ca, Store: f.store})
	replica := httptest.NewServer(api.New(api.Config{Service: other}).Status())
	defer replica.Close()
	cert := f.device(t, "ocsp-replica")
	der, issuer := f.ocspRequest(t, cert.SerialNumber)
	status := func() int {
		resp, err := http.Post(replica.URL+"/ocsp", "application/ocsp-request", bytes.NewReader(der)) //nolint:noctx // a test
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := ocsp.ParseResponse(answer, issuer)
		if err != nil {
			t.Fatal(err)
		}
		return parsed.Status
	}
	listed := func() bool {
		_, body := f.raw(t, "GET", replica.URL+"/crl/device.crl", "")
		list, err := x509.ParseRevocationList([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(cert.SerialNumber.Int()) == 0 {
				return true
			}
		}
		return false
	}
	if status() != ocsp.Good || listed() {
		t.Fatal("revoked before its revocation")
	}
	call := enroll.Call{Principal: enroll.Principal{Name: "test", Role: enroll.RoleAdmin}}
	if _, err := f.service.RevokeCertificate(t.Context(), call, string(cert.SerialNumber), enroll.RevokeRequest{Reason: string(ca.ReasonKeyCompromise)}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for status() != ocsp.Revoked {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("OCSP on another replica still says good")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("OCSP on another replica took %v", took)
	}
	if _, err := f.ca.PublishCRL(t.Context(), cert.CRLScope(), false); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	for !listed() {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("another replica serves the CRL of before")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestOCSPClients asks with the clients of others, by the URL in the
// certificate's AIA.
func TestOCSPClients(t *testing.T) {
	f := shared
	dir := t.TempDir()
	if err := errors.Join(f.service.SetStatusURL(t.Context(), f.status.URL), f.service.PublishScheduledCRLs(t.Context())); err != nil {
		t.Fatal(err)
	}
	cert := f.device(t, "ocsp-clients")
	x, err := cert.X509()
	if err != nil || len(x.OCSPServer) != 1 || x.OCSPServer[0] != f.status.URL+"/ocsp" {
		t.Fatalf("AIA %v, %v", x.OCSPServer, err)
	}
	issuer, err := f.service.IssuerCertificate(t.Context(), "device")
	if err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	der, _ := f.ocspRequest(t, cert.SerialNumber)
	for name, text := range map[string]string{
		"cert.pem": cert.PEM(), "issuer.pem": ca.EncodeChain(issuer), "root.pem": ca.EncodeChain(f.root), "both.pem": ca.EncodeChain(issuer, f.root), "request.der": string(der),
	} {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, pkg string
		args      []string
		want      string
	}{
		{"openssl", "openssl", []string{"ocsp", "-issuer", path("issuer.pem"), "-cert", path("cert.pem"), "-url", x.OCSPServer[0], "-CAfile", path("root.pem"), "-verify_other", path("issuer.pem")}, "Response verify OK"},
		{"openssl", "openssl", []string{"ocsp", "-issuer", path("issuer.pem"), "-sha256", "-cert", path("cert.pem"), "-url", x.OCSPServer[0], "-CAfile", path("root.pem"), "-verify_other", path("issuer.pem")}, "cert.pem: good"},
		{"ocsptool", "gnutls-bin", []string{"--ask=" + x.OCSPServer[0], "--load-cert", path("cert.pem"), "--load-issuer", path("issuer.pem"), "--load-trust", path("both.pem"), "--nonce"}, "Certificate Status: good"},
		{"curl", "curl", []string{"-sS", "-D", "-", "-o", path("answer.der"), "--path-as-is", x.OCSPServer[0] + "/" + base64.StdEncoding.EncodeToString(der)}, "application/ocsp-response"},
		{"curl", "curl", []string{"-sS", "-D", "-", "-o", path("answer.der"), "-H", "Content-Type: application/ocsp-request", "--data-binary", "@" + path("request.der"), x.OCSPServer[0]}, "200 OK"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := exec.LookPath(c.name); err != nil {
				if os.Getenv("FLEETCA_TEST_ALL") == "1" {
					t.Fatalf("%s is missing: install the package %s", c.name, c.pkg)
				}
				t.Skipf("%s is missing: install the package %s to run this test", c.name, c.pkg)
			}
			out, err := exec.CommandContext(t.Context(), c.name, c.args...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	t.Run("NSS", func(t *testing.T) { f.askNSS(t, dir, cert, issuer) })
}

// askNSS asks with NSS, whose trust database holds the root.
func (f *fleet) askNSS(t *testing.T, dir string, cert *ca.Certificate, issuer *x509.Certificate) {
	for _, name := range []string{"certutil", "ocspclnt"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("FLEETCA_TEST_ALL") == "1" {
				t.Fatalf("%s is missing: install the package libnss3-tools", name)
			}
			t.Skipf("%s is missing: install the package libnss3-tools to run this test", name)
		}
	}
	db := filepath.Join(dir, "nss")
	if err := os.Mkdir(db, 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
		return string(out)
	}
	run("certutil", "-N", "-d", "sql:"+db, "--empty-password")
	for name, c := range map[string]struct {
		der   []byte
		trust string
	}{"root": {f.root.Raw, "TC,C,"}, "issuer": {issuer.Raw, ",,"}, "leaf": {cert.DER, ",,"}} {
		file := filepath.Join(dir, name+".nss.pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.der}), 0o600); err != nil {
			t.Fatal(err)
		}
		run("certutil", "-A", "-d", "sql:"+db, "-n", name, "-t", c.trust, "-i", file, "-a")
	}
	ask := func() string { // -S asks for the status by OCSP
		out, _ := exec.CommandContext(t.Context(), "ocspclnt", "-S", "leaf", "-d", "sql:"+db, "-l", f.status.URL+"/ocsp", "-t", "issuer").CombinedOutput()
		return string(out)
	}
	if out := ask(); !strings.Contains(out, "succeeded") {
		t.Errorf("ocspclnt says of a good certificate: %s", out)
	}
	call := enroll.Call{Principal: enroll.Principal{Name: "test", Role: enroll.RoleAdmin}}
	if _, err := f.service.RevokeCertificate(t.Context(), call, string(cert.SerialNumber), enroll.RevokeRequest{Reason: string(ca.ReasonKeyCompromise)}); err != nil {
		t.Fatal(err)
	}
	if err := f.service.RefreshStatus(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := ask(); strings.Contains(out, "succeeded") || !strings.Contains(strings.ToLower(out), "revoked") {
		t.Errorf("ocspclnt says of a revoked certificate: %s", out)
	}
}

func TestCRLShards(t *testing.T) {
	f := shared
	var issuer enroll.IssuerView
	if err := errors.Join(f.service.SetStatusURL(t.Context(), f.status.URL), f.service.PublishScheduledCRLs(t.Context())); err != nil {
		t.Fatal(err)
	}
	resp, text := f.raw(t, "POST", f.people.URL+"/api/v1/issuers/broker/crl-shards", `{"shards":2}`, "Authorization", "Bearer "+f.tokens[enroll.RoleAdmin])
	if err := json.Unmarshal([]byte(text), &issuer); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	if issuer.CRLShards != 2 || len(issuer.CDPs)%2 != 0 || len(issuer.CDPs) == 0 {
		t.Errorf("%+v", issuer)
	}
	for _, path := range []string{"/crl/broker.crl", "/crl/broker/1.crl"} {
		resp, der := f.raw(t, "GET", f.status.URL+path, "")
		if list, err := x509.ParseRevocationList([]byte(der)); err != nil || resp.StatusCode != 200 {
			t.Errorf("%s: %d %v", path, resp.StatusCode, err)
		} else if issuerOf, err := f.service.IssuerCertificate(t.Context(), "broker"); err != nil || list.CheckSignatureFrom(issuerOf) != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{"/crl/broker/2.crl", "/crl/broker/0.crl", "/crl/broker/x.crl", "/crl/broker/1"} {
		if resp, _ := f.raw(t, "GET", f.status.URL+path, ""); resp.StatusCode != 404 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	_, bundle := f.raw(t, "GET", f.status.URL+"/crl/bundle.pem", "")
	if n := strings.Count(bundle, "BEGIN X509 CRL"); n != 4 {
		t.Errorf("%d CRLs in the bundle", n)
	}
	for role, want := range map[enroll.Role]int{enroll.RoleOperator: 403, enroll.RoleSecurity: 403} {
		resp, _ := f.raw(t, "POST", f.people.URL+"/api/v1/issuers/broker/crl-shards", `{"shards":3}`, "Authorization", "Bearer "+f.tokens[role])
		if resp.StatusCode != want {
			t.Errorf("%s: %d", role, resp.StatusCode)
		}
	}
	admin := f.client(t, f.people, enroll.RoleAdmin, nil)
	if _, err := admin.SetCRLShards(t.Context(), "root", 2); err == nil {
		t.Error("the root has shards")
	}
	if got, err := admin.SetCRLShards(t.Context(), "broker", 1); err != nil || got.CRLShards != 1 || len(got.CDPs) != len(issuer.CDPs) {
		t.Errorf("%+v %v", got, err)
	}
}

// BenchmarkOCSP answers a warm request through the handler of the status
// listener, as it stands before the router.
func BenchmarkOCSP(b *testing.B) {
	f := shared
	cert := f.device(b, fmt.Sprintf("ocsp-bench-%d", time.Now().UnixNano()))
	der, _ := f.ocspRequest(b, cert.SerialNumber)
	handler := api.New(api.Config{Service: f.service}).Status()
	get := "/ocsp/" + url.PathEscape(base64.StdEncoding.EncodeToString(der))
	run := func(b *testing.B, method, path string, body []byte) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			w, content := &discard{header: http.Header{}}, bytes.NewReader(nil)
			req := httptest.NewRequest(method, path, nil)
			req.Body = io.NopCloser(content)
			for pb.Next() {
				content.Reset(body)
				clear(w.header)
				handler.ServeHTTP(w, req)
				if w.n < 300 {
					b.Errorf("answered %d octets", w.n)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
	}
	b.Run("GET", func(b *testing.B) { run(b, "GET", get, nil) })
	b.Run("POST", func(b *testing.B) { run(b, "POST", "/ocsp", der) })
}

// A discard is a ResponseWriter that counts.
type discard struct {
	header http.Header
	n      int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(b []byte) (int, error) { d.n = len(b); return len(b), nil }
