package enroll_test

import (
	"testing"

	"github.com/fleetca/fleetca/enroll"
)

func TestAddressGroup(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"192.0.2.1:1234":           "192.0.2.1/32",
		"[::ffff:192.0.2.1]:1234":  "192.0.2.1/32",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:1":         "fe80::/64",
		"@":                        "invalid Prefix",
	} {
		if got := enroll.AddressGroup(remote).String(); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}
