package api

import (
	"reflect"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A certificateForm is the JSON of a ca.Certificate, which marshals itself.
type certificateForm struct {
	SerialNumber ca.SerialNumber `json:"serialNumber"`
	SHA256       string          `json:"sha256"`              // of the DER
	Subject      string          `json:"subject"`             // distinguished name, RFC 4514
	Names        []string        `json:"names"`               // subject alternative names: DNS names, IP addresses, then URIs
	Issuer       string          `json:"issuer"`              // id of the issuer
	Profile      string          `json:"profile"`             // that it was issued by
	Version      int64           `json:"profileVersion"`      // of the profile, at that time
	Status       ca.Status       `json:"status"`              // when this was answered
	Reason       ca.Reason       `json:"reason,omitempty"`    // missing while the status is good
	RevokedAt    *time.Time      `json:"revokedAt,omitempty"` // of the hold or revocation; missing while the status is good
	NotBefore    time.Time       `json:"notBefore"`
	NotAfter     time.Time       `json:"notAfter"`
	Device       string          `json:"device,omitempty"` // id of the device it belongs to, if it is one's
	Broker       string          `json:"broker,omitempty"` // id of the broker it belongs to, if it is one's
	PEM          string          `json:"pem"`              // the certificate alone
}

// forms are the types whose JSON is not what their fields say.
var forms = map[reflect.Type]reflect.Type{
	reflect.TypeFor[ca.Certificate](): reflect.TypeFor[certificateForm](),
}

// examples are bodies of requests: what each call is mostly made with.
var examples = map[reflect.Type]any{
	reflect.TypeFor[enroll.EnrollRequest](): enroll.EnrollRequest{Token: exampleToken, DeviceID: "pump-0001", CSR: exampleCSR},
	reflect.TypeFor[BatchItem](): BatchItem{IdempotencyKey: "line-3-0001", EnrollRequest: enroll.EnrollRequest{
		DeviceID: "pump-0001", CSR: exampleCSR, WorkOrder: "wo-1042", Attributes: map[string]string{"revision": "C"}}},
	reflect.TypeFor[RenewalRequest]():            RenewalRequest{CSR: exampleCSR},
	reflect.TypeFor[enroll.NewDevice]():          enroll.NewDevice{ID: "pump-0001", Group: "hall-2", Attributes: map[string]string{"revision": "C"}},
	reflect.TypeFor[enroll.NewApproval]():        enroll.NewApproval{Step: enroll.StepSwitch, Reason: "the last ones are in a drawer"},
	reflect.TypeFor[TrustAcknowledgement]():      TrustAcknowledgement{Generation: 2},
	reflect.TypeFor[enroll.ShardsRequest]():      enroll.ShardsRequest{Shards: 16},
	reflect.TypeFor[enroll.RevokeRequest]():      enroll.RevokeRequest{Reason: string(ca.ReasonKeyCompromise), Comment: "stolen on site"},
	reflect.TypeFor[enroll.NewBroker]():          enroll.NewBroker{ID: "hall-2", URL: "mqtts://mqtt.example:8883", Names: []string{"mqtt.example"}, Kind: "mosquitto"},
	reflect.TypeFor[enroll.BrokerUpdate]():       enroll.BrokerUpdate{Names: []string{"mqtt.example", "mqtt-2.example"}},
	reflect.TypeFor[enroll.NewManufacturer]():    enroll.NewManufacturer{ID: "acme", Certificate: exampleCertificate},
	reflect.TypeFor[enroll.ManufacturerUpdate](): enroll.ManufacturerUpdate{Reenroll: new(true)},
	reflect.TypeFor[enroll.ManifestRequest]():    enroll.ManifestRequest{CSV: "subjectSerial,deviceId,workOrder\nPID:ACME-7 SN:0001,pump-0001,wo-1042\n"},
	reflect.TypeFor[enroll.ManifestRemoval]():    enroll.ManifestRemoval{DeviceIDs: []string{"pump-0001"}},
	reflect.TypeFor[enroll.WorkOrderUpdate]():    enroll.WorkOrderUpdate{Quantity: new(int64(600))},
	reflect.TypeFor[BrokerRequest]():             BrokerRequest{CSR: exampleCSR},
	reflect.TypeFor[RotationRequest]():           RotationRequest{DryRun: true},
	reflect.TypeFor[VerificationRequest]():       VerificationRequest{},
	reflect.TypeFor[enroll.NewWorkOrder]():       enroll.NewWorkOrder{ID: "wo-1042", Product: "pump", Quantity: 500},
	reflect.TypeFor[enroll.NewUser]():            schema{"name": "eve", "role": "operator", "password": examplePassword},
	reflect.TypeFor[PasswordRequest]():           schema{"password": examplePassword},
	reflect.TypeFor[RoleRequest]():               schema{"role": enroll.RoleAuditor},
	reflect.TypeFor[enroll.LoginRequest]():       schema{"name": "eve", "password": examplePassword},
	reflect.TypeFor[enroll.NewAPIToken]():        enroll.NewAPIToken{Name: "line 3", Role: enroll.RoleFactory, ExpiresIn: "720h", WorkOrder: "wo-1042"},
	reflect.TypeFor[enroll.RetireRequest]():      enroll.RetireRequest{Comment: "scrapped"},
	reflect.TypeFor[enroll.NewRenewalLink]():     enroll.NewRenewalLink{ExpiresIn: "8h"},
	reflect.TypeFor[enroll.Bulk]():               enroll.Bulk{Action: enroll.BulkRevoke, Reason: string(ca.ReasonKeyCompromise), Query: "group:hall-2", Fingerprint: exampleSHA256},
	reflect.TypeFor[enroll.NewToken]():           enroll.NewToken{DeviceID: "pump-0001", ExpiresIn: "8h"},
	reflect.TypeFor[enroll.NewProfileVersion](): enroll.NewProfileVersion{BaseVersion: new(int64(1)), Profile: ca.ProfileForm{
		Name: "device", Validity: "180d", Jitter: "9d", RenewBefore: "60d", Keys: []ca.KeyAlgorithm{ca.KeyP256, ca.KeyEd25519}, MaxActive: 2}},
}

// Texts of examples. They show the shape and are of no use.
const (
	exampleCSR         = "-----BEGIN CERTIFICATE REQUEST-----\nMIHJ...\n-----END CERTIFICATE REQUEST-----\n"
	exampleCertificate = "-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n"
	exampleToken       = "fce_EXAMPLE"
	exampleAPIToken    = "fca_EXAMPLE"
	examplePassword    = "five words make one, easily"
	exampleSerial      = "5e1f4a7c9b2d8e3061f4a7c9b2d8e3061f4a7c9b"
	exampleSHA256      = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	exampleTime        = "2026-03-09T08:30:00Z"
	exampleID          = "0197c2d4-6f1e-7a3b-9c58-2f4e6d8b0a1c"
)
