package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// checkJUnit makes sure that the report can be written, before anything is
// dialled.
func (o verifyOptions) checkJUnit() error {
	if o.junit == "" {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(o.junit), ".new-*")
	if err != nil {
		return usageError(fmt.Errorf("--junit %s: %w", o.junit, cause(err)), "name a file in a folder that exists and that this user may write to")
	}
	f.Close()
	return os.Remove(f.Name())
}

func (o verifyOptions) writeJUnit(r *mqtts.Report) error {
	if o.junit == "" {
		return nil
	}
	var b bytes.Buffer
	if err := r.WriteJUnit(&b); err != nil {
		return err
	}
	if err := ca.ReplaceFile(o.junit, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the JUnit report: %w", err)
	}
	return nil
}

// A watcher repeats a run until it is interrupted. It keeps the last report, and
// no other.
type watcher struct {
	options verifyOptions
	url     string
	target  mqtts.Target
	out     io.Writer
	colour  bool

	last   *mqtts.Report
	counts map[mqtts.Verdict]int
}

// run repeats the run. Its error is that of the last one that came to its end.
func (w *watcher) run(ctx context.Context) error {
	w.counts = map[mqtts.Verdict]int{}
	ticks := time.NewTicker(w.options.watch)
	defer ticks.Stop()
	for {
		report := mqtts.Verify(ctx, w.target)
		if ctx.Err() != nil {
			return w.end(report)
		}
		if err := w.show(report); err != nil {
			return fmt.Errorf("print the report: %w", err)
		}
		if err := w.options.writeJUnit(report); err != nil {
			return err
		}
		w.last = report
		w.counts[report.Verdict]++
		select {
		case <-ctx.Done():
			return w.end(report)
		case <-ticks.C:
		}
		w.reload()
	}
}

// reload reads the files again: certificates are renewed while somebody watches.
// What cannot be read leaves the target as it was.
func (w *watcher) reload() {
	if t, err := w.options.target(w.url); err == nil {
		w.target = t
	}
}

// end sums up, for people. interrupted is the report of a run that was cut short.
func (w *watcher) end(interrupted *mqtts.Report) error {
	if w.last == nil {
		return verdictError(interrupted)
	}
	if !w.options.json {
		total := w.counts[mqtts.VerdictPass] + w.counts[mqtts.VerdictFail] + w.counts[mqtts.VerdictInconclusive]
		fmt.Fprintf(w.out, "%d runs: %d pass, %d fail, %d inconclusive\n", total,
			w.counts[mqtts.VerdictPass], w.counts[mqtts.VerdictFail], w.counts[mqtts.VerdictInconclusive])
	}
	return verdictError(w.last)
}

// show writes one line for a run, and one for everything that has changed.
func (w *watcher) show(r *mqtts.Report) error {
	if w.options.json {
		return json.NewEncoder(w.out).Encode(r)
	}
	lines := []string{fmt.Sprintf("%s %7.1f ms  %s%s", r.StartedAt.Format(time.RFC3339), r.DurationMs, r.Summary(), connectionText(r))}
	if w.last != nil {
		for _, change := range r.Changes(w.last) {
			lines = append(lines, "    "+change)
		}
	}
	if w.colour {
		lines[0] = "\x1b[" + map[mqtts.Verdict]string{"pass": "32", "fail": "31", "inconclusive": "33"}[r.Verdict] + "m" + lines[0] + "\x1b[0m"
	}
	_, err := io.WriteString(w.out, strings.Join(lines, "\n")+"\n")
	return err
}

// connectionText says what was agreed on, and how long the broker's certificate
// lasts.
func connectionText(r *mqtts.Report) string {
	if r.TLS == nil || r.MQTT == nil || r.ServerCertificate == nil {
		return ""
	}
	return fmt.Sprintf("; %s, MQTT %s, certificate %s with %d days left", r.TLS.Version, r.MQTT.Version, r.ServerCertificate.SerialNumber, r.ServerCertificate.DaysLeft)
}
