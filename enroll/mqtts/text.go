package mqtts

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// textWidth is the width that WriteText wraps at.
const textWidth = 100

// A palette colours text, or leaves it as it is.
type palette bool

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
	bold   = "1"
)

func (p palette) paint(code, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// resultColours are the colours of results, severities and verdicts.
var resultColours = map[string]string{
	"pass": green, "fail": red, "warn": yellow, "skipped": dim,
	"error": red, "warning": yellow, "info": dim, "inconclusive": yellow,
}

// WriteText writes the report for a terminal: a table of the steps, each
// diagnosis with its fix, the checks of a negative run, and the verdict. It wraps
// at 100 columns.
func (r *Report) WriteText(w io.Writer, colour bool) error {
	var b bytes.Buffer
	p := palette(colour)
	r.writeHead(&b, p)
	r.writeSteps(&b, p)
	for _, d := range r.Diagnosis {
		d.write(&b, p)
	}
	r.writeChecks(&b, p)
	r.writeVerdict(&b, p)
	_, err := w.Write(b.Bytes())
	return err
}

func (r *Report) writeHead(b *bytes.Buffer, p palette) {
	fmt.Fprintf(b, "%s as %s", p.paint(bold, printable(r.Target.URL, 80)), printable(r.Target.ServerName, 80))
	if r.Target.Address != "" {
		fmt.Fprintf(b, " at %s", printable(r.Target.Address, 80))
	}
	b.WriteString("\n\n")
}

func (r *Report) writeSteps(b *bytes.Buffer, p palette) {
	const row = "  %-20s %s %-12s %-22s %-14s %9s\n"
	head := fmt.Sprintf(row, "STEP", fmt.Sprintf("%-8s", "RESULT"), "TCP", "TLS HANDSHAKE", "MQTT", "MS")
	b.WriteString(p.paint(dim, strings.TrimSuffix(head, "\n")) + "\n")
	for i, s := range r.Steps {
		result := p.paint(resultColours[string(s.Result)], fmt.Sprintf("%-8s", s.Result))
		ms := ""
		if s.DurationMs > 0 {
			ms = fmt.Sprintf("%.1f", s.DurationMs)
		}
		fmt.Fprintf(b, row, fmt.Sprintf("%d %s", i+1, s.Name), result, words(s.State.TCP), words(s.State.TLS), mqttWords(s.State.MQTT), ms)
		for _, line := range wrap(s.Detail, textWidth-4) {
			b.WriteString("    " + p.paint(dim, line) + "\n")
		}
	}
	b.WriteString("\n")
}

// words turns a constant into words.
func words[S ~string](s S) string { return strings.ReplaceAll(string(s), "_", " ") }

func mqttWords(s MQTTState) string {
	if s == MQTTSecure {
		return "secure"
	}
	return words(s)
}

func (d Diagnosis) write(b *bytes.Buffer, p palette) { d.writeAs(b, p, "at "+string(d.Step)) }

func (d Diagnosis) writeAs(b *bytes.Buffer, p palette, where string) {
	fmt.Fprintf(b, "  %s %s\n", p.paint(resultColours[string(d.Severity)], string(d.Severity)+": "+string(d.Code)), where)
	for _, line := range wrap(d.Message, textWidth-4) {
		b.WriteString("    " + line + "\n")
	}
	for i, line := range wrap(d.Fix, textWidth-9) {
		label := "     "
		if i == 0 {
			label = p.paint(bold, "fix:") + " "
		}
		b.WriteString("    " + label + line + "\n")
	}
	b.WriteString("\n")
}

// writeChecks writes the checks of a negative run, then what was diagnosed in
// them.
func (r *Report) writeChecks(b *bytes.Buffer, p palette) {
	if len(r.Checks) == 0 {
		return
	}
	const row = "  %-24s %s %s\n"
	head := fmt.Sprintf(row, "MUST BE REFUSED", fmt.Sprintf("%-12s", "RESULT"), "WHERE, AND HOW")
	b.WriteString(p.paint(dim, strings.TrimSuffix(head, "\n")) + "\n")
	for _, c := range r.Checks {
		result := p.paint(resultColours[string(c.Result)], fmt.Sprintf("%-12s", c.Result))
		lines := wrap(c.text(), textWidth-40)
		fmt.Fprintf(b, row, c.Name, result, lines[0])
		for _, line := range lines[1:] {
			b.WriteString(strings.Repeat(" ", 40) + line + "\n")
		}
	}
	b.WriteString("\n")
	said := map[string]bool{} // that the control failed is said once
	for _, c := range r.Checks {
		for _, d := range c.Diagnosis {
			if said[d.Message] {
				continue
			}
			said[d.Message] = true
			d.writeAs(b, p, "in "+string(c.Name))
		}
	}
}

// text says what a check saw, in one line.
func (c Check) text() string {
	o := c.Observed
	switch {
	case c.Result == CheckSkipped:
		return "nothing to try it with was given"
	case o == nil:
		return "not tried"
	case c.Result == CheckFail:
		return "accepted, came as far as " + string(o.Step)
	case c.Result == CheckInconclusive:
		return cmp.Or(o.Error, "undecided")
	case o.AfterFinished && o.Step == StepSessionKeys:
		return fmt.Sprintf("%s, after finished: %s", o.Step, o.Error)
	}
	return fmt.Sprintf("%s: %s", o.Step, o.Error)
}

// Summary is the verdict in one line, with what it rests on.
func (r *Report) Summary() string {
	s := strings.ToUpper(string(r.Verdict))
	if step := r.Failed(); step != nil {
		s += " at " + string(step.Name)
	}
	if len(r.Diagnosis) > 0 && r.Diagnosis[0].Severity == SeverityError {
		s += ": " + string(r.Diagnosis[0].Code)
	}
	if len(r.Checks) == 0 {
		return s
	}
	words := []struct {
		result CheckResult
		word   string
	}{{CheckPass, "refused"}, {CheckFail, "accepted"}, {CheckInconclusive, "inconclusive"}, {CheckSkipped, "skipped"}}
	var counts []string
	for _, w := range words {
		n := 0
		for _, c := range r.Checks {
			if c.Result == w.result {
				n++
			}
		}
		if n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, w.word))
		}
	}
	return s + "; checks: " + strings.Join(counts, ", ")
}

func (r *Report) writeVerdict(b *bytes.Buffer, p palette) {
	b.WriteString("  " + p.paint(bold+";"+resultColours[string(r.Verdict)], fmt.Sprintf("%s (%.1f ms)", r.Summary(), r.DurationMs)) + "\n")
}

// wrap breaks text into lines of at most width runes, between words where it
// can.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(printable(text, 2000)) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
