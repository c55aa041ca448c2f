package enroll

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// judge says whether an observation proves the revocation, and why (or why
// not), for a person.
func (o *Observation) judge(refused, control *mqtts.Report) (bool, string) {
	switch {
	case refused.Step(mqtts.StepConnack).Result == mqtts.ResultPass:
		return false, "the revoked canary still gets its CONNACK: the broker has not loaded the new CRL, or checks none"
	case o.Refusal == nil:
		return false, "no refusal was seen: " + failureOf(refused)
	case !o.ControlPass:
		return false, "the broker refuses the good canary too, so its refusal of the revoked one proves nothing: " + failureOf(control)
	}
	return true, fmt.Sprintf("%s; a good canary is admitted", refusalText(o.Refusal))
}

// refusalText says how a broker refused.
func refusalText(r *mqtts.Refusal) string {
	switch {
	case r.Alert != 0:
		return fmt.Sprintf("refused at %s with TLS alert %d (%s)", r.Step, r.Alert, r.AlertName)
	case r.ReasonCode != 0:
		return fmt.Sprintf("refused at %s with reason code %d", r.Step, r.ReasonCode)
	}
	return fmt.Sprintf("refused at %s: %s", r.Step, r.Detail)
}

// failureOf says in a line why a verification did not pass.
func failureOf(r *mqtts.Report) string {
	if len(r.Diagnosis) > 0 {
		d := r.Diagnosis[0]
		return fmt.Sprintf("%s at %s: %s", d.Code, d.Step, d.Message)
	}
	if st := r.Failed(); st != nil {
		return fmt.Sprintf("%s: %s", st.Name, st.Detail)
	}
	return "verdict " + string(r.Verdict)
}

// at returns what was seen at a broker; nil for nothing.
func (e *Evidence) at(broker string) *Observation {
	if e == nil {
		return nil
	}
	for i := range e.Brokers {
		if e.Brokers[i].Broker == broker {
			return &e.Brokers[i]
		}
	}
	return nil
}

// newEvidence returns evidence with its hash.
func newEvidence(numbers map[string]int64, seen []Observation) *Evidence {
	slices.SortFunc(seen, func(a, b Observation) int { return strings.Compare(a.Broker, b.Broker) })
	e := &Evidence{CRLNumbers: numbers, Brokers: seen}
	if e.Brokers == nil {
		e.Brokers = []Observation{}
	}
	text, err := json.Marshal(e)
	if err != nil {
		panic(fmt.Sprintf("evidence: %v", err)) // our own types
	}
	e.SHA256 = fmt.Sprintf("%x", sha256.Sum256(text))
	return e
}
