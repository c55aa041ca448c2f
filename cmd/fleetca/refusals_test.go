package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// A refusal is one wrong input, and the answer it must get.
type refusal struct {
	name   string
	client *restClient
	method string
	path   string
	body   any
	header []string
	status int
	kind   string // the end of the problem's type
	field  string // of its first error; empty for any
}

// refusalFixture is a server with something to be wrong about.
type refusalFixture struct {
	*testServer
	admin, nobody *restClient
	order         string
	enrolled      string // a device that is enrolled
	enrolledCSR   string
	revoked       string // a device that is revoked
	expired       string // enrollment tokens
	used          string
	other         string
}

// newRefusalFixture sets the server up with what each refusal needs.
func newRefusalFixture(t *testing.T) *refusalFixture {
	f := &refusalFixture{testServer: newTestServer(t), enrolled: "dev-1", revoked: "dev-2"}
	f.admin, f.nobody = f.rest(t, "admin"), f.rest(t, "")
	var order enroll.WorkOrder
	f.admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO-1", "product": "sensor", "quantity": 100}).into(t, http.StatusCreated, &order)
	f.order = order.ID
	_, f.enrolledCSR = newCSR(t, f.enrolled)
	f.enroll(t, f.enrolled, f.enrolledCSR, "first")
	_, csr := newCSR(t, f.revoked)
	f.enroll(t, f.revoked, csr, "second")
	if a := f.admin.send(t, "POST", "/devices/"+f.revoked+"/revocation", map[string]any{"reason": "keyCompromise"}); a.status != http.StatusAccepted {
		t.Fatalf("revoke: %d %s", a.status, a.body)
	}
	f.expired = f.enrollmentToken(t, map[string]any{"expiresIn": "1ms"})
	f.used = f.enrollmentToken(t, map[string]any{})
	f.other = f.enrollmentToken(t, map[string]any{"deviceId": "dev-9"})
	_, csr = newCSR(t, "dev-3")
	if a := f.nobody.send(t, "POST", "/enrollments", map[string]any{"deviceId": "dev-3", "csr": csr, "token": f.used}); a.status != http.StatusCreated {
		t.Fatalf("spend the token: %d %s", a.status, a.body)
	}
	f.waitProven(t)
	return f
}

func (f *refusalFixture) enroll(t *testing.T, id, csr, key string) {
	t.Helper()
	a := f.admin.send(t, "POST", "/enrollments", map[string]any{"deviceId": id, "csr": csr, "workOrder": f.order}, "Idempotency-Key", key)
	if a.status != http.StatusCreated {
		t.Fatalf("enroll %s: %d %s", id, a.status, a.body)
	}
}

func (f *refusalFixture) enrollmentToken(t *testing.T, body map[string]any) string {
	t.Helper()
	var token enroll.EnrollmentToken
	f.admin.send(t, "POST", "/work-orders/"+f.order+"/tokens", body).into(t, http.StatusCreated, &token)
	return token.Token
}

// waitProven waits until the fixture's revocation is proven, so that nothing
// is written by the server any more.
func (f *refusalFixture) waitProven(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var events struct{ Items []enroll.Event }
		f.admin.send(t, "GET", "/events?action=revocation.proven", nil).into(t, http.StatusOK, &events)
		if len(events.Items) == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the revocation was not proven\n%s", f.log)
		}
	}
}

// TestRefusals sends each wrong input, and looks that it gets its problem and
// that not a row was added.
func TestRefusals(t *testing.T) {
	t.Parallel()
	f := newRefusalFixture(t)
	all := f.refusals(t)
	time.Sleep(4 * time.Second) // the CRL job that follows a revocation, in case the proof is held up
	before := f.rowCounts(t)
	for _, r := range all {
		t.Run(r.name, func(t *testing.T) {
			a := r.client.send(t, r.method, r.path, r.body, r.header...)
			var p problem
			a.into(t, r.status, &p)
			if p.Type != "urn:fleetca:problem:"+r.kind || p.Title == "" || p.Status != r.status {
				t.Errorf("problem %s, want %s: %s", p.Type, r.kind, a.body)
			}
			if ct := a.header.Get("Content-Type"); !strings.HasPrefix(ct, "application/problem+json") {
				t.Errorf("content type %q", ct)
			}
			if r.field != "" && (len(p.Errors) == 0 || p.Errors[0].Field != r.field || p.Errors[0].Message == "") {
				t.Errorf("field %q is not named: %s", r.field, a.body)
			}
		})
	}
	if after := f.rowCounts(t); !maps.Equal(before, after) {
		t.Errorf("rows changed:\n%v\n%v", before, after)
	}
}

