package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
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
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := f.issuers(cmd.Context())
			if err != nil {
				return err
			}
			defer l.store.Close()
			old, err := l.named(args[0])
			if err != nil {
				return err
			}
			if id == "" {
				id = l.successorID(old.ID)
			}
			subject := old.Certificate.Subject
			f.purpose, f.plan.Product, f.plan.Site, f.plan.Domain = string(old.Purpose), old.Product, old.Site, old.Domain
			if f.plan.CommonName == "" {
				f.plan.CommonName = "Issuing CA " + id
			}
			if f.plan.Organization == "" && len(subject.Organization) > 0 {
				f.plan.Organization = subject.Organization[0]
			}
			i, err := f.create(cmd.Context(), l, id)
			if err != nil {
				return err
			}
			return printNewIssuer(cmd, *i)
		},
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

// successorID returns an id with the next number that is free.
func (l *localIssuers) successorID(id string) string {
	base := strings.TrimRight(strings.TrimRight(id, "0123456789"), "-")
	for n := 2; ; n++ {
		next := fmt.Sprintf("%s-%d", base, n)
		if !slices.ContainsFunc(l.all, func(i ca.Issuer) bool { return i.ID == next }) {
			return next
		}
	}
}

// A newRoot is a root's key and its certificate.
type newRoot struct {
	key  crypto.Signer
	cert *x509.Certificate
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
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := f.issuers(cmd.Context())
			if err != nil {
				return err
			}
			defer l.store.Close()
			i, err := f.make(cmd.Context(), l)
			if err != nil {
				return err
			}
			return printNewIssuer(cmd, *i)
		},
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
func (f *rootRollover) make(ctx context.Context, l *localIssuers) (*ca.Issuer, error) {
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
	oldKey, err := f.old.open(ctx, l.dir, f.passphraseFile, old.Certificate.PublicKey)
	if err != nil {
		return nil, err
	}
	next, err := f.sign(ctx, l.dir)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	i := f.plan.Issuer(next.cert, f.plan.ID, "")
	crl, err := ca.FirstCRL(ctx, i, next.key, 1, now)
	if err != nil {
		return nil, err
	}
	back, err := ca.CrossSign(old.Certificate, next.cert, next.key, now)
	if err != nil {
		return nil, err
	}
	cross := []ca.CrossCertificate{{Root: old.ID, By: i.ID, Certificate: back}}
	// An older root may allow one CA below it alone; readiness is what counts.
	if forward, err := ca.CrossSign(next.cert, old.Certificate, oldKey, now); err == nil {
		cross = append(cross, ca.CrossCertificate{Root: i.ID, By: old.ID, Certificate: forward})
	} else if !errors.Is(err, ca.IsKind(ca.KindKey)) {
		return nil, err
	}
	return &i, l.add(ctx, "issuer.create", i, crl, cross...)
}

// sign makes the key and the certificate.
func (f *rootRollover) sign(ctx context.Context, d dataDir) (*newRoot, error) {
	n := &newRoot{}
	var err error
	if f.keyKMS != "" {
		n.key, _, err = ca.Keyring{PIN: pinOfTokens()}.Make(ctx, f.keyKMS, "fleetca-"+f.plan.ID, ca.KeyAlgorithm(f.algorithm))
	} else {
		var passphrase []byte
		if passphrase, err = d.readPassphrase(f.passphraseFile); err != nil {
			return nil, err
		}
		n.key, err = ca.CreateKeyFile(ctx, f.keyOut, passphrase, ca.KeyAlgorithm(f.algorithm))
		if errors.Is(err, os.ErrExist) {
			err = hinted(err, "it is in the way and is not overwritten: choose another --new-key-out")
		}
	}
	if err != nil {
		return nil, err
	}
	n.cert, err = ca.SignRoot(f.plan, n.key, time.Now())
	return n, err
}

func newIssuerReadinessCommand(flags *clientFlags) *cobra.Command {
	step := string(enroll.StepSwitch)
	cmd := &cobra.Command{
		Use: "readiness ISSUER", Short: "Say who would be left behind by a step of a root's roll-over",
		Long: `Say which devices and brokers have not confirmed the trust bundle that has an
issuer's root (--step switch), or hold certificates below it (--step drop). They
confirm by enrolling, renewing, or by an acknowledgement over the REST API.`,
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
		Use: "drop ROOT", Short: "Take a root out of the trust bundle, once nobody would be left behind", Args: cobra.ExactArgs(1),
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
