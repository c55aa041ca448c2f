package web

import (
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// A stepGroup is the steps of a revocation in one place: at the authority, at
// one broker, and what comes of them.
type stepGroup struct {
	Broker string // empty for the others
	Title  string // of the others
	Steps  []shownStep
}

// A shownStep is a step as a person sees it.
type shownStep struct {
	enroll.Step
	Title   string
	Meaning string
	Running bool      // its turn has come
	Since   time.Time // of the decision, for the clock of a running step
}

// A stepText names a step of a revocation. Steps of a lower rank, at the same
// broker or at the authority, come before.
type stepText struct {
	rank           int
	title, meaning string
}

// stepEvidence is the last step.
const stepEvidence = "evidence"

// stepTexts are the steps of a revocation, by name.
var stepTexts = map[string]stepText{
	"decided":         {0, "Decided", "a person decided it; the clock starts"},
	"ledger":          {1, "In the ledger", "certificates and device are marked, in one transaction; OCSP says so from now on"},
	"canary_admitted": {2, "Canary admitted before", "so that its refusal afterwards means something"},
	"crl_signed":      {3, "CRL signed", "it lists the device's certificates and the canary"},
	"crl_loaded":      {4, "CRL loaded", "the broker took it"},
	"session_closed":  {5, "Sessions closed", "of the device, at this broker"},
	"refusal_seen":    {6, "Refusal seen", "the canary is refused while a good one is admitted"},
	stepEvidence:      {7, "Evidence", "what was seen is kept, with its hash"},
}

// groupSteps sorts the steps of a revocation by where they happen, the evidence
// last.
func groupSteps(r *enroll.Revocation) []stepGroup {
	groups := []stepGroup{{Title: "At the authority"}}
	last := stepGroup{Title: "What comes of it"}
	at := map[string]int{"": 0}
	for _, st := range r.Steps {
		text := stepTexts[st.Name]
		if text.title == "" {
			text.title = st.Name
		}
		shown := shownStep{Step: st, Title: text.title, Meaning: text.meaning, Since: r.At, Running: running(r, st)}
		if st.Name == stepEvidence {
			last.Steps = append(last.Steps, shown)
			continue
		}
		n, known := at[st.Broker]
		if !known {
			n = len(groups)
			at[st.Broker] = n
			groups = append(groups, stepGroup{Broker: st.Broker})
		}
		groups[n].Steps = append(groups[n].Steps, shown)
	}
	return append(groups, last)
}

// running reports whether a step is what is waited for: all before it are over.
func running(r *enroll.Revocation, st enroll.Step) bool {
	if r.State != enroll.RevocationRunning || st.State != enroll.StepPending {
		return false
	}
	for _, before := range r.Steps {
		same := before.Broker == st.Broker || before.Broker == "" || st.Broker == ""
		if same && before.State == enroll.StepPending && stepTexts[before.Name].rank < stepTexts[st.Name].rank {
			return false
		}
	}
	return true
}