func (f *refusalFixture) refusals(t *testing.T) []refusal {
	_, good := newCSR(t, "new-1")
	enrollment := func(more map[string]any) map[string]any {
		body := map[string]any{"deviceId": "new-1", "csr": good, "workOrder": f.order}
		maps.Copy(body, more)
		return body
	}
	byToken := func(token, id, csr string) map[string]any {
		return map[string]any{"deviceId": id, "csr": csr, "token": token}
	}
	_, other := newCSR(t, "dev-1")
	_, revokedAgain := newCSR(t, f.revoked)
	post := func(name string, body any, status int, kind, field string, header ...string) refusal {
		return refusal{name, f.admin, "POST", "/enrollments", body, header, status, kind, field}
	}
	token := func(name string, body any, status int, kind, field string) refusal {
		return refusal{name, f.nobody, "POST", "/enrollments", body, nil, status, kind, field}
	}
	at := func(name string, c *restClient, method, path string, body any, status int, kind, field string) refusal {
		return refusal{name, c, method, path, body, nil, status, kind, field}
	}
	return []refusal{
		post("bad signature", enrollment(map[string]any{"csr": brokenCSR(t, good)}), 422, "bad-csr-signature", "csr"),
		post("RSA-1024", enrollment(map[string]any{"csr": rsaCSR(t, 1024)}), 422, "weak-key", "csr"),
		post("RSA-2560", enrollment(map[string]any{"csr": rsaCSR(t, 2560)}), 422, "weak-key", "csr"),
		post("P-521", enrollment(map[string]any{"csr": p521CSR(t)}), 422, "weak-key", "csr"),
		post("17 KiB", enrollment(map[string]any{"csr": bigCSR(t)}), 413, "too-large", "csr"),
		post("body of 1 MiB", enrollment(map[string]any{"csr": strings.Repeat("A", 1<<20)}), 413, "too-large", ""),
		post("not PEM", enrollment(map[string]any{"csr": "hello"}), 400, "malformed", "csr"),
		post("no CSR", map[string]any{"deviceId": "new-1", "workOrder": f.order}, 400, "malformed", "csr"),
		post("two CSRs", enrollment(map[string]any{"csr": good + good}), 400, "malformed", "csr"),
		post("certificate for a CSR", enrollment(map[string]any{"csr": strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE")}), 400, "malformed", "csr"),
		post("other common name", enrollment(map[string]any{"deviceId": "new-2"}), 422, "name-not-allowed", "csr"),
		post("DNS name", enrollment(map[string]any{"csr": dnsCSR(t, "broker.example")}), 422, "name-not-allowed", "csr"),
		post("canary's name", enrollment(map[string]any{"deviceId": enroll.CanaryID}), 422, "name-not-allowed", "deviceId"),
		post("unknown field", enrollment(map[string]any{"colour": "red"}), 400, "malformed", "colour"),
		post("wrong type", enrollment(map[string]any{"deviceId": 7}), 400, "malformed", "deviceId"),
		post("bad device id", enrollment(map[string]any{"deviceId": "a/b"}), 400, "malformed", "deviceId"),
		post("device id ..", enrollment(map[string]any{"deviceId": ".."}), 400, "malformed", "deviceId"),
		post("NUL in the device id", enrollment(map[string]any{"deviceId": "a\x00b"}), 400, "malformed", "deviceId"),
		post("long device id", enrollment(map[string]any{"deviceId": strings.Repeat("a", 65)}), 400, "malformed", "deviceId"),
		post("unknown profile", enrollment(map[string]any{"profile": "moon"}), 400, "unknown-profile", "profile"),
		post("profile of brokers", enrollment(map[string]any{"profile": "broker", "workOrder": ""}), 400, "unknown-profile", "profile"),
		post("unknown work order", enrollment(map[string]any{"workOrder": "WO-none"}), 404, "not-found", "workOrder"),
		post("not JSON", "{", 400, "malformed", ""),
		post("two objects", "{}{}", 400, "malformed", ""),
		post("enrolled with another key", enrollment(map[string]any{"deviceId": "dev-1", "csr": other}), 409, "duplicate-device", "deviceId"),
		post("key of another device", enrollment(map[string]any{"deviceId": "dev-8", "csr": anonymousCSR(t, f, "dev-7")}), 409, "duplicate-key", "csr"),
		post("revoked device", enrollment(map[string]any{"deviceId": f.revoked, "csr": revokedAgain}), 422, "device-revoked", "deviceId"),
		post("same key, other CSR", enrollment(nil), 409, "idempotency-conflict", "Idempotency-Key", "Idempotency-Key", "first"),
		post("long idempotency key", enrollment(nil), 400, "malformed", "Idempotency-Key", "Idempotency-Key", strings.Repeat("k", 256)),
		token("no credential", enrollment(nil), 401, "unauthenticated", ""),
		token("unknown token", byToken("fce_nothing", "new-1", good), 401, "token-unknown", "token"),
		token("expired token", byToken(f.expired, "new-1", good), 422, "token-expired", "token"),
		token("used token", byToken(f.used, "new-1", good), 422, "token-used", "token"),
		token("other device's token", byToken(f.other, "new-1", good), 422, "token-other-device", "token"),
		at("unknown reason", f.admin, "POST", "/devices/dev-1/revocation", map[string]any{"reason": "boredom"}, 400, "unknown-reason", "reason"),
		at("no reason", f.admin, "POST", "/devices/dev-1/revocation", map[string]any{}, 400, "unknown-reason", "reason"),
		at("revoked twice", f.admin, "POST", "/devices/"+f.revoked+"/revocation", map[string]any{"reason": "superseded"}, 409, "already-revoked", ""),
		at("revoke nobody", f.admin, "POST", "/devices/nobody/revocation", map[string]any{"reason": "superseded"}, 404, "not-found", ""),
		at("release what is not held", f.admin, "POST", "/devices/dev-1/release", nil, 409, "not-held", ""),
		at("role", f.rest(t, "auditor"), "POST", "/devices/dev-1/revocation", map[string]any{"reason": "superseded"}, 403, "forbidden", ""),
		at("broker with a bad URL", f.admin, "POST", "/brokers", map[string]any{"url": "mqtt://h", "names": []string{"h"}, "kind": "mosquitto"}, 400, "malformed", "url"),
		at("broker without its host", f.admin, "POST", "/brokers", map[string]any{"url": "mqtts://h", "names": []string{"g"}, "kind": "mosquitto"}, 422, "name-not-allowed", "names"),
		at("broker's CSR for another name", f.admin, "POST", "/brokers/embedded/certificates", map[string]any{"csr": dnsCSR(t, "evil.example")}, 422, "name-not-allowed", "csr"),
		at("negative quantity", f.admin, "POST", "/work-orders", map[string]any{"product": "p", "quantity": -1}, 400, "malformed", "quantity"),
		at("token past", f.admin, "POST", "/work-orders/WO-1/tokens", map[string]any{"expiresAt": "2001-01-01T00:00:00Z"}, 400, "malformed", "expiresAt"),
		at("unknown query", f.admin, "GET", "/devices?stauts=active", nil, 400, "malformed", "stauts"),
		at("bad cursor", f.admin, "GET", "/devices?cursor=%25%25", nil, 400, "malformed", "cursor"),
		at("limit 0", f.admin, "GET", "/devices?limit=0", nil, 400, "malformed", "limit"),
		at("bad serial", f.admin, "GET", "/certificates/xyz", nil, 400, "malformed", "serialNumber"),
		at("no such route", f.admin, "GET", "/nothing", nil, 404, "not-found", ""),
		at("renewal without a certificate", f.nobody, "POST", "/renewals", map[string]any{}, 401, "unauthenticated", ""),
	}
}

// brokenCSR flips the last bit of the signature.
func brokenCSR(t *testing.T, csr string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(csr))
	der := bytes.Clone(block.Bytes)
	der[len(der)-1] ^= 1
	return string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der}))
}

