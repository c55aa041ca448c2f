package enroll

import (
	"time"
)

// Names of the steps of a revocation.
const (
	stepDecided   = "decided"
	stepLedger    = "ledger"
	stepAdmitted  = "canary_admitted" // before the CRL, so that its refusal after means something
	stepCRLSigned = "crl_signed"
	stepCRLLoaded = "crl_loaded"
	stepSession   = "session_closed"
	stepRefusal   = "refusal_seen"
	stepEvidence  = "evidence"
)

// Names of the steps of a rotation.
const (
	stepPlan     = "plan"
	stepIssue    = "issue"
	stepInstall  = "install"
	stepProbe    = "probe"
	stepSoak     = "soak"
	stepCommit   = "commit"
	stepRollback = "rollback"
)

// setStep moves a step, with the time since the decision, and reports whether
// that changed anything. Its clock says when the state was reached: another
// attempt that ends the same way changes the detail alone.
func setStep(steps []Step, name, broker string, decided, now time.Time, state StepState, detail string) bool {
	for i := range steps {
		st := &steps[i]
		if st.Name != name || st.Broker != broker {
			continue
		}
		if st.State == state && st.Detail == detail {
			return false
		}
		if st.State != state {
			st.At, st.ElapsedMs = &now, now.Sub(decided).Milliseconds()
		}
		st.State, st.Detail = state, detail
		return true
	}
	return false
}

// stepOf returns a step; nil for one there is not.
func stepOf(steps []Step, name, broker string) *Step {
	for i := range steps {
		if steps[i].Name == name && steps[i].Broker == broker {
			return &steps[i]
		}
	}
	return nil
}

// stepState returns the state of a step; StepSkipped for one there is not.
func stepState(steps []Step, name, broker string) StepState {
	if st := stepOf(steps, name, broker); st != nil {
		return st.State
	}
	return StepSkipped
}
