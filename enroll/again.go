package enroll

import (
	"fmt"
	"time"
)

// An Again is returned by a job that is not finished: it runs again after a
// time, and that is no failure.
type Again struct{ After time.Duration }

func (a *Again) Error() string { return fmt.Sprintf("not finished: again after %v", a.After) }
