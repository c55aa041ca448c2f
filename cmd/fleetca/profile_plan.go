package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const day24 = 24 * time.Hour

// printPlan writes what a change of a profile does, or did.
func printPlan(cmd *cobra.Command, flags *clientFlags, plan *enroll.ProfilePlan) error {
	out := cmd.OutOrStdout()
	if flags.json {
		return printJSON(out, plan)
	}
	state := "planned: nothing is changed"
	if plan.Applied {
		state = "in force"
	}
	e := plan.Effect
	err := printFacts(out, given(
		"profile", plan.Name, "base version", fmt.Sprint(plan.BaseVersion), "version", fmt.Sprintf("%d, %s", plan.Version, state),
		"widens", map[bool]string{true: "yes: something is issued that was not before", false: "no"}[plan.Widens],
		"certificates", fmt.Sprintf("%s in use, of %s", counted(e.Certificates, e.More), counted(e.Holders, e.More)+" holders"),
		"open work orders", counted(e.WorkOrders, e.MoreOrders))...)
	if err != nil {
		return err
	}
	if err := printChanges(out, plan.Changes); err != nil {
		return err
	}
	printFindings(cmd, plan.Findings)
	printRefusals(out, "would be refused", e.Refused, e.Tried)
	printRefusals(out, "would not be refused any more", e.Admitted, e.Tried)
	if sample := diff.Diff("before", []byte(plan.Before), "after", []byte(plan.After)); len(sample) > 0 {
		lines := strings.SplitAfterN(string(sample), "\n", 2)
		fmt.Fprintf(out, "\na sample certificate\n%s", lines[1])
	}
	return nil
}

func counted(n int, more bool) string {
	if more {
		return fmt.Sprintf("%d or more", n)
	}
	return fmt.Sprint(n)
}

func printChanges(out io.Writer, changes []ca.ProfileChange) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintln(out, "\nnothing differs")
		return err
	}
	fmt.Fprintln(out)
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FIELD\tBEFORE\tAFTER\tWIDENS")
	for _, c := range changes {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", c.Field, printable(cmp.Or(c.Before, "-")), printable(cmp.Or(c.After, "-")), map[bool]string{true: "yes"}[c.Widens])
	}
	return tw.Flush()
}

func printFindings(cmd *cobra.Command, found []ca.ProfileFinding) {
	for _, f := range found {
		fmt.Fprintf(cmd.OutOrStdout(), "\n%s: %s: %s\n", f.Severity, f.Field, printable(f.Message))
		if f.Hint != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "  hint: %s\n", printable(f.Hint))
		}
	}
}

func printRefusals(out io.Writer, what string, refused []enroll.ProfileRefusal, tried int) {
	for _, r := range refused {
		fmt.Fprintf(out, "\n%d of %d renewals that were tried %s: %s\n  such as %s\n", r.Count, tried, what, printable(r.Reason), printable(strings.Join(r.Holders, ", ")))
	}
}
