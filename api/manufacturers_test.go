package api_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A maker makes certificates that devices are born with.
type maker struct {
	*testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newMaker(t *testing.T) *maker {
	t.Helper()
	key, _ := newRequest(t, "")
	m := &maker{T: t, key: key}
	m.cert = m.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "maker"}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil, key)
	return m
}

func (m *maker) sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	m.Helper()
	template.SerialNumber, template.NotBefore = ca.NewSerialNumber().Int(), time.Now().Add(-time.Hour)
	template.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), m.key)
	if err != nil {
		m.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		m.Fatal(err)
	}
	return cert
}

// born returns a device's certificate of birth with its key.
func (m *maker) born(serial string) *tls.Certificate {
	m.Helper()
	key, _ := newRequest(m.T, "")
	cert := m.sign(&x509.Certificate{Subject: pkix.Name{SerialNumber: serial}, KeyUsage: x509.KeyUsageDigitalSignature}, m.cert, key)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// A manufacturer is registered, its manifest filled, and its devices enroll over
// the machine listener, over TLS that proves their key; nobody else does.
func TestManufacturer(t *testing.T) {
	f, m := shared, newMaker(t)
	id, order := unique("acme-"), unique("wo-")
	admin, operator := f.client(t, f.people, enroll.RoleAdmin, nil), f.client(t, f.people, enroll.RoleOperator, nil)
	if _, err := operator.CreateWorkOrder(t.Context(), enroll.NewWorkOrder{ID: order, Product: "pump", Quantity: 2}); err != nil {
		t.Fatal(err)
	}
	var added enroll.Manufacturer
	f.twice(t, enroll.RoleAdmin, "/manufacturers", enroll.NewManufacturer{ID: id, Certificate: ca.EncodeChain(m.cert)}, &added)
	if got, err := operator.Manufacturer(t.Context(), id); err != nil || got.SHA256 != ca.FingerprintOf(m.cert) || got.State != enroll.ManufacturerActive {
		t.Fatalf("%+v, %v", got, err)
	}
	if r, err := operator.AddManifest(t.Context(), id, fmt.Sprintf("subjectSerial,deviceId,workOrder\n1,%s-1,%s\n2,%s-2,%s\n", id, order, id, order)); err != nil || r.Added != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	device := f.client(t, f.machines, "", m.born("1"))
	_, csr := newRequest(t, "")
	e, err := device.Enroll(t.Context(), enroll.EnrollRequest{CSR: csr})
	if err != nil || e.DeviceID != id+"-1" {
		t.Fatalf("%+v, %v", e, err)
	}
	_, other := newRequest(t, "")
	_, err = device.Enroll(t.Context(), enroll.EnrollRequest{CSR: other})
	isKind(t, err, enroll.KindIDevIDUsed, "")
	_, err = f.client(t, f.machines, "", m.born("3")).Enroll(t.Context(), enroll.EnrollRequest{CSR: other})
	isKind(t, err, enroll.KindNotInManifest, "")
	_, err = f.client(t, f.machines, "", newMaker(t).born("2")).Enroll(t.Context(), enroll.EnrollRequest{CSR: other})
	isKind(t, err, enroll.KindUnknownManufacturer, "")
	_, err = f.client(t, f.machines, "", nil).Enroll(t.Context(), enroll.EnrollRequest{CSR: other})
	isKind(t, err, enroll.KindUnauthenticated, "token")
	_, err = f.client(t, f.people, "", m.born("2")).Enroll(t.Context(), enroll.EnrollRequest{CSR: other}) // that listener asks for no certificate
	isKind(t, err, enroll.KindUnauthenticated, "token")
	_, err = device.Whoami(t.Context()) // and it opens nothing else
	isKind(t, err, enroll.KindForbidden, "")
	_, err = device.Renew(t.Context(), "")
	isKind(t, err, enroll.KindUnauthenticated, "")
	// Bytes of the certificate without its key prove nothing: TLS does not get that far.
	stolen := m.born("2")
	stolen.PrivateKey, _ = newRequest(t, "")
	if _, err = f.client(t, f.machines, "", stolen).Enroll(t.Context(), enroll.EnrollRequest{CSR: other}); err == nil || strings.Contains(err.Error(), "urn:") {
		t.Errorf("a certificate without its key: %v", err)
	}
	for entry, err := range operator.Manifest(t.Context(), id) {
		if err != nil || (entry.EnrolledAt != nil) != (entry.DeviceID == id+"-1") {
			t.Errorf("%+v, %v", entry, err)
		}
	}
	if got, err := operator.RemoveManifest(t.Context(), id, []string{id + "-2"}); err != nil || got.Devices != 1 || got.Enrolled != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := admin.UpdateManufacturer(t.Context(), id, enroll.ManufacturerUpdate{Reenroll: new(true)}); err != nil || !got.Reenroll {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err = device.Enroll(t.Context(), enroll.EnrollRequest{CSR: other}); err != nil {
		t.Error(err)
	}
	if got, err := f.client(t, f.people, enroll.RoleSecurity, nil).DisableManufacturer(t.Context(), id); err != nil || got.State != enroll.ManufacturerDisabled {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = device.Enroll(t.Context(), enroll.EnrollRequest{CSR: csr})
	isKind(t, err, enroll.KindUnknownManufacturer, "")
	if n := len(collect(t, operator.Manufacturers(t.Context()))); n == 0 {
		t.Error("none is listed")
	}
	if resp, body := f.raw(t, "POST", f.people.URL+"/api/v1/manufacturers", `{"id":"x","certificate":"y"}`, "Authorization", "Bearer "+f.tokens[enroll.RoleAdmin]); resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, `"field":"certificate"`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}
