package api_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/api"
	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// isKind fails unless err is a problem of the kind, about the field.
func isKind(t *testing.T, err error, kind ca.Kind, field string) {
	t.Helper()
	var p *client.Problem
	if !errors.As(err, &p) || !errors.Is(err, ca.IsKind(kind)) || p.Field() != field {
		t.Errorf("got %#v, want a problem %s about %q", err, kind, field)
	}
}

// collect reads a whole listing.
func collect[T any](t *testing.T, seq func(func(T, error) bool)) []T {
	t.Helper()
	var all []T
	for v, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}

// TestStory goes the way of a device through the client: ordered, enrolled
// with a token, renewed with its certificate, held, released, revoked.
func TestStory(t *testing.T) {
	id := unique("story-")
	token := orderAndToken(t, shared, id)
	identity := enrollAndRepeat(t, shared, id, token)
	renewAndTrespass(t, shared, id, identity)
	holdAndRelease(t, shared, id)
	revokeAndFollow(t, shared, id)
}

func orderAndToken(t *testing.T, f *fleet, id string) string {
	ctx := t.Context()
	factory := f.client(t, f.people, enroll.RoleFactory, nil)
	order, err := factory.CreateWorkOrder(ctx, enroll.NewWorkOrder{ID: id, Product: "pump", Quantity: 2}, client.IdempotencyKey("order "+id))
	if err != nil {
		t.Fatal(err)
	}
	again, err := factory.CreateWorkOrder(ctx, enroll.NewWorkOrder{ID: id, Product: "pump", Quantity: 2}, client.IdempotencyKey("order "+id))
	if err != nil || !reflect.DeepEqual(again, order) {
		t.Errorf("the same order again: %+v, %v", again, err)
	}
	_, err = factory.CreateWorkOrder(ctx, enroll.NewWorkOrder{ID: id, Product: "pump", Quantity: 3}, client.IdempotencyKey("order "+id))
	isKind(t, err, enroll.KindIdempotency, "Idempotency-Key")

	token, err := factory.CreateEnrollmentToken(ctx, id, enroll.NewToken{DeviceID: id})
	if err != nil {
		t.Fatal(err)
	}
	return token.Token
}

func enrollAndRepeat(t *testing.T, f *fleet, id string, token string) *tls.Certificate {
	ctx := t.Context()
	key, csr := newRequest(t, id)
	device := f.client(t, f.machines, "", nil)
	enrolled, err := device.Enroll(ctx, enroll.EnrollRequest{Token: token, DeviceID: id, CSR: csr})
	if err != nil {
		t.Fatal(err)
	}
	repeated, err := device.Enroll(ctx, enroll.EnrollRequest{Token: token, DeviceID: id, CSR: csr})
	if err != nil || !repeated.Replayed || enrolled.Replayed || repeated.Chain != enrolled.Chain {
		t.Errorf("the same enrollment again: %+v, %v", repeated, err)
	}
	_, err = device.Enroll(ctx, enroll.EnrollRequest{Token: "fce_unknown", DeviceID: id + "-other", CSR: csr})
	isKind(t, err, enroll.KindTokenUnknown, "token")
	_, err = device.Enroll(ctx, enroll.EnrollRequest{DeviceID: id + "-other", CSR: csr})
	isKind(t, err, enroll.KindUnauthenticated, "token")

	return &tls.Certificate{Certificate: [][]byte{enrolled.Certificate.DER}, PrivateKey: key}
}

func renewAndTrespass(t *testing.T, f *fleet, id string, identity *tls.Certificate) {
	ctx := t.Context()
	renewed, err := f.client(t, f.machines, "", identity).Renew(ctx, "")
	if err != nil || renewed.DeviceID != id || bytes.Equal(renewed.Certificate.DER, identity.Certificate[0]) {
		t.Fatalf("renewed %+v, %v", renewed, err)
	}
	_, err = f.client(t, f.people, "", identity).Renew(ctx, "")
	isKind(t, err, enroll.KindUnauthenticated, "")
	_, err = f.client(t, f.machines, "", identity).Device(ctx, id)
	isKind(t, err, enroll.KindForbidden, "")
	_, err = f.client(t, f.machines, "", identity).IssueBroker(ctx, id, "")
	isKind(t, err, enroll.KindForbidden, "")
}

