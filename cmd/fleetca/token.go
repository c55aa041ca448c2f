package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/enroll"
)

func newTokenCommand() *cobra.Command {
	return newClientGroup("token", "Make, list and revoke tokens", newTokenCreateCommand, newTokenListCommand, newTokenRevokeCommand)
}

// tokenFlags are the flags of token create, for both kinds of tokens.
type tokenFlags struct {
	order, role, name, expires, device string
	uses                               int64
}

func newTokenCreateCommand(flags *clientFlags) *cobra.Command {
	var t tokenFlags
	cmd := &cobra.Command{
		Use:   "create (--work-order ID | --role ROLE --name NAME)",
		Short: "Make an enrollment token for a work order, or an API token for a program",
		Long: `Make a token, and print it. It is shown this once; only its SHA-256 is stored.

Without --role it is an enrollment token: it enrolls devices for one work order
and opens nothing else. With --role it is an API token for a program, which an
admin alone makes; of the role factory, --work-order binds it to one order.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if t.role != "" {
				return createAPIToken(cmd, flags, t)
			}
			return createEnrollmentToken(cmd, flags, t)
		},
	}
	f := cmd.Flags()
	f.StringVar(&t.order, "work-order", "", "work order that it enrolls for")
	f.StringVar(&t.role, "role", "", "make an API token: admin, operator, factory, security or auditor")
	f.StringVar(&t.name, "name", "", "what the API token is for")
	f.StringVar(&t.expires, "expires", "", "how long it is valid (default 24h; 720h with --role)")
	f.StringVar(&t.device, "device", "", "the one device that an enrollment token is for (default: any)")
	f.Int64Var(&t.uses, "uses", 1, "how many devices an enrollment token enrolls")
	return cmd
}

func createEnrollmentToken(cmd *cobra.Command, flags *clientFlags, t tokenFlags) error {
	switch {
	case t.order == "":
		return usageError(errors.New("--work-order is missing"), "fleetca order list shows them; for an API token, give --role")
	case t.name != "":
		return usageError(errors.New("--name stands without --role"), "enrollment tokens have no name; for an API token, give --role")
	}
	c, err := flags.open()
	if err != nil {
		return err
	}
	in := enroll.NewToken{DeviceID: t.device, Uses: t.uses, ExpiresIn: t.expires}
	made, err := c.CreateEnrollmentToken(cmd.Context(), t.order, in, client.IdempotencyKey(uuid.NewString()))
	if err != nil {
		return clientError(err)
	}
	if flags.json {
		return printJSON(cmd.OutOrStdout(), made)
	}
	fmt.Fprintln(cmd.OutOrStdout(), made.Token)
	return nil
}

func createAPIToken(cmd *cobra.Command, flags *clientFlags, t tokenFlags) error {
	if t.device != "" || t.uses != 1 {
		return usageError(errors.New("--device and --uses are for enrollment tokens"), "leave them out, or leave --role out")
	}
	c, err := flags.open()
	if err != nil {
		return err
	}
	in := enroll.NewAPIToken{Name: t.name, Role: enroll.Role(t.role), ExpiresIn: t.expires, WorkOrder: t.order}
	made, err := c.CreateAPIToken(cmd.Context(), in, client.IdempotencyKey(uuid.NewString()))
	if err != nil {
		return clientError(err)
	}
	if flags.json {
		return printJSON(cmd.OutOrStdout(), made)
	}
	fmt.Fprintln(cmd.OutOrStdout(), made.Token)
	return nil
}

func newTokenListCommand(flags *clientFlags) *cobra.Command {
	var order string
	cmd := &cobra.Command{
		Use: "list", Short: "List API tokens, or the enrollment tokens of a work order, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			if order != "" {
				return printList(cmd.OutOrStdout(), flags.listing(), c.EnrollmentTokens(cmd.Context(), order), []column[*enroll.EnrollmentToken]{
					{"TOKEN", func(t *enroll.EnrollmentToken) string { return t.ID }},
					{"DEVICE", func(t *enroll.EnrollmentToken) string { return t.DeviceID }},
					{"USED", func(t *enroll.EnrollmentToken) string { return fmt.Sprintf("%d of %d", t.Used, t.Uses) }},
					{"EXPIRES", func(t *enroll.EnrollmentToken) string { return t.ExpiresAt.UTC().Format(time.RFC3339) }},
				})
			}
			return printList(cmd.OutOrStdout(), flags.listing(), c.APITokens(cmd.Context()), []column[*enroll.APIToken]{
				{"TOKEN", func(t *enroll.APIToken) string { return t.ID }},
				{"NAME", func(t *enroll.APIToken) string { return t.Name }},
				{"ROLE", func(t *enroll.APIToken) string { return string(t.Role) }},
				{"USER", func(t *enroll.APIToken) string { return t.Owner }},
				{"WORK ORDER", func(t *enroll.APIToken) string { return t.WorkOrder }},
				{"STATE", tokenState},
				{"EXPIRES", func(t *enroll.APIToken) string { return day(t.ExpiresAt) }},
				{"LAST USED", func(t *enroll.APIToken) string { return dayOrNone(t.LastUsedAt) }},
			})
		},
	}
	cmd.Flags().StringVar(&order, "work-order", "", "list the enrollment tokens of this work order")
	return cmd
}

func tokenState(t *enroll.APIToken) string {
	switch {
	case t.Disabled:
		return "ended"
	case !time.Now().Before(t.ExpiresAt):
		return "expired"
	}
	return "active"
}

func newTokenRevokeCommand(flags *clientFlags) *cobra.Command {
	var order string
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "End an API token, or an enrollment token of a work order, at once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			if order != "" {
				t, err := c.EndEnrollmentToken(cmd.Context(), order, args[0])
				if err != nil {
					return clientError(err)
				}
				if flags.json {
					return printJSON(cmd.OutOrStdout(), t)
				}
				return printFacts(cmd.OutOrStdout(), "token", t.ID, "work order", t.WorkOrder, "ended", t.ExpiresAt.UTC().Format(time.RFC3339))
			}
			t, err := c.RevokeAPIToken(cmd.Context(), args[0])
			if err != nil {
				return clientError(err)
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), t)
			}
			return printFacts(cmd.OutOrStdout(), "token", t.ID, "name", t.Name, "state", tokenState(t))
		},
	}
	cmd.Flags().StringVar(&order, "work-order", "", "end an enrollment token of this work order")
	return cmd
}
