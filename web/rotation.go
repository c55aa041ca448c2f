package web

import (
	"errors"
	"net/url"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// rotationRoutes are the rotations of brokers' certificates. The plan of one has
// a page of its own, and is confirmed there.
func rotationRoutes() []route {
	return []route{
		{Method: get, Pattern: "/brokers/{id}/rotate", Permission: enroll.MayRunBrokers, handle: getPlan},
		{Method: post, Pattern: "/brokers/{id}/rotations", Permission: enroll.MayRunBrokers, handle: postRotation},
		{Method: get, Pattern: "/rotations", Permission: enroll.MaySeeRotations, live: true, handle: getRotations},
		{Method: get, Pattern: "/rotations/{id}", Permission: enroll.MaySeeRotations, live: true, liveAbout: "rotation", handle: getRotation},
	}
}

func rotationURL(id string) string { return "/rotations/" + url.PathEscape(id) }

func getPlan(v *visit) (answer, error) {
	r, err := v.site.service.PlanRotation(v.ctx(), v.param("id"))
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return planAnswer(v, nil, r) })
	}
	return planAnswer(v, r, nil)
}

// A planPage is what a rotation would do now.
type planPage struct {
	ID    string        // of the broker
	Plan  *rotationPage // nil when it cannot be made
	Error *refusal
}

func planAnswer(v *visit, plan *enroll.Rotation, r *refusal) (answer, error) {
	p := planPage{ID: v.param("id"), Error: r}
	if plan != nil {
		p.Plan = v.rotationPage(plan)
	}
	return page{name: "rotate", title: "Rotate " + p.ID, data: p}, nil
}

func postRotation(v *visit) (answer, error) {
	id := v.param("id")
	r, err := v.site.service.RotateBroker(v.ctx(), v.call(), id, false)
	if again, ok := errors.AsType[*enroll.Replay](err); ok {
		r, err = replayed[enroll.Rotation](again)
	}
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return planAnswer(v, nil, r) })
	}
	return redirect{rotationURL(r.ID)}, nil
}

// A rotationsPage is the list of rotations, of one broker or of all.
type rotationsPage struct {
	Broker      string // empty for all
	Rotations   []rotationRow
	First, Next string
}

// A rotationRow is a rotation in a list.
type rotationRow struct {
	*enroll.Rotation
	Step string // that it is at, or that failed; empty when there is none
}

func getRotations(v *visit) (answer, error) {
	p := rotationsPage{Broker: v.query("broker")}
	all, next, err := v.site.service.Rotations(v.ctx(), p.Broker, v.page(50))
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		p.Rotations = append(p.Rotations, rotationRow{Rotation: r, Step: restingAt(r)})
	}
	if v.query("cursor") != "" {
		p.First = listURL("/rotations", "broker", p.Broker)
	}
	if next != "" {
		p.Next = listURL("/rotations", "broker", p.Broker, "cursor", next)
	}
	return page{name: "rotations", title: "Rotations", data: p}, nil
}

// restingAt returns the step that failed, or that a running rotation is at.
func restingAt(r *enroll.Rotation) string {
	for _, s := range r.Steps {
		if s.State == enroll.StepFailed || r.State == enroll.RotationRunning && s.State != enroll.StepDone && s.State != enroll.StepSkipped {
			return s.Name
		}
	}
	return ""
}

// rotationSteps say what the steps of a rotation do.
var rotationSteps = map[string]string{
	"plan":     "Look at what is served, check that no name would be lost, count the sessions.",
	"issue":    "Have a new key made beside the broker, and issue for it. The key stays there.",
	"install":  "Count the sessions, put the new pair in place, and have the broker reload it.",
	"probe":    "Look from outside until the new certificate is served and a canary gets its CONNACK.",
	"soak":     "Watch the sessions: each that was there must still be.",
	"commit":   "Keep the new certificate. The old one stays good until it expires.",
	"rollback": "Make the old certificate the served one again.",
}

// A rotationPage is one rotation, or the plan of one.
type rotationPage struct {
	*enroll.Rotation
	BrokerURL string
	Steps     []rotationStep
	Why       string // it was rolled back, or failed; empty for neither
	Commands  []equivalent
}

// A rotationStep is a step with its clock.
type rotationStep struct {
	enroll.Step
	Does  string
	Since time.Time // the clock runs from then; zero when it does not run
}

func (v *visit) rotationPage(r *enroll.Rotation) *rotationPage {
	p := &rotationPage{Rotation: r, BrokerURL: brokerURL(r.Broker)}
	running := false
	for _, s := range r.Steps {
		step := rotationStep{Step: s, Does: rotationSteps[s.Name]}
		if r.State == enroll.RotationRunning && !running && (s.State == enroll.StepRunning || s.State == enroll.StepPending) {
			step.State, step.Since, running = enroll.StepRunning, r.At, true
		}
		if s.State == enroll.StepFailed && p.Why == "" {
			p.Why = s.Name + ": " + s.Detail
		}
		p.Steps = append(p.Steps, step)
	}
	if v.may(enroll.MayRunBrokers) {
		below := "/brokers/" + r.Broker + "/rotations"
		p.Commands = []equivalent{
			{"Plan", v.site.command(below, map[string]any{"dryRun": true}, "broker", "rotate", r.Broker, "--dry-run")},
			{"Rotate", v.site.command(below, nil, "broker", "rotate", r.Broker, "--wait")},
		}
	}
	return p
}

func getRotation(v *visit) (answer, error) {
	r, err := v.site.service.Rotation(v.ctx(), v.param("id"))
	if err != nil {
		return nil, err
	}
	return page{name: "rotation", title: "Rotation of " + r.Broker, data: v.rotationPage(r)}, nil
}
