// Package api is fleetca for machines: the REST interface under /api/v1, and
// certificate status over plain HTTP.
//
// # Three handlers
//
// An API hands out one handler a listener, because each asks another thing of
// its clients:
//
//   - People: REST with bearer tokens. No client certificate is looked at.
//   - Machines: the same calls, and those that a client certificate opens
//     (renewals). The listener requests a certificate without verifying it
//     (tls.RequestClientCert); the service holds it against the ledger.
//   - Status: CRLs (RFC 5280, section 5), issuer certificates (4.2.2.1), the
//     trust bundle, health and metrics, for everybody.
//
// # The way of a call
//
// Every call is a Route in one table, in routes.go. Its body arrives, a batch's
// aside; then it takes one of the listener's slots, or is shed (503); then it
// takes these steps:
//
//  1. Who is it, and may they: the route's Rule. A route without a rule is
//     open to nobody. Addresses that fail to authenticate too often wait (429).
//  2. Query parameters and Idempotency-Key are read. An unknown parameter is
//     an error: a filter with a typing error must not list everything.
//  3. The body, up to the route's limit, is decoded strictly: a field
//     that is unknown, given twice or of another type is an error that names it.
//  4. The handler calls one method of enroll.Service and returns an answer or
//     an error. It writes nothing.
//  5. The answer is put into a buffer, and written once. A repeated creation
//     (enroll.Replay) answers 200 with the first answer and Idempotent-Replayed.
//
// # The document
//
// GET /api/v1/openapi.json describes all of it (OpenAPI 3.1). It is made of the
// same table, of the Go types by reflection (schema.go), of their comments and
// constants (words.json, which a test makes of the source), and of what the
// service checks beside types (facts.go). The tests of this package hold every
// exchange they make against it.
//
// # Errors
//
// A ca.Error becomes a problem document (RFC 9457): the table in kinds.go gives
// each kind its status and title. An error without a kind is a bug or an
// outage: it is logged with the request's id, and the client gets the id alone.
//
// Package api/client is the other end.
package api
