package web

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// brokersRoutes are the list of brokers and the form below it.
func brokersRoutes() []route {
	return []route{
		{Method: get, Pattern: "/brokers", Permission: enroll.MayLook, live: true, handle: getBrokers},
		{Method: post, Pattern: "/brokers", Permission: enroll.MayRunBrokers, handle: postBroker},
	}
}

// brokersShown is how many brokers stand on a page, marksShown how many
// verifications in a strip.
const (
	brokersShown = 25
	marksShown   = 30
)

// A brokersPage is the list of brokers.
type brokersPage struct {
	Brokers []brokerRow
	First   string // URL of the first page; empty on it
	Next    string // URL of the next page; empty on the last
	Form    brokerForm
	Example string // the command that registers a broker
	Error   *refusal
}

// A brokerRow is a broker in the list.
type brokerRow struct {
	*enroll.Broker
	URL    string // of its page
	Served served
	Life   *life             // of the certificate that it should serve; nil for none
	CRL    *enroll.LoadedCRL // of the devices' issuer; nil while none is known
	Last   lastLook
	Strip  strip
}

// A brokerForm is what was typed to register a broker, or to change one.
type brokerForm struct{ ID, URL, Names, Kind string }

// brokerURL returns a broker's page, or what hangs below it.
func brokerURL(id string, below ...string) string {
	path := "/brokers/" + url.PathEscape(id)
	for _, b := range below {
		path += "/" + url.PathEscape(b)
	}
	return path
}

func getBrokers(v *visit) (answer, error) { return brokersAnswer(v, brokerForm{}, nil) }

func brokersAnswer(v *visit, form brokerForm, r *refusal) (answer, error) {
	all, next, err := v.site.service.Brokers(v.ctx(), v.page(brokersShown))
	if err != nil {
		return nil, err
	}
	p := brokersPage{Form: form, Error: r, Example: v.site.program("broker", "register", "mqtts://mqtt.example:8883", "--kind", "mosquitto")}
	for _, b := range all {
		row, err := v.brokerRow(b)
		if err != nil {
			return nil, err
		}
		p.Brokers = append(p.Brokers, row)
	}
	if v.query("cursor") != "" {
		p.First = "/brokers"
	}
	if next != "" {
		p.Next = listURL("/brokers", "cursor", next)
	}
	return page{name: "brokers", title: "Brokers", data: p}, nil
}

func (v *visit) brokerRow(b *enroll.Broker) (brokerRow, error) {
	row := brokerRow{Broker: b, URL: brokerURL(b.ID), Served: servedOf(b), Last: lastLookOf(b)}
	if c := b.Certificate; c != nil {
		row.Life = new(lifeOf(c.NotBefore, c.NotAfter, v.site.now()))
	}
	if loaded := v.site.service.LoadedCRLs(b.ID); len(loaded) > 0 {
		row.CRL = &loaded[0] // devices' issuers come first
	}
	if !v.may(enroll.MaySeeReports) {
		return row, nil
	}
	marks, _, err := v.site.service.VerificationMarks(v.ctx(), b.ID, enroll.Page{Limit: marksShown})
	row.Strip = stripOf(b.ID, marks)
	return row, err
}

// A served is the certificate that a broker was last seen to serve, against the
// one that it should.
type served struct {
	State   string // one of the words below
	Desired string // SHA-256; empty while none was issued
	Served  string // empty while none was seen
}

// The states of a served; tones knows them.
const (
	servedSame  = "serves it"
	servedOther = "serves another"
	servedNone  = "not seen"
)

func servedOf(b *enroll.Broker) served {
	s := served{State: servedNone}
	if b.Certificate != nil {
		s.Desired = b.Certificate.SHA256
	}
	if last := b.LastVerification; last != nil && last.Report != nil && last.Report.ServerCertificate != nil {
		s.Served = last.Report.ServerCertificate.SHA256
	}
	switch {
	case s.Served == "":
	case s.Served == s.Desired:
		s.State = servedSame
	default:
		s.State = servedOther
	}
	return s
}

// A lastLook is the last verification in a few words.
type lastLook struct {
	At      time.Time // zero while there was none
	Verdict string
	Failed  string // label of the first step that failed; empty for none
}

func lastLookOf(b *enroll.Broker) lastLook {
	last := b.LastVerification
	if last == nil || last.Report == nil {
		return lastLook{}
	}
	l := lastLook{At: last.At, Verdict: string(last.Report.Verdict)}
	if step := last.Report.Failed(); step != nil {
		l.Failed = stepLabel(step.Name)
	}
	return l
}

func postBroker(v *visit) (answer, error) {
	form := brokerForm{ID: v.form("id"), URL: v.form("url"), Names: v.form("names"), Kind: v.form("kind")}
	b, err := v.site.service.CreateBroker(v.ctx(), v.call(), enroll.NewBroker{
		ID: strings.TrimSpace(form.ID), URL: strings.TrimSpace(form.URL), Names: splitNames(form.Names), Kind: strings.TrimSpace(form.Kind)})
	if again, ok := errors.AsType[*enroll.Replay](err); ok {
		b, err = replayed[enroll.Broker](again)
	}
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return brokersAnswer(v, form, r) })
	}
	return redirect{brokerURL(b.ID) + "?note=broker-registered"}, nil
}

// splitNames returns the names in a text, which commas, spaces or lines part.
func splitNames(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(", \t\r\n;", r) })
}

// A strip is a history of verifications, the oldest first.
type strip struct {
	Marks []stripMark
	Width int
}

// A stripMark is one verification in a strip.
type stripMark struct {
	X     int
	URL   string
	State string // the verdict
	Label string
}

// stripStep is how far apart marks stand, in pixels.
const stripStep = 11

func stripOf(broker string, marks []enroll.VerificationMark) strip {
	s := strip{Width: max(len(marks)*stripStep-1, 1)}
	for i := len(marks) - 1; i >= 0; i-- { // they come newest first
		m := marks[i]
		label := fmt.Sprintf("%s, %s UTC", m.Verdict, m.At.UTC().Format("2006-01-02 15:04:05"))
		if m.Failed != "" {
			label += ", at step: " + stepLabel(m.Failed)
		}
		s.Marks = append(s.Marks, stripMark{X: len(s.Marks) * stripStep, URL: brokerURL(broker, "verifications", m.ID), State: string(m.Verdict), Label: label})
	}
	return s
}