func holdAndRelease(t *testing.T, f *fleet, id string) {
	ctx, operator := t.Context(), f.client(t, f.people, enroll.RoleOperator, nil)
	held, err := operator.HoldDevice(ctx, id, client.IdempotencyKey("hold "+id))
	if err != nil || held.Status != enroll.DeviceHeld || len(held.Certificates) != 2 {
		t.Fatalf("held %+v, %v", held, err)
	}
	if held, err = operator.HoldDevice(ctx, id, client.IdempotencyKey("hold "+id)); err != nil || held.Status != enroll.DeviceHeld {
		t.Errorf("the same hold again: %+v, %v", held, err)
	}
	if _, err = operator.ReleaseDevice(ctx, id); err != nil {
		t.Fatal(err)
	}
	_, err = operator.ReleaseDevice(ctx, id)
	isKind(t, err, ca.KindNotHeld, "deviceId")
}

func revokeAndFollow(t *testing.T, f *fleet, id string) {
	ctx, security := t.Context(), f.client(t, f.people, enroll.RoleSecurity, nil)
	_, err := f.client(t, f.people, enroll.RoleOperator, nil).RevokeDevice(ctx, id, enroll.RevokeRequest{Reason: "keyCompromise"})
	isKind(t, err, enroll.KindForbidden, "")
	_, err = security.RevokeDevice(ctx, id, enroll.RevokeRequest{Reason: "boredom"})
	isKind(t, err, ca.KindReason, "reason")
	revocation, err := security.RevokeDevice(ctx, id, enroll.RevokeRequest{Reason: "keyCompromise"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = security.RevokeDevice(ctx, id, enroll.RevokeRequest{Reason: "keyCompromise"})
	var p *client.Problem
	if !errors.As(err, &p) || p.Kind() != ca.KindRevoked || p.Status != http.StatusConflict {
		t.Errorf("revoked twice: %v", err)
	}
	if got, err := security.Revocation(ctx, revocation.ID); err != nil || got.Device != id {
		t.Errorf("revocation %+v, %v", got, err)
	}
	if got := collect(t, security.Revocations(ctx, id)); len(got) != 1 {
		t.Errorf("%d revocations", len(got))
	}
	if got := collect(t, security.Certificates(ctx, enroll.CertificateFilter{Device: id, Status: ca.StatusRevoked})); len(got) != 2 {
		t.Errorf("%d revoked certificates", len(got))
	}
	auditor := f.client(t, f.people, enroll.RoleAuditor, nil)
	if got := collect(t, auditor.Events(ctx, enroll.EventFilter{Subject: "device:" + id})); len(got) != 5 || got[0].Action != "device.revoke" {
		t.Errorf("%d events: %+v", len(got), got)
	}
}

func TestBrokersAndListings(t *testing.T) {
	f, ctx := shared, t.Context()
	operator := f.client(t, f.people, enroll.RoleOperator, nil)
	id, group := unique("broker-"), unique("group-")
	broker, err := operator.CreateBroker(ctx, enroll.NewBroker{ID: id, URL: "mqtts://127.0.0.1:1"})
	if err != nil || broker.ID != id {
		t.Fatal(broker, err)
	}
	report, err := operator.VerifyBroker(ctx, id, false)
	if err != nil || report.Verdict != "fail" {
		t.Errorf("a broker that is not there: %+v, %v", report, err)
	}
	if got := collect(t, operator.Verifications(ctx, id)); len(got) != 1 || got[0].Report.Verdict != "fail" {
		t.Errorf("verifications %+v", got)
	}
	_, err = operator.RotateBroker(ctx, id, true)
	isKind(t, err, enroll.KindNoDriver, "")
	_, err = operator.Rotation(ctx, "none")
	isKind(t, err, ca.KindNotFound, "id")
	collect(t, operator.Rotations(ctx, id))
	key, csr := newRequest(t, "")
	issued, err := operator.IssueBroker(ctx, id, csr)
	if err != nil || issued.Certificate.Holder.ID != id || key == nil {
		t.Fatalf("issued %+v, %v", issued, err)
	}
	if got, err := operator.Broker(ctx, id); err != nil || got.Certificate == nil {
		t.Errorf("broker %+v, %v", got, err)
	}
	report, err = operator.VerifyBroker(ctx, id, true)
	if err != nil || len(report.Checks) != 10 || report.Check("foreign_ca").Result != "inconclusive" {
		t.Errorf("what a broker that is not there refuses: %+v, %v", report, err)
	}
	if n := len(collect(t, operator.Brokers(ctx))); n == 0 {
		t.Errorf("%d brokers", n)
	}
	issuers := collect(t, operator.Issuers(ctx))
	if profiles, crls := collect(t, operator.Profiles(ctx)), collect(t, operator.CRLs(ctx)); len(issuers) != 3 || len(profiles) < 5 || len(crls) < 3 {
		t.Errorf("%d issuers, %d profiles, %d CRLs", len(issuers), len(profiles), len(crls))
	}
	for n := range 5 {
		if _, err := operator.CreateDevice(ctx, enroll.NewDevice{ID: fmt.Sprint(group, "-", n), Group: group}); err != nil {
			t.Fatal(err)
		}
	}
	if got := collect(t, operator.Devices(ctx, enroll.DeviceFilter{Group: group})); len(got) != 5 {
		t.Errorf("%d devices", len(got))
	}
	auth := []string{"Authorization", "Bearer " + f.tokens[enroll.RoleAuditor]}
	resp, body := f.raw(t, "GET", f.people.URL+"/api/v1/devices?group=nobody", "", auth...)
	if strings.TrimSpace(body) != `{"items":[]}` {
		t.Errorf("an empty listing: %d %s", resp.StatusCode, body)
	}
	_, body = f.raw(t, "GET", f.people.URL+"/api/v1/devices?limit=2&group="+group, "", auth...)
	var page struct {
		Items      []enroll.Device
		NextCursor string
	}
	if err := json.Unmarshal([]byte(body), &page); err != nil || len(page.Items) != 2 || page.NextCursor == "" {
		t.Errorf("a page: %s", body)
	}
	resp, body = f.raw(t, "GET", f.people.URL+"/api/v1/devices?cursor=invented", "", auth...)
	if resp.StatusCode != 400 || !strings.Contains(body, "cursor") {
		t.Errorf("an invented cursor: %d %s", resp.StatusCode, body)
	}
}

func TestReplayIsTheSameBytes(t *testing.T) {
	f := shared
	auth := []string{"Authorization", "Bearer " + f.tokens[enroll.RoleOperator]}
	base := f.people.URL + "/api/v1"
	id := unique("wire-")
	keyed := append([]string{"Idempotency-Key", id}, auth...)
	first, body := f.raw(t, "POST", base+"/devices", `{"id":"`+id+`","attributes":{"note":"<&>"}}`, keyed...)
	second, replay := f.raw(t, "POST", base+"/devices", `{"id":"`+id+`","attributes":{"note":"<&>"}}`, keyed...)
	if first.StatusCode != 201 || first.Header.Get("Location") != "/api/v1/devices/"+id || first.Header.Get("Idempotent-Replayed") != "" {
		t.Errorf("created: %d %v", first.StatusCode, first.Header)
	}
	if second.StatusCode != 200 || second.Header.Get("Idempotent-Replayed") != "true" || replay != body {
		t.Errorf("replayed: %d %v\n%s\n%s", second.StatusCode, second.Header, body, replay)
	}
}

func TestChainAlone(t *testing.T) {
	f := shared
	header := []string{"Authorization", "Bearer " + f.tokens[enroll.RoleOperator], "Accept", "application/pem-certificate-chain"}
	id := unique("chain-")
	_, csr := newRequest(t, id)
	in, err := json.Marshal(enroll.EnrollRequest{DeviceID: id, CSR: csr})
	if err != nil {
		t.Fatal(err)
	}
	resp, chain := f.raw(t, "POST", f.people.URL+"/api/v1/enrollments", string(in), header...)
	block, rest := pem.Decode([]byte(chain))
	if resp.StatusCode != 201 || resp.Header.Get("Content-Type") != "application/pem-certificate-chain" || block == nil {
		t.Fatalf("%d %v %s", resp.StatusCode, resp.Header, chain)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil || leaf.Subject.CommonName != id {
		t.Errorf("the leaf does not come first: %v", err)
	}
	if issuer, _ := pem.Decode(rest); issuer == nil {
		t.Errorf("no issuer follows: %s", chain)
	}
	_, again := f.raw(t, "GET", f.people.URL+resp.Header.Get("Location"), "", header...)
	if again != chain {
		t.Errorf("the certificate's chain differs from the enrollment's:\n%s\n%s", chain, again)
	}
}

func TestWrongRequests(t *testing.T) {
	f := shared
	auth := []string{"Authorization", "Bearer " + f.tokens[enroll.RoleOperator]}
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		contains                 string
		header                   []string
	}{
		{"no body", "POST", "/devices", "", 400, "malformed", nil},
		{"content type", "POST", "/devices", `{"id":"x"}`, 415, "Content-Type", []string{"Content-Type", "text/plain"}},
		{"charset", "POST", "/devices", `{"id":"x"}`, 415, "Content-Type", []string{"Content-Type", "application/json; charset=latin1"}},
		{"encoding", "POST", "/devices", `{"id":"x"}`, 415, "Content-Encoding", []string{"Content-Encoding", "gzip"}},
		{"too long", "POST", "/devices", `{"id":"` + strings.Repeat("x", 65<<10) + `"}`, 413, "too-large", nil},
		{"long CSR", "POST", "/enrollments", `{"deviceId":"x","csr":"` + strings.Repeat("x", 17<<10) + `"}`, 413, `"field":"csr"`, nil},
		{"unknown field", "POST", "/devices", `{"id":"x","colour":"red"}`, 400, `"field":"colour"`, nil},
		{"bad key", "POST", "/devices", `{"id":"x"}`, 400, "Idempotency-Key", []string{"Idempotency-Key", strings.Repeat("k", 256)}},
		{"bad id", "POST", "/devices", `{"id":"../x"}`, 400, `"field":"id"`, nil},
		{"escaped id", "POST", "/devices/%2e%2e%2fx/hold", "", 400, "malformed", nil},
		{"no such", "GET", "/devices/nobody", "", 404, "not-found", nil},
		{"bad serial", "GET", "/certificates/xyz", "", 400, "serialNumber", nil},
		{"bad scheme", "GET", "/devices", "", 401, "unauthenticated", []string{"Authorization", "Basic YTpi"}},
		{"no token", "GET", "/devices", "", 401, "unauthenticated", []string{"Authorization", "Bearer "}},
		{"unknown token", "GET", "/devices", "", 401, "unauthenticated", []string{"Authorization", "Bearer fca_nobody"}},
		{"batch type", "POST", "/enrollments/batch", `{}`, 415, "x-ndjson", nil},
		{"batch key", "POST", "/enrollments/batch", `{}`, 400, "idempotencyKey", []string{"Content-Type", "application/x-ndjson", "Idempotency-Key", "k"}},
	} {
		resp, body := f.raw(t, c.method, f.people.URL+"/api/v1"+c.path, c.body, append(append([]string{}, auth...), c.header...)...)
		if resp.StatusCode != c.status || !strings.Contains(body, c.contains) || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", c.name, resp.StatusCode, body)
		}
	}
}

func TestFailedAuthenticationsAreLimited(t *testing.T) {
	a := api.New(api.Config{Service: shared.service, AuthBurst: 3})
	people := a.People()
	do := func(token, address string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/api/v1/devices", nil)
		r.RemoteAddr = address
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		people.ServeHTTP(w, r)
		return w
	}
	for range 10 {
		if w := do("", "192.0.2.1:1"); w.Code != 401 {
			t.Fatalf("no credentials: %d", w.Code)
		}
	}
	for range 3 {
		if w := do("fca_guess", "192.0.2.1:1"); w.Code != 401 {
			t.Fatalf("a guess: %d", w.Code)
		}
	}
	if w := do(shared.tokens[enroll.RoleAdmin], "192.0.2.1:2"); w.Code != 429 || w.Header().Get("Retry-After") == "" {
		t.Errorf("after three guesses: %d %v", w.Code, w.Header())
	}
	if w := do(shared.tokens[enroll.RoleAdmin], "192.0.2.2:1"); w.Code != 200 {
		t.Errorf("another address: %d", w.Code)
	}
	for n := range 4 {
		r := httptest.NewRequest("POST", "/api/v1/enrollments", strings.NewReader(`{"token":"fce_guess","deviceId":"a","csr":"b"}`))
		r.RemoteAddr = "192.0.2.3:1"
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		people.ServeHTTP(w, r)
		if want := map[bool]int{true: 401, false: 429}[n < 3]; w.Code != want {
			t.Errorf("enrollment token guess %d: %d %s", n, w.Code, w.Body)
		}
	}
}
