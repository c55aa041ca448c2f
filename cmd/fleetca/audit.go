package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func newAuditCommand() *cobra.Command {
	return newClientGroup("audit", "Look through what was issued", newAuditCertificatesCommand, newAuditRulesCommand)
}

func newAuditRulesCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "rules", Short: "List what certificates are held against", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := func(yield func(ca.AuditRule, error) bool) {
				for _, r := range ca.AuditRules() {
					if !yield(r, nil) {
						return
					}
				}
			}
			return printList(cmd.OutOrStdout(), flags.listing(), all, []column[ca.AuditRule]{
				{"RULE", func(r ca.AuditRule) string { return r.Name }},
				{"SAYS SO", func(r ca.AuditRule) string { return r.Source }},
			})
		},
	}
}

// maxFindingsShown is how many findings a table lists; all are counted.
const maxFindingsShown = 1000

func newAuditCertificatesCommand(flags *clientFlags) *cobra.Command {
	var f enroll.CertificateFilter
	var status string
	cmd := &cobra.Command{
		Use: "certificates", Short: "Hold every recorded certificate against its ledger, issuer, profile and RFC 5280",
		Long: `Read the certificates that were issued, page by page, and hold each against what
the ledger says of it, its issuer's chain, the version of the profile that it was
issued under, and the rules of RFC 5280 that "fleetca audit rules" lists. Nothing is
changed. It fails when something is found.

It takes about as long as listing them: a few thousand a second. A table lists the
first 1000 findings; with --csv each is a line, with --json all are in one object.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			f.Status = ca.Status(status)
			a, err := newStoreAudit(cmd.Context(), c)
			if err != nil {
				return clientError(err)
			}
			listed := math.MaxInt
			if flags.listing() == asTable {
				listed = maxFindingsShown
			}
			report, err := a.run(cmd.Context(), f, listed)
			if err != nil {
				return clientError(err)
			}
			if err := report.print(cmd.OutOrStdout(), flags.listing()); err != nil {
				return err
			}
			if report.Found > 0 {
				return hinted(fmt.Errorf("%d findings in %d certificates", report.Found, report.Looked),
					"look at each with fleetca cert show SERIAL; revoke what should not be out there, and compare the ledger with a backup")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&status, "status", "", "good, held, revoked or expired alone")
	cmd.Flags().StringVar(&f.Profile, "profile", "", "of this profile alone")
	cmd.Flags().StringVar(&f.Issuer, "issuer", "", "of this issuer alone")
	return cmd
}

// A storeAudit holds what a server has issued against the rules.
type storeAudit struct {
	*ca.Audit
	client   *client.Client
	profiles map[string]map[int64]*ca.Profile // by name and version; nil for one that cannot be read
}

func newStoreAudit(ctx context.Context, c *client.Client) (*storeAudit, error) {
	issuers := map[string]*x509.Certificate{}
	for i, err := range c.Issuers(ctx) {
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode([]byte(i.PEM))
		if block == nil {
			return nil, fmt.Errorf("issuer %s: no certificate", i.ID)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", i.ID, err)
		}
		issuers[i.ID] = cert
	}
	return &storeAudit{Audit: ca.NewAudit(issuers), client: c, profiles: map[string]map[int64]*ca.Profile{}}, nil
}

// profile returns the version that a certificate was issued under; nil when
// there is none.
func (a *storeAudit) profile(ctx context.Context, c *ca.Certificate) (*ca.Profile, error) {
	if builtIn, err := ca.ProfileNamed("profile", c.Profile); err == nil && builtIn.Version == c.ProfileVersion {
		return builtIn, nil
	}
	if versions, read := a.profiles[c.Profile]; read { // certificates come newest first: none has a later version
		return versions[c.ProfileVersion], nil
	}
	versions := map[int64]*ca.Profile{}
	for v, err := range a.client.ProfileVersions(ctx, c.Profile) {
		if errors.Is(err, ca.IsKind(ca.KindNotFound)) {
			break
		}
		if err != nil {
			return nil, err
		}
		if p, err := v.Profile.Profile(); err == nil {
			versions[v.Profile.Version] = p
		}
	}
	a.profiles[c.Profile] = versions
	return versions[c.ProfileVersion], nil
}

// An auditReport is what an audit found.
type auditReport struct {
	Looked   int64                   `json:"looked"`
	Found    int64                   `json:"found"`
	Rules    map[string]int64        `json:"rules"`    // findings by rule
	Findings []ca.CertificateFinding `json:"findings"` // all of them, but for a table
}

// run looks at every certificate that the filter lets through, and lists so many
// findings.
func (a *storeAudit) run(ctx context.Context, f enroll.CertificateFilter, listed int) (*auditReport, error) {
	report := &auditReport{Rules: map[string]int64{}, Findings: []ca.CertificateFinding{}}
	for c, err := range a.client.Certificates(ctx, f) {
		if err != nil {
			return nil, err
		}
		p, err := a.profile(ctx, c)
		if err != nil {
			return nil, err
		}
		report.Looked++
		for _, one := range a.Certificate(c, p) {
			report.Found++
			report.Rules[one.Rule]++
			if len(report.Findings) < listed {
				report.Findings = append(report.Findings, one)
			}
		}
	}
	return report, nil
}

// print writes the report.
func (r *auditReport) print(w io.Writer, as format) error {
	if as == asJSON {
		return printJSON(w, r)
	}
	if as == asCSV || len(r.Findings) > 0 {
		all := func(yield func(ca.CertificateFinding, error) bool) {
			for _, f := range r.Findings {
				if !yield(f, nil) {
					return
				}
			}
		}
		err := printList(w, as, all, []column[ca.CertificateFinding]{
			{"SERIAL NUMBER", func(f ca.CertificateFinding) string { return string(f.SerialNumber) }},
			{"RULE", func(f ca.CertificateFinding) string { return f.Rule }},
			{"FINDING", func(f ca.CertificateFinding) string { return f.Message }},
			{"SAYS SO", func(f ca.CertificateFinding) string { return f.Source }},
		})
		if err != nil || as == asCSV {
			return err
		}
	}
	facts := []string{"certificates", fmt.Sprint(r.Looked), "findings", fmt.Sprint(r.Found)}
	if more := r.Found - int64(len(r.Findings)); more > 0 {
		facts = append(facts, "not listed", fmt.Sprint(more))
	}
	var rules []string
	for _, rule := range ca.AuditRules() {
		if n := r.Rules[rule.Name]; n > 0 {
			rules = append(rules, fmt.Sprintf("%s %d", rule.Name, n))
		}
	}
	slices.Sort(rules)
	return printFacts(w, given(append(facts, "by rule", strings.Join(rules, ", "))...)...)
}
