package web

import (
	"net/http"
	"slices"

	"github.com/fleetca/fleetca/enroll"
)

// A route is a page or a form.
type route struct {
	Method  string
	Pattern string // in chi's syntax
	// Permission is what the visitor must have; empty: to be signed in is enough.
	Permission enroll.Permission
	Public     bool // for visitors who are not signed in
	Account    bool // stays open while the second factor is missing
	live       bool // can be watched
	// liveAbout is the kind of thing that a live page of one {id} is about, as
	// audit events name it, where their subjects tell of all that changes on it.
	liveAbout string
	handle    func(v *visit) (answer, error)
}

// Methods, short for the table.
const (
	get  = http.MethodGet
	post = http.MethodPost
)

// routes is the table of the dashboard.
func routes() []route {
	return slices.Concat(accountRoutes(), nowRoutes(), auditRoutes(), accessRoutes(),
		brokersRoutes(), brokerRoutes(), verificationRoutes(), rotationRoutes(), ordersRoutes(), orderRoutes(), authorityRoutes(), manufacturerRoutes(), profileRoutes(),
		devicesRoutes(), bulkRoutes(), deviceRoutes(), revokeRoutes(), revocationRoutes(), certificateRoutes())
}

// notes are what a page says of the form that led to it.
var notes = map[string]string{
	"signed-out":       "You are signed out.",
	"password":         "Your password is changed; your other sessions have ended.",
	"second-factor":    "The second factor is set up. The next sign-in asks for a code.",
	"no-second-factor": "The second factor is off.",
	"session-ended":    "The session has ended.",
	"user-added":       "The user is added. Tell them their first password; they change it under their account.",
	"user-reset":       "The password is reset, and the user's sessions have ended.",
	"user-role":        "The role is changed, and the user's sessions have ended.",
	"user-disabled":    "The user is kept out, and the user's sessions have ended.",
	"user-enabled":     "The user can sign in again.",
	"token-revoked":    "The token has ended.",

	"manifest-added":        "The lines are in the manifest: these devices enroll with their manufacturer's certificates.",
	"manifest-removed":      "The device is off the manifest: its manufacturer's certificate enrolls it no more.",
	"manufacturer-disabled": "The manufacturer is disabled: nothing enrolls with its certificates.",
	"manufacturer-enabled":  "The manufacturer is enabled again.",

	"broker-registered": "The broker is registered. Verify it now, to see whether it serves what it should.",
	"broker-verified":   "The broker was looked at: what was seen stands below.",
	"broker-changed":    "The broker is changed. Rotate its certificate when its names are others now.",
	"order-opened":      "The work order is open. Make a token for the line.",
	"order-quantity":    "The quota is changed.",
	"order-open":        "The work order is open again.",
	"order-closed":      "The work order is closed: it takes no more enrollments.",
	"token-ended":       "The token has ended: it enrolls nobody any more.",

	"hold":                "The device is on hold: brokers refuse it as soon as they have the next CRL, and its sessions are being closed.",
	"release":             "The device is released; the next CRL no longer lists it.",
	"bulk":                "The change is under way.",
	"certificate-revoked": "The certificate is revoked; the next CRL lists it.",
}
