package api

import (
	"net/http"
	"slices"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
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
	return slices.Concat(deviceRoutes(), lifeRoutes(), bulkRoutes(), brokerRoutes(), orderRoutes(), ledgerRoutes(), manufacturerRoutes(), profileRoutes(), accountRoutes(), overviewRoutes())
}

// deviceRoutes are the calls for devices, the index before them.
func deviceRoutes() []Route {
	return []Route{
		{Name: "getIndex", Method: get, Pattern: "/", Rule: public,
			Doc: "Links to the listings.", endpoint: gives((*API).getIndex)},
		{Name: "getOpenAPI", Method: get, Pattern: "/openapi.json", Rule: public,
			Doc: "This document.", endpoint: serves((*API).getOpenAPI)},

		{Name: "enrollDevice", Method: post, Pattern: "/enrollments", Rule: Rule{Roles: enroll.MayEnroll.Roles(), EnrollmentToken: true, IDevID: true}, Status: created, Creates: true, Chain: true, Recalls: true, At: "/certificates/{serial}",
			Kinds: enrollmentKinds(),
			Doc:   "Enrolls a device by its certification request. With a manufacturer's certificate, its manifest says the device and the work order.", endpoint: takes((*API).postEnrollment)},
		{Name: "enrollBatch", Method: post, Pattern: "/enrollments/batch", Rule: may(enroll.MayEnroll),
			Doc: "Enrolls many devices: a line of JSON each, answered as each is done.", endpoint: streams[BatchItem, BatchResult]((*API).postEnrollmentBatch)},
		{Name: "renewDevice", Method: post, Pattern: "/renewals", Rule: Rule{Holders: []ca.HolderKind{ca.HolderDevice}}, Status: created, Creates: true, Chain: true, Renews: true, NoBody: true, At: "/certificates/{serial}",
			Kinds: append(csrKinds(), enroll.KindExpired, ca.KindRevoked, enroll.KindCertificateLimit),
			Doc:   "Renews the device certificate that the connection was made with; with a csr, to its new key.", endpoint: takes((*API).postRenewal)},

		{Name: "listDevices", Method: get, Pattern: "/devices", Rule: everyone, Filters: deviceFilters,
			Doc: "Lists devices.", endpoint: lists((*API).listDevices)},
		{Name: "registerDevice", Method: post, Pattern: "/devices", Rule: may(enroll.MayRegister), Status: created, Creates: true, At: "/devices/{id}",
			Kinds: []ca.Kind{enroll.KindDuplicateDevice, ca.KindNameNotAllowed, ca.KindNotFound},
			Doc:   "Registers a device that will be enrolled later.", endpoint: takes((*API).postDevice)},
		{Name: "getDevice", Method: get, Pattern: "/devices/{id}", Rule: everyone,
			Doc: "A device with its certificates.", endpoint: gives((*API).getDevice)},
		{Name: "acknowledgeTrust", Method: post, Pattern: "/devices/{id}/acknowledgement", Rule: Rule{Roles: enroll.MayRekey.Roles(), Holders: []ca.HolderKind{ca.HolderDevice}, Own: true},
			Doc: "Notes that a device has taken a trust bundle.", endpoint: takes((*API).postDeviceTrust)},
		{Name: "revokeDevice", Method: post, Pattern: "/devices/{id}/revocation", Rule: may(enroll.MayRevoke), Status: accepted, Creates: true, At: "/revocations/{id}",
			Kinds: []ca.Kind{ca.KindReason, ca.KindRevoked},
			Doc:   "Revokes a device's certificates and proves it at the brokers.", endpoint: takes((*API).postRevocation)},
		{Name: "holdDevice", Method: post, Pattern: "/devices/{id}/hold", Rule: may(enroll.MayHold), NoBody: true,
			Kinds: []ca.Kind{enroll.KindDeviceHeld, ca.KindRevoked},
			Doc:   "Puts a device and its certificates on hold.", endpoint: takes((*API).postHold)},
		{Name: "releaseDevice", Method: post, Pattern: "/devices/{id}/release", Rule: may(enroll.MayHold), NoBody: true,
			Kinds: []ca.Kind{ca.KindNotHeld},
			Doc:   "Releases a device from hold.", endpoint: takes((*API).postRelease)},
		{Name: "listRevocations", Method: get, Pattern: "/revocations", Rule: everyone, Filters: revocationFilters,
			Doc: "Lists revocations of devices.", endpoint: lists((*API).listRevocations)},
		{Name: "getRevocation", Method: get, Pattern: "/revocations/{id}", Rule: everyone,
			Doc: "A revocation with its steps and evidence.", endpoint: gives((*API).getRevocation)},
	}
}

