package api_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/embedded"
)

const hall = "hall-2" // the broker that is driven from here

// startHall starts the fleet's own broker, registered and serving a
// certificate, and has a device revoked that it must be seen to refuse: other
// tests register brokers that nobody drives, which prove nothing.
func (f *fleet) startHall(ctx context.Context, dir string, drivers map[string]brokers.Driver) error {
	var anchors []*x509.Certificate
	for _, i := range f.ca.Issuers() {
		if i.Purpose == ca.PurposeDevice {
			anchors = append(anchors, i.Certificate)
		}
	}
	var err error
	if f.hall, err = embedded.New(embedded.Config{Addr: "127.0.0.1:0", Dir: filepath.Join(dir, hall), ClientCAs: anchors}); err != nil {
		return err
	}
	if err := f.hall.Start(); err != nil {
		return err
	}
	drivers[hall] = f.hall
	names := []string{"127.0.0.1", "localhost"}
	call := enroll.Call{Principal: enroll.Principal{Name: "test", Role: enroll.RoleAdmin}}
	if _, err := f.service.CreateBroker(ctx, call, enroll.NewBroker{ID: hall, URL: "mqtts://" + f.hall.Addr().String(), Names: names, Kind: "embedded"}); err != nil {
		return err
	}
	csr, err := f.hall.CertificateRequest(ctx, names)
	if err != nil {
		return err
	}
	issued, err := f.service.IssueBroker(ctx, call, hall, string(csr))
	if err != nil {
		return err
	}
	var chain [][]byte
	for block, rest := pem.Decode([]byte(issued.Chain)); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	_, text, err := request("proof")
	if err == nil {
		_, err = f.service.EnrollDevice(ctx, call, enroll.EnrollRequest{DeviceID: "proof", CSR: text})
	}
	if err := errors.Join(err, f.hall.Install(ctx, chain), f.service.PushCRLs(ctx)); err != nil {
		return err
	}
	r, err := f.service.RevokeDevice(ctx, call, "proof", enroll.RevokeRequest{Reason: "keyCompromise", Comment: "stolen on site"})
	if err == nil {
		f.revocation = r.ID
	}
	return err
}

// twice makes a call under an idempotency key, and again: what comes is the
// first answer, with 200 and the header that says so. It is decoded into answer.
func (f *fleet) twice(t *testing.T, role enroll.Role, path string, in, answer any) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	header := []string{"Authorization", "Bearer " + f.tokens[role], "Idempotency-Key", unique("key-")}
	first, text := f.raw(t, http.MethodPost, f.people.URL+"/api/v1"+path, string(body), header...)
	if first.StatusCode < 200 || first.StatusCode > 202 || first.Header.Get("Idempotent-Replayed") != "" {
		t.Fatalf("POST %s: %d %s", path, first.StatusCode, text)
	}
	again, replay := f.raw(t, http.MethodPost, f.people.URL+"/api/v1"+path, string(body), header...)
	if again.StatusCode != http.StatusOK || again.Header.Get("Idempotent-Replayed") != "true" || replay != text {
		t.Errorf("POST %s again: %d %v\n%s\n%s", path, again.StatusCode, again.Header, text, replay)
	}
	if answer != nil {
		if err := json.Unmarshal([]byte(text), answer); err != nil {
			t.Fatal(err)
		}
	}
}

// read gets a path as a role, into answer.
func (f *fleet) read(t *testing.T, role enroll.Role, path string, answer any) {
	t.Helper()
	resp, text := f.raw(t, http.MethodGet, f.people.URL+"/api/v1"+path, "", "Authorization", "Bearer "+f.tokens[role])
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %d %s", path, resp.StatusCode, text)
	}
	if err := json.Unmarshal([]byte(text), answer); err != nil {
		t.Fatal(err)
	}
}

// TestRotationAndProof makes the calls whose answers a real broker fills: a
// verification that passes, a rotation that is done, a revocation that is proven.
func TestRotationAndProof(t *testing.T) {
	f, ctx := shared, t.Context()
	var report struct{ Verdict string }
	f.twice(t, enroll.RoleSecurity, "/brokers/"+hall+"/verifications", map[string]bool{}, &report)
	if report.Verdict != "pass" {
		t.Errorf("verdict %q", report.Verdict)
	}
	var plan, rotation enroll.Rotation
	f.twice(t, enroll.RoleOperator, "/brokers/"+hall+"/rotations", map[string]bool{"dryRun": true}, &plan)
	if plan.State != enroll.RotationPlanned || plan.NewSerial != "" {
		t.Errorf("plan %+v", plan)
	}
	f.twice(t, enroll.RoleOperator, "/brokers/"+hall+"/rotations", map[string]bool{}, &rotation)
	if err := f.service.AdvanceRotation(ctx, rotation.ID); err != nil {
		t.Fatal(err)
	}
	if f.read(t, enroll.RoleAuditor, "/rotations/"+rotation.ID, &rotation); rotation.State != enroll.RotationDone {
		t.Errorf("rotation %+v", rotation)
	}
	if err := f.service.AdvanceRevocation(ctx, f.revocation); err != nil {
		t.Fatal(err)
	}
	var revocation enroll.Revocation
	if f.read(t, enroll.RoleAuditor, "/revocations/"+f.revocation, &revocation); revocation.State != enroll.RevocationProven || revocation.Evidence == nil {
		t.Errorf("revocation %+v", revocation)
	}
	for _, path := range []string{"/brokers", "/brokers/" + hall, "/rotations", "/brokers/" + hall + "/verifications", "/revocations?device=proof", "/events", "/certificates?status=revoked"} {
		f.read(t, enroll.RoleAuditor, path, &struct{}{})
	}
}

// TestEveryCreationIsRepeatable repeats the calls that need no broker.
func TestEveryCreationIsRepeatable(t *testing.T) {
	f, id := shared, unique("again-")
	f.twice(t, enroll.RoleFactory, "/work-orders", enroll.NewWorkOrder{ID: id, Product: "pump", Quantity: 2}, nil)
	expires := time.Now().Add(time.Hour)
	f.twice(t, enroll.RoleFactory, "/work-orders/"+id+"/tokens", enroll.NewToken{Uses: 2, ExpiresAt: &expires}, nil)
	f.twice(t, enroll.RoleFactory, "/devices", enroll.NewDevice{ID: id, Group: "hall-2", WorkOrder: id}, nil)
	_, csr := newRequest(t, id)
	var enrolled enroll.Enrollment
	f.twice(t, enroll.RoleFactory, "/enrollments", enroll.EnrollRequest{DeviceID: id, CSR: csr, WorkOrder: id, Attributes: map[string]string{"revision": "C"}}, &enrolled)
	f.twice(t, enroll.RoleOperator, "/devices/"+id+"/hold", map[string]string{}, nil)
	f.twice(t, enroll.RoleSecurity, "/devices/"+id+"/release", map[string]string{}, nil)
	f.twice(t, enroll.RoleSecurity, "/certificates/"+string(enrolled.Certificate.SerialNumber)+"/revocation", enroll.RevokeRequest{Reason: "superseded"}, nil)
	f.twice(t, enroll.RoleSecurity, "/devices/"+id+"/revocation", enroll.RevokeRequest{Reason: "cessationOfOperation"}, nil)
	var device enroll.Device
	if f.read(t, enroll.RoleAuditor, "/devices/"+id, &device); device.Status != enroll.DeviceRevoked {
		t.Errorf("device %+v", device)
	}
}
