package web

import "github.com/fleetca/fleetca/enroll"

// enforcementTexts say how a broker learns of a revocation.
var enforcementTexts = map[enroll.Enforcement]string{
	enroll.EnforceCRL:  "gets the new CRL from here and closes the sessions",
	enroll.EnforceNone: "nothing here reaches it: it fetches CRLs by itself, or does not. Whether it refuses is looked at from outside",
}

// enforcementText returns how a broker learns of a revocation, for a person.
func enforcementText(e enroll.Enforcement) string { return enforcementTexts[e] }
