package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/store"
)

// backupConfig is what backup works with.
type backupConfig struct {
	data           string // folder that init made
	database       string // store URL; SQLite in the folder when empty
	out            string // file to write; must not exist
	passphraseFile string // to try the keys with; see dataDir.readPassphrase
}

func newBackupCommand() *cobra.Command {
	var cfg backupConfig
	cmd := &cobra.Command{
		Use:   "backup --data DIR --out FILE",
		Short: "Write a backup of the authority, while it is served",
		Long: `Write a backup of the authority in a folder: everything in its database, the
issuers' keys (encrypted, as they are), the root's certificate and the trust
bundle. A server may run on it meanwhile; the backup is the state of one moment.
A backup of SQLite restores into PostgreSQL, and the other way round.

Not in it, and to be kept apart from it: the passphrase, without which no key
in it opens, and the root's key. Not needed: the server's own certificate and
the embedded broker's, which are issued anew; other brokers keep theirs.

Where the passphrase is at hand the keys are tried with it. The backup is read
back and verified before it gets its name. Its hashes find damage, not forgery:
keep it where nobody can change it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case cfg.data == "":
				return usageError(errors.New("--data is missing"), "name the folder that fleetca init made")
			case cfg.out == "":
				return usageError(errors.New("--out is missing"), "name the file to write, such as --out fleetca-"+time.Now().UTC().Format("2006-01-02")+".backup")
			}
			b, err := backUp(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return printBackup(cmd, cfg, b)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.data, "data", "", "folder that fleetca init made")
	f.StringVar(&cfg.database, "database", "", "database URL (default SQLite at DIR/fleetca.db)")
	f.StringVar(&cfg.out, "out", "", "file to write; must not exist")
	f.StringVar(&cfg.passphraseFile, "passphrase-file", "", "file with the passphrase of the keys, to try them (or FLEETCA_PASSPHRASE; default DIR/passphrase)")
	cmd.AddCommand(newBackupVerifyCommand())
	return cmd
}

// A written backup is one that was read back.
type written struct {
	*store.Backup
	tried bool        // its keys opened
	apart []ca.Issuer // whose keys are elsewhere
}

// backUp writes a backup and verifies it.
func backUp(ctx context.Context, cfg backupConfig) (*written, error) {
	d := dataDir(cfg.data)
	if !d.initialised() {
		return nil, usageError(fmt.Errorf("%s holds no authority", cfg.data), "make one: fleetca init --data "+cfg.data)
	}
	if _, err := os.Lstat(cfg.out); !errors.Is(err, fs.ErrNotExist) {
		return nil, usageError(fmt.Errorf("%s exists", cfg.out), "give another name; a backup overwrites nothing")
	}
	w := &written{}
	st, err := store.Open(ctx, store.Config{URL: d.databaseURL(cfg.database)})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	tmp, err := os.CreateTemp(filepath.Dir(cfg.out), ".fleetca-backup-*") // mode 0600
	if err != nil {
		return nil, usageError(err, "--out names a file in a folder that can be written")
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	_, err = st.Backup(ctx, tmp, store.BackupConfig{Program: programVersion(), Files: func(issuers []ca.Issuer) ([]store.BackupFile, error) {
		w.apart = keysApart(issuers)
		files, tried, err := d.triedFiles(ctx, issuers, cfg.passphraseFile)
		w.tried = tried
		return files, err
	}})
	if err == nil {
		err = tmp.Sync()
	}
	if errors.Is(err, syscall.ENOSPC) {
		return nil, hinted(err, "free space in "+filepath.Dir(cfg.out)+", or name a file on another disk")
	}
	if err != nil {
		return nil, err
	}
	if w.Backup, err = store.OpenBackup(ctx, tmp); err != nil {
		return nil, fmt.Errorf("read the backup back: %w", err)
	}
	if err := errors.Join(os.Rename(tmp.Name(), cfg.out), ca.SyncDir(filepath.Dir(cfg.out))); err != nil {
		return nil, err
	}
	return w, nil
}

// triedFiles returns the files of a backup, and whether the keys were tried:
// they are where what opens them is at hand, and open.
func (d dataDir) triedFiles(ctx context.Context, issuers []ca.Issuer, passphraseFile string) (files []store.BackupFile, tried bool, err error) {
	if files, err = d.backupFiles(issuers); err != nil {
		return nil, false, err
	}
	if tried, err = d.tryKeys(ctx, issuers, passphraseFile); err != nil || !tried {
		return files, false, err
	}
	again, err := d.backupFiles(issuers)
	if err == nil && !reflect.DeepEqual(files, again) {
		err = hinted(errors.New("the key files changed while they were read"), "run backup again when the change of the passphrase is over")
	}
	return files, true, err
}

// The files of a backup besides the keys.
const (
	rootCertName    = "root/certificate.pem"
	trustBundleName = "trust-bundle.pem"
	rootKeyURIName  = "root/key.uri" // only of a root's key in a token
)

// backupFiles returns the files of a backup: the key files of the issuers,
// which must be encrypted, and the certificates that people trust.
func (d dataDir) backupFiles(issuers []ca.Issuer) ([]store.BackupFile, error) {
	var files []store.BackupFile
	for _, i := range issuers {
		name, ours := keyFile(i.KeyURI)
		if !ours {
			continue
		}
		data, err := os.ReadFile(d.path(name))
		if err != nil {
			return nil, hinted(fmt.Errorf("the key of issuer %s: %w", i.ID, err), "put the key file back: without it the authority cannot be restored")
		}
		if !encryptedKey(data) {
			return nil, hinted(fmt.Errorf("the key of issuer %s (%s) is not encrypted", i.ID, d.path(name)), "encrypt it with the authority's passphrase; a backup holds no plain key")
		}
		files = append(files, store.BackupFile{Name: name, Data: data})
	}
	for _, name := range []string{rootCertName, trustBundleName} {
		data, err := os.ReadFile(d.path(name))
		if err != nil {
			return nil, hinted(fmt.Errorf("read %s: %w", name, err), "put it back: it is the PEM of the root, as GET /trust-bundle.pem answers")
		}
		files = append(files, store.BackupFile{Name: name, Data: data})
	}
	data, err := os.ReadFile(d.rootKeyURI())
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	return append(files, store.BackupFile{Name: rootKeyURIName, Data: data}), err
}

// tryKeys opens every issuer's key, wherever it is, and reports whether it did:
// not where key files need a passphrase that is not at hand.
func (d dataDir) tryKeys(ctx context.Context, issuers []ca.Issuer, passphraseFile string) (tried bool, err error) {
	ring, err := d.keyring(issuers, passphraseFile)
	if errors.Is(err, errNoPassphrase) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, i := range issuers {
		if i.KeyURI == "" {
			continue
		}
		if _, err := ring.Open(ctx, i.KeyURI, i.Certificate.PublicKey); err != nil {
			return false, fmt.Errorf("issuer %s: %w", i.ID, err)
		}
	}
	return true, nil
}

// keyFile returns the path of a key file in the data folder. Keys that are
// elsewhere, in a key store or outside the folder, are in no backup.
func keyFile(uri string) (name string, ours bool) {
	name, ours = strings.CutPrefix(uri, "softkms:path=")
	return name, ours && strings.HasPrefix(name, "keys/") && filepath.IsLocal(name) && !strings.ContainsAny(name, ";?&%")
}

// keysApart returns the issuers whose keys the server uses and no backup has.
func keysApart(issuers []ca.Issuer) []ca.Issuer {
	var apart []ca.Issuer
	for _, i := range issuers {
		if _, ours := keyFile(i.KeyURI); i.KeyURI != "" && !ours {
			apart = append(apart, i)
		}
	}
	return apart
}

// encryptedKey reports whether every PEM block of a key file is encrypted.
func encryptedKey(data []byte) bool {
	n := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "ENCRYPTED PRIVATE KEY" && block.Headers["DEK-Info"] == "" {
			return false
		}
		n++
	}
	return n > 0
}

// programVersion returns the version that this program was built as.
func programVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return "fleetca " + info.Main.Version
	}
	return "fleetca"
}

func printBackup(cmd *cobra.Command, cfg backupConfig, w *written) error {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "The backup is in %s, and was read back\n\n", cfg.out)
	if err := printBackupFacts(cmd, w.Backup); err != nil {
		return err
	}
	if w.tried {
		fmt.Fprintf(out, "\nThe issuers' keys open.\n")
	} else {
		fmt.Fprintf(out, "\nNo passphrase is at hand here: the issuers' keys were not tried.\n")
	}
	d := dataDir(cfg.data)
	fmt.Fprintf(out, "\nNOT in it; keep each apart from it, and from this machine:\n")
	where := ""
	if _, err := os.Stat(d.passphrase()); err == nil {
		where = " (" + d.passphrase() + ")"
	}
	if slices.ContainsFunc(w.Files, func(f store.BackupFile) bool { return strings.HasPrefix(f.Name, "keys/") }) {
		fmt.Fprintf(out, "  the passphrase%s: without it no key in the backup opens\n", where)
	}
	where = ""
	if _, err := os.Stat(d.rootKey()); err == nil {
		where = " (still in " + d.rootKey() + ")"
	} else if _, err := os.Stat(d.rootKeyURI()); err == nil {
		where = " (in its token)"
	}
	fmt.Fprintf(out, "  the root's key%s: without it no new issuer can be made\n", where)
	for _, i := range w.apart {
		fmt.Fprintf(out, "  the key of issuer %s (%s): without it that issuer signs nothing\n", i.ID, i.KeyURI)
	}
	return nil
}

// printBackupFacts writes what a backup is of.
func printBackupFacts(cmd *cobra.Command, b *store.Backup) error {
	var files []string
	for _, f := range b.Files {
		files = append(files, f.Name)
	}
	slices.Sort(files)
	return printFacts(cmd.OutOrStdout(),
		"  taken at", b.At.UTC().Format(time.RFC3339),
		"  by", b.Program,
		"  from", fmt.Sprintf("%s, schema version %d", b.Engine, b.Schema),
		"  rows", countsOf(b.Rows),
		"  files", strings.Join(files, ", "),
		"  SHA-256", b.SHA256()+" (of its manifest)",
	)
}

// countsOf says how many of what a backup holds, for the tables that people know.
func countsOf(rows map[string]int64) string {
	var parts []string
	for _, table := range []string{"issuers", "devices", "certificates", "brokers", "work_orders", "revocations", "events", "jobs"} {
		if n, ok := rows[table]; ok {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ReplaceAll(table, "_", " ")))
		}
	}
	return strings.Join(parts, ", ")
}

func newBackupVerifyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Read a backup whole, and say what it is of",
		Long: `Read a backup whole: every hash, size and count is held against its manifest,
every row is parsed, and its schema must be one that this program can restore.
Nothing is written. It exits with 1 for a backup that fleetca restore would refuse.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return usageError(err, "name a file that fleetca backup wrote")
			}
			defer f.Close()
			b, err := store.OpenBackup(cmd.Context(), f)
			if err == nil {
				err = checkBackupFiles(b)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), struct {
					store.BackupHeader
					SHA256 string           `json:"sha256"`
					Rows   map[string]int64 `json:"rows"`
				}{b.BackupHeader, b.SHA256(), b.Rows})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is whole\n\n", args[0])
			return printBackupFacts(cmd, b)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
