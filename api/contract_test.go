package api

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A contractRow is one call as the REST contract fixes it: nothing of it
// changes, whatever is added. Names below another are written with a dot, those
// of a list's items with []; ? marks what may be left out. A request that the
// contract does not spell out is "any".
type contractRow struct {
	call    string
	status  string
	request string
	answer  string
}

const (
	certificateFields = "serialNumber sha256 subject names issuer profile status reason? notBefore notAfter device? broker? pem"
	enrollmentFields  = "certificate.serialNumber certificate.status chain trustBundle.generation trustBundle.pem"
	deviceFields      = "id status group? attributes workOrder? certificates[].serialNumber trustGeneration createdAt lastSeenAt?"
	brokerFields      = "id url names kind status certificate?.serialNumber lastVerification?.report"
	stepFields        = "steps[].name steps[].broker? steps[].listener? steps[].state steps[].at? steps[].elapsedMs steps[].detail"
	revocationFields  = "id device reason state evidence? " + stepFields
	rotationFields    = "id broker state steps[].name sessionsBefore sessionsAfter sessionsDropped oldSerial newSerial"
	reportFields      = "target.url verdict startedAt durationMs steps[].name steps[].result steps[].state.tls diagnosis[].code diagnosis[].fix tls?.version mqtt?.reasonCode serverCertificate?.sha256 refusal?.step checks[].name checks[].expect checks[].result checks[].observed checks[].diagnosis[].code"
	orderFields       = "id product quantity issued profile state"
	tokenFields       = "id token? deviceId? uses expiresAt"
	eventFields       = "id at actor action subject detail"
	batchFields       = "index status deviceId? certificate?.pem problem?.type"
	enrolled          = "deviceId? broker?.url broker?.serverName broker?.clientId broker?.topicPrefix renewal?.url renewal?.after " + enrollmentFields
)

// contract is the table of the REST contract, in its order.
var contract = []contractRow{
	{"POST /enrollments", "201", "token? deviceId? csr workOrder? profile? attributes?", enrolled},
	{"POST /enrollments/batch", "200", "idempotencyKey token? deviceId? csr workOrder? profile? attributes?", batchFields},
	{"POST /renewals", "201", "csr?", enrolled},
	{"GET /devices", "200", "", list(deviceFields)},
	{"POST /devices", "201", "any", deviceFields},
	{"GET /devices/{id}", "200", "", deviceFields},
	{"POST /devices/{id}/revocation", "202", "reason comment?", revocationFields},
	{"GET /revocations/{id}", "200", "", revocationFields},
	{"POST /devices/{id}/hold", "200", "", deviceFields},
	{"POST /devices/{id}/release", "200", "", deviceFields},
	{"GET /brokers", "200", "", list(brokerFields)},
	{"POST /brokers", "201", "any", brokerFields},
	{"GET /brokers/{id}", "200", "", brokerFields},
	{"POST /brokers/{id}/certificates", "201", "csr", enrollmentFields},
	{"POST /brokers/{id}/rotations", "202", "dryRun?", rotationFields},
	{"GET /rotations/{id}", "200", "", rotationFields},
	{"POST /brokers/{id}/verifications", "201", "negative?", reportFields},
	{"GET /brokers/{id}/verifications", "200", "", "items[].report.verdict items[].at items[].since items[].looks items[].negative items[].scheduled nextCursor?"},
	{"GET /work-orders", "200", "", list(orderFields)},
	{"POST /work-orders", "201", "any", orderFields},
	{"GET /work-orders/{id}", "200", "", orderFields},
	{"POST /work-orders/{id}/tokens", "201", "any", tokenFields},
	{"GET /certificates", "200", "", list(certificateFields)},
	{"GET /certificates/{serial}", "200", "", certificateFields},
	{"POST /certificates/{serial}/revocation", "200", "reason comment?", certificateFields},
	{"GET /issuers", "200", "", "items nextCursor?"},
	{"GET /profiles", "200", "", "items nextCursor?"},
	{"GET /crls", "200", "", "items nextCursor?"},
	{"GET /trust-bundle", "200", "", "generation pem"},
	{"GET /events", "200", "", list(eventFields)},
}

// list puts fields into the items of a page.
func list(fields string) string {
	return "items[]." + strings.ReplaceAll(fields, " ", " items[].") + " nextCursor?"
}

// A reader finds its way in the document.
type reader struct {
	*testing.T
	doc map[string]any
}

