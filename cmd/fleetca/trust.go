package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func newTrustCommand() *cobra.Command {
	var out string
	var generation int64
	flags := &clientFlags{}
	cmd := &cobra.Command{
		Use:   "trust --out FILE",
		Short: "Write the trust bundle, checked against the root's fingerprint",
		Long: `Fetch the trust bundle from the server and write it to a file. With
--ca-fingerprint, the root's SHA-256 that init printed, this is the first contact
of a machine that has nothing yet; later commands take the file with --ca.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usageError(errors.New("--out is missing"), "name the file to write, such as trust-bundle.pem")
			}
			cfg, err := flags.config()
			if err != nil {
				return err
			}
			c, err := client.New(cfg)
			if err != nil {
				return usageErrorOf(err)
			}
			get := c.TrustBundle
			if generation > 0 {
				get = func(ctx context.Context) (*enroll.TrustBundle, error) { return c.TrustBundleOf(ctx, generation) }
			}
			bundle, err := get(cmd.Context())
			if err != nil {
				return clientError(err)
			}
			if err := ca.ReplaceFile(out, []byte(bundle.PEM), 0o644); err != nil {
				return err
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), bundle)
			}
			roots, err := readCertificates(out)
			if err != nil {
				return err
			}
			facts := []string{"trust bundle", out, "generation", fmt.Sprint(bundle.Generation)}
			for _, root := range roots {
				facts = append(facts, "root", root.Subject.String(), "SHA-256", ca.FingerprintOf(root))
			}
			return printFacts(cmd.OutOrStdout(), facts...)
		},
	}
	flags.add(cmd.Flags())
	cmd.Flags().Int64Var(&generation, "generation", 0, "generation of the trust bundle (default: the newest)")
	cmd.Flags().StringVar(&out, "out", "", "file to write")
	return cmd
}
