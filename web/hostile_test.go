package web_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/web/browsertest"
)

// hostile is text that takes effect where it is written as it is, in an
// element, an attribute, a script or a URL. Browsertest fails the test when a
// dialog opens, or the policy refuses something.
const hostile = `javascript:alert(1)//'"></textarea></title></script><b data-xss>x</b><img src=x onerror="window.xss=1;alert(1)"><script>window.xss=1;alert(1)</script><svg onload=alert(1)>{{7}}`

// change carries a hostile event.
func hostileChange(subject string) enroll.Change {
	detail, _ := json.Marshal(map[string]string{hostile: hostile})
	return enroll.Change{Event: enroll.Event{ID: uuid.Must(uuid.NewV7()).String(), At: time.Now().UTC(), Actor: "user:" + hostile, Action: hostile, Subject: subject, Detail: detail}}
}

// hostileCertificate returns a certificate whose every name is hostile, as no
// authority here would issue it.
func hostileCertificate(s *site, holder ca.Holder) ca.Certificate {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	name := pkix.Name{CommonName: hostile, Organization: []string{hostile}, OrganizationalUnit: []string{hostile}, Locality: []string{hostile}, SerialNumber: "1"}
	serial := new(big.Int).SetBytes([]byte(rand.Text())[:16])
	template := &x509.Certificate{SerialNumber: serial, Subject: name, Issuer: name, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{hostile}, EmailAddresses: []string{hostile}, URIs: []*url.URL{{Scheme: "javascript", Opaque: "alert(1)"}},
		CRLDistributionPoints: []string{hostile}, OCSPServer: []string{hostile}, IssuingCertificateURL: []string{hostile}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	s.must(err)
	sum := sha256.Sum256(der)
	return ca.Certificate{SerialNumber: ca.SerialNumberOf(serial), SHA256: hex.EncodeToString(sum[:]), Subject: hostile, Names: []string{hostile, hostile}, IssuerID: "device", Profile: hostile,
		Holder: holder, Status: ca.StatusGood, NotBefore: template.NotBefore, NotAfter: template.NotAfter, KeySHA256: hex.EncodeToString(sum[:]), CDP: hostile, DER: der}
}

// A hostileDriver tells what a device and a broker can make it tell.
type hostileDriver struct{ brokers.Driver }

func (d hostileDriver) Sessions(context.Context) ([]brokers.Session, error) {
	return []brokers.Session{{ID: hostile, ClientID: hostile, Identity: hostile, SerialNumber: hostile, RemoteAddr: hostile}}, nil
}

// Stored text is shown as text, wherever it stands: written into the store past
// every check, it is on the pages word for word, and no element comes of it.
func TestBrowserHostileText(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	broker := s.broker("embedded")
	s.drivers["embedded"] = hostileDriver{broker}
	s.must(s.store.CreateDevice(s.ctx, enroll.Device{ID: hostile, Status: enroll.DeviceRegistered, Group: hostile, WorkOrder: hostile,
		Attributes: map[string]string{hostile: hostile}, CreatedAt: time.Now().UTC()}, hostileChange("device:"+hostile)))
	cert := hostileCertificate(s, ca.Holder{Kind: ca.HolderDevice, ID: hostile})
	s.must(s.store.Commit(s.ctx, []ca.Issuance{{Certificate: cert, Claim: &enroll.Claim{Change: hostileChange("device:" + hostile), Device: &enroll.DeviceClaim{ID: hostile}}}})[0])
	s.enroll("pump-1")
	r, err := s.service.RevokeDevice(s.ctx, admin(), "pump-1", enroll.RevokeRequest{Reason: "keyCompromise", Comment: hostile})
	s.must(err)
	r = s.proof(r.ID)
	s.eventually("hostile steps", func() (bool, error) { // a job may store it at the same time
		if r, err = s.service.Revocation(s.ctx, r.ID); err != nil {
			return false, err
		}
		for i := range r.Steps {
			r.Steps[i].Detail = hostile
		}
		r.Evidence.CRLNumbers[hostile] = 1
		for i := range r.Evidence.Brokers {
			seen := &r.Evidence.Brokers[i]
			if seen.Refusal != nil {
				seen.Refusal.AlertName, seen.Refusal.Detail = hostile, hostile
			}
		}
		return s.store.SaveRevocation(s.ctx, r, hostileChange("revocation:"+r.ID)) == nil, nil
	})
	s.hostileRest()
	s.addUser("eve-admin", enroll.RoleAdmin)
	s.userAgent("eve-admin", hostile)

	id, q := url.PathEscape(hostile), url.QueryEscape(hostile)
	b := s.browser(enroll.RoleAdmin, browsertest.Light)
	for path, shows := range map[string]bool{
		"/devices": true, "/devices?q=" + q: false, "/devices?cursor=" + q: false, "/devices?note=" + q: true,
		"/devices/" + id: true, "/devices/" + id + "/revoke": true, "/devices/" + id + "/retire": true, "/devices/" + id + "?events=" + q: false,
		"/certificates/" + string(cert.SerialNumber): true, "/certificates/" + string(cert.SerialNumber) + "/revoke": true, "/certificates/" + id: true,
		"/revocations": true, "/revocations?device=" + q: true, "/revocations/" + r.ID: true, "/revocations/" + id: true,
		"/bulk": false, "/bulk/" + id: true, "/" + id: true, "/account": true, "/access/sessions": true, "/audit": true, "/": false,
		"/audit?subject=" + q: false, "/sign-in?next=" + q: false,
		"/access": true, "/access/users/" + id: true, "/work-orders": true, "/work-orders/" + id: true, "/work-orders/WO-1": true,
		"/brokers": true, "/brokers/" + id: true, "/authority": false, "/devices/csr": false,
	} {
		b.Open(path)
		s.harmless(b, path, shows)
	}
	b.Open("/devices/" + id)
	_, err = s.service.HoldDevice(s.ctx, admin(), "pump-1") // refused: the page stays
	if err == nil {
		t.Error("a revoked device is put on hold")
	}
	s.must(s.store.RecordEvent(s.ctx, hostileChange("device:"+hostile)))
	s.eventually("a live event", func() (bool, error) {
		return browsertest.Eval[int](b, `document.querySelectorAll("[data-part=device-timeline] tbody tr").length`) >= 3, nil
	})
	s.harmless(b, "the device's page, live", true)
}

// hostileRest stores a user, a work order and a broker, and sends a hostile CSR.
func (s *site) hostileRest() {
	s.Helper()
	now := time.Now().UTC()
	s.must(s.store.CreateUser(s.ctx, enroll.User{Name: hostile, Role: enroll.RoleAuditor, CreatedAt: now}, hostileChange("user:"+hostile)))
	s.must(s.store.CreateWorkOrder(s.ctx, enroll.WorkOrder{ID: hostile, Product: hostile, Quantity: 1, Profile: hostile, State: enroll.OrderOpen, CreatedAt: now}, hostileChange("work-order:"+hostile)))
	s.must(s.store.CreateBroker(s.ctx, enroll.Broker{ID: hostile, URL: "mqtts://" + hostile, Names: []string{hostile}, Kind: hostile, Status: enroll.BrokerRegistered, CreatedAt: now}, hostileChange("broker:"+hostile)))
	s.must(s.store.CreateWorkOrder(s.ctx, enroll.WorkOrder{ID: "WO-1", Product: hostile, Quantity: 1, Profile: "device", State: enroll.OrderOpen, CreatedAt: now}, hostileChange("work-order:WO-1")))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: hostile, Organization: []string{hostile}}, DNSNames: []string{hostile}, EmailAddresses: []string{hostile}}, key)
	s.must(err)
	request := enroll.EnrollRequest{DeviceID: "csr", WorkOrder: "WO-1", CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))}
	if _, err := s.service.EnrollDevice(s.ctx, admin(), request); err != nil {
		s.Logf("the CSR is refused: %v", err) // then the refusal stands on the order's page
	}
}

