package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func newIssuerRolloverCommand() *cobra.Command {
	f := &issuerFlags{}
	var id string
	cmd := &cobra.Command{
		Use:   "rollover OLD --data DIR --root-key FILE",
		Short: "Make an issuer's successor, for the same, on the server's machine",
		Long: `Make the successor of an issuer: for the same purpose, product, site and domain, with
a key of its own, signed by the active root. A server publishes it within seconds;
then: fleetca issuer activate ID, and later fleetca issuer retire OLD.`,
		Args: cobra.ExactArgs(1),
		RunE: f.adding(func(ctx context.Context, l *localIssuers, args []string) (*ca.Issuer, error) {
			old, err := l.named(args[0])
			switch {
			case err != nil:
				return nil, err
			case old.Purpose == ca.PurposeRoot:
				return nil, usageError(fmt.Errorf("issuer %s is a root", old.ID), "fleetca root rollover makes the next root")
			case old.Purpose == ca.PurposeIntermediate:
				return nil, usageError(fmt.Errorf("issuer %s is an intermediate, whose key is not here", old.ID), "add its successor with fleetca issuer import")
			}
			subject := old.Certificate.Subject
			f.purpose, f.plan.Product, f.plan.Site, f.plan.Domain = string(old.Purpose), old.Product, old.Site, old.Domain
			if f.plan.Organization == "" && len(subject.Organization) > 0 {
				f.plan.Organization = subject.Organization[0]
			}
			return f.create(ctx, l, cmp.Or(id, l.successorID(old.ID)))
		}),
	}
	f.localFlags.add(cmd.Flags())
	f.addPlan(cmd.Flags())
	f.root.add(cmd.Flags())
	cmd.Flags().StringVar(&f.passphraseFile, "passphrase-file", "", "file with the passphrase of the folder's keys (or FLEETCA_PASSPHRASE; default DIR/passphrase)")
	cmd.Flags().StringVar(&id, "id", "", "id of the successor (default: the old one's with the next number)")
	cmd.Flags().StringVar(&f.parent, "parent", "", "id of the root or intermediate that signs it (default: the active root)")
	cmd.Flags().IntVar(&f.plan.Years, "years", ca.IssuerYears, "years that its certificate is valid; never past its parent's")
	cmd.Flags().StringVar(&f.keyKMS, "key-kms", "", "URI of a PKCS #11 token to make its key inside, in place of a file")
	return cmd
}

// countedID is an id that ends in a small number; a year is part of a name.
var countedID = regexp.MustCompile(`^(.+)-([1-9][0-9]?)$`)

// successorID returns an id with the next number that is free.
func (l *localIssuers) successorID(id string) string {
	base, n := id, 1
	if m := countedID.FindStringSubmatch(id); m != nil {
		base = m[1]
		n, _ = strconv.Atoi(m[2])
	}
	for {
		n++
		if next := fmt.Sprintf("%s-%d", base, n); !l.has(next) {
			return next
		}
	}
}

// rootRollover is what root rollover works with.
type rootRollover struct {
	localFlags
	plan           ca.CAPlan
	algorithm      string
	keyOut, keyKMS string
	passphraseFile string
	old            rootKeyFlags
}

