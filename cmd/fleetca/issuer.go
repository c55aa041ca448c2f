package main

import (
	"cmp"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func newIssuerCommand() *cobra.Command {
	group := &cobra.Command{Use: "issuer", Short: "Make, activate, roll over, list and retire issuers"}
	group.AddCommand(newIssuerCreateCommand(), newIssuerCSRCommand(), newIssuerImportCommand(), newIssuerRolloverCommand())
	for _, c := range []func(*clientFlags) *cobra.Command{
		newIssuerListCommand, newIssuerShowCommand, newIssuerActivateCommand, newIssuerRetireCommand, newIssuerReadinessCommand, newIssuerApproveCommand, newIssuerDropCommand,
		newIssuerShardsCommand,
	} {
		flags := &clientFlags{}
		cmd := c(flags)
		flags.add(cmd.Flags())
		group.AddCommand(cmd)
	}
	return group
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
				{"FOR", func(i enroll.IssuerView) string { return scopeOf(i) }},
				{"KEY", func(i enroll.IssuerView) string { return string(i.Key) }},
				{"CRLS", func(i enroll.IssuerView) string { return strconv.Itoa(i.CRLShards) }},
				{"EXPIRES", func(i enroll.IssuerView) string { return day(i.NotAfter) }},
				{"SUBJECT", func(i enroll.IssuerView) string { return i.Subject }},
			})
		},
	}
}

// scopeOf says what an issuer signs for.
func scopeOf(i enroll.IssuerView) string {
	if i.Product == "" && i.Site == "" {
		return "all"
	}
	return cmp.Or(i.Product, "any product") + " at " + cmp.Or(i.Site, "any site")
}

func newIssuerShowCommand(flags *clientFlags) *cobra.Command {
	fetch := false
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show an issuer; with --fetch, what its certificates name, fetched now", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			if fetch {
				p, err := c.IssuerPublication(cmd.Context(), args[0])
				if err != nil {
					return clientError(err)
				}
				return printPublication(cmd, flags, p)
			}
			i, err := c.Issuer(cmd.Context(), args[0])
			if err != nil {
				return clientError(err)
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), i)
			}
			return printFacts(cmd.OutOrStdout(), issuerFacts(*i)...)
		},
	}
	cmd.Flags().BoolVar(&fetch, "fetch", false, "have the server fetch and verify the CRL, OCSP and issuer URLs")
	return cmd
}

func issuerFacts(i enroll.IssuerView) []string {
	facts := []string{"issuer", i.ID, "purpose", string(i.Purpose), "state", string(i.State), "for", scopeOf(i), "key", string(i.Key), "signed by", i.Parent,
		"subject", i.Subject, "serial number", string(i.SerialNumber), "SHA-256", i.SHA256, "valid", day(i.NotBefore) + " to " + day(i.NotAfter)}
	if c := ca.NameConstraint(i.Product, i.Site, i.Domain); c != "" {
		facts = append(facts, "names below", c)
	}
	for _, url := range i.CDPs {
		facts = append(facts, "CRL", url)
	}
	if i.OCSP != "" {
		facts = append(facts, "OCSP", i.OCSP)
	}
	return facts
}

// printPublication shows an issuer, and what was fetched of it.
func printPublication(cmd *cobra.Command, flags *clientFlags, p *enroll.Publication) error {
	if flags.json {
		return printJSON(cmd.OutOrStdout(), p)
	}
	facts := []string{"issuer", p.Issuer.ID, "state", string(p.Issuer.State)}
	for _, f := range p.Fetched {
		word := "ok"
		if !f.OK {
			word = "BAD"
		}
		facts = append(facts, word+" "+f.Kind, f.URL+"  "+f.Result)
	}
	return printFacts(cmd.OutOrStdout(), facts...)
}

func newIssuerActivateCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "activate ID", Short: "Let an issuer sign, once what its certificates name was fetched and verified",
		Long: `Let an issuer sign. The server tests its key with a signature, and fetches what
certificates of the issuer will name, as a client would: its CRLs, its certificate,
an OCSP answer. All must verify. A root becomes the one that new issuers are made
under; the one before is retired, and stays in the trust bundle.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			p, err := c.ActivateIssuer(cmd.Context(), args[0])
			if err != nil {
				return clientError(err)
			}
			return printPublication(cmd, flags, p)
		},
	}
}

func newIssuerRetireCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "retire ID", Short: "Make an issuer sign CRLs alone", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			i, err := c.RetireIssuer(cmd.Context(), args[0])
			if err != nil {
				return clientError(err)
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), i)
			}
			return printFacts(cmd.OutOrStdout(), issuerFacts(*i)...)
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
