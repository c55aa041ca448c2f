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
	rootKMS        string // URI of a key store to make the root's key inside; a file when empty
	issuerKMS      string // URI of a key store to make the issuers' keys inside; files when empty
	organization   string // O of the certificates
	database       string // store URL; SQLite in the folder when empty
	testData       bool   // the database is marked, for good, as none of a real fleet
}

func newInitCommand() *cobra.Command {
	var cfg initConfig
	cmd := &cobra.Command{
		Use:   "init --data DIR",
		Short: "Make an authority: a root, an issuer for devices and one for brokers",
		Long: `Make an authority in a folder: a root, an issuer for devices, one for brokers
and servers, and an empty database. Nothing that exists is overwritten.

The root signs nothing but issuers. Its key is written encrypted, and serve
never reads it: move it off this machine.

Keys can be made inside a PKCS #11 token (a smart card, an HSM), which they never
leave: --root-key-kms and --issuer-keys-kms take its URI (RFC 7512), such as
pkcs11:module-path=/usr/lib/softhsm/libsofthsm2.so;token=LABEL?pin-source=FILE. The PIN
comes from that file, or from FLEETCA_PIN, and not from the command line.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.data == "" {
				return usageError(errors.New("--data is missing"), "name the folder to make, such as --data /var/lib/fleetca")
			}
			if (cfg.rootCert == "") != (cfg.rootKey == "") {
				return usageError(errors.New("--root-cert and --root-key go together"), "give both for a root of your own, or neither")
			}
			if cfg.rootCert != "" && (cfg.rootKeyOut != "" || cfg.rootKMS != "") {
				return usageError(errors.New("--root-key-out and --root-key-kms make no sense with --root-cert"), "leave them out: the key stays where it is")
			}
			if cfg.rootKMS != "" && cfg.rootKeyOut != "" {
				return usageError(errors.New("--root-key-out makes no sense with --root-key-kms"), "leave it out: the key stays in the key store")
			}
			h, err := initialize(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return printInit(cmd, cfg, h)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.data, "data", "", "folder for keys and database")
	f.StringVar(&cfg.passphraseFile, "passphrase-file", "", "file with the passphrase that encrypts the keys (or FLEETCA_PASSPHRASE); made up into DIR/passphrase when missing")
	f.StringVar(&cfg.rootKeyOut, "root-key-out", "", "where to write the root's encrypted key (default DIR/root/key.pem)")
	f.StringVar(&cfg.rootCert, "root-cert", "", "PEM file with a root of your own, in place of one made here")
	f.StringVar(&cfg.rootKey, "root-key", "", "key of --root-cert: a PEM file, or a KMS URI; read once, and not kept")
	f.StringVar(&cfg.rootPassphrase, "root-passphrase-file", "", "file with the passphrase of --root-key (default: the same as the other keys')")
	f.StringVar(&cfg.rootKMS, "root-key-kms", "", "URI of a PKCS #11 token to make the root's key inside, in place of a file")
	f.StringVar(&cfg.issuerKMS, "issuer-keys-kms", "", "URI of a PKCS #11 token to make the issuers' keys inside, in place of files")
	f.StringVar(&cfg.organization, "organization", "fleetca", "organization in the issuers' names")
	f.StringVar(&cfg.database, "database", "", "database URL (default SQLite at DIR/fleetca.db)")
	return cmd
}

// initialize makes an authority. It is done whole or, run again, anew: until
// it is done nothing was ever signed with its keys.
func initialize(ctx context.Context, cfg initConfig) (h *ca.Hierarchy, err error) {
	d := dataDir(cfg.data)
	if err := prepareInit(d); err != nil {
		return nil, err
	}
	st, err := openEmpty(ctx, d.databaseURL(cfg.database))
	if err != nil {
		return nil, err
	}
	defer st.Close()
	rootKey := cfg.rootKeyOut
	if rootKey == "" {
		rootKey = d.rootKey()
	}
	hierarchy := ca.InitConfig{
		Dir: cfg.data, RootKeyPath: rootKey, RootKMS: cfg.rootKMS, IssuerKMS: cfg.issuerKMS, PIN: pinOfTokens(), Organization: cfg.organization,
	}
	if hierarchy.KeyFiles() || cfg.rootCert != "" {
		if hierarchy.Passphrase, err = initPassphrase(d, cfg.passphraseFile); err != nil {
			return nil, err
		}
	}
	if err := cfg.ownRoot(&hierarchy); err != nil {
		return nil, err
	}
	h, err = ca.Initialize(ctx, hierarchy)
	if err != nil {
		return nil, inTheWay(err, "move it, or choose another --root-key-out")
	}
	if h.RootKeyURI != "" {
		if err := ca.WriteNewFile(d.rootKeyURI(), []byte(h.RootKeyURI+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	root := []byte(ca.EncodeChain(h.Root()))
	if err := errors.Join(ca.WriteNewFile(d.rootCert(), root, 0o644), ca.WriteNewFile(d.trustBundle(), root, 0o644)); err != nil {
		return nil, err
	}
	if cfg.testData {
		if err := st.MarkTestData(ctx, enroll.Change{Event: enroll.TestDataEvent()}); err != nil {
			return nil, err
		}
	}
	event := enroll.InitEvent(ca.FingerprintOf(h.Root()))
	if err := st.CreateIssuers(ctx, h.Issuers, h.CRLs, enroll.Change{Event: event}); err != nil {
		return nil, err
	}
	return h, os.Remove(d.initMarker())
}

// openEmpty opens a database and makes its tables, unless it is in use: that one
// is left as it is.
func openEmpty(ctx context.Context, url string) (*store.Store, error) {
	st, err := store.Open(ctx, store.Config{URL: url})
	if err != nil {
		return nil, err
	}
	err = st.CheckEmpty(ctx)
	if err == nil {
		err = st.Migrate(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
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
		if err := ca.WriteNewFile(d.initMarker(), nil, 0o600); err != nil {
			return err
		}
	}
	return errors.Join(os.MkdirAll(d.path("keys"), 0o700), os.MkdirAll(d.path("root"), 0o700))
}

// printInit says what was made, and what is to be done with it.
func printInit(cmd *cobra.Command, cfg initConfig, h *ca.Hierarchy) error {
	d := dataDir(cfg.data)
	out := cmd.OutOrStdout()
	key := cfg.rootKeyOut
	if key == "" {
		key = d.rootKey()
	}
	fmt.Fprintf(out, "An authority was made in %s\n\n", cfg.data)
	fmt.Fprintf(out, "  root SHA-256   %s\n", ca.FingerprintOf(h.Root()))
	fmt.Fprintf(out, "  trust bundle   %s\n", d.trustBundle())
	switch {
	case h.RootKeyURI != "":
		fmt.Fprintf(out, "  root key       %s\n", h.RootKeyURI)
	case cfg.rootCert == "":
		fmt.Fprintf(out, "  root key       %s   move it off this machine\n", key)
	}
	if cfg.issuerKMS != "" {
		for _, i := range h.Issuers {
			if i.KeyURI != "" {
				fmt.Fprintf(out, "  %-6s key     %s\n", i.ID, i.KeyURI)
			}
		}
	}
	if _, err := os.Stat(d.passphrase()); err == nil {
		fmt.Fprintf(out, "  passphrase     %s   keep a copy elsewhere: no key opens without it\n", d.passphrase())
	}
	if h.RootKeyURI != "" {
		fmt.Fprintf(out, "\nThe root's key never leaves its token, and no backup holds it: keep a second token, if yours can be\n"+
			"cloned, before anything trusts this root. The server does not need it. Take the token off this machine and lock\n"+
			"it away, with the PIN elsewhere; bring it once a year for: fleetca root crl --data %s\n", filepath.Clean(cfg.data))
	}
	if cfg.issuerKMS != "" {
		fmt.Fprintf(out, "\nThe issuers' keys stay in their token: the server needs it and its PIN at every start, and a backup does not\n"+
			"hold them. Without the token new issuers have to be made, and every device and broker enrolled anew.\n")
	}
	fmt.Fprintf(out, "\nNext:\n  fleetca serve --data %s\n", filepath.Clean(cfg.data))
	return nil
}
