package web

import (
	"errors"
	"slices"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// bulkRoutes are changes of many devices at once: what they would do, which
// must be confirmed, and how far they are. What each role may do is judged by
// the action, too.
func bulkRoutes() []route {
	return []route{
		{Method: get, Pattern: "/bulk", Permission: enroll.MaySeeReports, live: true, handle: getBulks},
		{Method: post, Pattern: "/bulk", Permission: enroll.MayHold, handle: postBulk},
		{Method: post, Pattern: "/bulk/plan", Permission: enroll.MayHold, handle: postBulkPlan},
		{Method: get, Pattern: "/bulk/{id}", Permission: enroll.MaySeeReports, live: true, liveAbout: "bulk", handle: getBulk},
	}
}

// A bulkChoice is a bulk action, who may take it, and what it does.
type bulkChoice struct {
	Action     enroll.BulkAction
	Label      string
	Permission enroll.Permission
	Meaning    string
	Done       string // what became of the devices
	Danger     bool   // cannot be taken back
}

// bulkChoices are the bulk actions.
var bulkChoices = []bulkChoice{
	{enroll.BulkHold, "Hold", enroll.MayHold, "refused by every broker until released", "put on hold", false},
	{enroll.BulkRelease, "Release", enroll.MayHold, "good again after a hold", "released", false},
	{enroll.BulkRevoke, "Revoke", enroll.MayRevoke, "for good, with all their certificates", "revoked", true},
	{enroll.BulkRetire, "Retire", enroll.MayRetire, "out of use for good", "retired", true},
}

// bulkActions returns the actions that the visitor may take.
func (v *visit) bulkActions() []bulkChoice {
	return slices.DeleteFunc(slices.Clone(bulkChoices), func(c bulkChoice) bool { return !v.may(c.Permission) })
}

// bulkChoiceOf returns an action by its name.
func bulkChoiceOf(a enroll.BulkAction) bulkChoice {
	for _, c := range bulkChoices {
		if c.Action == a {
			return c
		}
	}
	return bulkChoice{Action: a, Label: string(a), Done: "changed"}
}

// Scopes of a bulk change.
const (
	scopeSelected = "selected"
	scopeFound    = "found" // all that the query finds
)

// A bulkForm is what a person asks for below the list.
type bulkForm struct {
	enroll.Bulk
	Scope   string
	Actions []bulkChoice
	Reasons []reasonChoice
}

// Chosen reports whether a device is selected.
func (f bulkForm) Chosen(id string) bool { return slices.Contains(f.Devices, id) }

// bulkOf reads the form. The query names the list that it stood below.
func (v *visit) bulkOf() bulkForm {
	f := bulkForm{Scope: v.form("scope"), Bulk: enroll.Bulk{
		Action: enroll.BulkAction(v.form("action")), Query: v.form("q"), Devices: v.r.PostForm["device"], Fingerprint: v.form("fingerprint"),
		Comment: strings.TrimSpace(v.form("comment")),
	}}
	if f.Action == enroll.BulkRevoke {
		f.Reason = v.form("reason")
	}
	return f
}

var (
	errNoneSelected = ca.Errorf(ca.KindMalformed, "device", "tick the devices, or choose all that the query finds", "no device is selected")
	errNoQuery      = ca.Errorf(ca.KindMalformed, "q", "type a query first, such as group:hall-2: a change of the whole fleet is not made by accident", "there is no query that narrows the fleet")
)

// asked returns what the service is asked for, or why the form asks for
// nothing, and that the visitor may.
func (v *visit) asked(f bulkForm) (enroll.Bulk, error) {
	b := f.Bulk
	choice := bulkChoiceOf(b.Action)
	switch {
	case choice.Permission == "":
		return b, ca.Errorf(ca.KindMalformed, "action", "choose hold, release, revoke or retire", "%.40q is no action", string(b.Action))
	case !v.may(choice.Permission):
		return b, ca.Errorf(enroll.KindForbidden, "action", "ask an admin for a role that may", "the role %s may not %s devices", v.principal.Role, b.Action)
	case f.Scope == scopeFound && strings.TrimSpace(b.Query) == "":
		return b, errNoQuery
	case f.Scope == scopeFound:
		b.Devices = nil
	case len(b.Devices) == 0:
		return b, errNoneSelected
	default:
		b.Query = ""
	}
	return b, nil
}

// A bulkPlanPage is the dry run: what a bulk change would do.
type bulkPlanPage struct {
	bulkForm
	Choice bulkChoice
	Plan   *enroll.BulkPlan
	Error  *refusal
}

func postBulkPlan(v *visit) (answer, error) {
	f := v.bulkOf()
	a, err := bulkPlanAnswer(v, f, nil)
	if err != nil {
		return v.bulkRefused(f, err)
	}
	return a, nil
}

// bulkRefused is the list again, with what is wrong with the form below it. Who
// may not is shown no form.
func (v *visit) bulkRefused(f bulkForm, err error) (answer, error) {
	if errors.Is(err, ca.IsKind(enroll.KindForbidden)) {
		return nil, err
	}
	return v.refused(err, func(r *refusal) (answer, error) { return devicesAnswer(v, f, r) })
}

// bulkPlanAnswer is the dry run of a form, with what was wrong before.
func bulkPlanAnswer(v *visit, f bulkForm, r *refusal) (answer, error) {
	b, err := v.asked(f)
	if err != nil {
		return nil, err
	}
	b.Fingerprint = ""
	plan, err := v.site.service.PlanBulk(v.ctx(), b)
	if err != nil {
		return nil, err
	}
	f.Actions, f.Reasons = v.bulkActions(), reasonChoices
	return page{name: "bulk-plan", title: "Dry run", data: bulkPlanPage{bulkForm: f, Choice: bulkChoiceOf(b.Action), Plan: plan, Error: r}}, nil
}

func postBulk(v *visit) (answer, error) {
	f := v.bulkOf()
	b, err := v.asked(f)
	if err != nil {
		return v.bulkRefused(f, err)
	}
	result, err := v.site.service.RunBulk(v.ctx(), v.call(), b)
	if again, ok := errors.AsType[*enroll.Replay](err); ok {
		result, err = replayed[enroll.BulkResult](again)
	}
	if err != nil { // what would be done is another thing by now: shown anew
		return v.refused(err, func(r *refusal) (answer, error) { return bulkPlanAnswer(v, f, r) })
	}
	return redirect{bulkURL(result.ID) + "?note=bulk"}, nil
}

// A bulkPage shows how far a bulk change is.
type bulkPage struct {
	*enroll.BulkResult
	Choice bulkChoice
	List   string // URL of the devices that the query finds now; empty when devices were named
}

// Left returns how many devices are neither changed nor refused yet.
func (p bulkPage) Left() int { return p.Total - p.Done - p.Failed }

func getBulk(v *visit) (answer, error) {
	b, err := v.site.service.BulkResult(v.ctx(), v.param("id"))
	if err != nil {
		return nil, err
	}
	p := bulkPage{BulkResult: b, Choice: bulkChoiceOf(b.Action)}
	if b.Query != "" {
		p.List = devicesURL(b.Query, "")
	}
	return page{name: "bulk", title: "Bulk change", data: p}, nil
}

// A bulksPage lists bulk changes.
type bulksPage struct {
	Items []*enroll.BulkResult
	Next  string
}

func getBulks(v *visit) (answer, error) {
	items, next, err := v.site.service.BulkResults(v.ctx(), v.page(50))
	if err != nil {
		return nil, err
	}
	p := bulksPage{Items: items}
	if next != "" {
		p.Next = listURL("/bulk", "cursor", next)
	}
	return page{name: "bulk-list", title: "Bulk changes", data: p}, nil
}
