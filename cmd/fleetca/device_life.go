package main

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/enroll"
)

// ending are the flags of commands that end what a device holds.
type ending struct {
	wait    bool
	timeout time.Duration
}

func (e *ending) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&e.wait, "wait", false, "wait for the proof")
	cmd.Flags().DurationVar(&e.timeout, "wait-timeout", time.Minute, "how long to wait")
}

// follow shows how a revocation comes along, to its end where one waits for it.
func (e *ending) follow(cmd *cobra.Command, flags *clientFlags, c *client.Client, rev *enroll.Revocation) error {
	var err error
	if e.wait {
		if rev, err = waitRevocation(cmd.Context(), c, rev, e.timeout, newStepWatch(cmd)); err != nil {
			return clientError(err)
		}
	}
	if err := printRevocation(cmd, flags, rev); err != nil {
		return err
	}
	if e.wait && rev.State != enroll.RevocationProven && rev.State != enroll.RevocationRecorded {
		return hinted(fmt.Errorf("device %s is revoked, but the refusal was not seen at every broker", rev.Device), "see the failed step; the server goes on trying")
	}
	return nil
}

func newDeviceRetireCommand(flags *clientFlags) *cobra.Command {
	var r enroll.RetireRequest
	var end ending
	cmd := &cobra.Command{
		Use:   "retire ID",
		Short: "Retire a device, and see brokers refuse it",
		Long: `End a device's life for good: its certificates are revoked for
cessationOfOperation. With --wait the command shows each step until every broker
was seen to refuse, and fails when one was not.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			rev, err := c.RetireDevice(cmd.Context(), args[0], r, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return end.follow(cmd, flags, c, rev)
		},
	}
	cmd.Flags().StringVar(&r.Comment, "comment", "", "comment for the audit trail")
	end.flags(cmd)
	return cmd
}

func newDeviceRenewalLinkCommand(flags *clientFlags) *cobra.Command {
	var n enroll.NewRenewalLink
	cmd := &cobra.Command{
		Use:   "renewal-link ID",
		Short: "Make a token for a device whose key is lost",
		Long: `Make a one-time token with which an active device enrolls again under a new
key: fleetca device enroll ID --enrollment-token-file FILE --out DIR. What the
device held before is revoked when it does. The token is written to the standard
output, this once.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			link, err := c.CreateRenewalLink(cmd.Context(), args[0], n, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), link)
			}
			fmt.Fprintln(cmd.OutOrStdout(), link.Token.Token)
			fmt.Fprintf(cmd.ErrOrStderr(), "for device %s, once, until %s\n", printable(link.Device), day(link.Token.ExpiresAt))
			return nil
		},
	}
	cmd.Flags().StringVar(&n.ExpiresIn, "expires-in", "", "how long it is good, such as 8h (default 24h)")
	return cmd
}
