package api_test

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/api"
	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// access is who may make every call, by hand from the REST contract: a letter
// where it is allowed, a stroke where it is refused.
//
//	A admin     N nobody: no credentials at all
//	O operator  T an enrollment token
//	F factory   D the certificate of a device
//	S security  B the certificate of a broker
//	U auditor   G the certificate of the agent of the broker in the path
var access = map[string]string{
	"GET /":                                          "AOFSU NTDBG",
	"GET /openapi.json":                              "AOFSU NTDBG",
	"POST /enrollments":                              "AOF-- -T---",
	"POST /enrollments/batch":                        "AOF-- -----",
	"POST /renewals":                                 "----- --D--",
	"GET /devices":                                   "AOFSU -----",
	"POST /devices":                                  "AOF-- -----",
	"GET /devices/{id}":                              "AOFSU -----",
	"POST /devices/{id}/revocation":                  "A--S- -----",
	"POST /devices/{id}/hold":                        "AO-S- -----",
	"POST /devices/{id}/release":                     "AO-S- -----",
	"POST /devices/{id}/retirement":                  "AO-S- -----",
	"POST /devices/{id}/renewal-links":               "AO--- -----",
	"GET /devices/{id}/revocation-plan":              "A--S- -----",
	"GET /devices/{id}/events":                       "AO-SU -----",
	"POST /bulk-changes/plan":                        "AO-S- -----",
	"POST /bulk-changes":                             "AO-S- -----",
	"GET /bulk-changes":                              "AO-SU -----",
	"GET /bulk-changes/{id}":                         "AO-SU -----",
	"GET /attention":                                 "AOFSU -----",
	"GET /figures":                                   "AOFSU -----",
	"GET /forecast":                                  "AOFSU -----",
	"GET /work-orders/{id}/progress":                 "AOF-U -----",
	"GET /revocations":                               "AOFSU -----",
	"GET /revocations/{id}":                          "AOFSU -----",
	"GET /brokers":                                   "AOFSU -----",
	"POST /brokers":                                  "AO--- -----",
	"GET /brokers/{id}":                              "AOFSU -----",
	"POST /brokers/{id}/certificates":                "AO--- ----G",
	"POST /brokers/{id}/rotations":                   "AO--- -----",
	"GET /rotations":                                 "AO--U -----",
	"GET /rotations/{id}":                            "AO--U -----",
	"POST /brokers/{id}/verifications":               "AO-S- -----",
	"GET /brokers/{id}/verifications":                "AO-SU -----",
	"POST /brokers/{id}/update":                      "AO--- -----",
	"GET /brokers/{id}/verifications/{verification}": "AO-SU -----",
	"POST /work-orders/{id}/update":                  "AOF-- -----",
	"GET /work-orders/{id}/tokens":                   "AOF-- -----",
	"POST /work-orders/{id}/tokens/{token}/end":      "AOF-- -----",
	"GET /work-orders":                               "AOF-U -----",
	"POST /work-orders":                              "AOF-- -----",
	"GET /work-orders/{id}":                          "AOF-U -----",
	"POST /work-orders/{id}/tokens":                  "AOF-- -----",
	"GET /certificates":                              "AOFSU -----",
	"GET /certificates/{serial}":                     "AOFSU -----",
	"POST /certificates/{serial}/revocation":         "A--S- -----",
	"GET /issuers":                                   "AOFSU -----",
	"GET /issuers/{id}":                              "AOFSU -----",
	"GET /issuers/{id}/publication":                  "A---- -----",
	"POST /issuers/{id}/activation":                  "A---- -----",
	"POST /issuers/{id}/retirement":                  "A---- -----",
	"GET /issuers/{id}/readiness":                    "AOFSU -----",
	"POST /issuers/{id}/approval":                    "A---- -----",
	"POST /issuers/{id}/drop":                        "A---- -----",
	"GET /trust-bundles":                             "AOFSU -----",
	"GET /trust-bundles/{generation}":                "AOFSU NTDBG",
	"POST /devices/{id}/acknowledgement":             "AO--- -----",
	"POST /brokers/{id}/acknowledgement":             "AO--- ----G",
	"POST /issuers/{id}/crl-shards":                  "A---- -----",
	"GET /manufacturers":                             "AOFSU -----",
	"POST /manufacturers":                            "A---- -----",
	"GET /manufacturers/{id}":                        "AOFSU -----",
	"POST /manufacturers/{id}/update":                "A---- -----",
	"POST /manufacturers/{id}/disabling":             "A--S- -----",
	"GET /manufacturers/{id}/manifest":               "AOFSU -----",
	"POST /manufacturers/{id}/manifest":              "AOF-- -----",
	"POST /manufacturers/{id}/manifest/removal":      "AOF-- -----",
	"GET /profiles":                                  "AOFSU -----",
	"GET /profiles/{name}":                           "AOFSU -----",
	"GET /profiles/{name}/versions":                  "AOFSU -----",
	"POST /profiles/{name}/plan":                     "A--S- -----",
	"POST /profiles/{name}/versions":                 "A--S- -----",
	"GET /crls":                                      "AOFSU -----",
	"GET /trust-bundle":                              "AOFSU NTDBG",
	"GET /events":                                    "A---U -----",
	"POST /login":                                    "AOFSU NTDBG",
	"POST /logout":                                   "AOFSU -----",
	"GET /whoami":                                    "AOFSU -----",
	"GET /users":                                     "A---- -----",
	"POST /users":                                    "A---- -----",
	"GET /users/{name}":                              "A---- -----",
	"POST /users/{name}/password":                    "A---- -----",
	"POST /users/{name}/role":                        "A---- -----",
	"POST /users/{name}/disabling":                   "A---- -----",
	"POST /users/{name}/enabling":                    "A---- -----",
	"GET /tokens":                                    "A---- -----",
	"POST /tokens":                                   "A---- -----",
	"GET /tokens/{id}":                               "A---- -----",
	"POST /tokens/{id}/revocation":                   "A---- -----",
}

