package api

import (
	"net/http"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Kinds of errors that this package gives, beside those of ca and enroll.
const (
	KindMediaType ca.Kind = "unsupported-media-type" // the body's Content-Type or Content-Encoding
	KindMethod    ca.Kind = "method-not-allowed"
	KindLapsed    ca.Kind = "status-lapsed" // a CRL past its nextUpdate is not served
	KindInternal  ca.Kind = "internal"      // everything without a kind
)

// KindRateLimited is the same for logins, which the service counts.
const KindRateLimited = enroll.KindRateLimited

// A kindRow is how a kind of error shows.
type kindRow struct {
	status int
	title  string
	// secret says that the error's own text is for the log, because it speaks
	// of the inside: files, addresses, statements. The detail then takes its place.
	secret bool
	detail string
}

// kinds is the one mapping of errors to problems. Every Kind has its row.
var kinds = map[ca.Kind]kindRow{
	ca.KindMalformed: {status: http.StatusBadRequest, title: "Malformed request"},
	ca.KindReason:    {status: http.StatusBadRequest, title: "Unknown revocation reason"},
	ca.KindProfile:   {status: http.StatusBadRequest, title: "Unknown profile"},
	KindMediaType:    {status: http.StatusUnsupportedMediaType, title: "Unsupported media type"},
	ca.KindTooLarge:  {status: http.StatusRequestEntityTooLarge, title: "Too large"},

	enroll.KindUnauthenticated:     {status: http.StatusUnauthorized, title: "Not authenticated"},
	enroll.KindSecondFactor:        {status: http.StatusUnauthorized, title: "Second factor required"},
	enroll.KindTokenUnknown:        {status: http.StatusUnauthorized, title: "Unknown enrollment token"},
	enroll.KindUnknownManufacturer: {status: http.StatusUnauthorized, title: "Unknown manufacturer"},
	enroll.KindBadIDevID:           {status: http.StatusUnauthorized, title: "Manufacturer's certificate does not hold"},
	enroll.KindNotInManifest:       {status: http.StatusForbidden, title: "Not in the manufacturer's manifest"},
	enroll.KindForbidden:           {status: http.StatusForbidden, title: "Not permitted"},
	KindRateLimited:                {status: http.StatusTooManyRequests, title: "Too many attempts"},
	ca.KindNotFound:                {status: http.StatusNotFound, title: "Not found"},
	KindMethod:                     {status: http.StatusMethodNotAllowed, title: "Method not allowed"},

	enroll.KindIdempotency:     {status: http.StatusConflict, title: "Idempotency key used for another request"},
	enroll.KindConflict:        {status: http.StatusConflict, title: "Conflict"},
	enroll.KindDuplicateKey:    {status: http.StatusConflict, title: "Key belongs to another holder"},
	enroll.KindDuplicateDevice: {status: http.StatusConflict, title: "Device exists already"},
	ca.KindRevoked:             {status: http.StatusConflict, title: "Already revoked"},
	ca.KindNotHeld:             {status: http.StatusConflict, title: "Not on hold"},

	ca.KindBadSignature:         {status: http.StatusUnprocessableEntity, title: "Bad signature on the certification request"},
	ca.KindWeakKey:              {status: http.StatusUnprocessableEntity, title: "Key outside the policy"},
	ca.KindBlockedKey:           {status: http.StatusUnprocessableEntity, title: "Key is blocked"},
	ca.KindNameNotAllowed:       {status: http.StatusUnprocessableEntity, title: "Name not allowed"},
	ca.KindIssuerInactive:       {status: http.StatusUnprocessableEntity, title: "No active issuer"},
	enroll.KindTokenExpired:     {status: http.StatusUnprocessableEntity, title: "Enrollment token expired"},
	enroll.KindTokenUsed:        {status: http.StatusUnprocessableEntity, title: "Enrollment token used up"},
	enroll.KindTokenOtherDevice: {status: http.StatusUnprocessableEntity, title: "Enrollment token is for another device"},
	enroll.KindTokenOtherOrder:  {status: http.StatusUnprocessableEntity, title: "Enrollment token is for another work order"},
	enroll.KindIDevIDUsed:       {status: http.StatusUnprocessableEntity, title: "Manufacturer's certificate was used before"},
	enroll.KindExpired:          {status: http.StatusUnprocessableEntity, title: "Certificate expired"},
	enroll.KindQuotaReached:     {status: http.StatusUnprocessableEntity, title: "Quota reached"},
	enroll.KindOrderClosed:      {status: http.StatusUnprocessableEntity, title: "Work order closed"},
	enroll.KindCertificateLimit: {status: http.StatusUnprocessableEntity, title: "Too many certificates"},
	enroll.KindRefusedProfile:   {status: http.StatusUnprocessableEntity, title: "Profile refused"},
	enroll.KindDeviceRevoked:    {status: http.StatusUnprocessableEntity, title: "Device revoked"},
	enroll.KindDeviceHeld:       {status: http.StatusUnprocessableEntity, title: "Device on hold"},
	enroll.KindNotPublished:     {status: http.StatusUnprocessableEntity, title: "Issuer is not published"},
	enroll.KindNotReady:         {status: http.StatusConflict, title: "Roll-over would leave some behind"},
	enroll.KindNoDriver:         {status: http.StatusUnprocessableEntity, title: "No server drives the broker"},

	KindLapsed:   {status: http.StatusServiceUnavailable, title: "Status lapsed"},
	ca.KindClock: {status: http.StatusServiceUnavailable, title: "Clock unreliable"},
	enroll.KindUnavailable: {status: http.StatusServiceUnavailable, title: "Unavailable", secret: true,
		detail: "out of order for now, and the server's log says why; a change may have taken effect all the same: repeat it with the same Idempotency-Key"},
	ca.KindKey: {status: http.StatusInternalServerError, title: "Issuer key failure", secret: true,
		detail: "a signing key cannot be used; the server's log says which"},
	ca.KindRefusedCRL: {status: http.StatusInternalServerError, title: "CRL refused", secret: true,
		detail: "a CRL failed its check and was not released; the server's log says why"},
	KindInternal: {status: http.StatusInternalServerError, title: "Internal error", secret: true,
		detail: "the server's log has the cause under this request id"},
}
