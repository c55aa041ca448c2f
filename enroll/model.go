package enroll

import (
	"encoding/json"
	"log/slog"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// A DeviceStatus is where a device stands in its life.
type DeviceStatus string

// The statuses of a device.
const (
	DeviceRegistered DeviceStatus = "registered" // known, holds no certificate yet
	DeviceActive     DeviceStatus = "active"
	DeviceHeld       DeviceStatus = "held"    // certificates on hold; can be released
	DeviceRevoked    DeviceStatus = "revoked" // final
	DeviceRetired    DeviceStatus = "retired" // final
)

// DeviceStatuses lists every status of a device.
func DeviceStatuses() []DeviceStatus {
	return []DeviceStatus{DeviceRegistered, DeviceActive, DeviceHeld, DeviceRevoked, DeviceRetired}
}

// A Device is an end entity that connects to brokers.
type Device struct {
	ID              string            `json:"id"`
	Status          DeviceStatus      `json:"status"`
	Group           string            `json:"group,omitempty"`
	Attributes      map[string]string `json:"attributes"`
	WorkOrder       string            `json:"workOrder,omitempty"`
	Certificates    []*ca.Certificate `json:"certificates"`    // newest first
	TrustGeneration int64             `json:"trustGeneration"` // of the trust bundle it was last handed
	CreatedAt       time.Time         `json:"createdAt"`
	LastSeenAt      *time.Time        `json:"lastSeenAt,omitempty"` // last enrollment or renewal
	ExpiresAt       *time.Time        `json:"expiresAt,omitempty"`  // notAfter of the last good certificate to expire; missing when it holds none
}

// A Broker is an MQTT broker whose certificate is issued and verified here.
type Broker struct {
	ID               string          `json:"id"`
	URL              string          `json:"url"`                   // mqtts://host:8883, as devices dial it
	Names            []string        `json:"names"`                 // DNS names and IP addresses of its certificate
	Kind             string          `json:"kind"`                  // mosquitto, rabbitmq, nats, embedded, ...
	Product          string          `json:"product,omitempty"`     // whose issuer certifies it; empty for the general one
	Site             string          `json:"site,omitempty"`        // likewise
	Status           BrokerStatus    `json:"status"`                //
	Certificate      *ca.Certificate `json:"certificate,omitempty"` // the newest, but for those that a rotation brought and did not keep
	LastVerification *Verification   `json:"lastVerification,omitempty"`
	TrustGeneration  int64           `json:"trustGeneration"` // of the newest trust bundle that it confirmed; 0 for none
	CreatedAt        time.Time       `json:"createdAt"`
	Driver           *BrokerDriver   `json:"driver,omitempty"` // which server installs its certificates and hands it CRLs; missing when none does
}

// A BrokerStatus says what the last look at a broker showed.
type BrokerStatus string

// The statuses of a broker.
const (
	BrokerRegistered BrokerStatus = "registered" // not verified yet
	BrokerVerified   BrokerStatus = "verified"   // the last verification passed
	BrokerFailing    BrokerStatus = "failing"    // the last verification did not
)

// BrokerStatuses lists every status of a broker.
func BrokerStatuses() []BrokerStatus {
	return []BrokerStatus{BrokerRegistered, BrokerVerified, BrokerFailing}
}

// A Verification is one look at a broker, kept. Looks by the schedule that show
// the same are one Verification, with the report of the last.
type Verification struct {
	ID        string        `json:"id"`
	Broker    string        `json:"broker"`
	At        time.Time     `json:"at"`        // of the last look
	Since     time.Time     `json:"since"`     // of the first look
	Looks     int64         `json:"looks"`     // how many showed this, 1 or more
	Negative  bool          `json:"negative"`  // what must be refused was tried, too
	Scheduled bool          `json:"scheduled"` // by the schedule, not by request
	Outcome   string        `json:"-"`         // what two looks are compared by
	Report    *mqtts.Report `json:"report"`
}

// A VerificationMark is what a history shows of a verification.
type VerificationMark struct {
	ID      string         `json:"id"`
	At      time.Time      `json:"at"`
	Verdict mqtts.Verdict  `json:"verdict"`
	Failed  mqtts.StepName `json:"failed,omitempty"` // the first step that failed; empty for none
}

// An OrderState says whether a work order takes enrollments.
type OrderState string

// The states of a work order.
const (
	OrderOpen   OrderState = "open"
	OrderClosed OrderState = "closed"
)

// A WorkOrder is a batch to be built, and the exact number of devices that may
// be enrolled for it.
type WorkOrder struct {
	ID        string     `json:"id"`
	Product   string     `json:"product"`
	Site      string     `json:"site,omitempty"` // where it is built or used: chooses the issuer, with the product
	Quantity  int64      `json:"quantity"`
	Issued    int64      `json:"issued"` // devices enrolled; never exceeds Quantity
	Profile   string     `json:"profile"`
	State     OrderState `json:"state"`
	CreatedAt time.Time  `json:"createdAt"`
	FullAt    *time.Time `json:"fullAt,omitempty"`   // when Issued reached Quantity; missing while it has not
	Warnings  []string   `json:"warnings,omitempty"` // for people: what its certificates may surprise with
}

// An EnrollmentToken lets its bearer enroll devices for one work order, or one
// device again. Only the SHA-256 of the secret is stored.
type EnrollmentToken struct {
	ID        string    `json:"id"`
	Token     string    `json:"token,omitempty"`     // shown once, at creation
	Hash      []byte    `json:"-"`                   // SHA-256 of the token as shown
	WorkOrder string    `json:"workOrder,omitempty"` // empty for one that renews
	DeviceID  string    `json:"deviceId,omitempty"`  // the one device it is for; empty for any
	Renews    bool      `json:"renews,omitempty"`    // the device is active, and enrolls again under a new key
	Uses      int64     `json:"uses"`                // how many devices it enrolls
	Used      int64     `json:"used"`
	ExpiresAt time.Time `json:"expiresAt"`
	CreatedAt time.Time `json:"createdAt"`
}

// LogValue returns what may be logged of the token.
func (t EnrollmentToken) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", t.ID), slog.String("workOrder", t.WorkOrder))
}

