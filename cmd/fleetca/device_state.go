package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/enroll"
)

func newDeviceListCommand(flags *clientFlags) *cobra.Command {
	var f enroll.DeviceFilter
	var status string
	cmd := &cobra.Command{
		Use:   "list [TERM...]",
		Short: "List devices",
		Long: `List devices for which all terms hold:

  status:active        registered, active, held, revoked or retired
  group:hall-2         the group
  order:WO-7           the work order
  serial:ab12          a certificate's serial number begins so
  expires<30d          the last good certificate expires within 30 days (h, d, w, y)
  expires>7d           and not within 7
  expires:expired      it has expired
  attr.site:"Hall 2"   an attribute, exactly
  pump-00              the id begins so
  *pump*               id, group or an attribute's value holds this

Quote what the shell would read otherwise: fleetca device list 'expires<30d'`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			asked, err := enroll.ParseQuery(strings.Join(args, " "))
			if err != nil {
				return usageErrorOf(err)
			}
			f.Status = enroll.DeviceStatus(status)
			if f, err = bothFilters(f, asked); err != nil {
				return err
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			return printList(cmd.OutOrStdout(), flags.listing(), c.Devices(cmd.Context(), f), []column[*enroll.Device]{
				{"DEVICE", func(d *enroll.Device) string { return d.ID }},
				{"STATUS", func(d *enroll.Device) string { return string(d.Status) }},
				{"GROUP", func(d *enroll.Device) string { return d.Group }},
				{"WORK ORDER", func(d *enroll.Device) string { return d.WorkOrder }},
				{"CREATED", func(d *enroll.Device) string { return day(d.CreatedAt) }},
			})
		},
	}
	cmd.Flags().StringVar(&status, "status", "", "registered, active, held, revoked or retired")
	cmd.Flags().StringVar(&f.Group, "group", "", "group")
	cmd.Flags().StringVar(&f.WorkOrder, "work-order", "", "work order")
	return cmd
}

// bothFilters adds what flags say to what terms say.
func bothFilters(flags, terms enroll.DeviceFilter) (enroll.DeviceFilter, error) {
	for _, p := range []struct {
		name       string
		flag, term *string
	}{
		{"status", (*string)(&flags.Status), (*string)(&terms.Status)}, {"group", &flags.Group, &terms.Group}, {"work-order", &flags.WorkOrder, &terms.WorkOrder},
	} {
		if *p.flag != "" && *p.term != "" {
			return terms, usageError(fmt.Errorf("--%s and a term say the same", p.name), "give one of them")
		}
		if *p.flag != "" {
			*p.term = *p.flag
		}
	}
	return terms, nil
}

func newDeviceShowCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a device", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			d, err := c.Device(cmd.Context(), args[0])
			if err != nil {
				return clientError(err)
			}
			if d.Status != enroll.DeviceRevoked && d.Status != enroll.DeviceRetired || flags.json {
				return printDevice(cmd, flags, d)
			}
			var revocations []string
			for r, err := range c.Revocations(cmd.Context(), d.ID) {
				if err != nil {
					return clientError(err)
				}
				revocations = append(revocations, "revocation", fmt.Sprintf("%s  %s  %s", r.ID, r.Reason, r.State))
			}
			return printDevice(cmd, flags, d, revocations...)
		},
	}
}

// printDevice shows a device, with more facts below.
func printDevice(cmd *cobra.Command, flags *clientFlags, d *enroll.Device, more ...string) error {
	if flags.json {
		return printJSON(cmd.OutOrStdout(), d)
	}
	facts := []string{"device", d.ID, "status", string(d.Status), "group", d.Group, "work order", d.WorkOrder, "created", day(d.CreatedAt)}
	for _, cert := range d.Certificates {
		facts = append(facts, "certificate", fmt.Sprintf("%s  %s  until %s", cert.SerialNumber, cert.Status, day(cert.NotAfter)))
	}
	return printFacts(cmd.OutOrStdout(), append(facts, more...)...)
}

func newDeviceRegisterCommand(flags *clientFlags) *cobra.Command {
	var d enroll.NewDevice
	cmd := &cobra.Command{
		Use: "register ID", Short: "Register a device before it enrolls", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d.ID = args[0]
			c, err := flags.open()
			if err != nil {
				return err
			}
			made, err := c.CreateDevice(cmd.Context(), d, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return printDevice(cmd, flags, made)
		},
	}
	cmd.Flags().StringVar(&d.Group, "group", "", "group")
	cmd.Flags().StringVar(&d.WorkOrder, "work-order", "", "work order")
	cmd.Flags().StringToStringVar(&d.Attributes, "attribute", nil, "attributes, NAME=VALUE")
	return cmd
}