// at follows keys and references.
func (r reader) at(v any, keys ...string) map[string]any {
	r.Helper()
	for i := 0; ; i++ {
		object, _ := v.(map[string]any)
		if ref, ok := object["$ref"].(string); ok {
			object = r.at(r.doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		}
		if i == len(keys) {
			return object
		}
		v = object[keys[i]]
	}
}

// field follows a contract's path in a schema. It reports whether the field is
// there and, at its last name, whether it may be left out.
func (r reader) field(s map[string]any, path string) (found, optional bool) {
	for name := range strings.SplitSeq(path, ".") {
		name = strings.TrimSuffix(name, "?")
		name, isList := strings.CutSuffix(name, "[]")
		properties := r.at(s, "properties")
		if properties[name] == nil {
			return false, false
		}
		required, _ := s["required"].([]any)
		optional = !slices.Contains(required, any(name))
		s = r.at(properties, name)
		if isList {
			s = r.at(s, "items")
		}
	}
	return true, optional
}

// TestContract holds the document against the contract's table.
func TestContract(t *testing.T) {
	r := reader{t, document(t)}
	for _, row := range contract {
		method, pattern, _ := strings.Cut(row.call, " ")
		op := r.at(r.doc, "paths", pattern, strings.ToLower(method))
		if op == nil {
			t.Errorf("%s: not in the document", row.call)
			continue
		}
		media := "application/json"
		if pattern == "/enrollments/batch" {
			media = "application/x-ndjson"
		}
		answer := r.at(op, "responses", row.status, "content", media, "schema")
		if answer == nil {
			t.Errorf("%s: does not answer %s with %s", row.call, row.status, media)
		}
		for path := range strings.FieldsSeq(row.answer) {
			found, optional := r.field(answer, path)
			if !found || optional != strings.HasSuffix(path, "?") {
				t.Errorf("%s: field %s of the answer: there %v, optional %v", row.call, path, found, optional)
			}
		}
		r.checkRequest(row, op, r.at(op, "requestBody", "content", media, "schema"))
		r.checkErrors(row.call, op)
	}
}

// checkRequest holds a request's fields against the contract: all of them, and
// which may be left out.
func (r reader) checkRequest(row contractRow, op, request map[string]any) {
	r.Helper()
	if row.request == "any" {
		return
	}
	names := map[string]bool{}
	for path := range strings.FieldsSeq(row.request) {
		name, may := strings.CutSuffix(path, "?")
		names[name] = true
		if found, optional := r.field(request, name); !found || optional != may {
			r.Errorf("%s: field %s of the request: there %v, optional %v", row.call, name, found, optional)
		}
	}
	for name := range r.at(request, "properties") {
		if found, optional := r.field(request, name); found && !optional && !names[name] {
			r.Errorf("%s: field %s is required, and not in the contract", row.call, name)
		}
	}
	if request != nil && request["additionalProperties"] != false {
		r.Errorf("%s: takes unknown fields", row.call)
	}
	_, may := r.at(op, "requestBody")["required"].(bool)
	if method, _, _ := strings.Cut(row.call, " "); may != (method == "POST") {
		r.Errorf("%s: a body: %v", row.call, may)
	}
}

// checkErrors checks that every error of a call is a problem document.
func (r reader) checkErrors(call string, op map[string]any) {
	r.Helper()
	for status, response := range r.at(op, "responses") {
		if n, err := strconv.Atoi(status); err != nil || n >= 400 && r.at(response, "content", "application/problem+json", "schema") == nil {
			r.Errorf("%s: %s is no problem", call, status)
		}
	}
}

// TestContractConventions checks what the contract fixes beside the table.
func TestContractConventions(t *testing.T) {
	r := reader{t, document(t)}
	for component, values := range map[string]string{
		"DeviceStatus":      "registered active held revoked retired",
		"CertificateStatus": "good held revoked expired",
		"Reason":            "unspecified keyCompromise cACompromise affiliationChanged superseded cessationOfOperation certificateHold privilegeWithdrawn aACompromise",
	} {
		for value := range strings.FieldsSeq(values) {
			if enum, _ := r.at(r.doc, "components", "schemas", component)["enum"].([]any); !slices.Contains(enum, any(value)) {
				t.Errorf("%s has no %s", component, value)
			}
		}
	}
	for _, path := range strings.Fields("type title status detail? errors[].field errors[].message errors[].hint?") {
		if found, _ := r.field(r.at(r.doc, "components", "schemas", "Problem"), path); !found {
			t.Errorf("a problem has no %s", path)
		}
	}
	for status, names := range map[string]string{
		"409": "idempotency-conflict already-revoked duplicate-key duplicate-device",
		"422": "bad-csr-signature weak-key name-not-allowed token-expired token-used token-other-device quota-reached device-revoked issuer-inactive",
	} {
		for name := range strings.FieldsSeq(names) {
			if !r.gives(status, problemPrefix+name) {
				t.Errorf("no call answers %s with %s", status, name)
			}
		}
	}
	for _, rt := range Routes() {
		op := r.at(r.doc, "paths", rt.Pattern, strings.ToLower(rt.Method))
		if rt.Paged && !(r.takes(op, "limit") && r.takes(op, "cursor")) {
			t.Errorf("%s takes no limit and cursor", rt.Name)
		}
		if rt.Creates && !r.takes(op, keyHeader) {
			t.Errorf("%s takes no %s", rt.Name, keyHeader)
		}
		if replayed := r.at(op, "responses", "200", "headers", "Idempotent-Replayed") != nil; rt.Creates && !replayed {
			t.Errorf("%s has no replay", rt.Name)
		}
	}
	for _, call := range []string{"post /enrollments 201", "post /renewals 201", "get /certificates/{serial} 200"} {
		parts := strings.Fields(call)
		if r.at(r.doc, "paths", parts[1], parts[0], "responses", parts[2], "content", chainType) == nil {
			t.Errorf("%s cannot answer the chain alone", call)
		}
	}
}

// gives reports whether some call answers a status with a problem of the type.
func (r reader) gives(status, problem string) bool {
	for _, item := range r.at(r.doc, "paths") {
		for _, op := range item.(map[string]any) {
			s, _ := r.at(op, "responses", status, "content", "application/problem+json")["schema"].(map[string]any)
			if types, _ := r.at(s["properties"], "type")["enum"].([]any); slices.Contains(types, any(problem)) {
				return true
			}
		}
	}
	return false
}

// takes reports whether an operation has a parameter.
func (r reader) takes(op map[string]any, name string) bool {
	parameters, _ := op["parameters"].([]any)
	return slices.ContainsFunc(parameters, func(p any) bool { return r.at(p)["name"] == name })
}
