package web

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// verificationRoutes are the reports of verifications.
func verificationRoutes() []route {
	return []route{
		{Method: get, Pattern: "/brokers/{id}/verifications", Permission: enroll.MaySeeReports, handle: getVerifications},
		{Method: get, Pattern: "/brokers/{id}/verifications/{verification}", Permission: enroll.MaySeeReports, handle: getVerification},
		{Method: get, Pattern: "/brokers/{id}/verifications/{verification}/report.json", Permission: enroll.MaySeeReports, handle: getReport},
	}
}

// stepLabels are the eight steps of a verification, for people.
var stepLabels = map[mqtts.StepName]string{
	mqtts.StepTCP:               "TCP connection",
	mqtts.StepClientHello:       "TLS ClientHello",
	mqtts.StepServerCertificate: "Server certificate",
	mqtts.StepVerify:            "Chain and name verified",
	mqtts.StepSessionKeys:       "Session keys, Finished",
	mqtts.StepConnect:           "MQTT CONNECT",
	mqtts.StepConnack:           "MQTT CONNACK",
	mqtts.StepPublishSubscribe:  "Publish and subscribe",
}

func stepLabel(name mqtts.StepName) string {
	if label, ok := stepLabels[name]; ok {
		return label
	}
	return string(name)
}

// A trace is a report as it is drawn.
type trace struct {
	*mqtts.Report
	Steps  []traceStep
	Checks []checkRow // of what must be refused; empty when that was not tried
}

// A checkRow is something that the broker must refuse.
type checkRow struct {
	mqtts.Check
	Label string
	Saw   string
}

// checkLabels are the checks, for people.
var checkLabels = map[mqtts.CheckName]string{
	mqtts.CheckNoClientCertificate:   "No client certificate",
	mqtts.CheckForeignCA:             "A foreign authority's certificate",
	mqtts.CheckSameNameRogueCA:       "A rogue authority of the same name",
	mqtts.CheckExpired:               "An expired certificate",
	mqtts.CheckNotYetValid:           "A certificate of the future",
	mqtts.CheckWrongUsage:            "A certificate that is not for clients",
	mqtts.CheckRevoked:               "A revoked certificate",
	mqtts.CheckPlaintext:             "MQTT without TLS",
	mqtts.CheckOldTLS:                "TLS 1.0 and 1.1",
	mqtts.CheckResumeAfterRevocation: "A revoked certificate's TLS session",
}

func checkRows(checks []mqtts.Check) []checkRow {
	rows := make([]checkRow, len(checks))
	for i, c := range checks {
		rows[i] = checkRow{Check: c, Label: checkLabels[c.Name], Saw: "not tried"}
		if rows[i].Label == "" {
			rows[i].Label = words(c.Name)
		}
		if c.Observed == nil {
			continue
		}
		rows[i].Saw = pick(c.Observed.Error == "", "accepted", c.Observed.Error) + ", at " + stepLabel(c.Observed.Step)
	}
	return rows
}

// A traceStep is one of the eight steps.
type traceStep struct {
	mqtts.Step
	Number         int
	Label          string
	TCP, TLS, MQTT layerCell
	X, Width       string // of its bar, of 100
}

// A layerCell is the state of a layer after a step.
type layerCell struct {
	State string
	Same  bool // as after the step before
}

func traceOf(r *mqtts.Report) *trace {
	t := &trace{Report: r, Checks: checkRows(r.Checks)}
	whole := 0.0
	for _, s := range r.Steps {
		whole += s.DurationMs
	}
	before, at := mqtts.State{TCP: mqtts.TCPClosed, TLS: mqtts.TLSNotStarted, MQTT: mqtts.MQTTDisconnected}, 0.0
	for n, s := range r.Steps {
		step := traceStep{Step: s, Number: n + 1, Label: stepLabel(s.Name),
			TCP:  layerCell{string(s.State.TCP), s.State.TCP == before.TCP},
			TLS:  layerCell{string(s.State.TLS), s.State.TLS == before.TLS},
			MQTT: layerCell{string(s.State.MQTT), s.State.MQTT == before.MQTT},
		}
		if whole > 0 && s.DurationMs > 0 {
			step.X, step.Width = fmt.Sprintf("%.1f", 98*at/whole), fmt.Sprintf("%.1f", max(98*s.DurationMs/whole, 1))
		}
		before, at = s.State, at+s.DurationMs
		t.Steps = append(t.Steps, step)
	}
	return t
}

// words returns a constant as words.
func words(v any) string { return strings.ReplaceAll(fmt.Sprint(v), "_", " ") }

// looks are the looks by the schedule that showed the same.
type looks struct {
	Scheduled bool
	Count     int64
	Since     time.Time
}

func looksOf(v *enroll.Verification) looks { return looks{v.Scheduled, v.Looks, v.Since} }

// A verificationPage is one report, for good.
type verificationPage struct {
	ID, Broker, BrokerURL string
	At                    time.Time
	Looks                 looks
	Trace                 *trace
	JSON                  string // URL of the file
	Commands              []equivalent
}

// verification returns the one that the path names.
func (v *visit) verification() (*enroll.Verification, error) {
	return v.site.service.Verification(v.ctx(), v.param("id"), v.param("verification"))
}

func getVerification(v *visit) (answer, error) {
	found, err := v.verification()
	if err != nil {
		return nil, err
	}
	p := verificationPage{
		ID: found.ID, Broker: found.Broker, BrokerURL: brokerURL(found.Broker), At: found.At, Looks: looksOf(found), Trace: traceOf(found.Report),
		JSON:     brokerURL(found.Broker, "verifications", found.ID, "report.json"),
		Commands: []equivalent{v.verifyCommand(found.Broker)},
	}
	if found.Negative {
		p.Commands = []equivalent{v.verifyNegativeCommand(found.Broker)}
	}
	return page{name: "verification", title: "Verification of " + found.Broker, data: p}, nil
}

func getReport(v *visit) (answer, error) {
	found, err := v.verification()
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(found.Report, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write report %s: %w", found.ID, err)
	}
	return download{name: "verification-" + found.ID + ".json", mediaType: "application/json", body: append(text, '\n')}, nil
}

// A verificationsPage is the history of a broker.
type verificationsPage struct {
	Broker, BrokerURL string
	Marks             []markRow
	First, Next       string
}

// A markRow is a verification in a list.
type markRow struct {
	enroll.VerificationMark
	URL    string
	Failed string // label of the step
}

func markRows(broker string, marks []enroll.VerificationMark) []markRow {
	rows := make([]markRow, len(marks))
	for i, m := range marks {
		rows[i] = markRow{VerificationMark: m, URL: brokerURL(broker, "verifications", m.ID)}
		if m.Failed != "" {
			rows[i].Failed = stepLabel(m.Failed)
		}
	}
	return rows
}

func getVerifications(v *visit) (answer, error) {
	b, err := v.site.service.Broker(v.ctx(), v.param("id"))
	if err != nil {
		return nil, err
	}
	marks, next, err := v.site.service.VerificationMarks(v.ctx(), b.ID, v.page(100))
	if err != nil {
		return nil, err
	}
	list := brokerURL(b.ID, "verifications")
	p := verificationsPage{Broker: b.ID, BrokerURL: brokerURL(b.ID), Marks: markRows(b.ID, marks)}
	if v.query("cursor") != "" {
		p.First = list
	}
	if next != "" {
		p.Next = listURL(list, "cursor", next)
	}
	return page{name: "verifications", title: "Verifications of " + b.ID, data: p}, nil
}
