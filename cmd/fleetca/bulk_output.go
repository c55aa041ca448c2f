package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// enrollRoster enrolls the devices of a CSV file.
func enrollRoster(cmd *cobra.Command, flags *clientFlags, path, out string, defaults enroll.EnrollRequest) error {
	r, err := readRoster(path, defaults)
	if err != nil {
		return err
	}
	c, err := flags.open()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return usageError(err, "--out names the folder for the devices' folders")
	}
	b := &bulkEnrollment{client: c, out: out, pause: 500 * time.Millisecond, pending: r.devices, show: newBulkProgress(cmd.ErrOrStderr(), len(r.devices))}
	err = b.run(cmd.Context())
	b.show.end()
	unreported := b.outcome.report(cmd.OutOrStdout(), flags, out)
	switch {
	case err != nil:
		err = clientError(err)
		err = hinted(fmt.Errorf("%d devices are open: %w", b.outcome.Open, err), strings.TrimPrefix(hintOf(err)+"; then run the same command again: it goes on where it is", "; then "))
	case b.outcome.Failed > 0:
		err = hinted(fmt.Errorf("%d of %d devices were not enrolled", b.outcome.Failed, len(r.devices)),
			"mend what is named in "+filepath.Join(out, failuresFile)+", and run the same command again: it goes on where it is")
	}
	return errors.Join(err, unreported)
}

// failuresFile has every failure; the terminal shows the first.
const (
	failuresFile  = "failures.csv"
	failuresShown = 20
)

// report prints what became of the devices, and keeps the failures in a file,
// which is gone when there are none. One is done though the other fails.
func (o *bulkOutcome) report(w io.Writer, flags *clientFlags, out string) error {
	slices.SortFunc(o.Failures, func(a, b bulkFailure) int { return strings.Compare(a.DeviceID, b.DeviceID) })
	return errors.Join(o.print(w, flags, out), o.keepFailures(filepath.Join(out, failuresFile)))
}

func (o *bulkOutcome) print(w io.Writer, flags *clientFlags, out string) error {
	if flags.json {
		o.Failures = append([]bulkFailure{}, o.Failures...) // [] for none
		return printJSON(w, o)
	}
	var facts []string
	for _, f := range []struct {
		name string
		n    int
	}{{"enrolled", o.Enrolled}, {"given again", o.Again}, {"had already", o.Kept}, {"refused", o.Failed}, {"open", o.Open}} {
		if f.n > 0 {
			facts = append(facts, f.name, fmt.Sprint(f.n))
		}
	}
	if err := printFacts(w, append(facts, "folder", out)...); err != nil || o.Failed == 0 {
		return err
	}
	fmt.Fprintln(w)
	first := o.Failures[:min(len(o.Failures), failuresShown)]
	return printList(w, asTable, func(yield func(bulkFailure, error) bool) {
		for _, f := range first {
			if !yield(f, nil) {
				return
			}
		}
	}, []column[bulkFailure]{
		{"DEVICE", func(f bulkFailure) string { return f.DeviceID }},
		{"PROBLEM", func(f bulkFailure) string { return f.Problem }},
		{"HINT", func(f bulkFailure) string { return f.Hint }},
	})
}

func (o *bulkOutcome) keepFailures(path string) error {
	if len(o.Failures) == 0 {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	var text strings.Builder
	rows := [][]string{{"deviceId", "status", "problem", "hint"}}
	for _, f := range o.Failures {
		rows = append(rows, []string{f.DeviceID, fmt.Sprint(f.Status), f.Problem, f.Hint})
	}
	if err := csv.NewWriter(&text).WriteAll(rows); err != nil {
		return err
	}
	return ca.ReplaceFile(path, []byte(text.String()), 0o644)
}

// A bulkProgress is a line on a terminal: a bar, how many are done, how fast,
// and when it will be over. On anything else it shows nothing. Calls must not
// overlap.
type bulkProgress struct {
	w     io.Writer // nil for no terminal
	total int
	now   func() time.Time
	begun time.Time
	first int // done at begin, without work
	shown time.Time
	done  int
	bad   int
}

func newBulkProgress(w io.Writer, total int) *bulkProgress {
	p := &bulkProgress{total: total, now: time.Now}
	if isTerminal(w) {
		p.w = w
	}
	p.begun = p.now()
	return p
}

// begin starts the clock, after what was done without work.
func (p *bulkProgress) begin() { p.begun, p.first = p.now(), p.done }

// progressPause is how long a line stands at least.
const progressPause = 100 * time.Millisecond

// update shows how far it is, now and then.
func (p *bulkProgress) update(done, bad int) {
	p.done, p.bad = done, bad
	if now := p.now(); p.w != nil && (now.Sub(p.shown) >= progressPause || done == p.total) {
		p.shown = now
		fmt.Fprint(p.w, "\r"+p.line(now)+"\x1b[K")
	}
}

// barWidth is in characters.
const barWidth = 24

func (p *bulkProgress) line(now time.Time) string {
	filled := barWidth
	if p.total > 0 {
		filled = barWidth * p.done / p.total
	}
	line := fmt.Sprintf("[%s%s] %d/%d", strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), p.done, p.total)
	if worked, took := p.done-p.first, now.Sub(p.begun); worked > 0 && took > 0 {
		left := time.Duration(float64(took) / float64(worked) * float64(p.total-p.done))
		line += fmt.Sprintf("  %.0f/s  ETA %s", float64(worked)/took.Seconds(), left.Round(time.Second))
	}
	if p.bad > 0 {
		line += fmt.Sprintf("  %d refused", p.bad)
	}
	return line
}

// end leaves the line standing.
func (p *bulkProgress) end() {
	if p.w != nil {
		fmt.Fprint(p.w, "\r"+p.line(p.now())+"\x1b[K\n")
	}
}
