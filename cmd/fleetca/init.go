package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store"
)

// initConfig is what init works with.
type initConfig struct {
	data           string // folder; made when missing
	passphraseFile string // of the key files; one is made up when empty
	rootKeyOut     string // where the root's key goes; data/root/key.pem when empty
	rootCert       string // PEM file with a root of one's own; one is made when empty
	rootKey        string // its key: a file, or a KMS URI
	rootPassphrase string // file with the passphrase of that key; the same as passphraseFile's when empty
	organization   string // O of the certificates
	database       string // store URL; SQLite in the folder when empty
}

func newInitCommand() *cobra.Command {
	var cfg initConfig
	cmd := &cobra.Command{
		Use:   "init --data DIR",
		Short: "Make an authority: a root, an issuer for devices and one for brokers",
		Long: `Make an authority in a folder: a root, an issuer for devices, one for brokers
and servers, and an empty database. Nothing that exists is overwritten.

The root signs nothing but issuers. Its key is written encrypted, and serve
never reads it: move it off this machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.data == "" {
				return usageError(errors.New("--data is missing"), "name the folder to make, such as --data /var/lib/fleetca")
			}
			if (cfg.rootCert == "") != (cfg.rootKey == "") {
				return usageError(errors.New("--root-cert and --root-key go together"), "give both for a root of your own, or neither")
			}
			if cfg.rootCert != "" && cfg.rootKeyOut != "" {
				return usageError(errors.New("--root-key-out makes no sense with --root-cert"), "leave it out: the key stays where it is")
			}
			root, err := initialize(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return printInit(cmd, cfg, root)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.data, "data", "", "folder for keys and database")
	f.StringVar(&cfg.passphraseFile, "passphrase-file", "", "file with the passphrase that encrypts the keys (or FLEETCA_PASSPHRASE); made up into DIR/passphrase when missing")
	f.StringVar(&cfg.rootKeyOut, "root-key-out", "", "where to write the root's encrypted key (default DIR/root/key.pem)")
	f.StringVar(&cfg.rootCert, "root-cert", "", "PEM file with a root of your own, in place of one made here")
	f.StringVar(&cfg.rootKey, "root-key", "", "key of --root-cert: a PEM file, or a KMS URI; read once, and not kept")
	f.StringVar(&cfg.rootPassphrase, "root-passphrase-file", "", "file with the passphrase of --root-key (default: the same as the other keys')")
	f.StringVar(&cfg.organization, "organization", "fleetca", "organization in the issuers' names")
	f.StringVar(&cfg.database, "database", "", "database URL (default SQLite at DIR/fleetca.db)")
	return cmd
}

// initialize makes an authority. It is done whole or, run again, anew: until
// it is done nothing was ever signed with its keys.
func initialize(ctx context.Context, cfg initConfig) (rootSHA256 string, err error) {
	d := dataDir(cfg.data)
	if err := prepareInit(d); err != nil {
		return "", err
	}
	passphrase, err := initPassphrase(d, cfg.passphraseFile)
	if err != nil {
		return "", err
	}
	rootKey := cfg.rootKeyOut
	if rootKey == "" {
		rootKey = d.rootKey()
	}
	hierarchy := ca.InitConfig{Dir: cfg.data, RootKeyPath: rootKey, Passphrase: passphrase, Organization: cfg.organization}
	if err := cfg.ownRoot(&hierarchy); err != nil {
		return "", err
	}
	h, err := ca.Initialize(ctx, hierarchy)
	if errors.Is(err, os.ErrExist) {
		return "", hinted(err, "it is in the way and is not overwritten: move it, or choose another --root-key-out")
	}
	if err != nil {
		return "", err
	}
	root := []byte(ca.EncodeChain(h.Root()))
	if err := errors.Join(writeNew(d.rootCert(), root, 0o644), writeNew(d.trustBundle(), root, 0o644)); err != nil {
		return "", err
	}
	st, err := store.Open(ctx, store.Config{URL: d.databaseURL(cfg.database)})
	if err != nil {
		return "", err
	}
	defer st.Close()
	if err := st.Migrate(ctx); err != nil {
		return "", err
	}
	fingerprint := ca.FingerprintOf(h.Root())
	if err := st.CreateIssuers(ctx, h.Issuers, h.CRLs, enroll.Change{Event: enroll.InitEvent(fingerprint)}); err != nil {
		return "", err
	}
	return fingerprint, os.Remove(d.initMarker())
}

// ownRoot fills in the root that init was given, if any.
func (cfg initConfig) ownRoot(h *ca.InitConfig) error {
	if cfg.rootCert == "" {
		return nil
	}
	certs, err := readCertificates(cfg.rootCert)
	if err == nil && len(certs) != 1 {
		err = fmt.Errorf("%s holds %d certificates", cfg.rootCert, len(certs))
	}
	if err != nil {
		return usageError(fmt.Errorf("--root-cert: %w", err), "give a PEM file with the root's certificate alone")
	}
	h.RootCertificate, h.RootPassphrase = certs[0], h.Passphrase
	if h.RootKeyURI, err = keyURI(cfg.rootKey); err != nil {
		return err
	}
	if cfg.rootPassphrase != "" {
		h.RootPassphrase, err = dataDir(cfg.data).readPassphrase(cfg.rootPassphrase)
	}
	return err
}

// initPassphrase returns the passphrase given, or makes one up.
func initPassphrase(d dataDir, file string) ([]byte, error) {
	if file == "" && os.Getenv("FLEETCA_PASSPHRASE") == "" {
		return d.makePassphrase()
	}
	return d.readPassphrase(file)
}

// prepareInit makes the folder ready, and clears what an interrupted init left.
func prepareInit(d dataDir) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(d.initMarker()); err == nil {
		for _, name := range []string{"keys", "root", "passphrase", "trust-bundle.pem", "fleetca.db", "fleetca.db-wal", "fleetca.db-shm"} {
			if err := os.RemoveAll(d.path(name)); err != nil {
				return err
			}
		}
	} else if _, err := os.Stat(d.restoreMarker()); err == nil {
		return hinted(fmt.Errorf("a restore into %s was interrupted", string(d)), "run it again with the same flags, or choose an empty folder")
	} else {
		for _, name := range []string{"keys", "root", "fleetca.db"} {
			if _, err := os.Stat(d.path(name)); err == nil {
				return hinted(fmt.Errorf("%s holds an authority already (%s)", string(d), name), "nothing was changed; choose an empty folder")
			}
		}
		if err := writeNew(d.initMarker(), nil, 0o600); err != nil {
			return err
		}
	}
	return errors.Join(os.MkdirAll(d.path("keys"), 0o700), os.MkdirAll(d.path("root"), 0o700))
}

func printInit(cmd *cobra.Command, cfg initConfig, root string) error {
	d := dataDir(cfg.data)
	out := cmd.OutOrStdout()
	key := cfg.rootKeyOut
	if key == "" {
		key = d.rootKey()
	}
	fmt.Fprintf(out, "An authority was made in %s\n\n", cfg.data)
	fmt.Fprintf(out, "  root SHA-256   %s\n", root)
	fmt.Fprintf(out, "  trust bundle   %s\n", d.trustBundle())
	if cfg.rootCert == "" {
		fmt.Fprintf(out, "  root key       %s   move it off this machine\n", key)
	}
	if _, err := os.Stat(d.passphrase()); err == nil {
		fmt.Fprintf(out, "  passphrase     %s   keep a copy elsewhere: no key opens without it\n", d.passphrase())
	}
	fmt.Fprintf(out, "\nNext:\n  fleetca serve --data %s\n", filepath.Clean(cfg.data))
	return nil
}
