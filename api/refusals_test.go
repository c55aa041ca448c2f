package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"testing"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// csrFor makes a request with the key.
func csrFor(t *testing.T, commonName string, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pemCSR(der)
}

func pemCSR(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// A scene is what the refusals are played on.
type scene struct {
	id                     string // an enrolled device, a work order of one that is used up, a broker
	held, revoked          string // devices
	key, revokedKey        *ecdsa.PrivateKey
	token, spent, bound    string // enrollment tokens of another order; of one use, used; for the device
	serial, other          string // a revoked certificate; another order
	weak, forged, fresh    string // requests: of a new device, and of those there are
	freshFor, freshForHeld string
	freshForRevoked        string
}

func newScene(t *testing.T, f *fleet) *scene {
	t.Helper()
	s := &scene{id: unique("no-")}
	s.held, s.revoked, s.other = s.id+"-held", s.id+"-revoked", s.id+"-other"
	f.twice(t, enroll.RoleOperator, "/work-orders", enroll.NewWorkOrder{ID: s.id, Product: "pump", Quantity: 1}, nil)
	f.twice(t, enroll.RoleOperator, "/work-orders", enroll.NewWorkOrder{ID: s.other, Product: "pump", Quantity: 9}, nil)
	f.twice(t, enroll.RoleOperator, "/brokers", enroll.NewBroker{ID: s.id, URL: "mqtts://broker.test", Names: []string{"broker.test"}, Kind: "mosquitto"}, nil)
	enrolled := func(in enroll.EnrollRequest) (*ecdsa.PrivateKey, string) {
		var e enroll.Enrollment
		key, csr := newRequest(t, in.DeviceID)
		in.CSR = csr
		f.twice(t, enroll.RoleOperator, "/enrollments", in, &e)
		return key, string(e.Certificate.SerialNumber)
	}
	token := func(n enroll.NewToken) string {
		var made enroll.EnrollmentToken
		f.twice(t, enroll.RoleOperator, "/work-orders/"+s.other+"/tokens", n, &made)
		return made.Token
	}
	s.token, s.spent, s.bound = token(enroll.NewToken{Uses: 5}), token(enroll.NewToken{}), token(enroll.NewToken{DeviceID: "bound"})
	s.key, _ = enrolled(enroll.EnrollRequest{DeviceID: s.id, WorkOrder: s.id})
	enrolled(enroll.EnrollRequest{DeviceID: s.id + "-spender", Token: s.spent})
	enrolled(enroll.EnrollRequest{DeviceID: s.held})
	s.revokedKey, s.serial = enrolled(enroll.EnrollRequest{DeviceID: s.revoked})
	f.twice(t, enroll.RoleOperator, "/devices/"+s.held+"/hold", map[string]string{}, nil)
	f.twice(t, enroll.RoleSecurity, "/devices/"+s.revoked+"/revocation", enroll.RevokeRequest{Reason: "keyCompromise"}, nil)

	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.weak = csrFor(t, s.id+"-new", small)
	_, s.fresh = newRequest(t, s.id+"-new")
	_, s.freshFor = newRequest(t, s.id)
	_, s.freshForHeld = newRequest(t, s.held)
	_, s.freshForRevoked = newRequest(t, s.revoked)
	block, _ := pem.Decode([]byte(s.fresh))
	der := append([]byte{}, block.Bytes...)
	der[len(der)-1] ^= 1
	s.forged = pemCSR(der)
	return s
}

// TestRefusals provokes the errors that calls have of their own, by what they
// are asked: the document has to have foreseen each.
func TestRefusals(t *testing.T) {
	f := shared
	s := newScene(t, f)
	type body = map[string]any
	device := func(id, csr string, more ...string) body {
		b := body{"deviceId": id, "csr": csr}
		for i := 0; i+1 < len(more); i += 2 {
			b[more[i]] = more[i+1]
		}
		return b
	}
	fresh := s.id + "-new"
	for _, c := range []struct {
		path   string
		body   body
		status int
		kind   ca.Kind
	}{
		{"/enrollments", device(fresh, s.weak), 422, ca.KindWeakKey},
		{"/enrollments", device(fresh, s.forged), 422, ca.KindBadSignature},
		{"/enrollments", device(fresh, csrFor(t, fresh, s.revokedKey)), 422, ca.KindBlockedKey},
		{"/enrollments", device("another", s.fresh), 422, ca.KindNameNotAllowed},
		{"/enrollments", device(fresh, csrFor(t, fresh, s.key)), 409, enroll.KindDuplicateKey},
		{"/enrollments", device(s.id, s.freshFor, "workOrder", s.id), 409, enroll.KindDuplicateDevice},
		{"/enrollments", device(s.held, s.freshForHeld), 422, enroll.KindDeviceHeld},
		{"/enrollments", device(s.revoked, s.freshForRevoked), 422, enroll.KindDeviceRevoked},
		{"/enrollments", device(fresh, s.fresh, "workOrder", s.id), 422, enroll.KindQuotaReached},
		{"/enrollments", device(fresh, s.fresh, "workOrder", "nowhere"), 404, ca.KindNotFound},
		{"/enrollments", device(fresh, s.fresh, "profile", "unheard-of"), 400, ca.KindProfile},
		{"/enrollments", device(fresh, s.fresh, "token", "fce_guess"), 401, enroll.KindTokenUnknown},
		{"/enrollments", device(fresh, s.fresh, "token", s.spent), 422, enroll.KindTokenUsed},
		{"/enrollments", device(fresh, s.fresh, "token", s.bound), 422, enroll.KindTokenOtherDevice},
		{"/enrollments", device(fresh, s.fresh, "token", s.token, "workOrder", s.id), 422, enroll.KindTokenOtherOrder},
		{"/devices", body{"id": s.id}, 409, enroll.KindDuplicateDevice},
		{"/devices", body{"id": enroll.CanaryID}, 422, ca.KindNameNotAllowed},
		{"/devices", body{"id": fresh, "workOrder": "nowhere"}, 404, ca.KindNotFound},
		{"/devices/" + s.held + "/hold", body{}, 422, enroll.KindDeviceHeld},
		{"/devices/" + s.revoked + "/hold", body{}, 409, ca.KindRevoked},
		{"/devices/nobody/hold", body{}, 404, ca.KindNotFound},
		{"/devices/" + s.id + "/release", body{}, 409, ca.KindNotHeld},
		{"/devices/" + s.revoked + "/revocation", body{"reason": "superseded"}, 409, ca.KindRevoked},
		{"/devices/" + s.id + "/revocation", body{"reason": "boredom"}, 400, ca.KindReason},
		{"/devices/nobody/revocation", body{"reason": "superseded"}, 404, ca.KindNotFound},
		{"/certificates/" + s.serial + "/revocation", body{"reason": "superseded"}, 409, ca.KindRevoked},
		{"/certificates/" + s.serial + "/revocation", body{"reason": "boredom"}, 400, ca.KindReason},
		{"/brokers", body{"id": s.id, "url": "mqtts://broker.test"}, 409, enroll.KindConflict},
		{"/brokers", body{"url": "mqtts://broker.test", "names": []string{"other.test"}}, 422, ca.KindNameNotAllowed},
		{"/brokers/" + s.id + "/certificates", body{"csr": s.fresh}, 422, ca.KindNameNotAllowed},
		{"/brokers/" + s.id + "/rotations", body{}, 422, enroll.KindNoDriver},
		{"/work-orders", body{"id": s.id, "product": "pump", "quantity": 1}, 409, enroll.KindConflict},
		{"/work-orders", body{"product": "pump", "quantity": 1, "profile": "broker"}, 400, ca.KindProfile},
		{"/work-orders/" + s.id + "/tokens", body{"deviceId": enroll.CanaryID}, 422, ca.KindNameNotAllowed},
		{"/work-orders/nowhere/tokens", body{}, 404, ca.KindNotFound},
	} {
		text, err := json.Marshal(c.body)
		if err != nil {
			t.Fatal(err)
		}
		resp, answer := f.raw(t, http.MethodPost, f.people.URL+"/api/v1"+c.path, string(text), "Authorization", "Bearer "+f.tokens[enroll.RoleAdmin])
		var problem struct{ Type string }
		if err := json.Unmarshal([]byte(answer), &problem); err != nil || resp.StatusCode != c.status || problem.Type != "urn:fleetca:problem:"+string(c.kind) {
			t.Errorf("%s %v: %d %s, want %d %s", c.path, c.body["deviceId"], resp.StatusCode, answer, c.status, c.kind)
		}
	}
}