const everybody = "AOFSU NTDBG"

// A caller is somebody with one kind of credential.
type caller struct {
	letter byte
	server *httptest.Server
	http   *http.Client
	bearer string
	token  string // an enrollment token, for the body
}

// TestAccess makes every call with every credential, over HTTPS: 401 or 403
// where the table refuses it, and nothing of the kind where it allows it.
func TestAccess(t *testing.T) {
	known := map[string]bool{}
	callers := newCallers(t, shared, "access-broker")
	for _, rt := range api.Routes() {
		call := rt.Method + " " + rt.Pattern
		known[call] = true
		row := access[call]
		if len(row) != len(everybody) {
			t.Errorf("%s has no row in the table: who may make it?", call)
			continue
		}
		path := strings.NewReplacer("{id}", "access-broker", "{name}", "nobody", "{serial}", "7f").Replace(rt.Pattern)
		for _, who := range callers {
			column := strings.IndexByte(everybody, who.letter)
			if row[column] != who.letter && row[column] != '-' {
				t.Errorf("%s: the table has %q where %q or a stroke belongs", call, row[column], who.letter)
			}
			resp := who.call(t, rt, path)
			refused := resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden
			if refused == (row[column] == who.letter) || resp.StatusCode >= 500 {
				t.Errorf("%s by %c at %s: %d, the table has %c", call, who.letter, who.server.URL, resp.StatusCode, row[column])
			}
			if resp.StatusCode == http.StatusUnauthorized && resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s by %c: 401 without WWW-Authenticate", call, who.letter)
			}
		}
	}
	for call := range access {
		if !known[call] {
			t.Errorf("%s is not a call", call)
		}
	}
}

// call makes a call that comes to nothing once it is let in: its body, if it
// takes one, has a field that no call knows.
func (w caller) call(t *testing.T, rt api.Route, path string) *http.Response {
	t.Helper()
	body := ""
	switch {
	case rt.Method != http.MethodPost:
	case rt.Name == "enrollDevice": // whose credential may be in the body: it is read first
		body = `{"deviceId":"access-device","csr":"none","token":"` + w.token + `"}`
	case rt.Stream:
		body = "\n"
	default:
		body = `{"unknown":1,"token":"` + w.token + `"}`
	}
	r, err := http.NewRequestWithContext(t.Context(), rt.Method, w.server.URL+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if rt.Stream {
		r.Header.Set("Content-Type", "application/x-ndjson")
	}
	if w.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+w.bearer)
	}
	if w.token != "" && rt.Name != "enrollDevice" { // elsewhere it is no bearer token either
		r.Header.Set("Authorization", "Bearer "+w.token)
	}
	resp, err := w.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := new(bytes.Buffer).ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp
}

