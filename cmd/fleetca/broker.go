package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

func newBrokerCommand() *cobra.Command {
	group := newClientGroup("broker", "Configure, register, verify, rotate MQTT brokers",
		newBrokerRegisterCommand, newBrokerListCommand, newBrokerShowCommand, newBrokerUpdateCommand, newBrokerCertificateCommand,
		newBrokerVerifyCommand, newBrokerRotateCommand)
	group.AddCommand(newBrokerConfigCommand())
	return group
}

func newBrokerRegisterCommand(flags *clientFlags) *cobra.Command {
	var b enroll.NewBroker
	var names string
	cmd := &cobra.Command{
		Use: "register mqtts://HOST[:8883]", Short: "Register a broker", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b.URL, b.Names = args[0], splitList(names)
			c, err := flags.open()
			if err != nil {
				return err
			}
			made, err := c.CreateBroker(cmd.Context(), b, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return printBroker(cmd, flags, made)
		},
	}
	cmd.Flags().StringVar(&b.ID, "id", "", "id (default: the host)")
	cmd.Flags().StringVar(&names, "names", "", "DNS names and IP addresses of its certificate, comma-separated (default: the host)")
	cmd.Flags().StringVar(&b.Kind, "kind", "", "mosquitto, rabbitmq, nats, ...")
	cmd.Flags().StringVar(&b.Product, "product", "", "product whose issuer certifies it (default: the general one)")
	cmd.Flags().StringVar(&b.Site, "site", "", "site whose issuer certifies it (default: the general one)")
	return cmd
}

func newBrokerListCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List brokers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			return printList(cmd.OutOrStdout(), flags.listing(), c.Brokers(cmd.Context()), []column[*enroll.Broker]{
				{"BROKER", func(b *enroll.Broker) string { return b.ID }},
				{"URL", func(b *enroll.Broker) string { return b.URL }},
				{"KIND", func(b *enroll.Broker) string { return b.Kind }},
				{"STATUS", func(b *enroll.Broker) string { return string(b.Status) }},
				{"NAMES", func(b *enroll.Broker) string { return strings.Join(b.Names, " ") }},
			})
		},
	}
}

func newBrokerShowCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a broker", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			b, err := c.Broker(cmd.Context(), args[0])
			if err != nil {
				return clientError(err)
			}
			return printBroker(cmd, flags, b)
		},
	}
}

func newBrokerUpdateCommand(flags *clientFlags) *cobra.Command {
	var url, names, product, site string
	cmd := &cobra.Command{
		Use: "update ID", Short: "Change where a broker is dialed, or the names and the issuer of its next certificate", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			u := enroll.BrokerUpdate{Names: splitList(names)}
			if cmd.Flags().Changed("product") {
				u.Product = &product
			}
			if cmd.Flags().Changed("site") {
				u.Site = &site
			}
			if url != "" {
				u.URL = &url
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			b, err := c.UpdateBroker(cmd.Context(), args[0], u, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return printBroker(cmd, flags, b)
		},
	}
	cmd.Flags().StringVar(&url, "url", "", "mqtts://HOST[:8883] (default: as it is)")
	cmd.Flags().StringVar(&names, "names", "", "DNS names and IP addresses, comma-separated (default: as they are)")
	cmd.Flags().StringVar(&product, "product", "", "product whose issuer certifies it; empty for the general one (default: as it is)")
	cmd.Flags().StringVar(&site, "site", "", "site whose issuer certifies it; empty for the general one (default: as it is)")
	return cmd
}

func printBroker(cmd *cobra.Command, flags *clientFlags, b *enroll.Broker) error {
	if flags.json {
		return printJSON(cmd.OutOrStdout(), b)
	}
	facts := []string{"broker", b.ID, "url", b.URL, "kind", b.Kind, "status", string(b.Status), "names", strings.Join(b.Names, " ")}
	if b.Certificate != nil {
		facts = append(facts, "certificate", fmt.Sprintf("%s  %s  until %s", b.Certificate.SerialNumber, b.Certificate.Status, day(b.Certificate.NotAfter)))
	}
	if b.Driver != nil {
		facts = append(facts, "driven by", driverText(b.Driver))
	}
	return printFacts(cmd.OutOrStdout(), facts...)
}

// driverText names the server that drives a broker.
func driverText(d *enroll.BrokerDriver) string {
	if d.Live {
		return d.Server
	}
	return d.Server + ", which is down: last seen at " + d.SeenAt.UTC().Format(time.RFC3339)
}

func newBrokerCertificateCommand(flags *clientFlags) *cobra.Command {
	var csrFile, out string
	cmd := &cobra.Command{
		Use:   "certificate ID --csr FILE --out DIR",
		Short: "Get a broker's certificate for a request made on its host",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if csrFile == "" || out == "" {
				return usageError(errors.New("--csr and --out are needed"), "make the request on the broker's host: openssl req -new ...")
			}
			csr, err := os.ReadFile(csrFile)
			if err != nil {
				return usageError(err, "--csr names a PEM file, as openssl req -new writes it")
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			e, err := c.IssueBroker(cmd.Context(), args[0], string(csr), client.IdempotencyKey(requestKey(string(csr))))
			if err != nil {
				return clientError(err)
			}
			if err := writeEnrollment(out, e); err != nil {
				return err
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), e)
			}
			return printFacts(cmd.OutOrStdout(), "broker", args[0], "serial number", string(e.Certificate.SerialNumber), "expires", day(e.Certificate.NotAfter), "folder", out)
		},
	}
	cmd.Flags().StringVar(&csrFile, "csr", "", "PEM file with the certification request")
	cmd.Flags().StringVar(&out, "out", "", "folder for certificate.pem, chain.pem and trust-bundle.pem")
	return cmd
}