// brokerRoutes are the calls for brokers.
func brokerRoutes() []Route {
	return []Route{
		{Name: "listBrokers", Method: get, Pattern: "/brokers", Rule: everyone,
			Doc: "Lists brokers.", endpoint: lists((*API).listBrokers)},
		{Name: "registerBroker", Method: post, Pattern: "/brokers", Rule: may(enroll.MayRunBrokers), Status: created, Creates: true, At: "/brokers/{id}",
			Kinds: []ca.Kind{ca.KindNameNotAllowed},
			Doc:   "Registers a broker.", endpoint: takes((*API).postBroker)},
		{Name: "getBroker", Method: get, Pattern: "/brokers/{id}", Rule: everyone,
			Doc: "A broker with its newest certificate and verification.", endpoint: gives((*API).getBroker)},
		{Name: "updateBroker", Method: post, Pattern: "/brokers/{id}/update", Rule: may(enroll.MayRunBrokers),
			Kinds: []ca.Kind{ca.KindNameNotAllowed},
			Doc:   "Changes where a broker is dialed, or the names of its next certificate; what is left out stays.", endpoint: takes((*API).postBrokerUpdate)},
		{Name: "issueBrokerCertificate", Method: post, Pattern: "/brokers/{id}/certificates", Rule: Rule{Roles: enroll.MayRunBrokers.Roles(), Holders: []ca.HolderKind{ca.HolderAgent}, Own: true}, Status: created, Creates: true, Chain: true, At: "/certificates/{serial}",
			Kinds: append(csrKinds(), enroll.KindNotReady),
			Doc:   "Issues a broker's certificate by its certification request.", endpoint: takes((*API).postBrokerCertificate)},
		{Name: "acknowledgeBrokerTrust", Method: post, Pattern: "/brokers/{id}/acknowledgement", Rule: Rule{Roles: enroll.MayRunBrokers.Roles(), Holders: []ca.HolderKind{ca.HolderAgent}, Own: true},
			Doc: "Notes that a broker has taken the CAs of a trust bundle.", endpoint: takes((*API).postBrokerTrust)},
		{Name: "rotateBroker", Method: post, Pattern: "/brokers/{id}/rotations", Rule: may(enroll.MayRunBrokers), Status: accepted, Creates: true, NoBody: true, At: "/rotations/{id}",
			Kinds: []ca.Kind{enroll.KindNoDriver, enroll.KindNotReady},
			Doc:   "Rotates a broker's certificate while its sessions live on.", endpoint: takes((*API).postRotation)},
		{Name: "listRotations", Method: get, Pattern: "/rotations", Rule: may(enroll.MaySeeRotations), Filters: rotationFilters,
			Doc: "Lists rotations.", endpoint: lists((*API).listRotations)},
		{Name: "getRotation", Method: get, Pattern: "/rotations/{id}", Rule: may(enroll.MaySeeRotations),
			Doc: "A rotation with its steps.", endpoint: gives((*API).getRotation)},
		{Name: "verifyBroker", Method: post, Pattern: "/brokers/{id}/verifications", Rule: may(enroll.MayVerify), Status: created, Creates: true, NoBody: true, At: "/brokers/{id}/verifications",
			Kinds: signingKinds(),
			Doc:   "Verifies a broker from outside, and keeps the report. A negative verification tries what must be refused, too: no certificate, a foreign and a rogue authority's, an expired and a revoked one, one for servers, plaintext, old TLS.", endpoint: takes((*API).postVerification)},
		{Name: "listVerifications", Method: get, Pattern: "/brokers/{id}/verifications", Rule: may(enroll.MaySeeReports),
			Doc: "Lists a broker's verifications, newest first.", endpoint: lists((*API).listVerifications)},
		{Name: "getVerification", Method: get, Pattern: "/brokers/{id}/verifications/{verification}", Rule: may(enroll.MaySeeReports),
			Doc: "A verification with its report.", endpoint: gives((*API).getVerification)},
	}
}

