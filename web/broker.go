package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// brokerRoutes are a broker and what can be done to it.
func brokerRoutes() []route {
	return []route{
		{Method: get, Pattern: "/brokers/{id}", Permission: enroll.MayLook, live: true, handle: getBroker},
		{Method: post, Pattern: "/brokers/{id}", Permission: enroll.MayRunBrokers, handle: postBrokerChange},
		{Method: post, Pattern: "/brokers/{id}/verifications", Permission: enroll.MayVerify, handle: postVerification},
	}
}

// A brokerPage is one broker.
type brokerPage struct {
	*enroll.Broker
	URL      string // of this page
	Status   string // of its certificate
	Life     *life
	Served   served
	Driven   bool // a server can install certificates at it
	CRLs     []enroll.LoadedCRL
	Trust    *trustFacts
	Trace    *trace // of the last verification; nil for none
	Looks    looks
	Moved    bool   // the last verification was of another URL
	Report   string // URL of the last verification
	Strip    strip
	Marks    []markRow
	Rotation []*enroll.Rotation // the last ones
	Form     brokerForm
	Commands []equivalent
	Error    *refusal
	At       string // which form was refused
}

// An equivalent is what a form does, for a terminal.
type equivalent struct {
	Does string
	command
}

// replayed returns the first answer of a call that was made before.
func replayed[T any](again *enroll.Replay) (*T, error) {
	t := new(T)
	if err := json.Unmarshal(again.Answer, t); err != nil {
		return nil, fmt.Errorf("read the first answer: %w", err)
	}
	return t, nil
}

func getBroker(v *visit) (answer, error) { return brokerAnswer(v, nil, "", nil) }

// brokerAnswer is a broker's page, with what was typed into its form, and which
// form was refused.
func brokerAnswer(v *visit, form *brokerForm, at string, r *refusal) (answer, error) {
	b, err := v.site.service.Broker(v.ctx(), v.param("id"))
	if err != nil {
		return nil, err
	}
	p := brokerPage{
		Broker: b, URL: brokerURL(b.ID), Served: servedOf(b), Driven: b.Driver != nil, CRLs: v.site.service.LoadedCRLs(b.ID),
		Form: brokerForm{URL: b.URL, Names: strings.Join(b.Names, "\n")}, At: at, Error: r,
	}
	if form != nil {
		p.Form = *form
	}
	now := v.site.now()
	if c := b.Certificate; c != nil {
		p.Status, p.Life = string(c.StatusAt(now)), new(lifeOf(c.NotBefore, c.NotAfter, now))
	}
	if last := b.LastVerification; last != nil && last.Report != nil {
		p.Trace, p.Moved = traceOf(last.Report), last.Report.Target.URL != b.URL
		p.Looks = looksOf(last)
		p.Report = brokerURL(b.ID, "verifications", last.ID)
	}
	if p.Trust, err = v.trustFacts(); err != nil {
		return nil, err
	}
	if err := v.brokerHistory(&p); err != nil {
		return nil, err
	}
	p.Commands = v.brokerCommands(b)
	return page{name: "broker", title: b.ID, data: p}, nil
}

// brokerHistory adds what the visitor may see of the past.
func (v *visit) brokerHistory(p *brokerPage) error {
	if v.may(enroll.MaySeeReports) {
		marks, _, err := v.site.service.VerificationMarks(v.ctx(), p.ID, enroll.Page{Limit: marksShown})
		if err != nil {
			return err
		}
		p.Strip, p.Marks = stripOf(p.ID, marks), markRows(p.ID, marks[:min(len(marks), 10)])
	}
	if v.may(enroll.MaySeeRotations) {
		var err error
		if p.Rotation, _, err = v.site.service.Rotations(v.ctx(), p.ID, enroll.Page{Limit: 5}); err != nil {
			return err
		}
	}
	return nil
}

// brokerCommands are what the page's buttons do, as far as the visitor has them.
func (v *visit) brokerCommands(b *enroll.Broker) []equivalent {
	var all []equivalent
	if v.may(enroll.MayVerify) {
		all = append(all, v.verifyCommand(b.ID), v.verifyNegativeCommand(b.ID))
	}
	if v.may(enroll.MayRunBrokers) {
		all = append(all, equivalent{"Change URL and names", v.site.command("/brokers/"+b.ID+"/update", enroll.BrokerUpdate{URL: &b.URL, Names: b.Names},
			"broker", "update", b.ID, "--url", b.URL, "--names", strings.Join(b.Names, ","))})
	}
	if v.may(enroll.MayRunBrokers) && b.Driver != nil {
		below := "/brokers/" + b.ID + "/rotations"
		all = append(all,
			equivalent{"Plan a rotation", v.site.command(below, map[string]any{"dryRun": true}, "broker", "rotate", b.ID, "--dry-run")},
			equivalent{"Rotate", v.site.command(below, nil, "broker", "rotate", b.ID, "--wait")})
	}
	return all
}

func (v *visit) verifyCommand(id string) equivalent {
	return equivalent{"Verify now", v.site.command("/brokers/"+id+"/verifications", nil, "broker", "verify", id)}
}

func (v *visit) verifyNegativeCommand(id string) equivalent {
	return equivalent{"Verify what must be refused", v.site.command("/brokers/"+id+"/verifications", map[string]any{"negative": true}, "broker", "verify", id, "--negative")}
}

func postVerification(v *visit) (answer, error) {
	id := v.param("id")
	_, err := v.site.service.VerifyBroker(v.ctx(), v.call(), id, v.form("negative") != "")
	if again := (*enroll.Replay)(nil); err != nil && !errors.As(err, &again) {
		return v.refused(err, func(r *refusal) (answer, error) { return brokerAnswer(v, nil, "verify", r) })
	}
	return redirect{brokerURL(id) + "?note=broker-verified#verification"}, nil
}

func postBrokerChange(v *visit) (answer, error) {
	id, form := v.param("id"), brokerForm{URL: v.form("url"), Names: v.form("names")}
	names := splitNames(form.Names)
	var err error
	if len(names) == 0 {
		err = ca.Errorf(ca.KindMalformed, "names", "give the URL's host at least", "are missing")
	} else {
		_, err = v.site.service.UpdateBroker(v.ctx(), v.call(), id, enroll.BrokerUpdate{URL: new(strings.TrimSpace(form.URL)), Names: names})
	}
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return brokerAnswer(v, &form, "change", r) })
	}
	return redirect{brokerURL(id) + "?note=broker-changed"}, nil
}
