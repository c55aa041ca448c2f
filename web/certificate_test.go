package web_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll"
)

func TestCertificate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("pump-1")
	d, err := s.service.Device(s.ctx, "pump-1")
	s.must(err)
	cert := d.Certificates[0]
	v := s.as(enroll.RoleFactory)
	page := "/certificates/" + string(cert.SerialNumber)
	p := v.get(page).want(http.StatusOK).has(string(cert.SerialNumber), cert.SHA256, cert.CDP, "device:pump-1", "Client Authentication").count("a.danger", 0)
	p.count(`a[href="/devices/pump-1"]`, 1).count(".chain li", 3)
	file := func(name, mediaType string) []byte {
		t.Helper()
		f := v.get(page + "/" + name).want(http.StatusOK)
		if f.header.Get("Content-Type") != mediaType || !strings.Contains(f.header.Get("Content-Disposition"), name) {
			t.Errorf("%s: %v", name, f.header)
		}
		return []byte(f.body)
	}
	if der := file("certificate.der", "application/pkix-cert"); !bytes.Equal(der, cert.DER) {
		t.Error("the DER file is not the certificate")
	}
	if text := file("certificate.pem", "application/x-pem-file"); string(text) != cert.PEM() {
		t.Error("the PEM file is not the certificate")
	}
	var chain []*x509.Certificate
	for block, rest := pem.Decode(file("chain.pem", "application/pem-certificate-chain")); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		s.must(err)
		chain = append(chain, c)
	}
	if len(chain) != 2 || !bytes.Equal(chain[0].Raw, cert.DER) || chain[0].CheckSignatureFrom(chain[1]) != nil {
		t.Errorf("the chain file holds %d certificates", len(chain))
	}
	v.get(page + "/key.pem").want(http.StatusNotFound)
	v.get("/certificates/ab12").want(http.StatusNotFound)
	v.get("/certificates/zz").want(http.StatusUnprocessableEntity)
	v.get(page + "/revoke").want(http.StatusForbidden)
}

func TestRevokeCertificate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("pump-1")
	d, err := s.service.Device(s.ctx, "pump-1")
	s.must(err)
	page := "/certificates/" + string(d.Certificates[0].SerialNumber)
	v := s.as(enroll.RoleSecurity)
	v.get(page).count(`a.danger[href="`+page+`/revoke"]`, 1)
	form := v.get(page + "/revoke").want(http.StatusOK)
	form.submit("main form", "reason", "whim").want(http.StatusUnprocessableEntity).has("is not a revocation reason").count("main form", 1)
	for range 2 {
		p := form.submit("main form", "reason", "superseded", "comment", "a new one").want(http.StatusOK)
		if p.path != page+"?note=certificate-revoked" {
			t.Fatalf("got to %s", p.path)
		}
		p.has("revoked", "superseded").count("a.danger", 0)
	}
	v.get(page+"/revoke").want(http.StatusOK).has("It is revoked already, for superseded").count("main form", 0)
	v.post(page+"/revoke", "reason", "superseded").want(http.StatusUnprocessableEntity)
	if d, err := s.service.Device(s.ctx, "pump-1"); err != nil || d.Status != enroll.DeviceActive {
		t.Errorf("%+v, %v: the device does not stay", d, err)
	}
}
