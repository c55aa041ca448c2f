package main

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func newProfileCommand() *cobra.Command {
	return newClientGroup("profile", "Show, plan and apply what certificates look like", newProfileListCommand, newProfileShowCommand, newProfilePlanCommand, newProfileApplyCommand)
}

func newProfileListCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List profiles", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			return printList(cmd.OutOrStdout(), flags.listing(), c.Profiles(cmd.Context()), []column[ca.ProfileForm]{
				{"PROFILE", func(p ca.ProfileForm) string { return p.Name }},
				{"VERSION", func(p ca.ProfileForm) string { return strconv.FormatInt(p.Version, 10) }},
				{"FOR A", func(p ca.ProfileForm) string { return string(p.Holder) }},
				{"VALID FOR", func(p ca.ProfileForm) string { return spanText(p.Validity) }},
				{"ISSUER", func(p ca.ProfileForm) string { return issuerText(p) }},
				{"KEYS", func(p ca.ProfileForm) string { return keysText(p) }},
			})
		},
	}
}

func issuerText(p ca.ProfileForm) string {
	if p.IssuerID == "" {
		return "the active one"
	}
	return p.IssuerID
}

func keysText(p ca.ProfileForm) string {
	if len(p.Keys) == 0 {
		return "any"
	}
	kinds := make([]string, len(p.Keys))
	for i, k := range p.Keys {
		kinds[i] = string(k)
	}
	return strings.Join(kinds, " ")
}

// spanText writes a duration in days, when it is some.
func spanText(text string) string {
	d, err := ca.ParseSpan(text)
	if err != nil || d == 0 || d%day24 != 0 {
		return text
	}
	return fmt.Sprintf("%dd", d/day24)
}

