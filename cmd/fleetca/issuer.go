package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/enroll"
)

func newIssuerCommand() *cobra.Command {
	return newClientGroup("issuer", "List issuers, spread their CRLs", newIssuerListCommand, newIssuerShardsCommand)
}

func newIssuerListCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List issuers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			return printList(cmd.OutOrStdout(), flags.listing(), c.Issuers(cmd.Context()), []column[enroll.IssuerView]{
				{"ID", func(i enroll.IssuerView) string { return i.ID }},
				{"PURPOSE", func(i enroll.IssuerView) string { return string(i.Purpose) }},
				{"STATE", func(i enroll.IssuerView) string { return string(i.State) }},
				{"CRLS", func(i enroll.IssuerView) string { return strconv.Itoa(i.CRLShards) }},
				{"EXPIRES", func(i enroll.IssuerView) string { return day(i.NotAfter) }},
				{"SUBJECT", func(i enroll.IssuerView) string { return i.Subject }},
			})
		},
	}
}

func newIssuerShardsCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "shards ISSUER NUMBER", Short: "Spread an issuer's new certificates over a number of CRLs",
		Long: `Spread an issuer's new certificates over a number of CRLs, so that each stays
short when very many certificates are revoked. A certificate is on the CRL that it
names for its life: with fewer CRLs again, those of before go on being published.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil {
				return usageError(fmt.Errorf("%q is no number", args[1]), "for example: fleetca issuer shards device 16")
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			issuer, err := c.SetCRLShards(cmd.Context(), args[0], n)
			if err != nil {
				return clientError(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "new certificates of issuer %s are spread over %d CRLs\n", issuer.ID, issuer.CRLShards)
			return nil
		},
	}
}
