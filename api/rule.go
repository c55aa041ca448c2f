package api

import (
	"slices"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A Rule says who may make a call. The zero Rule lets nobody in.
type Rule struct {
	// Public calls take no credentials.
	Public bool
	// Roles may make it, with an API token. An admin may wherever a role may.
	Roles []enroll.Role
	// EnrollmentToken lets in a request without other credentials whose body
	// holds an enrollment token; the service spends it.
	EnrollmentToken bool
	// IDevID lets in a request without other credentials that came with a
	// manufacturer's certificate, on the machine listener; the service holds it
	// against the manifest.
	IDevID bool
	// Holders may make it with their client certificate, on the machine listener.
	Holders []ca.HolderKind
	// Own narrows Holders to the one that the path's {id} names.
	Own bool
}

// The rules that several routes share.
var (
	public   = Rule{Public: true}
	everyone = may(enroll.MayLook)
)

// may returns the rule that lets in the roles with a permission, and admins.
func may(p enroll.Permission) Rule { return Rule{Roles: p.Roles()} }

// permits reports whether the principal may make a call on the id in its path.
func (u Rule) permits(p *enroll.Principal, id string) bool {
	if u.Public {
		return true
	}
	if p.Role != "" {
		return len(u.Roles) > 0 && (p.Role == enroll.RoleAdmin || slices.Contains(u.Roles, p.Role))
	}
	if p.Certificate != nil {
		h := p.Certificate.Holder
		return slices.Contains(u.Holders, h.Kind) && (!u.Own || h.ID == id)
	}
	return false
}

// certificateOnly reports whether a client certificate is the one way in.
func (u Rule) certificateOnly() bool {
	return len(u.Holders) > 0 && len(u.Roles) == 0 && !u.EnrollmentToken
}