func newRootRolloverCommand() *cobra.Command {
	f := &rootRollover{}
	cmd := &cobra.Command{
		Use:   "rollover --data DIR --root-key FILE --new-key-out FILE",
		Short: "Make the next root, cross-signed with the active one",
		Long: `Make the next root: its key in a file or in a token, its certificate, its first CRL,
and two cross-certificates, the new root's by the old and back. A server that runs
puts it into the next generation of the trust bundle within seconds. Nothing signs
below it yet:

  fleetca issuer activate NEW                    new issuers are made under it
  fleetca issuer rollover device --root-key NEW-KEY      and the others
  fleetca issuer readiness NEW                   who has the new trust bundle
  fleetca issuer activate device-2               refused while devices would be left behind
  fleetca broker rotate ID                       each broker serves below the new root
  fleetca issuer retire device                   and the others
  fleetca issuer drop OLD                        refused while anybody holds a certificate below it

A root that must never meet a network comes from fleetca root ceremony, and
fleetca issuer import with --cross.`,
		Args: cobra.NoArgs,
		RunE: f.adding(func(ctx context.Context, l *localIssuers, _ []string) (*ca.Issuer, error) { return f.make(ctx, l) }),
	}
	set := cmd.Flags()
	f.localFlags.add(set)
	f.old.add(set)
	set.Lookup("root-key").Usage = "the active root's key: a PEM file, or a KMS URI (default: the token that init made it in)"
	set.StringVar(&f.plan.ID, "id", "", "id of the new root (default: the old one's with the next number)")
	set.StringVar(&f.plan.CommonName, "common-name", "", "CN of its subject (default: made of the id)")
	set.StringVar(&f.plan.Organization, "organization", "", "O of its subject (default: the active root's)")
	set.IntVar(&f.plan.Years, "years", ca.RootYears, "years that its certificate is valid")
	set.StringVar(&f.algorithm, "algorithm", string(ca.KeyP256), "kind of its key: P-256, P-384, RSA-3072 or RSA-4096")
	set.StringVar(&f.keyOut, "new-key-out", "", "where to write its encrypted key")
	set.StringVar(&f.keyKMS, "new-key-kms", "", "URI of a PKCS #11 token to make its key inside, in place of a file")
	set.StringVar(&f.passphraseFile, "passphrase-file", "", "file with the passphrase of key files (or FLEETCA_PASSPHRASE; default DIR/passphrase)")
	return cmd
}

// make makes the next root.
func (f *rootRollover) make(ctx context.Context, l *localIssuers) (_ *ca.Issuer, err error) {
	if (f.keyOut == "") == (f.keyKMS == "") {
		return nil, usageError(errors.New("give --new-key-out or --new-key-kms"), "name where the new root's key goes, off this machine soon")
	}
	old, err := l.named("")
	if err != nil {
		return nil, err
	}
	if f.plan.Purpose = ca.PurposeRoot; f.plan.ID == "" {
		f.plan.ID = l.successorID(old.ID)
	}
	if f.plan.CommonName == "" {
		f.plan.CommonName = "Root CA " + f.plan.ID
	}
	if o := old.Certificate.Subject.Organization; f.plan.Organization == "" && len(o) > 0 {
		f.plan.Organization = o[0]
	}
	if err := f.plan.Check(); err != nil {
		return nil, usageErrorOf(err)
	}
	if err := l.checkFree(f.plan.ID); err != nil {
		return nil, err
	}
	oldKey, err := f.old.open(ctx, l.dir, f.passphraseFile, old.Certificate.PublicKey)
	if err != nil {
		return nil, err
	}
	key, err := f.makeKey(ctx, l.dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = key.keep(err) }()
	now := time.Now()
	cert, err := ca.SignRoot(f.plan, key, now)
	if err != nil {
		return nil, err
	}
	i := f.plan.Issuer(cert, f.plan.ID, "")
	crl, err := ca.FirstCRL(ctx, i, key, 1, now)
	if err != nil {
		return nil, err
	}
	back, err := ca.CrossSign(old.Certificate, cert, key, now)
	if err != nil {
		return nil, err
	}
	cross := []ca.CrossCertificate{{Root: old.ID, By: i.ID, Certificate: back}}
	// An older root may allow one CA below it alone; readiness is what counts.
	if forward, err := ca.CrossSign(cert, old.Certificate, oldKey, now); err == nil {
		cross = append(cross, ca.CrossCertificate{Root: i.ID, By: old.ID, Certificate: forward})
	} else if !errors.Is(err, ca.IsKind(ca.KindKey)) {
		return nil, err
	}
	return &i, l.add(ctx, "issuer.create", i, crl, cross...)
}