func newProfileShowCommand(flags *clientFlags) *cobra.Command {
	var version int64
	var versions, asYAML bool
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show a profile, one of its versions, or what changed from one to the next",
		Long: `Show a profile in the version that is in force, with what the linter says of it.
With --versions all versions are listed with what changed; --version shows one.
With --yaml it is printed as a file to edit, and to give to plan and apply: the
version in it is the one that the change begins with.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			if versions {
				return printVersions(cmd, flags, c, args[0])
			}
			p, err := profileAt(cmd, c, args[0], version)
			if err != nil {
				return err
			}
			switch {
			case asYAML:
				text, err := profileYAML(p.ProfileForm)
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(text)
				return err
			case flags.json:
				return printJSON(cmd.OutOrStdout(), p)
			}
			return printProfile(cmd, p)
		},
	}
	cmd.Flags().Int64Var(&version, "version", 0, "version (default: the one in force)")
	cmd.Flags().BoolVar(&versions, "versions", false, "list the versions")
	cmd.Flags().BoolVar(&asYAML, "yaml", false, "print a file to edit")
	return cmd
}

// profileAt returns a profile in a version; in the one in force for 0.
func profileAt(cmd *cobra.Command, c *client.Client, name string, version int64) (*client.LintedProfile, error) {
	if version == 0 {
		p, err := c.Profile(cmd.Context(), name)
		return p, clientError(err)
	}
	for v, err := range c.ProfileVersions(cmd.Context(), name) {
		if err != nil {
			return nil, clientError(err)
		}
		if v.Profile.Version == version {
			return &client.LintedProfile{ProfileForm: v.Profile, Findings: []ca.ProfileFinding{}}, nil
		}
	}
	return nil, hinted(fmt.Errorf("profile %s has no version %d", name, version), "fleetca profile show "+name+" --versions")
}

func printProfile(cmd *cobra.Command, p *client.LintedProfile) error {
	s := p.Subject
	err := printFacts(cmd.OutOrStdout(), given(
		"profile", p.Name, "version", strconv.FormatInt(p.Version, 10), "fixed", map[bool]string{true: "yes: the program's own"}[p.Fixed],
		"for a", string(p.Holder), "issuer", issuerText(p.ProfileForm), "authenticates as", strings.Join(p.ExtKeyUsage, " "), "keys", keysText(p.ProfileForm),
		"valid for", spanText(p.Validity), "backdated by", spanText(p.Backdate), "jitter", spanText(p.Jitter), "renewed before", spanText(p.RenewBefore), "shelf life", spanText(p.ShelfLife),
		"organization", s.Organization, "organizational unit", s.OrganizationalUnit, "country", s.Country, "province", s.Province, "locality", s.Locality, "serial number", s.SerialNumber,
		"DNS names", strings.Join(p.DNSNames, " "), "URIs", strings.Join(p.URIs, " "), "allowed domains", strings.Join(p.Domains, " "), "allowed networks", strings.Join(p.Networks, " "),
		"certificates a device", map[bool]string{true: fmt.Sprintf("%d at most", p.MaxActive)}[p.MaxActive > 0])...)
	if err != nil {
		return err
	}
	printFindings(cmd, p.Findings)
	return nil
}

// given leaves out the facts that are empty.
func given(facts ...string) []string {
	var kept []string
	for i := 0; i+1 < len(facts); i += 2 {
		if facts[i+1] != "" {
			kept = append(kept, facts[i], facts[i+1])
		}
	}
	return kept
}

func printVersions(cmd *cobra.Command, flags *clientFlags, c *client.Client, name string) error {
	return printList(cmd.OutOrStdout(), flags.listing(), c.ProfileVersions(cmd.Context(), name), []column[*enroll.ProfileVersion]{
		{"VERSION", func(v *enroll.ProfileVersion) string { return strconv.FormatInt(v.Profile.Version, 10) }},
		{"APPLIED", func(v *enroll.ProfileVersion) string {
			if v.At == nil {
				return "built in"
			}
			return day(*v.At)
		}},
		{"BY", func(v *enroll.ProfileVersion) string { return v.Actor }},
		{"WIDENS", func(v *enroll.ProfileVersion) string { return map[bool]string{true: "yes"}[v.Widens] }},
		{"CHANGES", func(v *enroll.ProfileVersion) string {
			all := make([]string, len(v.Changes))
			for i, c := range v.Changes {
				all[i] = fmt.Sprintf("%s: %s -> %s", c.Field, cmp.Or(c.Before, "none"), cmp.Or(c.After, "none"))
			}
			return strings.Join(all, "; ")
		}},
	})
}

func newProfilePlanCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "plan FILE", Short: "Show what a changed profile would do",
		Long: `Show what the profile in a file (YAML or JSON; - for standard input) would do
against the version in force, and change nothing: the fields that differ, and
which of them let something be issued that was not before; how many certificates
and open work orders are concerned; which renewals would be refused that are not
today, tried with the newest certificates; what the linter says; and a sample
certificate before and after. It fails when apply would.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			form, err := readProfile(cmd, args[0])
			if err != nil {
				return err
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			plan, err := c.PlanProfile(cmd.Context(), form.Name, enroll.NewProfileVersion{Profile: form})
			if err != nil {
				return clientError(err)
			}
			if err := printPlan(cmd, flags, plan); err != nil {
				return err
			}
			if ca.Blocks(plan.Findings) {
				return hinted(errors.New("the profile would be refused"), "mend what the findings of severity error say")
			}
			return nil
		},
	}
}

func newProfileApplyCommand(flags *clientFlags) *cobra.Command {
	var base int64
	cmd := &cobra.Command{
		Use: "apply FILE", Short: "Make a changed profile the one in force",
		Long: `Make the profile in a file (YAML or JSON; - for standard input) the version in
force: every certificate from now on is issued under it, and those that there are
stay as they are. It is refused when the profile was changed since the version
that the change begins with: the file's version, or --base-version, which plan
prints. A new profile begins with 0.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			form, err := readProfile(cmd, args[0])
			if err != nil {
				return err
			}
			v := enroll.NewProfileVersion{Profile: form}
			switch {
			case cmd.Flags().Changed("base-version"):
				v.BaseVersion = &base
			case form.Version == 0:
				return usageError(errors.New("--base-version is missing"), "fleetca profile plan "+args[0]+" prints it")
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			plan, err := c.ApplyProfile(cmd.Context(), form.Name, v, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return printPlan(cmd, flags, plan)
		},
	}
	cmd.Flags().Int64Var(&base, "base-version", 0, "version that the change begins with (default: the file's)")
	return cmd
}
