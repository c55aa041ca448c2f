package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
)

func newPassphraseCommand() *cobra.Command {
	var data, oldFile, newFile string
	cmd := &cobra.Command{
		Use:   "passphrase --data DIR --new-passphrase-file FILE",
		Short: "Encrypt the keys with another passphrase",
		Long: `Encrypt the issuers' keys with another passphrase, and the root's key too if it is
in the folder. Keys in a token have a PIN, which the token's own tool changes. A server that runs has its keys open and goes on; its next start
needs the new passphrase. Interrupted, it can be run again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := dataDir(data)
			switch {
			case data == "":
				return usageError(errors.New("--data is missing"), "name the folder that fleetca init made")
			case newFile == "":
				return usageError(errors.New("--new-passphrase-file is missing"), "name a file with the new passphrase")
			case !d.initialised():
				return usageError(fmt.Errorf("%s holds no authority", data), "make one: fleetca init --data "+data)
			}
			keys, err := filepath.Glob(d.path("keys", "*.pem"))
			if err != nil {
				return err
			}
			if _, err := os.Stat(d.rootKey()); err == nil {
				keys = append(keys, d.rootKey())
			}
			if len(keys) == 0 {
				return usageError(fmt.Errorf("%s holds no key files", data), "keys in a token have a PIN in place of a passphrase; change it with the token's own tool, such as pkcs11-tool --change-pin")
			}
			next, err := d.readPassphrase(newFile)
			if err != nil {
				return err
			}
			old, err := d.readPassphrase(oldFile)
			if err != nil {
				return err
			}
			if err := ca.ChangePassphrase(keys, old, next); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%d keys have the new passphrase\n", len(keys))
			if _, err := os.Stat(d.passphrase()); err == nil {
				if err := ca.ReplaceFile(d.passphrase(), append(next, '\n'), 0o600); err != nil {
					return err
				}
				fmt.Fprintf(out, "%s holds it\n", d.passphrase())
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "folder that fleetca init made")
	cmd.Flags().StringVar(&oldFile, "passphrase-file", "", "file with the passphrase of now (or FLEETCA_PASSPHRASE; default DIR/passphrase)")
	cmd.Flags().StringVar(&newFile, "new-passphrase-file", "", "file with the new passphrase")
	return cmd
}