// newCallers returns one caller or more of every column.
func newCallers(t *testing.T, f *fleet, agentOf string) []caller {
	t.Helper()
	plain := &http.Client{Transport: f.transport}
	var all []caller
	for i, role := range enroll.Roles() {
		for _, server := range []*httptest.Server{f.people, f.machines} {
			all = append(all, caller{letter: everybody[i], server: server, http: plain, bearer: f.tokens[role]})
		}
	}
	order, err := f.client(t, f.people, enroll.RoleOperator, nil).CreateWorkOrder(t.Context(), enroll.NewWorkOrder{Product: "pump", Quantity: 1})
	if err != nil {
		t.Fatal(err)
	}
	token, err := f.client(t, f.people, enroll.RoleOperator, nil).CreateEnrollmentToken(t.Context(), order.ID, enroll.NewToken{})
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*httptest.Server{f.people, f.machines} {
		all = append(all, caller{letter: 'N', server: server, http: plain}, caller{letter: 'T', server: server, http: plain, token: token.Token})
	}
	for letter, holder := range map[byte]ca.Holder{
		'D': {Kind: ca.HolderDevice, ID: unique("access-")},
		'B': {Kind: ca.HolderBroker, ID: agentOf},
		'G': {Kind: ca.HolderAgent, ID: agentOf},
	} {
		identity := f.identity(t, holder)
		all = append(all, caller{letter: letter, server: f.machines, http: f.with(t, identity)})
		// The listener for people looks at no certificate.
		all = append(all, caller{letter: 'N', server: f.people, http: f.with(t, identity)})
	}
	return all
}

// identity issues a certificate, past the registration authority.
func (f *fleet) identity(t *testing.T, holder ca.Holder) *tls.Certificate {
	t.Helper()
	key, csr := newRequest(t, "")
	request, err := ca.ParseRequest("csr", []byte(csr))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := f.ca.Issue(t.Context(), ca.Order{
		Profile: string(holder.Kind), Holder: holder, CommonName: holder.ID, PublicKey: request.PublicKey, KeySHA256: request.KeySHA256,
		DNSNames: []string{"localhost", holder.ID}, Claim: func(ca.Certificate) any { return issuedInTest(holder) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{cert.DER}, PrivateKey: key}
}

// issuedInTest is what is recorded with such a certificate.
func issuedInTest(holder ca.Holder) *enroll.Claim {
	claim := &enroll.Claim{Change: enroll.Change{Event: enroll.InitEvent("test")}}
	if holder.Kind == ca.HolderDevice {
		claim.Device = &enroll.DeviceClaim{ID: holder.ID}
	}
	return claim
}

// with returns an HTTP client that presents the certificate.
func (f *fleet) with(t *testing.T, identity *tls.Certificate) *http.Client {
	t.Helper()
	transport := f.transport.Clone()
	transport.TLSClientConfig.Certificates = []tls.Certificate{*identity}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestAgentsKeepToTheirBroker: the one call that a holder may make for itself
// alone.
func TestAgentsKeepToTheirBroker(t *testing.T) {
	f := shared
	agent := f.client(t, f.machines, "", f.identity(t, ca.Holder{Kind: ca.HolderAgent, ID: unique("agent-")}))
	_, err := agent.IssueBroker(t.Context(), "another", "")
	isKind(t, err, enroll.KindForbidden, "")
}

// TestRevokedCertificateOpensNothing: not even what it says of itself.
func TestRevokedCertificateOpensNothing(t *testing.T) {
	f, id := shared, unique("access-")
	identity := f.identity(t, ca.Holder{Kind: ca.HolderDevice, ID: id})
	if _, err := f.client(t, f.people, enroll.RoleSecurity, nil).RevokeDevice(t.Context(), id, enroll.RevokeRequest{Reason: "keyCompromise"}); err != nil {
		t.Fatal(err)
	}
	device := f.client(t, f.machines, "", identity)
	_, err := device.Renew(t.Context(), "")
	isKind(t, err, enroll.KindDeviceRevoked, "")
	_, err = device.Device(t.Context(), id)
	isKind(t, err, enroll.KindForbidden, "")
	_, err = device.Renew(t.Context(), "", client.IdempotencyKey("again"))
	isKind(t, err, enroll.KindDeviceRevoked, "")
}
