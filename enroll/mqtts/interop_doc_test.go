package mqtts_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fleetca/fleetca/enroll/mqtts"
	"github.com/fleetca/fleetca/enroll/mqtts/brokerkit"
)

const interopFile = "INTEROP.md"

const interopIntro = `# What the verifier says at real brokers

Every cell of this page was observed: TestInterop starts the brokers, puts each in every situation, verifies it in both
TLS versions and with MQTT 3.1.1, 5 and auto, and fails where this page says anything else. It is written by

    go test ./enroll/mqtts -run TestInterop -update

on a machine with the Debian packages that ` + "`.ci/run`" + ` installs. Every client has the password of a known account, besides
what its row says. A diagnosis in *italics* is a warning or a remark; the run passes.
A negative run tries what must be refused beside a good client, with certificates of the trusted authority where the name
does not say otherwise.

## In short

TLS 1.3, the MQTT version found out.

`

const interopCells = `
## Every cell

The answer is the broker's own: a TLS alert (RFC 8446 section 6), CONNACK's reason code, or the way it hung up.
`

// An interop is INTEROP.md: the rows of each broker, as the file has them and as
// they were observed.
type interop struct {
	mu       sync.Mutex
	text     string
	observed map[string]observed // by broker
}

// observed is all that was seen at one broker.
type observed struct {
	cells []cell
	runs  []refusal
}

func readInterop(t *testing.T) *interop {
	t.Helper()
	text, err := os.ReadFile(interopFile)
	if err != nil && !*mqtts.Update {
		t.Fatal(err)
	}
	return &interop{text: string(text), observed: map[string]observed{}}
}

// compare holds the cells of one broker against the file.
func (d *interop) compare(t *testing.T, kind brokerkit.Kind, seen observed) {
	t.Helper()
	d.mu.Lock()
	d.observed[kind.Name] = seen
	d.mu.Unlock()
	if *mqtts.Update {
		return
	}
	want := strings.Split(section(kind.Name, seen), "\n")
	_, have, found := strings.Cut(d.text, "### "+kind.Name+"\n")
	if !found {
		t.Fatalf("%s has nothing of %s: go test -run TestInterop -update", interopFile, kind.Name)
	}
	have, _, _ = strings.Cut(have, "\n### ")
	lines := strings.Split("### "+kind.Name+"\n"+strings.TrimRight(have, "\n")+"\n", "\n")
	for i := range max(len(want), len(lines)) {
		if i >= len(want) || i >= len(lines) || want[i] != lines[i] {
			t.Fatalf("%s differs from what was observed at line %d of %s; if it is right now: go test -run TestInterop -update\nobserved %q\nwritten  %q",
				interopFile, i+1, kind.Name, at(want, i), at(lines, i))
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// save writes the file, or holds the summary against it, once every broker was
// observed.
func (d *interop) save(t *testing.T) {
	var kinds []string
	for _, k := range brokerkit.Kinds() {
		if d.observed[k.Name].cells == nil {
			if *mqtts.Update {
				t.Errorf("%s is not written: %s was not observed", interopFile, k.Name)
			}
			return
		}
		kinds = append(kinds, k.Name)
	}
	text := interopIntro + d.summary(kinds) + interopCells
	for _, name := range kinds {
		text += "\n" + section(name, d.observed[name])
	}
	if *mqtts.Update {
		if err := os.WriteFile(interopFile, []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	} else if text != d.text {
		t.Errorf("%s is another than what was observed: go test -run TestInterop -update", interopFile)
	}
}

// summary is a table with a column for each broker.
func (d *interop) summary(kinds []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| situation | %s |\n|---|%s\n", strings.Join(kinds, " | "), strings.Repeat("---|", len(kinds)))
	for i, c := range d.observed[kinds[0]].cells {
		if c.tlsText() != "1.3" || c.mqtt != mqtts.VersionAuto {
			continue
		}
		fmt.Fprintf(&b, "| %s |", c.name)
		for _, k := range kinds {
			fmt.Fprintf(&b, " %s |", verdictText(d.observed[k].cells[i].report))
		}
		b.WriteByte('\n')
	}
	last := len(d.observed[kinds[0]].runs) - 1
	fmt.Fprintf(&b, "\n| must be refused (a negative run) | %s |\n|---|%s\n", strings.Join(kinds, " | "), strings.Repeat("---|", len(kinds)))
	for i, c := range d.observed[kinds[0]].runs[last].report.Checks {
		fmt.Fprintf(&b, "| %s |", c.Name)
		for _, k := range kinds {
			fmt.Fprintf(&b, " %s |", checkText(d.observed[k].runs[last].report.Checks[i]))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// section is the table of one broker, a row for each cell.
func section(name string, seen observed) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n| situation | TLS | MQTT | failed step | diagnosis | answer |\n|---|---|---|---|---|---|\n", name)
	for _, c := range seen.cells {
		step, answer := "", ""
		if s := c.report.Failed(); s != nil {
			step = string(s.Name)
		}
		if r := c.report.Refusal(); r != nil {
			answer = r.Detail
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", c.name, c.tlsText(), c.mqtt, step, verdictText(c.report), answer)
	}
	fmt.Fprintf(&b, "\n%s\n", refusalRows(seen.runs))
	for _, e := range exceptions {
		if strings.HasPrefix(name, e.brokers) {
			fmt.Fprintf(&b, "- %s\n", e.why)
		}
	}
	return b.String()
}

// verdictText is the causes that a report names.
func verdictText(r *mqtts.Report) string {
	codes := map[mqtts.Severity][]string{}
	for _, d := range r.Diagnosis {
		codes[d.Severity] = append(codes[d.Severity], string(d.Code))
	}
	words := codes[mqtts.SeverityError]
	if r.Verdict == mqtts.VerdictPass {
		words = []string{"pass"}
	}
	delete(codes, mqtts.SeverityError)
	for _, severity := range slices.Sorted(maps.Keys(codes)) {
		for _, code := range codes[severity] {
			words = append(words, "*"+code+"*")
		}
	}
	return strings.Join(words, ", ")
}