// harmless fails the test when hostile text became elements of the page, or is
// not shown where it should be.
func (s *site) harmless(b *browsertest.Browser, path string, shows bool) {
	s.Helper()
	if n := browsertest.Eval[int](b, `document.querySelectorAll("[data-xss], [onerror], [onload], main img, main script").length`); n > 0 {
		s.Errorf("%s: %d elements of hostile text", path, n)
	}
	if browsertest.Eval[bool](b, `window.xss === 1`) {
		s.Errorf("%s: a script of hostile text ran", path)
	}
	if n := browsertest.Eval[int](b, `[...document.querySelectorAll("[href], [src], [action]")].filter((e) => /^\s*javascript:/i.test(e.getAttribute("href") || e.getAttribute("src") || e.getAttribute("action") || "")).length`); n > 0 {
		s.Errorf("%s: %d URLs are scripts", path, n)
	}
	if shows && !strings.Contains(browsertest.Eval[string](b, `document.querySelector("main").innerText`), "javascript:alert(1)//") {
		s.Errorf("%s does not show the text", path)
	}
}

// userAgent signs a user in with a browser that calls itself so.
func (s *site) userAgent(name, agent string) {
	s.Helper()
	form := url.Values{"name": {name}, "password": {password}}
	r, err := http.NewRequestWithContext(s.ctx, http.MethodPost, s.server.URL+"/sign-in", strings.NewReader(form.Encode()))
	s.must(err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("User-Agent", agent)
	resp, err := s.visitor().client.Do(r)
	s.must(err)
	s.must(resp.Body.Close())
	if resp.StatusCode != http.StatusOK {
		s.Fatalf("status %d", resp.StatusCode)
	}
}
