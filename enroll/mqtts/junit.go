package mqtts

import (
	"encoding/xml"
	"fmt"
	"io"
	"time"
)

// Elements of a JUnit report, as CI servers read them.
type (
	junitSuites struct {
		XMLName  xml.Name   `xml:"testsuites"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Time     string     `xml:"time,attr"`
		Suite    junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Errors    int         `xml:"errors,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Time      string      `xml:"time,attr"`
		Timestamp string      `xml:"timestamp,attr"`
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitProblem `xml:"failure,omitempty"`
		Error   *junitProblem `xml:"error,omitempty"` // undecided
		Skipped *junitProblem `xml:"skipped,omitempty"`
		Output  string        `xml:"system-out,omitempty"`
	}
	junitProblem struct {
		Type    string `xml:"type,attr,omitempty"`
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report as JUnit XML: a test case for each step and each
// check. What failed is a failure, what could not be decided an error.
func (r *Report) WriteJUnit(w io.Writer) error {
	suite := junitSuite{Name: r.Target.URL, Time: seconds(r.DurationMs), Timestamp: r.StartedAt.Format(time.RFC3339)}
	for _, s := range r.Steps {
		suite.Cases = append(suite.Cases, r.junitStep(s))
	}
	for _, c := range r.Checks {
		suite.Cases = append(suite.Cases, c.junit())
	}
	for _, c := range suite.Cases {
		suite.Tests++
		switch {
		case c.Failure != nil:
			suite.Failures++
		case c.Error != nil:
			suite.Errors++
		case c.Skipped != nil:
			suite.Skipped++
		}
	}
	all := junitSuites{Name: "fleetca verify", Tests: suite.Tests, Failures: suite.Failures, Errors: suite.Errors,
		Skipped: suite.Skipped, Time: suite.Time, Suite: suite}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func seconds(ms float64) string { return fmt.Sprintf("%.6f", ms/1000) }

// junitStep returns the test case of a step, with what was diagnosed in it.
func (r *Report) junitStep(s Step) junitCase {
	c := junitCase{Class: "fleetca.verify.steps", Name: string(s.Name), Time: seconds(s.DurationMs), Output: s.Detail}
	for _, d := range r.Diagnosis {
		if d.Step != s.Name {
			continue
		}
		switch problem := d.junit(); {
		case d.Severity == SeverityError && c.Failure == nil:
			c.Failure = problem
		case d.Severity != SeverityError && undecided(d.Code):
			c.Error = problem
		default:
			c.Output += fmt.Sprintf("\n%s: %s: %s\nfix: %s", d.Severity, d.Code, d.Message, d.Fix)
		}
	}
	switch {
	case c.Failure != nil:
		c.Error = nil // one verdict a case
	case s.Result == ResultFail:
		c.Failure = &junitProblem{Message: s.Detail}
	case s.Result == ResultSkipped && c.Error == nil:
		c.Skipped = &junitProblem{Message: s.Detail}
	}
	return c
}

func (d Diagnosis) junit() *junitProblem {
	return &junitProblem{Type: string(d.Code), Message: d.Message, Text: "fix: " + d.Fix}
}

// junit returns the test case of a check.
func (c Check) junit() junitCase {
	j := junitCase{Class: "fleetca.verify.checks", Name: string(c.Name), Time: seconds(0), Output: c.text()}
	problem := &junitProblem{Message: c.text()}
	if len(c.Diagnosis) > 0 {
		problem = c.Diagnosis[0].junit()
	}
	switch c.Result {
	case CheckFail:
		j.Failure = problem
	case CheckInconclusive:
		j.Error = problem
	case CheckSkipped:
		j.Skipped = problem
	}
	return j
}
