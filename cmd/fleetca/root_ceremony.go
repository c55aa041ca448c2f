package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
)

const ceremonyHelp = `Hold a root ceremony, on a machine that needs neither a server nor a network: a
plan that was reviewed beforehand goes in, and a folder with certificates, the
root's CRL, copies of what was signed, and a transcript that the root's key signs
comes out. The folder is made whole or not at all.

  name: Root of the example fleet, 2026
  people: [Ann Admin, Bob Witness]
  root:
    id: root-2026
    commonName: Example fleet root 2026
    organization: Example
    years: 20
    key: root-2026.key.pem       # written, encrypted; or a token: pkcs11:token=LABEL?pin-source=FILE
    algorithm: P-384             # P-256, P-384, RSA-3072, RSA-4096
  issuers:
    - id: device-2026
      purpose: device            # device, broker or intermediate
      csr: device-2026.csr.pem   # of fleetca issuer csr device-2026
      commonName: Example device CA 2026
      organization: Example
      years: 8
      product: pump              # product, site, domain: as of fleetca issuer create
  crossSign:                     # with the root of before
    id: root
    certificate: root.pem
    key: root.key.pem            # left out: it is signed by the new one, and signs nothing

For a root that exists, give certificate, key and crlNumber in place of the rest.
Its CRL comes out empty: while it has revoked issuers use fleetca root crl.

Check the folder elsewhere: fleetca root ceremony verify DIR`

func newRootCeremonyCommand() *cobra.Command {
	var out, passphraseFile, otherFile string
	cmd := &cobra.Command{
		Use:   "ceremony PLAN --out DIR",
		Short: "Hold a root ceremony: a reviewed plan in, certificates and a signed transcript out",
		Long:  ceremonyHelp,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usageError(errors.New("--out is missing"), "name the folder to make")
			}
			text, err := os.ReadFile(args[0])
			if err != nil {
				return usageError(err, "name the file with the plan; fleetca root ceremony --help has an example")
			}
			plan, err := ca.ReadCeremony(text)
			if err != nil {
				return usageErrorOf(err)
			}
			cfg := ca.CeremonyConfig{Plan: text, Dir: filepath.Dir(args[0]), Out: out, PIN: pinOfTokens(), Program: programVersion(), Now: time.Now}
			if keyInFile(plan.Root.Key) {
				if cfg.Passphrase, err = givenPassphrase(passphraseFile); err != nil {
					return err
				}
			}
			if plan.CrossSign != nil && keyInFile(plan.CrossSign.Key) {
				if cfg.Other, err = givenPassphrase(cmp.Or(otherFile, passphraseFile)); err != nil {
					return err
				}
			}
			t, err := plan.Hold(cmd.Context(), cfg)
			if err != nil {
				return inTheWay(err, "move it, or name another; nothing was changed")
			}
			return printTranscript(cmd, out, t)
		},
	}
	cmd.AddCommand(newRootCeremonyVerifyCommand())
	cmd.Flags().StringVar(&out, "out", "", "folder to make")
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", "file with the passphrase of the root's key file (or FLEETCA_PASSPHRASE)")
	cmd.Flags().StringVar(&otherFile, "other-passphrase-file", "", "file with the passphrase of the key of crossSign (default: the same)")
	return cmd
}

// keyInFile reports whether a plan's key is a file, which a passphrase opens.
func keyInFile(key string) bool {
	return key != "" && (!strings.Contains(key, ":") || ca.IsKeyFile(key))
}

func newRootCeremonyVerifyCommand() *cobra.Command {
	var planFile, fingerprint string
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Verify what a root ceremony left: transcript, files, certificates",
		Long: `Verify the folder of a root ceremony, on any machine: the root's signature on the
transcript, the hash of every file, each certificate against the plan, its request
and its signer, the CRL. Give the root's SHA-256 as those who were there wrote it
down, and the plan as it was reviewed: without them the folder is only shown to
agree with itself.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var plan []byte
			if planFile != "" {
				var err error
				if plan, err = os.ReadFile(planFile); err != nil {
					return usageError(err, "name the plan that was reviewed")
				}
			}
			t, err := ca.VerifyCeremony(args[0], strings.ToLower(strings.ReplaceAll(fingerprint, ":", "")), plan)
			if err != nil {
				return hinted(fmt.Errorf("%s does not verify: %w", args[0], err), "use nothing of it; ask those who were there for their copy")
			}
			if err := printTranscript(cmd, args[0], t); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "\nThe folder agrees with %s.\n", strings.Join(against(fingerprint, planFile), " and "))
			if fingerprint == "" {
				fmt.Fprintln(cmd.OutOrStdout(), "Whose root it is was not verified: give --root-sha256 as it was written down.")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&planFile, "plan", "", "the plan that was reviewed")
	cmd.Flags().StringVar(&fingerprint, "root-sha256", "", "the root's SHA-256, as it was written down")
	return cmd
}

// against says what a ceremony's folder was held against.
func against(fingerprint, plan string) []string {
	all := []string{"itself"}
	if fingerprint != "" {
		all = append(all, "the root's SHA-256 that was given")
	}
	if plan != "" {
		all = append(all, "the plan "+plan)
	}
	return all
}

// printTranscript shows what a ceremony gave.
func printTranscript(cmd *cobra.Command, dir string, t *ca.Transcript) error {
	facts := []string{"ceremony", t.Name, "people", strings.Join(t.People, ", "), "held", t.StartedAt.Format(time.RFC3339), "root's key", t.Key, "folder", dir}
	for _, f := range t.Outputs {
		what := f.Subject
		if f.Fingerprint != "" {
			what += ", SHA-256 " + f.Fingerprint
		}
		if len(f.Permits) > 0 {
			what += ", names below " + strings.Join(f.Permits, " ")
		}
		facts = append(facts, f.Kind, fmt.Sprintf("%s: %s, until %s", f.File, what, day(f.NotAfter)))
	}
	return printFacts(cmd.OutOrStdout(), facts...)
}