// String names the token, without its secret.
func (t EnrollmentToken) String() string { return "enrollment-token:" + t.ID }

// GoString is String.
func (t EnrollmentToken) GoString() string { return t.String() }

// A Role is what a person or program may do.
type Role string

// The roles. Package api's route table says what each may call.
const (
	RoleAdmin    Role = "admin"
	RoleOperator Role = "operator"
	RoleFactory  Role = "factory"
	RoleSecurity Role = "security"
	RoleAuditor  Role = "auditor"
)

// Roles lists every role.
func Roles() []Role {
	return []Role{RoleAdmin, RoleOperator, RoleFactory, RoleSecurity, RoleAuditor}
}

// An APIToken is a bearer token of the REST API. Only the SHA-256 of the
// secret is stored.
type APIToken struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`            // what it is for
	Token      string     `json:"token,omitempty"` // shown once, at creation
	Role       Role       `json:"role"`
	WorkOrder  string     `json:"workOrder,omitempty"` // the one that it may enroll for; empty for any
	Owner      string     `json:"owner,omitempty"`     // user whose login made it; empty for a program's
	Hash       []byte     `json:"-"`                   // SHA-256 of the token as shown
	CreatedAt  time.Time  `json:"createdAt"`
	ExpiresAt  time.Time  `json:"expiresAt"`
	LastUsedAt *time.Time `json:"lastUsedAt,omitempty"` // to the minute or so; missing while it never was
	Disabled   bool       `json:"disabled"`             // revoked, or ended
}

// LogValue returns what may be logged of the token.
func (t APIToken) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", t.ID), slog.String("name", t.Name), slog.String("role", string(t.Role)))
}

// String names the token, without its secret.
func (t APIToken) String() string { return "token:" + t.ID }

// GoString is String.
func (t APIToken) GoString() string { return t.String() }

// An Event is one line of the audit trail.
type Event struct {
	ID      string          `json:"id"` // UUIDv7: sorts by time
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`   // who: token:ID, device:ID, server, ...
	Action  string          `json:"action"`  // what: device.enroll, device.revoke, ...
	Subject string          `json:"subject"` // to what: device:ID, broker:ID, ...
	Detail  json.RawMessage `json:"detail"`  // a JSON object
}

// A StepState says how far a step of a rotation or a revocation is.
type StepState string

