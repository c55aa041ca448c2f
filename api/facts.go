package api

import "github.com/fleetca/fleetca/enroll"

// facts are what the service checks or gives, and Go types do not say, by
// "Component.property", or "*.property" for those of the name that have no
// fact of their own. Every string of an answer has an example.
var facts = map[string]schema{
	"SerialNumber": {"pattern": "^([0-9a-f]{2}){1,20}$", "examples": []string{exampleSerial}},

	// Types whose comments speak of the inside.
	"Certificate":         {"description": "A certificate that stands in the ledger."},
	"Issuer":              {"description": "A certification authority certificate: the root, or one that signs."},
	"Index":               {"description": "Where the listings are."},
	"Observation":         {"description": "The paired canary at one broker: a certificate of the device's issuer that was admitted before, revoked on the same CRL as the device, and refused after, beside a good one that is admitted throughout."},
	"Report":              {"description": "What a verification of a broker saw."},
	"ReportRefusal":       {"description": "The broker's own \"no\" to the client's certificate or CONNECT, as it was observed."},
	"ReportStepName":      {"description": "The eight steps, in their order."},
	"ReportMQTT":          {"description": "What the broker said to CONNECT."},
	"RenewalRequest":      {"description": "What a renewal is asked for with: {} keeps the key."},
	"BrokerRequest":       {"description": "What a broker's certificate is asked for with."},
	"RotationRequest":     {"description": "How a rotation is to be made."},
	"VerificationRequest": {"description": "How a verification is to be made."},

	// Identifiers that people choose.
	"*.deviceId":           identifier("pump-0001", "of the device; not . or .."),
	"*.device":             identifier("pump-0001", ""),
	"*.broker":             identifier("hall-2", ""),
	"*.workOrder":          identifier("wo-1042", "that the device is built for"),
	"*.group":              identifier("hall-2", "of devices"),
	"*.profile":            identifier("device", "name of a profile, as GET /profiles lists them"),
	"Device.id":            identifier("pump-0001", ""),
	"NewDevice.id":         identifier("pump-0001", "not . or .., and not the name of the canaries"),
	"Broker.id":            identifier("hall-2", ""),
	"NewBroker.id":         identifier("hall-2", ""),
	"WorkOrder.id":         identifier("wo-1042", ""),
	"NewWorkOrder.id":      identifier("wo-1042", ""),
	"Broker.kind":          identifier("mosquitto", ""),
	"NewBroker.kind":       {"description": "generic when empty: mosquitto, rabbitmq, nats, embedded, ...", "pattern": "^[A-Za-z0-9._-]{0,64}$", "examples": []string{"mosquitto"}},
	"BatchResult.deviceId": {"description": "as given", "examples": []string{"pump-0001"}},
	"Certificate.issuer":   identifier("devices", ""),
	"CRL.issuer":           identifier("devices", "id of the issuer"),
	"Issuer.id":            identifier("devices", ""),
	"Issuer.parent":        identifier("root", "id of the issuer that signed it; its own for a root"),
	"Profile.name":         identifier("device", ""),
	"LintedProfile.name":   identifier("device", ""),
	"ProfilePlan.name":     identifier("device", "of the profile"),

	"User.name":             identifier("eve", ""),
	"NewUser.name":          identifier("eve", "to log in with; not . or .."),
	"LoginRequest.name":     identifier("eve", "of the user"),
	"NewUser.password":      {"description": "12 characters or more, and not the name", "minLength": 12, "maxLength": 256},
	"Whoami.user":           identifier("eve", "who logged in; missing for a program's token"),
	"APIToken.owner":        identifier("eve", "user whose login made it; missing for a program's"),
	"APIToken.workOrder":    identifier("wo-1042", "the one that it may enroll for; missing for any"),
	"NewAPIToken.workOrder": identifier("wo-1042", "the one that a factory token may enroll for; any when missing"),
	"Whoami.workOrder":      identifier("wo-1042", "the one that the token may enroll for; missing for any"),

	// Accounts.
	"Secret":           {"description": "A secret. It stands in no log and in no answer.", "examples": []string{examplePassword}},
	"APIToken.token":   {"description": "the secret: in the answer that made it alone", "examples": []string{exampleAPIToken}},
	"APIToken.name":    {"description": "what it is for", "examples": []string{"line 3"}},
	"NewAPIToken.name": {"description": "what it is for", "maxLength": 128, "examples": []string{"line 3"}},
	"Whoami.actor":     {"description": "as the audit trail names the caller", "examples": []string{"user:eve"}},

	// Manufacturers.
	"Manufacturer.id": identifier("acme", ""), "NewManufacturer.id": identifier("acme", "not . or .."),
	"Manufacturer.subject":        {"examples": []string{"O=Acme,CN=Acme IDevID Root"}},
	"NewManufacturer.certificate": {"description": "PEM, of the authority that signs the devices' certificates, or one above it", "examples": []string{exampleCertificate}},
	"ManifestEntry.deviceId":      identifier("pump-0001", ""), "ManifestEntry.workOrder": identifier("wo-1042", "whose quota the device takes one of"),
	"ManifestEntry.subjectSerial": {"description": "serialNumber of the certificate's subject (X.520)", "maxLength": 64, "examples": []string{"PID:ACME-7 SN:0001"}},
	"ManifestEntry.serialNumber":  serialOrNone("of the certificate that it enrolled for last; missing while it has not"),
	"ManifestRequest.csv":         {"description": "CSV (RFC 4180) of 500 lines at most. " + enroll.ManifestHint + ".", "examples": []string{"subjectSerial,deviceId,workOrder\nPID:ACME-7 SN:0001,pump-0001,wo-1042\n"}},
	"ManifestRemoval.deviceIds":   {"minItems": 1, "maxItems": enroll.MaxManifestRows, "examples": [][]string{{"pump-0001"}}},

	// Identifiers that are made here. They sort by time.
	"APIToken.id": made, "Whoami.tokenId": made, "EnrollmentToken.id": made, "Event.id": made, "Revocation.id": made, "Rotation.id": made, "Verification.id": made,

	// Keys and certificates.
	"*.csr":                              {"description": "certification request (PKCS #10, RFC 2986), PEM", "maxLength": 16 << 10, "examples": []string{exampleCSR}},
	"RenewalRequest.csr":                 {"description": "certification request for the new key, PEM; the key is kept when missing", "maxLength": 16 << 10, "examples": []string{exampleCSR}},
	"*.pem":                              {"description": "PEM", "examples": []string{exampleCertificate}},
	"Enrollment.chain":                   {"examples": []string{exampleCertificate + exampleCertificate}},
	"BatchResult.chain":                  {"examples": []string{exampleCertificate + exampleCertificate}},
	"*.sha256":                           {"pattern": "^[0-9a-f]{64}$", "examples": []string{exampleSHA256}},
	"*.subject":                          {"examples": []string{"CN=pump-0001"}},
	"*.names":                            {"examples": [][]string{{"mqtt.example", "192.0.2.1"}}},
	"NewBroker.names":                    {"type": []string{"array", "null"}, "description": "DNS names and IP addresses of its certificate, the URL's host among them; that host alone when missing", "maxItems": 100, "examples": [][]string{{"mqtt.example"}}},
	"Issuer.crlDistributionPoints":       {"examples": [][]string{{"http://ca.example/crl/devices.crl"}}},
	"ShardsRequest.shards":               {"minimum": 1, "maximum": 1024},
	"*.site":                             {"description": "of the work order or broker: chooses the issuer, with the product", "pattern": "^[A-Za-z0-9._-]{0,64}$", "examples": []string{"hall-2"}},
	"Issuer.site":                        {"description": "the site that it signs for alone; empty for any", "examples": []string{"hall-2"}},
	"Issuer.product":                     {"description": "the product that it signs for alone; empty for any", "examples": []string{"pump"}},
	"Issuer.domain":                      {"examples": []string{"fleet.example"}},
	"Fetch.kind":                         {"enum": []string{"crl", "ocsp", "issuer"}},
	"Fetch.result":                       {"examples": []string{"CRL 42, 0 entries, valid until 2026-12-05T08:30:00Z"}},
	"Issuer.ocsp":                        {"examples": []string{"http://ca.example/ocsp"}},
	"*.extendedKeyUsages":                {"description": "what the certificates authenticate as; what the holder needs when missing", "items": schema{"type": "string", "enum": []string{"clientAuth", "serverAuth"}}},
	"*.validity":                         span("8760h0m0s"),
	"*.backdate":                         span("1h0m0s"),
	"*.jitter":                           span("216h0m0s"),
	"*.renewBefore":                      span("1440h0m0s"),
	"*.shelfLife":                        span("2160h0m0s"),
	"*.dnsNames":                         {"maxItems": 20, "examples": [][]string{{"{{ .ID | lower }}.{{ .Product }}.fleet.example"}}},
	"*.uris":                             {"maxItems": 20, "examples": [][]string{{"spiffe://fleet.example/device/{{ .ID }}"}}},
	"*.allowedDomains":                   {"description": "every DNS name is one of these or below it; any when missing", "maxItems": 20, "examples": [][]string{{"fleet.example"}}},
	"*.allowedNetworks":                  {"description": "every IP address is in one of these; any when missing", "maxItems": 20, "examples": [][]string{{"192.0.2.0/24"}}},
	"*.maxActive":                        {"minimum": 0, "maximum": 1000},
	"Profile.issuer":                     identifier("device", "id of the issuer that signs; the newest active one of the purpose when missing"),
	"LintedProfile.issuer":               identifier("device", "id of the issuer that signs; the newest active one of the purpose when missing"),
	"SubjectTemplate.organization":       {"examples": []string{"Fleet Works"}},
	"SubjectTemplate.organizationalUnit": {"examples": []string{"{{ .Product }}"}},
	"SubjectTemplate.country":            {"examples": []string{"DE"}},
	"SubjectTemplate.province":           {"examples": []string{"Bavaria"}},
	"SubjectTemplate.locality":           {"examples": []string{"{{ .Attributes.site }}"}},
	"SubjectTemplate.serialNumber":       {"examples": []string{"{{ .Attributes.unit }}"}},
	"Profile.subject":                    {"description": "beside the common name, which is the holder's id"},
	"LintedProfile.subject":              {"description": "beside the common name, which is the holder's id"},
	"ProfileVersion.profile":             {"description": "as it was applied"},
	"NewProfileVersion.profile":          {"description": "as it shall be"},
	"ProfileChange.field":                {"examples": []string{"validity"}},
	"ProfileChange.before":               {"examples": []string{"8760h0m0s"}},
	"ProfileChange.after":                {"examples": []string{"4320h0m0s"}},
	"ProfileFinding.field":               {"examples": []string{"validity"}},
	"ProfileFinding.message":             {"examples": []string{"a certificate may be dead before the first power-up: it lives 60 days, and a unit may lie for 90 days"}},
	"ProfileFinding.hint":                {"examples": []string{"make the validity longer than the shelf life"}},
	"ProfileRefusal.reason":              {"examples": []string{"csr: profile device certifies no key of kind RSA-2048"}},
	"ProfileRefusal.holders":             {"description": "some of them", "examples": [][]string{{"pump-0001"}}},
	"ProfileVersion.actor":               {"description": "who applied it; empty for a built-in one", "examples": []string{"user:eve"}},
	"ProfilePlan.before":                 {"examples": []string{"Certificate:\n    Data:\n        Version: 3 (0x2)\n"}},
	"ProfilePlan.after":                  {"examples": []string{"Certificate:\n    Data:\n        Version: 3 (0x2)\n"}},
	"*.warnings":                         {"examples": [][]string{{"the certificate expires on 2026-12-31, and a unit may lie for 90 days before its first power-up: it would come up with an expired certificate"}}},
	"TrustGeneration.roots":              {"examples": [][]string{{"root", "root-2"}}},
	"Readiness.root":                     identifier("root-2", "id of the root"),
	"Readiness.stragglers":               {"examples": [][]string{{"pump-0001"}}},
	"Readiness.brokers":                  {"examples": [][]string{{"hall-2"}}},
	"Approval.root":                      identifier("root-2", "id of the root"),
	"Approval.actor":                     {"examples": []string{"user:eve"}},
	"Approval.reason":                    {"examples": []string{"the last ones are in a drawer"}},
	"NewApproval.reason":                 {"description": "why; it is recorded", "minLength": 1, "maxLength": 1000, "examples": []string{"the last ones are in a drawer"}},
	"NewApproval.step":                   {replaces: true, "$ref": "#/components/schemas/RolloverStep"},
	"TrustAcknowledgement.generation":    {"minimum": 1},

	// Requests.
	"*.token":                  {"description": "secret of an enrollment token, fce_...: the credential of those who have no other", "examples": []string{exampleToken}},
	"*.attributes":             {"description": "what else is to be known of the device", "maxProperties": 32, "additionalProperties": schema{"type": "string", "maxLength": 1024}, "examples": []schema{{"revision": "C"}}},
	"BatchItem.idempotencyKey": {"description": "as the header Idempotency-Key of an enrollment", "minLength": 1, "maxLength": maxKey, "pattern": keyPattern, "examples": []string{"line-3-0001"}},
	"RevokeRequest.reason":     {replaces: true, "$ref": "#/components/schemas/Reason"},
	"*.comment":                {"description": "for people", "maxLength": 1000, "examples": []string{"stolen on site"}},
	"NewToken.uses":            {"minimum": 0, "maximum": 100_000_000},
	"NewAPIToken.expiresIn":    {"description": "a Go duration; 720h when missing", "pattern": durationPattern, "examples": []string{"720h"}},
	"NewToken.expiresIn":       {"pattern": durationPattern, "examples": []string{"8h"}},
	"NewWorkOrder.quantity":    {"description": "how many devices may be enrolled for it", "minimum": 1, "maximum": 100_000_000},
	"*.product":                {"description": "what is built", "maxLength": 128, "examples": []string{"pump"}},
	"EnrollmentToken.token":    {"examples": []string{exampleToken}},

	// Where to connect.
	"*.url":                {"examples": []string{"mqtts://mqtt.example:8883"}},
	"NewBroker.url":        {"pattern": "^mqtts://", "examples": []string{"mqtts://mqtt.example:8883"}},
	"Enrollment.broker":    {"description": "to connect to; missing while there is none, and for a broker's own certificate"},
	"BatchResult.broker":   {"description": "to connect to; missing while there is none"},
	"Enrollment.renewal":   {"description": "missing for a broker's certificate"},
	"BrokerDriver.server":  {"examples": []string{"ca-1:/var/lib/fleetca"}},
	"Endpoint.serverName":  {"description": "that the broker's certificate must hold", "examples": []string{"mqtt.example"}},
	"Endpoint.clientId":    {"description": "MQTT client identifier to use", "examples": []string{"pump-0001"}},
	"Endpoint.topicPrefix": {"description": "that the device's topics begin with", "examples": []string{"devices/pump-0001/"}},
	"Renewal.url":          {"description": "to POST to, with the client certificate", "examples": []string{"https://ca.example:9443/api/v1/renewals"}},
	"Renewal.after":        {"description": "from when on to ask: as the profile says, or at about two thirds of the certificate's life"},
	"Index.links":          {"examples": []schema{{"devices": basePath + "/devices"}}},

	// What is followed step by step.
	"Step.name":           {"enum": append(revocationSteps[:], rotationSteps[:]...), "description": "of a revocation: decided to evidence; of a rotation: plan to rollback"},
	"Step.listener":       {"examples": []string{"8883"}},
	"*.detail":            {"description": "for people", "examples": []string{"the broker serves " + exampleSerial}},
	"Event.detail":        {"examples": []schema{{"reason": "keyCompromise"}}},
	"Event.actor":         {"examples": []string{"token:" + exampleID}},
	"Event.action":        {"examples": []string{"device.revoke"}},
	"Event.subject":       {"examples": []string{"device:pump-0001"}},
	"Evidence.crlNumbers": {"examples": []schema{{"devices": 42}}},
	"Rotation.oldSerial":  serialOrNone("of the certificate that is replaced"),
	"Rotation.newSerial":  serialOrNone("of the one that takes its place; empty until it is issued"),
	"Observation.canary":  serialOrNone("of the certificate that was admitted, revoked and refused; empty before it was issued"),
	"Observation.control": serialOrNone("of the good certificate beside it; empty before it was issued"),

	// Reports.
	"ReportTarget.serverName":              {"examples": []string{"mqtt.example"}},
	"ReportTarget.address":                 {"examples": []string{"192.0.2.1:8883"}},
	"ReportTLS.version":                    {"examples": []string{"TLS 1.3"}},
	"ReportTLS.cipherSuite":                {"examples": []string{"TLS_AES_128_GCM_SHA256"}},
	"ReportTLS.group":                      {"examples": []string{"X25519MLKEM768"}},
	"ReportTLS.alpn":                       {"examples": []string{"mqtt"}},
	"ReportMQTT.version":                   {"description": "of the CONNECT", "examples": []string{"5.0"}},
	"ReportMQTT.reason":                    {"examples": []string{"Success"}},
	"ReportMQTT.raw":                       {"examples": []string{"2003000000"}},
	"ReportServerCertificate.subject":      {"examples": []string{"CN=mqtt.example"}},
	"ReportServerCertificate.issuer":       {"examples": []string{"CN=Example brokers"}},
	"ReportServerCertificate.serialNumber": {"examples": []string{exampleSerial}},
	"ReportServerCertificate.dnsNames":     {"examples": [][]string{{"mqtt.example"}}},
	"ReportServerCertificate.ipAddresses":  {"examples": [][]string{{"192.0.2.1"}}},
	"ReportServerCertificate.trustAnchor":  {"examples": []string{"CN=Example root"}},
	"Report.refusal":                       {"description": "once the broker said no"},
	"ReportRefusal.alert":                  {"description": "TLS alert (RFC 8446, section 6); missing when the refusal was none"},
	"ReportRefusal.reasonCode":             {"description": "of CONNACK; missing when the refusal was none"},
	"ReportRefusal.afterFinished":          {"description": "whether the client's side of the handshake had finished before"},
	"ReportRefusal.alertName":              {"examples": []string{"certificate_revoked"}},
	"ReportRefusal.error":                  {"description": "for people; with neither alert nor reason code, the connection was closed in silence", "examples": []string{"remote error: tls: revoked certificate"}},
	"ReportObserved.alertName":             {"examples": []string{"unknown_ca"}},
	"ReportObserved.error":                 {"description": "for people; empty when the broker accepted", "examples": []string{"rejected after finished: alert 48 unknown_ca"}},
	"ReportDiagnosis.message":              {"examples": []string{"nothing listens at 192.0.2.1:8883"}},
	"ReportDiagnosis.fix":                  {"examples": []string{"start the broker, or mend the port"}},

	// The fleet as a whole, and many devices at once.
	"Attention.message":            {"examples": []string{"the last verification of broker hall-2 did not pass"}},
	"Attention.query":              {"examples": []string{"expires<2w"}},
	"Attention.subject":            {"examples": []string{"broker:hall-2"}},
	"ForecastWeek.week":            {"pattern": "^[0-9]{4}-W[0-9]{2}$", "examples": []string{"2026-W48"}},
	"*.query":                      {"examples": []string{"group:hall-2 expires<30d"}},
	"Bulk.reason":                  {"description": "of a revocation: RFC 5280, 5.3.1", "examples": []string{"keyCompromise"}},
	"BulkResult.reason":            {"description": "of a revocation", "examples": []string{"keyCompromise"}},
	"BulkResult.id":                made,
	"BulkResult.actor":             {"description": "who started it", "examples": []string{"user:eve"}},
	"BulkFailure.message":          {"examples": []string{"device \"pump-0001\" is revoked already"}},
	"BulkRefusal.reason":           {"examples": []string{"it is revoked, which is final"}},
	"Bulk.fingerprint":             {"description": "of the plan; a plan needs none", "examples": []string{exampleSHA256}},
	"BulkPlan.fingerprint":         {"examples": []string{exampleSHA256}},
	"RefusedUnit.device":           {"description": "as it called itself; empty when that is no device id", "examples": []string{"pump-0001"}},
	"RefusedUnit.message":          {"examples": []string{"all 500 devices of work order \"wo-1042\" are enrolled"}},
	"RenewalLink.url":              {"examples": []string{"https://ca.example:9443/api/v1/enrollments"}},
	"RenewalLink.token":            {"description": "its secret is in this answer alone"},
	"NewRenewalLink.expiresIn":     {"description": "a Go duration; 24h when missing", "pattern": durationPattern, "examples": []string{"8h"}},
	"RevocationPlan.device":        {"description": "as it is now"},
	"RevocationPlan.refused":       {"examples": []string{"device pump-0001 is revoked already"}},
	"PlannedBroker.kind":           {"description": "mosquitto, rabbitmq, nats, embedded, ...", "examples": []string{"mosquitto"}},
	"PlannedBroker.sessionsError":  {"examples": []string{"the broker did not answer within 2s"}},
	"PlannedCRL.issuer":            identifier("devices", "id of the issuer"),
	"PlannedCRL.distributionPoint": {"examples": []string{"http://ca.example/crl/devices.crl"}},
	"Session.id":                   {"examples": []string{"1764290000-7"}},
	"Session.clientId":             {"examples": []string{"pump-0001"}},
	"Session.identity":             {"examples": []string{"pump-0001"}},
	"Session.serialNumber":         serialOrNone("of the client certificate; empty when the broker does not tell it"),
	"Session.remoteAddr":           {"examples": []string{"192.0.2.7:49152"}},

	// Problems.
	"Problem.type":       {"pattern": "^" + problemPrefix, "description": problemPrefix + "NAME: what clients tell errors apart by", "examples": []string{problemPrefix + "token-expired"}},
	"Problem.title":      {"description": "the type in words", "examples": []string{"Enrollment token expired"}},
	"Problem.status":     {"description": "of the answer", "minimum": 400, "maximum": 599},
	"Problem.detail":     {"description": "what is wrong this time", "examples": []string{"token: the token expired at " + exampleTime}},
	"Problem.requestId":  {"examples": []string{"PQ5XEXAMPLE"}},
	"Problem.errors":     {"description": "the fields at fault"},
	"FieldError.field":   {"examples": []string{"token"}},
	"FieldError.message": {"description": "what is wrong with it", "examples": []string{"the token expired at " + exampleTime}},
	"FieldError.hint":    {"description": "the next step", "examples": []string{"ask for a new token"}},
}

