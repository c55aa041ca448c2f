package api

import (
	"net/http"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Roles, short for the table.
const (
	admin    = enroll.RoleAdmin
	operator = enroll.RoleOperator
	factory  = enroll.RoleFactory
	security = enroll.RoleSecurity
	auditor  = enroll.RoleAuditor
)

// Methods and statuses, short for the table.
const (
	get      = http.MethodGet
	post     = http.MethodPost
	created  = http.StatusCreated
	accepted = http.StatusAccepted
)

// routes is the table of calls: the REST contract, and who may make them.
func routes() []Route {
	return []Route{
		{Method: get, Pattern: "/", Rule: public,
			Doc: "Links to the listings.", endpoint: gives((*API).getIndex)},

		{Method: post, Pattern: "/enrollments", Rule: Rule{Roles: []enroll.Role{factory, operator}, EnrollmentToken: true}, Status: created, Creates: true, Chain: true,
			Doc: "Enrolls a device by its certification request.", endpoint: takes((*API).postEnrollment)},
		{Method: post, Pattern: "/enrollments/batch", Rule: roles(factory, operator),
			Doc: "Enrolls many devices: a line of JSON each, answered as each is done.", endpoint: streams[BatchItem, BatchResult]((*API).postEnrollmentBatch)},
		{Method: post, Pattern: "/renewals", Rule: Rule{Holders: []ca.HolderKind{ca.HolderDevice}}, Status: created, Creates: true, Chain: true, NoBody: true,
			Doc: "Renews the device certificate that the connection was made with; with a csr, to its new key.", endpoint: takes((*API).postRenewal)},

		{Method: get, Pattern: "/devices", Rule: everyone, Filters: deviceFilters,
			Doc: "Lists devices.", endpoint: lists((*API).listDevices)},
		{Method: post, Pattern: "/devices", Rule: roles(operator, factory), Status: created, Creates: true,
			Doc: "Registers a device that will be enrolled later.", endpoint: takes((*API).postDevice)},
		{Method: get, Pattern: "/devices/{id}", Rule: everyone,
			Doc: "A device with its certificates.", endpoint: gives((*API).getDevice)},
		{Method: post, Pattern: "/devices/{id}/revocation", Rule: roles(security), Status: accepted, Creates: true,
			Doc: "Revokes a device's certificates and proves it at the brokers.", endpoint: takes((*API).postRevocation)},
		{Method: post, Pattern: "/devices/{id}/hold", Rule: roles(operator, security), NoBody: true,
			Doc: "Puts a device and its certificates on hold.", endpoint: takes((*API).postHold)},
		{Method: post, Pattern: "/devices/{id}/release", Rule: roles(operator, security), NoBody: true,
			Doc: "Releases a device from hold.", endpoint: takes((*API).postRelease)},
		{Method: get, Pattern: "/revocations", Rule: everyone, Filters: revocationFilters,
			Doc: "Lists revocations of devices.", endpoint: lists((*API).listRevocations)},
		{Method: get, Pattern: "/revocations/{id}", Rule: everyone,
			Doc: "A revocation with its steps and evidence.", endpoint: gives((*API).getRevocation)},

		{Method: get, Pattern: "/brokers", Rule: everyone,
			Doc: "Lists brokers.", endpoint: lists((*API).listBrokers)},
		{Method: post, Pattern: "/brokers", Rule: roles(operator), Status: created, Creates: true,
			Doc: "Registers a broker.", endpoint: takes((*API).postBroker)},
		{Method: get, Pattern: "/brokers/{id}", Rule: everyone,
			Doc: "A broker with its newest certificate and verification.", endpoint: gives((*API).getBroker)},
		{Method: post, Pattern: "/brokers/{id}/certificates", Rule: Rule{Roles: []enroll.Role{operator}, Holders: []ca.HolderKind{ca.HolderAgent}, Own: true}, Status: created, Creates: true, Chain: true,
			Doc: "Issues a broker's certificate by its certification request.", endpoint: takes((*API).postBrokerCertificate)},
		{Method: post, Pattern: "/brokers/{id}/rotations", Rule: roles(operator), Status: accepted, Creates: true, NoBody: true,
			Doc: "Rotates a broker's certificate while its sessions live on.", endpoint: takes((*API).postRotation)},
		{Method: get, Pattern: "/rotations", Rule: roles(operator, auditor), Filters: rotationFilters,
			Doc: "Lists rotations.", endpoint: lists((*API).listRotations)},
		{Method: get, Pattern: "/rotations/{id}", Rule: roles(operator, auditor),
			Doc: "A rotation with its steps.", endpoint: gives((*API).getRotation)},
		{Method: post, Pattern: "/brokers/{id}/verifications", Rule: roles(operator, security), Status: created, Creates: true, NoBody: true,
			Doc: "Verifies a broker from outside, and keeps the report.", endpoint: takes((*API).postVerification)},
		{Method: get, Pattern: "/brokers/{id}/verifications", Rule: roles(operator, security, auditor),
			Doc: "Lists a broker's verifications, newest first.", endpoint: lists((*API).listVerifications)},

		{Method: get, Pattern: "/work-orders", Rule: roles(operator, factory, auditor),
			Doc: "Lists work orders.", endpoint: lists((*API).listWorkOrders)},
		{Method: post, Pattern: "/work-orders", Rule: roles(operator, factory), Status: created, Creates: true,
			Doc: "Opens a work order with its quota.", endpoint: takes((*API).postWorkOrder)},
		{Method: get, Pattern: "/work-orders/{id}", Rule: roles(operator, factory, auditor),
			Doc: "A work order.", endpoint: gives((*API).getWorkOrder)},
		{Method: post, Pattern: "/work-orders/{id}/tokens", Rule: roles(operator, factory), Status: created, Creates: true, NoBody: true,
			Doc: "Makes an enrollment token for a work order; its secret is in this answer alone.", endpoint: takes((*API).postEnrollmentToken)},

		{Method: get, Pattern: "/certificates", Rule: everyone, Filters: certificateFilters,
			Doc: "Lists certificates, newest first.", endpoint: lists((*API).listCertificates)},
		{Method: get, Pattern: "/certificates/{serial}", Rule: everyone, Chain: true,
			Doc: "A certificate.", endpoint: gives((*API).getCertificate)},
		{Method: post, Pattern: "/certificates/{serial}/revocation", Rule: roles(security), Creates: true,
			Doc: "Revokes one certificate.", endpoint: takes((*API).postCertificateRevocation)},

		{Method: get, Pattern: "/issuers", Rule: everyone,
			Doc: "Lists issuers.", endpoint: lists((*API).listIssuers)},
		{Method: get, Pattern: "/profiles", Rule: everyone,
			Doc: "Lists the profiles of certificates.", endpoint: lists((*API).listProfiles)},
		{Method: get, Pattern: "/crls", Rule: everyone,
			Doc: "Lists each issuer's newest CRL.", endpoint: lists((*API).listCRLs)},
		{Method: get, Pattern: "/trust-bundle", Rule: public,
			Doc: "The roots to trust. A client checks them against the fingerprint it knows.", endpoint: gives((*API).getTrustBundle)},
		{Method: get, Pattern: "/events", Rule: roles(auditor), Filters: eventFilters,
			Doc: "Lists the audit trail, newest first.", endpoint: lists((*API).listEvents)},
	}
}

// Filters of the listings.
var (
	deviceFilters = []Parameter{
		{Name: "status", Doc: "of the device", Enum: values(enroll.DeviceRegistered, enroll.DeviceActive, enroll.DeviceHeld, enroll.DeviceRevoked, enroll.DeviceRetired)},
		{Name: "group", Doc: "that the device is in"},
		{Name: "workOrder", Doc: "that the device was built for"},
	}
	revocationFilters  = []Parameter{{Name: "device", Doc: "id of the device"}}
	rotationFilters    = []Parameter{{Name: "broker", Doc: "id of the broker"}}
	certificateFilters = []Parameter{
		{Name: "status", Doc: "of the certificate", Enum: values(ca.StatusGood, ca.StatusHeld, ca.StatusRevoked, ca.StatusExpired)},
		{Name: "device", Doc: "id of its device"},
		{Name: "broker", Doc: "id of its broker"},
		{Name: "profile", Doc: "it was issued by"},
		{Name: "issuer", Doc: "id of its issuer"},
	}
	eventFilters = []Parameter{
		{Name: "actor", Doc: "who: token:ID, device:ID, server"},
		{Name: "action", Doc: "what, such as device.enroll"},
		{Name: "subject", Doc: "to what, such as device:ID"},
	}
)