// lifeRoutes are the calls about the life of a device, from its key to its end.
func lifeRoutes() []Route {
	return []Route{
		{Name: "retireDevice", Method: post, Pattern: "/devices/{id}/retirement", Rule: may(enroll.MayRetire), Status: accepted, Creates: true, NoBody: true, At: "/revocations/{id}",
			Kinds: []ca.Kind{ca.KindRevoked},
			Doc:   "Retires a device: its certificates are revoked for cessationOfOperation, and that is proven at the brokers.", endpoint: takes((*API).postRetirement)},
		{Name: "createRenewalLink", Method: post, Pattern: "/devices/{id}/renewal-links", Rule: may(enroll.MayRekey), Status: created, Creates: true, NoBody: true,
			Kinds: []ca.Kind{enroll.KindDeviceHeld, enroll.KindDeviceRevoked},
			Doc:   "Makes a one-time token with which an active device enrolls again under a new key; its secret is in this answer alone.", endpoint: takes((*API).postRenewalLink)},
		{Name: "planRevocation", Method: get, Pattern: "/devices/{id}/revocation-plan", Rule: may(enroll.MayRevoke),
			Doc: "What revoking a device will do: its certificates, the CRLs they go on, its live sessions at each broker.", endpoint: gives((*API).getRevocationPlan)},
		{Name: "listDeviceEvents", Method: get, Pattern: "/devices/{id}/events", Rule: may(enroll.MaySeeReports),
			Doc: "Lists the events of a device, of its certificates and of its revocations, newest first.", endpoint: lists((*API).listDeviceEvents)},
	}
}

// bulkRoutes are the calls for many devices at once. What each role may do is
// judged by the action.
func bulkRoutes() []Route {
	return []Route{
		{Name: "planBulkChange", Method: post, Pattern: "/bulk-changes/plan", Rule: may(enroll.MayHold),
			Kinds: []ca.Kind{ca.KindReason},
			Doc:   "What a change of many devices would do, with the fingerprint that starts just that.", endpoint: takes((*API).postBulkPlan)},
		{Name: "startBulkChange", Method: post, Pattern: "/bulk-changes", Rule: may(enroll.MayHold), Status: accepted, Creates: true, At: "/bulk-changes/{id}",
			Kinds: []ca.Kind{ca.KindReason},
			Doc:   "Starts a change of many devices that was planned.", endpoint: takes((*API).postBulk)},
		{Name: "listBulkChanges", Method: get, Pattern: "/bulk-changes", Rule: may(enroll.MaySeeReports),
			Doc: "Lists changes of many devices, newest first, without their failures.", endpoint: lists((*API).listBulks)},
		{Name: "getBulkChange", Method: get, Pattern: "/bulk-changes/{id}", Rule: may(enroll.MaySeeReports),
			Doc: "A change of many devices, and how far it is.", endpoint: gives((*API).getBulk)},
	}
}

// overviewRoutes are the calls about the whole fleet.
func overviewRoutes() []Route {
	return []Route{
		{Name: "getAttention", Method: get, Pattern: "/attention", Rule: everyone,
			Doc: "What needs a person, the most severe first; nothing when all is well.", endpoint: gives((*API).getAttention)},
		{Name: "getFigures", Method: get, Pattern: "/figures", Rule: everyone,
			Doc: "Counts of devices, certificates and brokers, made in the background.", endpoint: gives((*API).getFigures)},
		{Name: "getForecast", Method: get, Pattern: "/forecast", Rule: everyone,
			Doc: "When certificates expire, by week for 24 months, made in the background.", endpoint: gives((*API).getForecast)},
	}
}