// The states of a step.
const (
	StepPending StepState = "pending"
	StepRunning StepState = "running"
	StepDone    StepState = "done"
	StepFailed  StepState = "failed"
	StepSkipped StepState = "skipped" // does not apply; detail says why
)

// A Step is one step of a rotation or a revocation, with its clock.
type Step struct {
	Name      string     `json:"name"`
	Broker    string     `json:"broker,omitempty"`
	Listener  string     `json:"listener,omitempty"`
	State     StepState  `json:"state"`
	At        *time.Time `json:"at,omitempty"` // when the state was reached
	ElapsedMs int64      `json:"elapsedMs"`    // since the decision
	Detail    string     `json:"detail"`
}

// A RevocationState says what is known of a revocation's effect.
type RevocationState string

// The states of a revocation. The certificates are revoked in all of them.
const (
	RevocationRunning  RevocationState = "running"
	RevocationProven   RevocationState = "proven"   // every broker was seen to refuse
	RevocationUnproven RevocationState = "unproven" // a broker was not seen to refuse; tried again
	RevocationRecorded RevocationState = "recorded" // nothing to prove: no broker, or a hold that was lifted; the CRL shows it
)

// A Revocation is the revocation of a device, from the decision to the proof
// that brokers refuse it.
type Revocation struct {
	ID            string            `json:"id"`
	Device        string            `json:"device"`
	Reason        ca.Reason         `json:"reason"`
	Comment       string            `json:"comment,omitempty"`
	State         RevocationState   `json:"state"`
	SerialNumbers []ca.SerialNumber `json:"serialNumbers,omitempty"`
	Steps         []Step            `json:"steps"`
	Evidence      *Evidence         `json:"evidence,omitempty"`
	At            time.Time         `json:"at"` // of the decision
	Attempts      int               `json:"attempts"`
	Version       int64             `json:"-"` // of the row, for guarded updates
}

// Evidence is what was observed at the brokers after a revocation.
type Evidence struct {
	CRLNumbers map[string]int64 `json:"crlNumbers"` // by issuer, or ISSUER/SHARD: the CRL that carries device and canary
	Brokers    []Observation    `json:"brokers"`
	SHA256     string           `json:"sha256"` // of this object as JSON with this field empty
}

// An Observation is the paired canary at one broker (design decision 6): a
// certificate of the device's issuer that was admitted before, revoked on the
// same CRL as the device, and refused after, beside a good one that is
// admitted throughout.
type Observation struct {
	Broker      string          `json:"broker"`
	At          time.Time       `json:"at"`
	Canary      ca.SerialNumber `json:"canary"`
	Control     ca.SerialNumber `json:"control"`
	CRLNumber   int64           `json:"crlNumber,omitempty"` // of the CRL with canary and device, by the canary's issuer
	Admitted    bool            `json:"admitted"`            // the canary, before its revocation
	Refusal     *mqtts.Refusal  `json:"refusal"`             // of the canary, after
	ControlPass bool            `json:"controlPass"`
	Closed      int             `json:"sessionsClosed"` // live sessions of the device that were closed, in all attempts
}

// A RotationState says how far a rotation is.
type RotationState string

// The states of a rotation.
const (
	RotationPlanned    RotationState = "planned" // dry run: nothing was changed
	RotationRunning    RotationState = "running"
	RotationDone       RotationState = "done"
	RotationRolledBack RotationState = "rolled-back"
	RotationFailed     RotationState = "failed"
)

// A Rotation replaces a broker's certificate while its sessions live on.
type Rotation struct {
	ID              string          `json:"id"`
	Broker          string          `json:"broker"`
	State           RotationState   `json:"state"`
	Steps           []Step          `json:"steps"`
	SessionsBefore  int             `json:"sessionsBefore"`
	SessionsAfter   int             `json:"sessionsAfter"`
	SessionsDropped int             `json:"sessionsDropped"`
	OldSerial       ca.SerialNumber `json:"oldSerial"`
	NewSerial       ca.SerialNumber `json:"newSerial"`
	At              time.Time       `json:"at"`
	Driver          *BrokerDriver   `json:"driver,omitempty"` // while it runs: which server takes its steps
	// What a resumed step needs; not part of the REST form.
	CSR        []byte   `json:"-"` // DER, of the key staged beside the broker
	SessionIDs []string `json:"-"` // connections before
	Version    int64    `json:"-"`
}
