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
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store"
)

// rootCRLConfig is what root crl works with.
type rootCRLConfig struct {
	data, database string
	issuer         string // id of the root; the active one when empty
	key            string // a file, or a KMS URI
	passphraseFile string
}

func newRootCommandGroup() *cobra.Command {
	cmd := &cobra.Command{Use: "root", Short: "Use a root's key: ceremonies, CRLs; no server is needed"}
	cmd.AddCommand(newRootCRLCommand(), newRootImportCRLCommand(), newRootCeremonyCommand(), newRootRolloverCommand())
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
	f.StringVar(&cfg.issuer, "root", "", "id of the root, where there are several (default: the active one)")
	f.StringVar(&cfg.key, "root-key", "", "the root's key: a PEM file, or a KMS URI (default: the token that init made it in)")
	f.StringVar(&cfg.passphraseFile, "passphrase-file", "", "file with the passphrase of the root's key (or FLEETCA_PASSPHRASE; default DIR/passphrase)")
	return cmd
}

func newRootImportCRLCommand() *cobra.Command {
	local := &localFlags{}
	cmd := &cobra.Command{
		Use:   "import-crl ID FILE --data DIR",
		Short: "Add the next CRL of a root or an intermediate, signed elsewhere",
		Long: `Add the next CRL of a root or an intermediate whose key is not used here (fleetca
issuer import), PEM or DER. Its number must be above that of the last. The server
may run meanwhile, and serves it at once.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := local.issuers(cmd.Context())
			if err != nil {
				return err
			}
			defer l.store.Close()
			i, err := l.named(args[0])
			if err != nil {
				return err
			}
			if i.KeyURI != "" {
				return usageError(fmt.Errorf("the server signs the CRLs of issuer %s itself", i.ID), "name a root or an intermediate")
			}
			crl, err := readCRLOf(*i, args[1])
			if err != nil {
				return err
			}
			if err := l.store.ImportCRL(cmd.Context(), crl, enroll.Change{Event: enroll.CRLEvent(time.Now().UTC().Truncate(time.Microsecond), localUser(), crl)}); err != nil {
				return err
			}
			return printFacts(cmd.OutOrStdout(), "CRL number", fmt.Sprint(crl.Number), "entries", fmt.Sprint(crl.Entries), "valid until", day(crl.NextUpdate))
		},
	}
	local.add(cmd.Flags())
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
	l, err := (&localFlags{data: cfg.data, database: cfg.database}).issuers(ctx)
	if err != nil {
		return nil, err
	}
	st := l.store
	defer st.Close()
	root, err := l.named(cfg.issuer)
	if err != nil {
		return nil, err
	}
	issuers := l.all
	for i := range issuers {
		issuers[i].KeyURI = ""
	}
	root.KeyURI = uri
	keys, err := d.keyring(issuers, cfg.passphraseFile)
	if err != nil {
		return nil, err
	}
	last, err := st.LastEventAt(ctx)
	if err != nil {
		return nil, err
	}
	a, err := ca.Open(ctx, ca.Config{
		Issuers: issuers, Keys: keys, Ledger: rootLedger{st}, LastEvent: last, CRLPeriod: ca.RootCRLPeriod,
	})
	if err != nil {
		return nil, err
	}
	return a.PublishCRL(ctx, ca.CRLScope{IssuerID: root.ID}, true)
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