// orderRoutes are the calls for work orders.
func orderRoutes() []Route {
	return []Route{
		{Name: "listWorkOrders", Method: get, Pattern: "/work-orders", Rule: may(enroll.MaySeeOrders),
			Doc: "Lists work orders.", endpoint: lists((*API).listWorkOrders)},
		{Name: "openWorkOrder", Method: post, Pattern: "/work-orders", Rule: may(enroll.MayRegister), Status: created, Creates: true, At: "/work-orders/{id}",
			Kinds: []ca.Kind{ca.KindProfile},
			Doc:   "Opens a work order with its quota.", endpoint: takes((*API).postWorkOrder)},
		{Name: "getWorkOrder", Method: get, Pattern: "/work-orders/{id}", Rule: may(enroll.MaySeeOrders),
			Doc: "A work order.", endpoint: gives((*API).getWorkOrder)},
		{Name: "updateWorkOrder", Method: post, Pattern: "/work-orders/{id}/update", Rule: may(enroll.MayRegister),
			Doc: "Changes a work order's quota, or closes or reopens it; what is left out stays.", endpoint: takes((*API).postWorkOrderUpdate)},
		{Name: "listEnrollmentTokens", Method: get, Pattern: "/work-orders/{id}/tokens", Rule: may(enroll.MayRegister),
			Doc: "Lists a work order's enrollment tokens, newest first, without their secrets.", endpoint: lists((*API).listEnrollmentTokens)},
		{Name: "endEnrollmentToken", Method: post, Pattern: "/work-orders/{id}/tokens/{token}/end", Rule: may(enroll.MayRegister), NoBody: true,
			Doc: "Lets an enrollment token expire at once.", endpoint: takes((*API).postTokenEnd)},
		{Name: "createEnrollmentToken", Method: post, Pattern: "/work-orders/{id}/tokens", Rule: may(enroll.MayRegister), Status: created, Creates: true, NoBody: true,
			Kinds: []ca.Kind{ca.KindNameNotAllowed},
			Doc:   "Makes an enrollment token for a work order; its secret is in this answer alone.", endpoint: takes((*API).postEnrollmentToken)},
		{Name: "getProgress", Method: get, Pattern: "/work-orders/{id}/progress", Rule: may(enroll.MaySeeOrders),
			Doc: "How a work order comes along: devices by minute, the last of them, and what was refused.", endpoint: gives((*API).getProgress)},
	}
}

