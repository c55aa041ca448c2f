package web

import (
	"bytes"
	"encoding/json"

	"github.com/fleetca/fleetca/enroll"
)

// revocationRoutes are revocations, from the decision to the proof.
func revocationRoutes() []route {
	return []route{
		{Method: get, Pattern: "/revocations", Permission: enroll.MayLook, live: true, handle: getRevocations},
		{Method: get, Pattern: "/revocations/{id}", Permission: enroll.MayLook, live: true, liveAbout: "revocation", handle: getRevocation},
		{Method: get, Pattern: "/revocations/{id}/revocation.json", Permission: enroll.MayLook, handle: getRevocationJSON},
	}
}

// A revocationsPage lists revocations, newest first.
type revocationsPage struct {
	Device string // of this one alone; empty for all
	Items  []revocationLine
	Next   string
}

// A revocationLine is a revocation in a list.
type revocationLine struct {
	*enroll.Revocation
	Took int64 // ms from the decision to the evidence; 0 while there is none
}

func getRevocations(v *visit) (answer, error) {
	p := revocationsPage{Device: v.query("device")}
	items, next, err := v.site.service.Revocations(v.ctx(), p.Device, v.page(50))
	if err != nil {
		return nil, err
	}
	for _, r := range items {
		p.Items = append(p.Items, revocationLine{r, provenAfter(r)})
	}
	if next != "" {
		p.Next = listURL("/revocations", "device", p.Device, "cursor", next)
	}
	return page{name: "revocations", title: "Revocations", data: p}, nil
}

// provenAfter returns how long after the decision it was proven, in
// milliseconds; 0 when it was not.
func provenAfter(r *enroll.Revocation) int64 {
	if r.State != enroll.RevocationProven {
		return 0
	}
	for _, st := range r.Steps {
		if st.Name == stepEvidence && st.State == enroll.StepDone {
			return st.ElapsedMs
		}
	}
	return 0
}

// A stateText says what the state of a revocation means, and what to do.
type stateText struct{ Meaning, Do string }

// revocationTexts explain the states of a revocation.
var revocationTexts = map[enroll.RevocationState]stateText{
	enroll.RevocationRunning: {"The certificates are revoked. Each broker is being watched until it refuses.", "Nothing: this page shows each step as it happens."},
	enroll.RevocationProven: {"Every broker was seen to refuse a canary on the same CRL as the device, and to admit a good one at the same time.",
		"Nothing: print this page or keep its JSON where evidence is kept."},
	enroll.RevocationUnproven: {"The certificates are revoked and on the CRL, but a broker was not seen to refuse. The server tries again by itself.",
		"Look at the failed step: it says what was seen. Verify that broker, make it load the CRL and close the device's session; until then take the device to be connected."},
	enroll.RevocationRecorded: {"The certificates are revoked and on the CRL. There was nothing to prove: no broker is registered, or the hold was lifted before.",
		"Register the brokers, so that the next revocation is proven at them."},
}

// A revocationPage is the way of a revocation, step by step.
type revocationPage struct {
	*enroll.Revocation
	Text   stateText
	Took   int64 // as in revocationLine
	Groups []stepGroup
	JSON   string // URL of the file
}

func getRevocation(v *visit) (answer, error) {
	r, err := v.site.service.Revocation(v.ctx(), v.param("id"))
	if err != nil {
		return nil, err
	}
	return page{name: "revocation", title: "Revocation of " + r.Device, data: revocationPage{
		Revocation: r, Text: revocationTexts[r.State], Took: provenAfter(r), Groups: groupSteps(r), JSON: revocationURL(r.ID) + "/revocation.json",
	}}, nil
}

func getRevocationJSON(v *visit) (answer, error) {
	r, err := v.site.service.Revocation(v.ctx(), v.param("id"))
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, append(text, '\n'), "", "  "); err != nil {
		return nil, err
	}
	return download{name: "revocation-" + r.ID + ".json", mediaType: "application/json", body: b.Bytes()}, nil
}