func newBrokerVerifyCommand(flags *clientFlags) *cobra.Command {
	var negative bool
	cmd := &cobra.Command{
		Use:   "verify ID",
		Short: "Verify a broker from the server, as a canary device",
		Long: `Verify a broker from the server, as a canary device, and keep the report.

With --negative the server also tries what the broker must refuse: no
certificate, those of a foreign authority and of one with the right name and
another key, an expired and a revoked canary, one for servers, plaintext and old
TLS. Nothing is signed for the future, so not_yet_valid is skipped.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			report, err := c.VerifyBroker(cmd.Context(), args[0], negative)
			if err != nil {
				return clientError(err)
			}
			out := cmd.OutOrStdout()
			if flags.json {
				err = printJSON(out, report)
			} else {
				err = report.WriteText(out, isColourTerminal(out))
			}
			if err == nil && report.Verdict != mqtts.VerdictPass {
				code := exitFail
				if report.Verdict == mqtts.VerdictInconclusive {
					code = exitInconclusive
				}
				return &commandError{err: fmt.Errorf("verification of %s: %s", args[0], report.Verdict), code: code}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&negative, "negative", false, "try what must be refused, too")
	return cmd
}

func newBrokerRotateCommand(flags *clientFlags) *cobra.Command {
	var dryRun, wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "rotate ID",
		Short: "Rotate a broker's certificate while its sessions live on",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			r, err := c.RotateBroker(cmd.Context(), args[0], dryRun, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			if wait {
				if r, err = waitRotation(cmd.Context(), c, r, timeout, newStepWatch(cmd)); err != nil {
					return clientError(err)
				}
			}
			if err := printRotation(cmd, flags, r); err != nil {
				return err
			}
			if wait && !dryRun && r.State != enroll.RotationDone {
				return hinted(fmt.Errorf("rotation of %s: %s", args[0], r.State), "see the failed step")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show the plan, change nothing")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is done, or rolled back")
	cmd.Flags().DurationVar(&timeout, "wait-timeout", time.Minute, "how long to wait")
	return cmd
}

// waitRotation returns the rotation once it has ended.
func waitRotation(ctx context.Context, c *client.Client, r *enroll.Rotation, timeout time.Duration, watch stepWatch) (*enroll.Rotation, error) {
	return poll(ctx, r, timeout, func(r *enroll.Rotation) bool {
		watch.show(r.Steps)
		return r.State != enroll.RotationRunning
	},
		func(ctx context.Context) (*enroll.Rotation, error) { return c.Rotation(ctx, r.ID) })
}

func printRotation(cmd *cobra.Command, flags *clientFlags, r *enroll.Rotation) error {
	if flags.json {
		return printJSON(cmd.OutOrStdout(), r)
	}
	facts := []string{"rotation", r.ID, "broker", r.Broker, "state", string(r.State),
		"serial number", fmt.Sprintf("%s -> %s", r.OldSerial, r.NewSerial),
		"sessions", strconv.Itoa(r.SessionsBefore) + " before, " + strconv.Itoa(r.SessionsAfter) + " after, " + strconv.Itoa(r.SessionsDropped) + " dropped"}
	if r.Driver != nil {
		facts = append(facts, "driven by", driverText(r.Driver))
	}
	if err := printFacts(cmd.OutOrStdout(), facts...); err != nil {
		return err
	}
	return printSteps(cmd, r.Steps)
}