// ledgerRoutes are the calls for what the authority keeps.
func ledgerRoutes() []Route {
	return []Route{
		{Name: "listCertificates", Method: get, Pattern: "/certificates", Rule: everyone, Filters: certificateFilters,
			Doc: "Lists certificates, newest first.", endpoint: lists((*API).listCertificates)},
		{Name: "getCertificate", Method: get, Pattern: "/certificates/{serial}", Rule: everyone, Chain: true,
			Doc: "A certificate.", endpoint: gives((*API).getCertificate)},
		{Name: "revokeCertificate", Method: post, Pattern: "/certificates/{serial}/revocation", Rule: may(enroll.MayRevoke), Creates: true,
			Kinds: []ca.Kind{ca.KindReason, ca.KindRevoked},
			Doc:   "Revokes one certificate.", endpoint: takes((*API).postCertificateRevocation)},

		{Name: "listIssuers", Method: get, Pattern: "/issuers", Rule: everyone,
			Doc: "Lists issuers.", endpoint: lists((*API).listIssuers)},
		{Name: "getIssuer", Method: get, Pattern: "/issuers/{id}", Rule: everyone,
			Doc: "An issuer.", endpoint: gives((*API).getIssuer)},
		{Name: "getIssuerPublication", Method: get, Pattern: "/issuers/{id}/publication", Rule: may(enroll.MayAdminister),
			Doc: "What an issuer's certificates name, fetched from outside and verified now.", endpoint: gives((*API).getIssuerPublication)},
		{Name: "activateIssuer", Method: post, Pattern: "/issuers/{id}/activation", Rule: may(enroll.MayAdminister), NoBody: true,
			Kinds: []ca.Kind{enroll.KindNotPublished, enroll.KindNotReady, ca.KindKey},
			Doc:   "Lets an issuer sign, once a self-test signature and all that its certificates name were verified; a root, new issuers.", endpoint: takes((*API).postIssuerActivation)},
		{Name: "retireIssuer", Method: post, Pattern: "/issuers/{id}/retirement", Rule: may(enroll.MayAdminister), NoBody: true,
			Doc: "Makes an issuer sign CRLs alone.", endpoint: takes((*API).postIssuerRetirement)},
		{Name: "setCRLShards", Method: post, Pattern: "/issuers/{id}/crl-shards", Rule: may(enroll.MayAdminister),
			Kinds: []ca.Kind{ca.KindIssuerInactive},
			Doc:   "Spreads an issuer's new certificates over a number of CRLs. Those of before stay on the CRL that they name.", endpoint: takes((*API).postCRLShards)},
		{Name: "listCRLs", Method: get, Pattern: "/crls", Rule: everyone,
			Doc: "Lists each issuer's newest CRL.", endpoint: lists((*API).listCRLs)},
		{Name: "getReadiness", Method: get, Pattern: "/issuers/{id}/readiness", Rule: everyone, Filters: stepFilters,
			Doc: "Who would be left behind by a step of the roll-over of an issuer's root.", endpoint: gives((*API).getReadiness)},
		{Name: "approveRollover", Method: post, Pattern: "/issuers/{id}/approval", Rule: may(enroll.MayAdminister),
			Doc: "Allows a step of a root's roll-over in spite of stragglers, for a reason.", endpoint: takes((*API).postApproval)},
		{Name: "dropRoot", Method: post, Pattern: "/issuers/{id}/drop", Rule: may(enroll.MayAdminister), NoBody: true,
			Kinds: []ca.Kind{enroll.KindNotReady},
			Doc:   "Takes a root out of the trust bundle, once nobody would be left behind.", endpoint: takes((*API).postDrop)},
		{Name: "listTrustBundles", Method: get, Pattern: "/trust-bundles", Rule: everyone,
			Doc: "Lists every trust bundle that there ever was, newest first.", endpoint: lists((*API).listTrustBundles)},
		{Name: "getOldTrustBundle", Method: get, Pattern: "/trust-bundles/{generation}", Rule: public,
			Doc: "The trust bundle of a generation.", endpoint: gives((*API).getOldTrustBundle)},
		{Name: "getTrustBundle", Method: get, Pattern: "/trust-bundle", Rule: public,
			Doc: "The roots to trust. A client checks them against the fingerprint it knows.", endpoint: gives((*API).getTrustBundle)},
		{Name: "listEvents", Method: get, Pattern: "/events", Rule: may(enroll.MayAudit), Filters: eventFilters,
			Doc: "Lists the audit trail, newest first.", endpoint: lists((*API).listEvents)},
	}
}

// manufacturerRoutes are the calls for authorities of others, whose
// certificates enroll devices.
func manufacturerRoutes() []Route {
	return []Route{
		{Name: "listManufacturers", Method: get, Pattern: "/manufacturers", Rule: everyone,
			Doc: "Lists manufacturers.", endpoint: lists((*API).listManufacturers)},
		{Name: "addManufacturer", Method: post, Pattern: "/manufacturers", Rule: may(enroll.MayAdminister), Status: created, Creates: true, At: "/manufacturers/{id}",
			Kinds: []ca.Kind{ca.KindWeakKey},
			Doc:   "Registers the authority of a manufacturer. Its devices enroll once a manifest names their certificates.", endpoint: takes((*API).postManufacturer)},
		{Name: "getManufacturer", Method: get, Pattern: "/manufacturers/{id}", Rule: everyone,
			Doc: "A manufacturer.", endpoint: gives((*API).getManufacturer)},
		{Name: "updateManufacturer", Method: post, Pattern: "/manufacturers/{id}/update", Rule: may(enroll.MayAdminister),
			Doc: "Disables or enables a manufacturer, or says whether its devices enroll again; what is left out stays.", endpoint: takes((*API).postManufacturerUpdate)},
		{Name: "disableManufacturer", Method: post, Pattern: "/manufacturers/{id}/disabling", Rule: may(enroll.MayRevoke), NoBody: true,
			Doc: "Keeps a manufacturer's certificates from enrolling devices.", endpoint: takes((*API).postManufacturerDisabling)},
		{Name: "listManifest", Method: get, Pattern: "/manufacturers/{id}/manifest", Rule: everyone,
			Doc: "Lists which of a manufacturer's certificates is which device's.", endpoint: lists((*API).listManifest)},
		{Name: "addManifest", Method: post, Pattern: "/manufacturers/{id}/manifest", Rule: may(enroll.MayRegister),
			Kinds: []ca.Kind{enroll.KindIdempotency},
			Doc:   "Adds lines to a manufacturer's manifest, all or none. Those that are there just so are no mistake.", endpoint: takes((*API).postManifest)},
		{Name: "removeManifest", Method: post, Pattern: "/manufacturers/{id}/manifest/removal", Rule: may(enroll.MayRegister),
			Doc: "Takes devices off a manufacturer's manifest.", endpoint: takes((*API).postManifestRemoval)},
	}
}