// optional are the fields of requests that have no omitempty and may be left
// out all the same.
var optional = map[string]bool{"NewBroker.names": true, "NewBroker.kind": true}

// nullable are the pointers that are null when there is nothing.
var nullable = map[string]bool{
	"Observation.refusal": true, "ReportCheck.observed": true, "ReportObserved.alert": true, "ReportObserved.reasonCode": true,
}

// Names of steps, in their order.
var (
	revocationSteps = [...]string{"decided", "ledger", "canary_admitted", "crl_signed", "crl_loaded", "session_closed", "refusal_seen", "evidence"}
	rotationSteps   = [...]string{"plan", "issue", "install", "probe", "soak", "commit", "rollback"}
)

// Patterns of texts.
const (
	idPattern  = "^[A-Za-z0-9._-]{1,64}$"
	keyPattern = "^[ -~]+$" // of an Idempotency-Key

	// durationPattern is how Go writes one, and how requests give one.
	durationPattern = `^([0-9.]+(ns|us|µs|ms|s|m|h))+$`
	// spanPattern allows whole days, too.
	spanPattern = `^(([0-9.]+(ns|us|µs|ms|s|m|h))+|[0-9]{1,5}d)$`
)

// replaces, in a fact, says that it stands for what the type gives, not beside.
const replaces = "x-replaces"

// made is an identifier of this service's making.
var made = schema{"format": "uuid", "examples": []string{exampleID}}

func identifier(example, description string) schema {
	s := schema{"pattern": idPattern, "examples": []string{example}}
	if description != "" {
		s["description"] = description
	}
	return s
}

// span is a duration of a profile.
func span(example string) schema {
	return schema{"pattern": spanPattern, "examples": []string{example, "90d"}}
}

func serialOrNone(description string) schema {
	return schema{replaces: true, "type": "string", "pattern": "^([0-9a-f]{2}){0,20}$", "description": "serial number " + description, "examples": []string{exampleSerial}}
}
