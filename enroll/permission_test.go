package enroll_test

import (
	"testing"

	"github.com/fleetca/fleetca/enroll"
)

// What is in no table nobody may do, and what is an admin may.
func TestPermissions(t *testing.T) {
	if enroll.RoleAdmin.May("launch") {
		t.Error("an admin may do what is no permission")
	}
	if enroll.Role("").May(enroll.MayLook) || enroll.Role("root").May(enroll.MayLook) {
		t.Error("what is no role may look")
	}
	for _, p := range []enroll.Permission{enroll.MayRevoke, enroll.MayAudit, enroll.MayAdminister} {
		if !enroll.RoleAdmin.May(p) {
			t.Errorf("an admin may not %s", p)
		}
		if enroll.RoleFactory.May(p) {
			t.Errorf("the factory may %s", p)
		}
	}
}