// profileRoutes are the calls about what certificates look like.
func profileRoutes() []Route {
	return []Route{
		{Name: "listProfiles", Method: get, Pattern: "/profiles", Rule: everyone,
			Doc: "Lists the profiles of certificates, each in the version that is in force.", endpoint: lists((*API).listProfiles)},
		{Name: "getProfile", Method: get, Pattern: "/profiles/{name}", Rule: everyone,
			Doc: "A profile in the version that is in force, with what the linter says of it.", endpoint: gives((*API).getProfile)},
		{Name: "listProfileVersions", Method: get, Pattern: "/profiles/{name}/versions", Rule: everyone,
			Doc: "Lists the versions of a profile, newest first, the built-in one last.", endpoint: lists((*API).listProfileVersions)},
		{Name: "planProfile", Method: post, Pattern: "/profiles/{name}/plan", Rule: may(enroll.MayShape),
			Kinds: []ca.Kind{ca.KindProfile, ca.KindNameNotAllowed},
			Doc:   "What another version of a profile would do: fields that change, certificates and work orders concerned, what would be refused that is not, a sample certificate before and after.", endpoint: takes((*API).postProfilePlan)},
		{Name: "applyProfile", Method: post, Pattern: "/profiles/{name}/versions", Rule: may(enroll.MayShape), Status: created, Creates: true, At: "/profiles/{name}",
			Kinds: []ca.Kind{ca.KindProfile, ca.KindNameNotAllowed, enroll.KindRefusedProfile},
			Doc:   "Makes another version of a profile the one in force, where the version that it begins with still is.", endpoint: takes((*API).postProfileVersion)},
	}
}

