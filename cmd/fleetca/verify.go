package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// verifyOptions are the flags of fleetca verify.
type verifyOptions struct {
	ca, cert, key, crl     string
	serverName, clientID   string
	username, passwordFile string
	topic, mqtt, tls       string
	alpn                   []string
	timeout, stepTimeout   time.Duration
	publish                bool

	negative                                           bool
	foreign, expired, notYetValid, wrongUsage, revoked string
	resume                                             bool

	json  bool
	junit string
	watch time.Duration
}

// newVerifyCommand returns fleetca verify. It needs no server.
func newVerifyCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify mqtts://HOST[:8883] --ca FILE",
		Short: "Verify a broker step by step, and that what must not work does not",
		Long: `Verify connects to an MQTTS broker the way a device does and reports eight steps:
tcp, client_hello, server_certificate, verify, session_keys, connect, connack and
publish_subscribe, each with its result, its duration and the state of TCP, TLS
and MQTT after it. What is wrong is named with its cause and its fix. A broker
that speaks MQTT over WebSocket is wss://HOST[:PORT]/PATH.

The broker's certificate is held against --ca only, never against the system's
roots. When it does not hold, no byte of MQTT is sent.

--negative then tries what must be refused: no client certificate, one of a
foreign authority and one of a rogue with the trusted one's name (made on the
spot), plaintext, TLS 1.0 and 1.1, and whatever --expired, --not-yet-valid,
--wrong-usage and --revoked give. A refusal counts only because the run before
it succeeded.

--watch repeats the run, with one line each and what changed, until Ctrl-C; with
--json, one report a line. The exit code is then that of the last run.

Exit code: 0 verified, 1 failed, 2 wrong command line or file (nothing was
dialled), 3 inconclusive: nothing failed, but something could not be decided.`,
		Example: `  fleetca verify mqtts://broker.example --ca trust-bundle.pem --cert device.pem --key device-key.pem
  fleetca verify wss://broker.example:8084/mqtt --ca trust-bundle.pem --cert device.pem --key device-key.pem
  fleetca verify 10.0.0.7:8883 --server-name broker.example --ca trust-bundle.pem --json
  fleetca verify mqtts://broker.example --ca trust-bundle.pem --cert device.pem --key device-key.pem \
      --negative --revoked old.pem,old-key.pem --resume --crl http://ca.example/crl --junit report.xml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return usageError(fmt.Errorf("verify takes one broker, %d were given", len(args)), verifyUsage)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.negative = o.negative || cmd.Flags().Changed("foreign") // be it auto
			return runVerify(cmd.Context(), cmd.OutOrStdout(), o, args[0])
		},
	}
	o.addFlags(cmd)
	return cmd
}

const verifyUsage = "fleetca verify mqtts://HOST[:8883] --ca FILE"

func (o *verifyOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false // as they are grouped here
	f.StringVar(&o.ca, "ca", "", "trust bundle: a PEM or DER `file`, or a folder of them (required)")
	f.StringVar(&o.cert, "cert", "", "client certificate, with its chain: PEM `file`")
	f.StringVar(&o.key, "key", "", "private key of the client certificate: PEM `file`")
	f.StringVar(&o.crl, "crl", "", "CRLs to hold both sides' certificates against: PEM or DER `file`, or an http(s) URL")
	f.StringVar(&o.serverName, "server-name", "", "`name` or IP address that the broker's certificate must carry (default the URL's host)")
	f.StringVar(&o.tls, "tls", "auto", "TLS `version`: 1.2, 1.3 or auto")
	f.StringSliceVar(&o.alpn, "alpn", nil, "application `protocols` to offer in TLS, for example mqtt")

	f.StringVar(&o.mqtt, "mqtt", mqtts.VersionAuto, "MQTT `version`: 3.1.1, 5 or auto")
	f.StringVar(&o.clientID, "client-id", "", "MQTT client `id` (default a random one)")
	f.StringVar(&o.username, "username", "", "MQTT user `name`")
	f.StringVar(&o.passwordFile, "password-file", "", "`file` with the MQTT password")
	f.StringVar(&o.topic, "topic", "", "`topic` to publish to and subscribe to (default a private one below "+mqtts.TopicPrefix+")")
	f.BoolVar(&o.publish, "publish", true, "publish a message and wait until it comes back")

	f.BoolVar(&o.negative, "negative", false, "try what must be refused, too; implied by the options that follow")
	f.StringVar(&o.foreign, "foreign", "auto", "client certificate of a foreign authority: `CERT,KEY`, or auto to make one")
	f.StringVar(&o.expired, "expired", "", "client certificate that expired: `CERT,KEY`")
	f.StringVar(&o.notYetValid, "not-yet-valid", "", "client certificate of the future: `CERT,KEY`")
	f.StringVar(&o.wrongUsage, "wrong-usage", "", "certificate that is not for clients: `CERT,KEY`")
	f.StringVar(&o.revoked, "revoked", "", "revoked client certificate: `CERT,KEY`")
	f.BoolVar(&o.resume, "resume", false, "connect twice with the revoked certificate and one TLS session cache")

	f.DurationVar(&o.timeout, "timeout", mqtts.DefaultTimeout, "bound of the whole run")
	f.DurationVar(&o.stepTimeout, "step-timeout", mqtts.DefaultStepTimeout, "bound of each step")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	f.StringVar(&o.junit, "junit", "", "write the report as JUnit XML, too, to `file`")
	f.DurationVar(&o.watch, "watch", 0, "repeat the run at this `interval`")
}

// runVerify verifies url and prints the report. Its error carries the exit code.
func runVerify(ctx context.Context, out io.Writer, o verifyOptions, url string) error {
	target, err := o.target(url)
	if err != nil {
		return err
	}
	if o.watch > 0 {
		w := watcher{options: o, url: url, target: target, out: out, colour: isColourTerminal(out)}
		return w.run(ctx)
	}
	report := mqtts.Verify(ctx, target)
	if err := printReport(out, report, o.json); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if err := o.writeJUnit(report); err != nil {
		return err
	}
	return verdictError(report)
}

func printReport(out io.Writer, r *mqtts.Report, asJSON bool) error {
	if asJSON {
		return printJSON(out, r)
	}
	return r.WriteText(out, isColourTerminal(out))
}

// verdictError returns the exit code of a report.
func verdictError(r *mqtts.Report) error {
	switch r.Verdict {
	case mqtts.VerdictPass:
		return nil
	case mqtts.VerdictInconclusive:
		return &commandError{err: errors.New("verification inconclusive: " + undecidedBy(r)), code: exitInconclusive}
	}
	where := ""
	if s := r.Failed(); s != nil {
		where = " at " + string(s.Name)
	}
	return &commandError{err: fmt.Errorf("verification failed%s: %s", where, failedBy(r)), code: exitFail}
}

// failedBy names the first thing that failed a report.
func failedBy(r *mqtts.Report) string {
	if len(r.Diagnosis) > 0 && r.Diagnosis[0].Severity == mqtts.SeverityError {
		return string(r.Diagnosis[0].Code)
	}
	for _, c := range r.Checks {
		if c.Result == mqtts.CheckFail && len(c.Diagnosis) > 0 {
			return string(c.Diagnosis[0].Code)
		}
	}
	return "unknown cause"
}

// undecidedBy names the first thing that left a report without a verdict.
func undecidedBy(r *mqtts.Report) string {
	for _, code := range []mqtts.Code{mqtts.CodeInterrupted, mqtts.CodeCRLUnavailable} {
		if r.Has(code) {
			return string(code)
		}
	}
	for _, c := range r.Checks {
		if c.Result == mqtts.CheckInconclusive {
			return "check " + string(c.Name)
		}
	}
	return "unknown cause"
}