// makeKey makes the key, in a file or in a key store.
func (f *rootRollover) makeKey(ctx context.Context, d dataDir) (newKey, error) {
	kind := ca.KeyAlgorithm(f.algorithm)
	if f.keyKMS != "" {
		key, _, err := ca.Keyring{PIN: pinOfTokens()}.Make(ctx, f.keyKMS, "fleetca-"+f.plan.ID, kind)
		return newKey{key, "", ""}, err
	}
	passphrase, err := d.readPassphrase(f.passphraseFile)
	if err != nil {
		return newKey{}, err
	}
	key, err := ca.CreateKeyFile(ctx, f.keyOut, passphrase, kind)
	return newKey{key, "", f.keyOut}, inTheWay(err, "choose another --new-key-out")
}

func newIssuerReadinessCommand(flags *clientFlags) *cobra.Command {
	step := string(enroll.StepSwitch)
	cmd := &cobra.Command{
		Use: "readiness ISSUER", Short: "Say who would be left behind by a step of a root's roll-over",
		Long: `Say which devices and brokers have not confirmed the trust bundle that has an
issuer's root (--step switch), or hold certificates below it (--step drop). They
confirm by enrolling, renewing, or by an acknowledgement over the REST API. The
certificates of servers are not looked at: they are replaced by themselves.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			r, err := c.Readiness(cmd.Context(), args[0], enroll.RolloverStep(step))
			if err != nil {
				return clientError(err)
			}
			return printReadiness(cmd, flags, r)
		},
	}
	cmd.Flags().StringVar(&step, "step", step, "switch or drop")
	return cmd
}

func printReadiness(cmd *cobra.Command, flags *clientFlags, r *enroll.Readiness) error {
	if flags.json {
		return printJSON(cmd.OutOrStdout(), r)
	}
	ready := "no"
	if r.Ready {
		ready = "yes"
	}
	facts := []string{"root", r.Root, "step", string(r.Step), "ready", ready, "trust bundle", fmt.Sprint(r.Generation),
		"devices", fmt.Sprintf("%d of %d behind", r.Behind, r.Devices)}
	for _, id := range r.Stragglers {
		facts = append(facts, "device behind", id)
	}
	for _, id := range r.Brokers {
		facts = append(facts, "broker behind", id)
	}
	if a := r.Approval; a != nil {
		facts = append(facts, "approved", fmt.Sprintf("by %s on %s: %s", a.Actor, day(a.At), a.Reason))
	}
	return printFacts(cmd.OutOrStdout(), facts...)
}

func newIssuerApproveCommand(flags *clientFlags) *cobra.Command {
	var a enroll.NewApproval
	step := string(enroll.StepSwitch)
	cmd := &cobra.Command{
		Use: "approve ROOT --reason TEXT", Short: "Allow a step of a root's roll-over in spite of stragglers", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.Reason == "" {
				return usageError(errors.New("--reason is missing"), "say why they may be left behind; it is recorded")
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			a.Step = enroll.RolloverStep(step)
			r, err := c.ApproveRollover(cmd.Context(), args[0], a)
			if err != nil {
				return clientError(err)
			}
			return printReadiness(cmd, flags, r)
		},
	}
	cmd.Flags().StringVar(&step, "step", step, "switch or drop")
	cmd.Flags().StringVar(&a.Reason, "reason", "", "why; it is recorded")
	return cmd
}

func newIssuerDropCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "drop ROOT", Short: "Take a root out of the trust bundle, once no device or broker would be left behind",
		Long: `Take a root out of the trust bundle, once no device and no broker would be left
behind: fleetca issuer readiness ROOT --step drop. Servers do not count: each gets
another certificate for itself within a minute of the drop. A client that has
the new trust bundle already may refuse a server until then, and tries again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			b, err := c.DropRoot(cmd.Context(), args[0])
			if err != nil {
				return clientError(err)
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), b)
			}
			return printFacts(cmd.OutOrStdout(), "dropped", args[0], "trust bundle", fmt.Sprint(b.Generation))
		},
	}
}