func newDeviceHoldCommand(flags *clientFlags) *cobra.Command {
	return newDeviceToggle(flags, "hold", "Put a device on hold: refused until released", (*client.Client).HoldDevice)
}

func newDeviceReleaseCommand(flags *clientFlags) *cobra.Command {
	return newDeviceToggle(flags, "release", "Release a device from its hold", (*client.Client).ReleaseDevice)
}

func newDeviceToggle(flags *clientFlags, verb, short string, call func(*client.Client, context.Context, string, ...client.Option) (*enroll.Device, error)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			d, err := call(c, cmd.Context(), args[0])
			if err != nil {
				return clientError(err)
			}
			return printDevice(cmd, flags, d)
		},
	}
}

func newDeviceRevokeCommand(flags *clientFlags) *cobra.Command {
	var r enroll.RevokeRequest
	var end ending
	cmd := &cobra.Command{
		Use:   "revoke ID --reason REASON",
		Short: "Revoke a device, and see brokers refuse it",
		Long: `Revoke a device and all its certificates, for good. With --wait the command
shows each step until every broker was seen to refuse, and fails when one was not.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			rev, err := c.RevokeDevice(cmd.Context(), args[0], r, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return end.follow(cmd, flags, c, rev)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Reason, "reason", "unspecified", "reason of RFC 5280, 5.3.1, such as keyCompromise")
	f.StringVar(&r.Comment, "comment", "", "comment for the audit trail")
	end.flags(cmd)
	return cmd
}

// pollPause is how often long work is looked at.
const pollPause = 100 * time.Millisecond

// waitRevocation returns the revocation once an attempt to prove it is over.
func waitRevocation(ctx context.Context, c *client.Client, r *enroll.Revocation, timeout time.Duration, watch stepWatch) (*enroll.Revocation, error) {
	return poll(ctx, r, timeout, func(r *enroll.Revocation) bool {
		watch.show(r.Steps)
		return r.State != enroll.RevocationRunning
	},
		func(ctx context.Context) (*enroll.Revocation, error) { return c.Revocation(ctx, r.ID) })
}

// A stepWatch shows on a terminal which steps were taken while one waits. The
// zero value shows nothing.
type stepWatch struct {
	w    io.Writer
	seen map[string]enroll.StepState
}

// newStepWatch returns a watch on the terminal that errors go to, if it is one.
func newStepWatch(cmd *cobra.Command) stepWatch {
	if !isTerminal(cmd.ErrOrStderr()) {
		return stepWatch{}
	}
	return stepWatch{cmd.ErrOrStderr(), map[string]enroll.StepState{}}
}

func (s stepWatch) show(steps []enroll.Step) {
	if s.w == nil {
		return
	}
	for _, st := range steps {
		if key := st.Name + " " + st.Broker; st.State != enroll.StepPending && s.seen[key] != st.State {
			s.seen[key] = st.State
			fmt.Fprintf(s.w, "%6d ms  %-15s %-8s %s  %s\n", st.ElapsedMs, st.Name, st.State, printable(st.Broker), printable(st.Detail))
		}
	}
}

// poll fetches until done, and returns what it fetched last. When the time is
// over that is returned too.
func poll[T any](ctx context.Context, v *T, timeout time.Duration, done func(*T) bool, fetch func(context.Context) (*T, error)) (*T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for !done(v) {
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return v, nil
			}
			return v, ctx.Err()
		case <-time.After(pollPause):
		}
		next, err := fetch(ctx)
		if err != nil {
			return v, err
		}
		v = next
	}
	return v, nil
}

func printRevocation(cmd *cobra.Command, flags *clientFlags, r *enroll.Revocation) error {
	if flags.json {
		return printJSON(cmd.OutOrStdout(), r)
	}
	if err := printFacts(cmd.OutOrStdout(), "revocation", r.ID, "device", r.Device, "reason", string(r.Reason), "state", string(r.State)); err != nil {
		return err
	}
	return printSteps(cmd, r.Steps)
}

// printSteps writes the steps of a rotation or a revocation.
func printSteps(cmd *cobra.Command, steps []enroll.Step) error {
	return printList(cmd.OutOrStdout(), asTable, func(yield func(enroll.Step, error) bool) {
		for _, st := range steps {
			if !yield(st, nil) {
				return
			}
		}
	}, []column[enroll.Step]{
		{"STEP", func(st enroll.Step) string { return st.Name }},
		{"BROKER", func(st enroll.Step) string { return st.Broker }},
		{"STATE", func(st enroll.Step) string { return string(st.State) }},
		{"MS", func(st enroll.Step) string { return strconv.FormatInt(st.ElapsedMs, 10) }},
		{"DETAIL", func(st enroll.Step) string { return st.Detail }},
	})
}
