package mqtts

import "crypto/tls"

// Material is what the checks of a negative run are made with: client
// certificates that the broker must refuse, each with its chain and key. The
// zero value is good: what can be made on the spot is, and checks that need an
// authority's signature are skipped.
type Material struct {
	// Foreign is of an authority that the broker does not trust. Nil: one of a
	// new authority, with the subject of Target.Certificate.
	Foreign *tls.Certificate
	// SameNameRogue is of an authority that has the name of the trusted one and
	// another key. Nil: made after the chain of Target.Certificate or, without
	// one, after the first authority in Target.Roots.
	SameNameRogue *tls.Certificate

	// Expired, NotYetValid, WrongUsage and Revoked are of the authority that the
	// broker trusts. A nil one skips its check.
	Expired, NotYetValid, WrongUsage, Revoked *tls.Certificate

	// Resume asks for resume_after_revocation: two connections with Revoked and
	// one session cache. Neither may reach a CONNACK that accepts.
	Resume bool
	// Sessions is that cache. Whoever connected with Revoked before it was
	// revoked gives the cache of then, so that there is a session to resume: a
	// broker that refuses the first of the two connections hands none out.
	Sessions tls.ClientSessionCache
}
