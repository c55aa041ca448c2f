package mqtts

import (
	"maps"
	"slices"
)

// Codes returns every code that there is, for the tests of the package from
// outside.
func Codes() []Code { return slices.Sorted(maps.Keys(rules)) }

// Update is the flag -update of the package's tests.
var Update = update
