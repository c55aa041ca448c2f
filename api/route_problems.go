package api

import (
	"net/http"
	"slices"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// signingKinds are the errors of calls that have something signed.
func signingKinds() []ca.Kind {
	return []ca.Kind{ca.KindIssuerInactive, ca.KindClock, ca.KindKey}
}

// csrKinds are the errors of calls that issue for a certification request.
func csrKinds() []ca.Kind {
	return append(signingKinds(), ca.KindBadSignature, ca.KindWeakKey, ca.KindBlockedKey, ca.KindNameNotAllowed, enroll.KindDuplicateKey)
}

// enrollmentKinds are the errors of enrollments.
func enrollmentKinds() []ca.Kind {
	return append(csrKinds(), ca.KindNotFound, ca.KindProfile, enroll.KindDuplicateDevice, enroll.KindDeviceRevoked, enroll.KindDeviceHeld,
		enroll.KindTokenUnknown, enroll.KindTokenExpired, enroll.KindTokenUsed, enroll.KindTokenOtherDevice, enroll.KindTokenOtherOrder,
		enroll.KindOrderClosed, enroll.KindQuotaReached,
		enroll.KindUnknownManufacturer, enroll.KindBadIDevID, enroll.KindNotInManifest, enroll.KindIDevIDUsed)
}

// problems returns every kind of error that a call can answer with: its own,
// and what its rule, its path and its body imply.
func (rt *Route) problems() []ca.Kind {
	kinds := append(slices.Clone(rt.Kinds), ca.KindMalformed, enroll.KindUnavailable, KindInternal)
	if !rt.Rule.Public {
		kinds = append(kinds, enroll.KindUnauthenticated, enroll.KindForbidden, KindRateLimited)
	}
	if len(rt.Rule.Holders) > 0 { // of the client certificate
		kinds = append(kinds, enroll.KindDeviceRevoked, enroll.KindDeviceHeld)
	}
	if len(rt.pathParameters()) > 0 {
		kinds = append(kinds, ca.KindNotFound)
	}
	if rt.Method == http.MethodPost {
		kinds = append(kinds, KindMediaType)
	}
	if rt.Method == http.MethodPost && !rt.Stream {
		kinds = append(kinds, ca.KindTooLarge, enroll.KindIdempotency, enroll.KindConflict)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}