// accountRoutes are the calls about who may make calls.
func accountRoutes() []Route {
	return []Route{
		{Name: "login", Method: post, Pattern: "/login", Rule: public, Kinds: []ca.Kind{enroll.KindUnauthenticated, enroll.KindSecondFactor, enroll.KindRateLimited},
			Doc: "Logs a user in: makes an API token of the user's role that is valid for 12 hours. Its secret is in this answer alone, and a repeated call makes another.", endpoint: takes((*API).postLogin)},
		{Name: "logout", Method: post, Pattern: "/logout", Rule: everyone, NoBody: true,
			Doc: "Ends the API token that the call is made with.", endpoint: takes((*API).postLogout)},
		{Name: "whoami", Method: get, Pattern: "/whoami", Rule: everyone,
			Doc: "Who the call is made as.", endpoint: gives((*API).getWhoami)},
		{Name: "listUsers", Method: get, Pattern: "/users", Rule: may(enroll.MayAdminister),
			Doc: "Lists users by name.", endpoint: lists((*API).listUsers)},
		{Name: "addUser", Method: post, Pattern: "/users", Rule: may(enroll.MayAdminister), Status: created, Creates: true, At: "/users/{name}",
			Doc: "Adds a user who logs in with a password.", endpoint: takes((*API).postUser)},
		{Name: "getUser", Method: get, Pattern: "/users/{name}", Rule: may(enroll.MayAdminister),
			Doc: "A user.", endpoint: gives((*API).getUser)},
		{Name: "resetPassword", Method: post, Pattern: "/users/{name}/password", Rule: may(enroll.MayAdminister),
			Doc: "Gives a user another password, and ends the user's logins.", endpoint: takes((*API).postPassword)},
		{Name: "changeRole", Method: post, Pattern: "/users/{name}/role", Rule: may(enroll.MayAdminister),
			Doc: "Gives a user another role, and ends the user's logins.", endpoint: takes((*API).postRole)},
		{Name: "disableUser", Method: post, Pattern: "/users/{name}/disabling", Rule: may(enroll.MayAdminister), NoBody: true,
			Doc: "Keeps a user out, and ends the user's logins.", endpoint: takes((*API).postDisabling)},
		{Name: "enableUser", Method: post, Pattern: "/users/{name}/enabling", Rule: may(enroll.MayAdminister), NoBody: true,
			Doc: "Lets a disabled user log in again.", endpoint: takes((*API).postEnabling)},
		{Name: "listTokens", Method: get, Pattern: "/tokens", Rule: may(enroll.MayAdminister),
			Doc: "Lists API tokens, newest first, without their secrets.", endpoint: lists((*API).listTokens)},
		{Name: "createToken", Method: post, Pattern: "/tokens", Rule: may(enroll.MayAdminister), Status: created, Creates: true, At: "/tokens/{id}", Kinds: []ca.Kind{ca.KindNotFound},
			Doc: "Makes an API token for a program; its secret is in this answer alone.", endpoint: takes((*API).postToken)},
		{Name: "getToken", Method: get, Pattern: "/tokens/{id}", Rule: may(enroll.MayAdminister),
			Doc: "An API token, without its secret.", endpoint: gives((*API).getToken)},
		{Name: "revokeToken", Method: post, Pattern: "/tokens/{id}/revocation", Rule: may(enroll.MayAdminister), NoBody: true,
			Doc: "Ends an API token at once.", endpoint: takes((*API).postTokenRevocation)},
	}
}

// Filters of the listings.
var (
	deviceFilters = []Parameter{
		{Name: "q", Doc: "terms that all must hold, such as status:active group:x order:WO-7 expires<30d expires:expired serial:ab12 attr.site:\"Hall 2\", the beginning of an id, or *text*; a page may hold fewer items than there are, and nextCursor goes on"},
		{Name: "status", Doc: "of the device", Enum: values(enroll.DeviceRegistered, enroll.DeviceActive, enroll.DeviceHeld, enroll.DeviceRevoked, enroll.DeviceRetired)},
		{Name: "group", Doc: "that the device is in"},
		{Name: "workOrder", Doc: "that the device was built for"},
	}
	revocationFilters  = []Parameter{{Name: "device", Doc: "id of the device"}}
	stepFilters        = []Parameter{{Name: "step", Doc: "switch (the default) or drop", Enum: values(enroll.RolloverSteps()...)}}
	rotationFilters    = []Parameter{{Name: "broker", Doc: "id of the broker"}}
	certificateFilters = []Parameter{
		{Name: "status", Doc: "of the certificate; a page of expired ones may hold fewer items than there are, and nextCursor goes on", Enum: values(ca.StatusGood, ca.StatusHeld, ca.StatusRevoked, ca.StatusExpired)},
		{Name: "device", Doc: "id of its device"},
		{Name: "broker", Doc: "id of its broker"},
		{Name: "profile", Doc: "it was issued by"},
		{Name: "issuer", Doc: "id of its issuer"},
	}
	eventFilters = []Parameter{
		{Name: "actor", Doc: "who: user:NAME, token:ID, device:ID, server"},
		{Name: "action", Doc: "what, such as device.enroll"},
		{Name: "actionPrefix", Doc: "beginning of the action, such as device."},
		{Name: "subject", Doc: "to what, such as device:ID"},
		{Name: "from", Doc: "not before this time (RFC 3339)"},
		{Name: "to", Doc: "before this time (RFC 3339)"},
	}
)
