package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/store"
)

// rootCRLPeriod is how long the root's CRL is valid: its key is offline.
const rootCRLPeriod = 366 * 24 * time.Hour

// rootCRLConfig is what root crl works with.
type rootCRLConfig struct {
	data, database string
	key            string // a file, or a KMS URI
	passphraseFile string
}

func newRootCommandGroup() *cobra.Command {
	cmd := &cobra.Command{Use: "root", Short: "Use the root's key, brought to this machine for as long as it takes"}
	cmd.AddCommand(newRootCRLCommand())
	return cmd
}

func newRootCRLCommand() *cobra.Command {
	var cfg rootCRLConfig
	cmd := &cobra.Command{
		Use:   "crl --data DIR --root-key FILE",
		Short: "Sign the root's next CRL, once a year",
		Long: `Sign the root's next CRL, valid for a year. The one that init signed lapses after a
year too, and brokers take no CRLs any more when it has. The server may run
meanwhile, and serves the new one at once. Take the key away again afterwards.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case cfg.data == "":
				return usageError(errors.New("--data is missing"), "name the folder that fleetca init made")
			case !dataDir(cfg.data).initialised():
				return usageError(fmt.Errorf("%s holds no authority", cfg.data), "make one: fleetca init --data "+cfg.data)
			}
			crl, err := signRootCRL(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return printFacts(cmd.OutOrStdout(), "CRL number", fmt.Sprint(crl.Number), "valid until", day(crl.NextUpdate))
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.data, "data", "", "folder that fleetca init made")
	f.StringVar(&cfg.database, "database", "", "database URL (default SQLite at DIR/fleetca.db)")
	f.StringVar(&cfg.key, "root-key", "", "the root's key: a PEM file, or a KMS URI (default: the token that init made it in)")
	f.StringVar(&cfg.passphraseFile, "passphrase-file", "", "file with the passphrase of the root's key (or FLEETCA_PASSPHRASE; default DIR/passphrase)")
	return cmd
}

// signRootCRL publishes the root's next CRL with an authority that has the
// root's key, and no other.
func signRootCRL(ctx context.Context, cfg rootCRLConfig) (*ca.CRL, error) {
	d := dataDir(cfg.data)
	uri, err := cfg.keyURI()
	if err != nil {
		return nil, err
	}
	st, err := store.Open(ctx, store.Config{URL: d.databaseURL(cfg.database)})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	issuers, err := st.Issuers(ctx)
	if err != nil {
		return nil, err
	}
	root := ""
	for i := range issuers {
		issuers[i].KeyURI = ""
		if issuers[i].Purpose == ca.PurposeRoot {
			issuers[i].KeyURI, root = uri, issuers[i].ID
		}
	}
	keys, err := d.keyring(issuers, cfg.passphraseFile)
	if err != nil {
		return nil, err
	}
	last, err := st.LastEventAt(ctx)
	if err != nil {
		return nil, err
	}
	a, err := ca.Open(ctx, ca.Config{
		Issuers: issuers, Keys: keys, Ledger: rootLedger{st}, LastEvent: last, CRLPeriod: rootCRLPeriod,
	})
	if err != nil {
		return nil, err
	}
	return a.PublishCRL(ctx, ca.CRLScope{IssuerID: root}, true)
}

// A rootLedger records who used the root's key.
type rootLedger struct{ *store.Store }

// SaveCRL implements ca.CRLStore.
func (l rootLedger) SaveCRL(ctx context.Context, crl *ca.CRL) error {
	return l.SaveCRLOf(ctx, localUser(), crl)
}

// keyURI returns the URI of the root's key: as given, or as init noted it.
func (cfg rootCRLConfig) keyURI() (string, error) {
	if cfg.key != "" {
		return keyURI(cfg.key)
	}
	text, err := os.ReadFile(dataDir(cfg.data).rootKeyURI())
	if err != nil {
		return "", usageError(errors.New("--root-key is missing"), "name the root's key: the file that init wrote, or a KMS URI")
	}
	return strings.TrimSpace(string(text)), nil
}

// keyURI returns the KMS URI of a key that is named by its file, or by a URI.
func keyURI(key string) (string, error) {
	if strings.Contains(key, ":") {
		return key, nil
	}
	path, err := filepath.Abs(key)
	return "softkms:path=" + path, err
}
