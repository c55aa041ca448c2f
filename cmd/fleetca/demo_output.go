package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// A demoOutput is what the demo prints: a line or two a step for people, or
// one JSON object a step.
type demoOutput struct {
	w      io.Writer
	json   bool
	colour bool // on a terminal, unless NO_COLOR is set
}

func newDemoOutput(w io.Writer, asJSON bool) *demoOutput {
	colour := isColourTerminal(w)
	o := &demoOutput{w: w, json: asJSON, colour: colour}
	if !asJSON {
		fmt.Fprintf(w, "fleetca: from nothing to a CONNACK, and to a refusal\n\n")
	}
	return o
}

// demoStep is the JSON form of a step.
type demoStep struct {
	Step       int           `json:"step"`
	Name       string        `json:"name"`
	Result     mqtts.Result  `json:"result"`
	DurationMs float64       `json:"durationMs"`
	Detail     string        `json:"detail"`
	Report     *mqtts.Report `json:"report,omitempty"`
}

// begin shows on a terminal which step is under way.
func (o *demoOutput) begin(n int, name string) {
	if !o.json && o.colour {
		fmt.Fprintf(o.w, "%2d  %-14s...", n, name)
	}
}

// progress shows on a terminal how far a step is.
func (o *demoOutput) progress(done, of int) {
	if !o.json && o.colour {
		fmt.Fprintf(o.w, "\r\x1b[18C%d of %d", done, of)
	}
}

// end prints a step's result, and the verification that belongs to it.
func (o *demoOutput) end(n int, name string, took time.Duration, detail string, err error, report *mqtts.Report) {
	result, mark, paint := mqtts.ResultPass, "ok", "\x1b[32m"
	if err != nil {
		result, mark, paint, detail = mqtts.ResultFail, "FAILED", "\x1b[31m", err.Error()
	}
	if o.json {
		enc := json.NewEncoder(o.w)
		enc.SetEscapeHTML(false)
		// What cannot be written has nobody to read it: the exit code says the rest.
		_ = enc.Encode(demoStep{n, name, result, math.Round(float64(took.Microseconds())) / 1000, detail, report})
		return
	}
	if o.colour {
		fmt.Fprintf(o.w, "\r\x1b[K")
		mark = paint + fmt.Sprintf("%-6s", mark) + "\x1b[0m"
	}
	for i, line := range wrapText(detail, 66) {
		if i == 0 {
			fmt.Fprintf(o.w, "%2d  %-14s%-6s %6d ms  %s\n", n, name, mark, took.Milliseconds(), line)
		} else {
			fmt.Fprintf(o.w, "%36s%s\n", "", line)
		}
	}
	if report != nil {
		var text strings.Builder
		if report.WriteText(&text, o.colour) == nil {
			for line := range strings.Lines(text.String()) {
				fmt.Fprintf(o.w, "    %s", line)
			}
			fmt.Fprintln(o.w)
		}
	}
}

// wrapText breaks text into lines of at most width columns, at spaces, and at
// its own line ends.
func wrapText(text string, width int) []string {
	var lines []string
	for paragraph := range strings.SplitSeq(text, "\n") {
		line := ""
		for word := range strings.FieldsSeq(paragraph) {
			if line != "" && len(line)+1+len(word) > width {
				lines = append(lines, line)
				line = ""
			}
			if line != "" {
				line += " "
			}
			line += word
		}
		lines = append(lines, line)
	}
	return lines
}

// summary says where things lie and how to go on by hand.
func (o *demoOutput) summary(d *demo) {
	if o.json {
		return
	}
	e := d.endpoints
	host := strings.TrimPrefix(e.MQTTS, "mqtts://")
	name, port, _ := strings.Cut(host, ":")
	good := e.Devices[0]
	fmt.Fprintf(o.w, `
What was done: an authority was made, %d devices were enrolled and connected, the
broker's certificate was rotated under them, one was revoked and seen refused.

  folder      %s
  people      %s       machines %s
  status      %s/crl/bundle.pem, /readyz, /metrics
  broker      %s
  dashboard   %s, user %s, password %s
  token       Authorization: Bearer %s

Go on by hand, in that folder (endpoints.json holds all of this):

  curl --cacert trust-bundle.pem -H "Authorization: Bearer %s" %s/api/v1/devices
  mosquitto_pub -h %s -p %s --cafile trust-bundle.pem --cert devices/%s/chain.pem --key devices/%s/key.pem -q 1 -t devices/%s/hello -m hi
  fleetca verify %s --ca trust-bundle.pem --cert devices/%s/chain.pem --key devices/%s/key.pem --crl crl.pem   (revoked: it fails)

`, len(e.Devices), d.cfg.data, e.People, e.Machines, e.Status, e.MQTTS, e.People, e.User, e.Password, e.AdminToken, e.AdminToken, e.People,
		name, port, good, good, good, e.MQTTS, e.RevokedDevice, e.RevokedDevice)
}

// stay says that the demo stays up.
func (o *demoOutput) stay() {
	if !o.json {
		fmt.Fprintln(o.w, "It stays up until Ctrl-C.")
	}
}