func rsaCSR(t *testing.T, bits int) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return csrOf(t, key, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "new-1"}})
}

func p521CSR(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return csrOf(t, key, &x509.CertificateRequest{})
}

func dnsCSR(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return csrOf(t, key, &x509.CertificateRequest{DNSNames: []string{name}})
}

// bigCSR is a sound request of 17 KiB.
func bigCSR(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return csrOf(t, key, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "new-1"}, ExtraExtensions: []pkix.Extension{
		{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}, Value: bytes.Repeat([]byte{7}, 13<<10)},
	}})
}

// anonymousCSR enrolls a device with a request that has no name, and returns it.
func anonymousCSR(t *testing.T, f *refusalFixture, id string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr := csrOf(t, key, &x509.CertificateRequest{})
	f.enroll(t, id, csr, "anonymous-"+id)
	return csr
}

// 64 clients race for a quota of 10: ten devices are enrolled, not one more,
// and each of the others is told why.
func TestQuotaRace(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	admin := s.rest(t, "admin")
	if a := admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO-race", "product": "p", "quantity": 10}); a.status != http.StatusCreated {
		t.Fatalf("%d %s", a.status, a.body)
	}
	counts := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n := range 64 {
		id := fmt.Sprintf("racer-%d", n)
		_, csr := newCSR(t, id)
		wg.Go(func() {
			a, err := admin.try("POST", "/enrollments", map[string]any{"deviceId": id, "csr": csr, "workOrder": "WO-race"}, "Idempotency-Key", id)
			var p problem
			_ = json.Unmarshal(a.body, &p)
			mu.Lock()
			defer mu.Unlock()
			counts[fmt.Sprintf("%d %s %v", a.status, p.Type, err)]++
		})
	}
	wg.Wait()
	want := map[string]int{"201  <nil>": 10, "422 urn:fleetca:problem:quota-reached <nil>": 54}
	if !maps.Equal(counts, want) {
		t.Errorf("%v, want %v", counts, want)
	}
	var order enroll.WorkOrder
	admin.send(t, "GET", "/work-orders/WO-race", nil).into(t, http.StatusOK, &order)
	rows := s.rowCounts(t)
	if order.Issued != 10 || rows["devices"] != 10 {
		t.Errorf("issued %d, devices %d, want 10", order.Issued, rows["devices"])
	}
}
