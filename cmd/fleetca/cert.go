package main

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func newCertCommand() *cobra.Command {
	return newClientGroup("cert", "List, show, revoke certificates", newCertListCommand, newCertShowCommand, newCertRevokeCommand)
}

func newCertListCommand(flags *clientFlags) *cobra.Command {
	var f enroll.CertificateFilter
	var status string
	cmd := &cobra.Command{
		Use: "list", Short: "List certificates", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			f.Status = ca.Status(status)
			return printList(cmd.OutOrStdout(), flags.listing(), c.Certificates(cmd.Context(), f), []column[*ca.Certificate]{
				{"SERIAL NUMBER", func(c *ca.Certificate) string { return string(c.SerialNumber) }},
				{"STATUS", func(c *ca.Certificate) string { return string(c.Status) }},
				{"PROFILE", func(c *ca.Certificate) string { return c.Profile }},
				{"SUBJECT", func(c *ca.Certificate) string { return c.Subject }},
				{"EXPIRES", func(c *ca.Certificate) string { return day(c.NotAfter) }},
			})
		},
	}
	cmd.Flags().StringVar(&status, "status", "", "good, held, revoked or expired")
	cmd.Flags().StringVar(&f.Device, "device", "", "device")
	cmd.Flags().StringVar(&f.Broker, "broker", "", "broker")
	cmd.Flags().StringVar(&f.Profile, "profile", "", "profile")
	cmd.Flags().StringVar(&f.Issuer, "issuer", "", "issuer")
	return cmd
}

func newCertShowCommand(flags *clientFlags) *cobra.Command {
	var asPEM bool
	cmd := &cobra.Command{
		Use: "show SERIAL", Short: "Show a certificate", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			cert, err := c.Certificate(cmd.Context(), args[0])
			if err != nil {
				return clientError(err)
			}
			if asPEM {
				_, err := fmt.Fprint(cmd.OutOrStdout(), cert.PEM())
				return err
			}
			return printCert(cmd, flags, cert)
		},
	}
	cmd.Flags().BoolVar(&asPEM, "pem", false, "print the certificate itself")
	return cmd
}

func printCert(cmd *cobra.Command, flags *clientFlags, c *ca.Certificate) error {
	if flags.json {
		return printJSON(cmd.OutOrStdout(), c)
	}
	return printFacts(cmd.OutOrStdout(), "serial number", string(c.SerialNumber), "subject", c.Subject, "names", strings.Join(c.Names, " "),
		"issuer", c.IssuerID, "profile", fmt.Sprintf("%s, version %d", c.Profile, c.ProfileVersion), "status", string(c.Status), "reason", string(c.Reason),
		"valid from", day(c.NotBefore), "until", day(c.NotAfter), "SHA-256", c.SHA256)
}

func newCertRevokeCommand(flags *clientFlags) *cobra.Command {
	var r enroll.RevokeRequest
	cmd := &cobra.Command{
		Use: "revoke SERIAL --reason REASON", Short: "Revoke one certificate", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			cert, err := c.RevokeCertificate(cmd.Context(), args[0], r, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return printCert(cmd, flags, cert)
		},
	}
	cmd.Flags().StringVar(&r.Reason, "reason", "unspecified", "reason of RFC 5280, 5.3.1")
	cmd.Flags().StringVar(&r.Comment, "comment", "", "comment for the audit trail")
	return cmd
}
