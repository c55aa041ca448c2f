package enroll

import "slices"

// A Permission is something that roles may do, by REST or on a page.
type Permission string

// The permissions. Each names a group of calls that stand or fall together.
const (
	MayLook         Permission = "look"           // at devices, brokers, certificates, revocations, issuers
	MayEnroll       Permission = "enroll"         // devices, for a certificate
	MayRegister     Permission = "register"       // devices, work orders, their enrollment tokens, manifests
	MaySeeOrders    Permission = "see-orders"     // work orders
	MayRevoke       Permission = "revoke"         // devices and certificates; disable manufacturers
	MayHold         Permission = "hold"           // and release devices
	MayRetire       Permission = "retire"         // devices
	MayRekey        Permission = "rekey"          // devices whose key is lost
	MayRunBrokers   Permission = "run-brokers"    // register them, certify them, rotate their certificates
	MaySeeRotations Permission = "see-rotations"  //
	MayVerify       Permission = "verify"         // brokers
	MaySeeReports   Permission = "see-reports"    // of verifications
	MayShape        Permission = "shape-profiles" // change what certificates look like, and how long they live
	MayAudit        Permission = "audit"          // read the audit trail
	MayAdminister   Permission = "administer"     // users, API tokens and manufacturers
)

// permitted says which roles have a permission. An admin has every one.
var permitted = map[Permission][]Role{
	MayLook:         Roles(),
	MayEnroll:       {RoleFactory, RoleOperator},
	MayRegister:     {RoleFactory, RoleOperator},
	MaySeeOrders:    {RoleFactory, RoleOperator, RoleAuditor},
	MayRevoke:       {RoleSecurity},
	MayHold:         {RoleOperator, RoleSecurity},
	MayRetire:       {RoleOperator, RoleSecurity},
	MayRekey:        {RoleOperator},
	MayRunBrokers:   {RoleOperator},
	MaySeeRotations: {RoleOperator, RoleAuditor},
	MayVerify:       {RoleOperator, RoleSecurity},
	MaySeeReports:   {RoleOperator, RoleSecurity, RoleAuditor},
	MayShape:        {RoleSecurity},
	MayAudit:        {RoleAuditor},
	MayAdminister:   {RoleAdmin},
}

// Roles returns the roles that have the permission, beside admin.
func (p Permission) Roles() []Role { return slices.Clone(permitted[p]) }

// May reports whether the role has a permission. One that is in no table
// nobody has.
func (r Role) May(p Permission) bool {
	roles, known := permitted[p]
	return known && (r == RoleAdmin || slices.Contains(roles, r))
}
