package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store"
)

// restoreConfig is what restore works with.
type restoreConfig struct {
	from           string // file that backup wrote
	data           string // folder; made when missing
	database       string // store URL; SQLite in the folder when empty
	passphraseFile string // to try the keys with; see dataDir.readPassphrase
	keep           string // what to leave usable, comma-separated; "all" for everything
	crl            string // file with newer CRLs of the authority; none when empty
}

func newRestoreCommand() *cobra.Command {
	var cfg restoreConfig
	cmd := &cobra.Command{
		Use:   "restore --from FILE --data DIR",
		Short: "Restore an authority from a backup, into an empty place",
		Long: `Restore an authority from a backup into an empty folder (a passphrase file may
lie there) and an empty database, of either engine. The backup is verified whole
before anything is written. Interrupted, it is run again with the same flags.

First stop the server that the backup is of, for good: two servers must never
sign with the same keys.

A backup cannot know what happened after it. So that nothing is used twice:
CRL numbers go on far above all that were published; enrollment tokens that are
not spent expire, open work orders are closed, API tokens and users are disabled.
--keep leaves some of them as they were: all of them, for a move to another
machine or database with the server stopped before the backup.

What was revoked after the backup must be revoked again. Brokers still have the
CRLs that say so: give the newest with --crl, and what they list is revoked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case cfg.from == "":
				return usageError(errors.New("--from is missing"), "name the file that fleetca backup wrote")
			case cfg.data == "":
				return usageError(errors.New("--data is missing"), "name the folder to restore into, such as --data /var/lib/fleetca")
			}
			r, err := restore(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return printRestored(cmd, cfg, r)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.from, "from", "", "file that fleetca backup wrote")
	f.StringVar(&cfg.data, "data", "", "folder to restore into; empty or not there yet")
	f.StringVar(&cfg.database, "database", "", "database URL (default SQLite at DIR/fleetca.db)")
	f.StringVar(&cfg.passphraseFile, "passphrase-file", "", "file with the passphrase of the keys, to try them (or FLEETCA_PASSPHRASE; default DIR/passphrase)")
	f.StringVar(&cfg.crl, "crl", "", "file with newer CRLs (PEM), as a broker has them: what they list is revoked")
	f.StringVar(&cfg.keep, "keep", "", "leave usable, comma-separated: "+joinKeeps(store.Keeps())+"; or all")
	return cmd
}

// restore restores a backup. The folder comes first and the database, in one
// transaction, last; only then is the marker removed that keeps serve away.
func restore(ctx context.Context, cfg restoreConfig) (*store.Restored, error) {
	keep, err := parseKeep(cfg.keep)
	if err != nil {
		return nil, err
	}
	crls, err := readCRLs(cfg.crl)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(cfg.from)
	if err != nil {
		return nil, usageError(err, "name a file that fleetca backup wrote")
	}
	defer f.Close()
	b, err := store.OpenBackup(ctx, f)
	if err == nil {
		err = checkBackupFiles(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.from, err)
	}
	d := dataDir(cfg.data)
	if err := d.checkRoom(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, err
	}
	unlock, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	id, resumed, err := d.beginRestore(b)
	if err != nil {
		return nil, err
	}
	if err := d.writeBackupFiles(b.Files); err != nil {
		return nil, err
	}
	st, err := store.Open(ctx, store.Config{URL: d.databaseURL(cfg.database)})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	r, err := st.Restore(ctx, b, store.RestoreConfig{ID: id, Actor: localUser(), Keep: keep, CRLs: crls})
	if errors.Is(err, ca.IsKind(enroll.KindConflict)) && !resumed { // the database is somebody's
		return nil, errors.Join(err, d.clearRestore())
	}
	if err != nil {
		return nil, err
	}
	return r, errors.Join(os.Remove(d.restoreMarker()), ca.SyncDir(string(d)))
}

// parseKeep reads --keep.
func parseKeep(text string) ([]store.Keep, error) {
	if text == "all" {
		return store.Keeps(), nil
	}
	var keep []store.Keep
	for _, name := range splitList(text) {
		if !slices.Contains(store.Keeps(), store.Keep(name)) {
			return nil, usageError(fmt.Errorf("--keep %.40q", name), "any of "+joinKeeps(store.Keeps())+"; or all")
		}
		keep = append(keep, store.Keep(name))
	}
	return keep, nil
}

// readCRLs reads the file of --crl.
func readCRLs(path string) ([][]byte, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError(err, "--crl names a file with CRLs, such as a broker's crlfile")
	}
	var crls [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "X509 CRL" {
			crls = append(crls, block.Bytes)
		}
	}
	if len(crls) == 0 {
		return nil, usageError(fmt.Errorf("%s holds no CRL in PEM", path), "--crl names a file with CRLs, such as a broker's crlfile")
	}
	return crls, nil
}

func joinKeeps(keeps []store.Keep) string {
	names := make([]string, len(keeps))
	for i, k := range keeps {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

// checkBackupFiles refuses a backup with a file that none of ours has. Keys
// must be encrypted.
func checkBackupFiles(b *store.Backup) error {
	for _, f := range b.Files {
		key := strings.HasPrefix(f.Name, "keys/") && filepath.IsLocal(f.Name)
		if !key && f.Name != rootCertName && f.Name != trustBundleName && f.Name != rootKeyURIName {
			return hinted(fmt.Errorf("the backup holds a file %.80q that no backup of this program does", f.Name), "give a file that fleetca backup wrote; nothing was written")
		}
		if key && !encryptedKey(f.Data) {
			return hinted(fmt.Errorf("the backup's %s is not encrypted", f.Name), "give a file that fleetca backup wrote; nothing was written")
		}
	}
	return nil
}

// restoreMarker stands while restore works. It holds the id of the restore,
// and which backup it is of.
func (d dataDir) restoreMarker() string { return d.path(".restore") }

// restored lists what restore makes in the folder, and may clear when it was
// interrupted.
var restored = []string{"keys", "root", trustBundleName, "fleetca.db", "fleetca.db-journal", "fleetca.db-wal", "fleetca.db-shm"}

// checkRoom refuses a folder that holds anything but a passphrase, or what an
// interrupted restore left.
func (d dataDir) checkRoom() error {
	entries, err := os.ReadDir(string(d))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return usageError(err, "name an empty folder, or one that is not there yet")
	}
	_, interrupted := os.Stat(d.restoreMarker())
	var others []string
	for _, e := range entries {
		name := e.Name()
		if name == "passphrase" || name == ".lock" || ca.IsUnfinished(name) || interrupted == nil && (name == ".restore" || slices.Contains(restored, name)) {
			continue
		}
		others = append(others, name)
	}
	if len(others) > 0 {
		return hinted(fmt.Errorf("%s is not empty; in the way: %s", string(d), strings.Join(others, ", ")), "nothing was changed; choose an empty folder")
	}
	return nil
}

// beginRestore clears what an interrupted restore left, and sets the marker.
// The id is the earlier one's for the same backup, so that a database that it
// filled, and only the marker outlived, is found to be done.
func (d dataDir) beginRestore(b *store.Backup) (id string, resumed bool, err error) {
	if err := d.checkRoom(); err != nil { // again, now that nobody else is at it
		return "", false, err
	}
	if err := d.clearUnfinished(); err != nil {
		return "", false, err
	}
	if text, err := os.ReadFile(d.restoreMarker()); err == nil {
		if err := d.clearRestored(); err != nil {
			return "", true, err
		}
		before, rest, _ := strings.Cut(string(text), " ")
		if uuid.Validate(before) == nil && rest == b.SHA256()+"\n" {
			return before, true, nil
		}
		resumed = true
		if err := os.Remove(d.restoreMarker()); err != nil {
			return "", true, err
		}
	}
	id = uuid.Must(uuid.NewV7()).String()
	if err := ca.WriteNewFile(d.restoreMarker(), []byte(id+" "+b.SHA256()+"\n"), 0o600); err != nil {
		return "", resumed, err
	}
	return id, resumed, nil
}

// clearUnfinished removes files that a restore which was killed had not put in
// their place.
func (d dataDir) clearUnfinished() error {
	entries, err := os.ReadDir(string(d))
	for _, e := range entries {
		if ca.IsUnfinished(e.Name()) {
			err = errors.Join(err, os.Remove(d.path(e.Name())))
		}
	}
	return err
}

// clearRestored removes what restore made, but for its marker.
func (d dataDir) clearRestored() error {
	for _, name := range restored {
		if err := os.RemoveAll(d.path(name)); err != nil {
			return err
		}
	}
	return ca.SyncDir(string(d))
}

// clearRestore leaves the folder as restore found it.
func (d dataDir) clearRestore() error {
	return errors.Join(d.clearRestored(), os.Remove(d.restoreMarker()))
}

// writeBackupFiles writes keys and certificates, durably.
func (d dataDir) writeBackupFiles(files []store.BackupFile) error {
	for _, name := range []string{"keys", "root"} {
		if err := os.MkdirAll(d.path(name), 0o700); err != nil {
			return err
		}
	}
	for _, f := range files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(f.Name, "keys/") {
			mode = 0o600
		}
		if err := os.MkdirAll(filepath.Dir(d.path(f.Name)), 0o700); err != nil {
			return err
		}
		if err := ca.WriteNewFile(d.path(f.Name), f.Data, mode); err != nil {
			return err
		}
	}
	return ca.SyncDir(string(d))
}

// tryRestored opens the restored issuers' keys where what opens them is at hand.
func tryRestored(ctx context.Context, cfg restoreConfig) (tried bool, err error) {
	d := dataDir(cfg.data)
	st, err := store.Open(ctx, store.Config{URL: d.databaseURL(cfg.database)})
	if err != nil {
		return false, err
	}
	defer st.Close()
	issuers, err := st.Issuers(ctx)
	if err != nil {
		return false, err
	}
	return d.tryKeys(ctx, issuers, cfg.passphraseFile)
}

// printRestored says what was restored, what is lost, and what to do next.
func printRestored(cmd *cobra.Command, cfg restoreConfig, r *store.Restored) error {
	out, at := cmd.OutOrStdout(), r.BackupAt.UTC()
	fmt.Fprintf(out, "The authority was restored into %s\n\n", cfg.data)
	if err := printFacts(out,
		"  backup of", at.Format(time.RFC3339)+", by "+r.Program,
		"  last record in it", r.LastEvent.UTC().Format(time.RFC3339),
		"  rows", countsOf(r.Rows),
		"  CRL numbers", fmt.Sprintf("go on above %d", r.CRLNumber),
	); err != nil {
		return err
	}
	fmt.Fprintf(out, `
What was done since %s (%s ago) is not in it:
  - what was issued since is valid, and unknown here: it can be neither renewed nor revoked;
  - a request that was answered since is done anew when it is repeated;
`, at.Format(time.RFC3339), time.Since(at).Round(time.Second))
	if r.CRLs == 0 {
		fmt.Fprintf(out, "  - what was revoked since is good again: revoke it again.\n")
	} else {
		fmt.Fprintf(out, "  - %d certificates that the given CRLs list are revoked again; what was revoked after those is not.\n", r.Revoked)
	}
	if r.Unknown > 0 {
		fmt.Fprintf(out, "  - %d serial numbers on those CRLs are not in the backup, and on no CRL from now on:\n"+
			"    keep their holders out at the brokers until they expire.\n", r.Unknown)
	}
	fmt.Fprintf(out, "\nMade unusable, because it may have been used or withdrawn since:\n")
	for _, k := range store.Keeps() {
		if n, ok := r.Voided[k]; ok {
			fmt.Fprintf(out, "  %d %s\n", n, strings.ReplaceAll(string(k), "-", " "))
		}
	}
	if len(r.Kept) > 0 {
		fmt.Fprintf(out, "  kept as they were, as you asked: %s\n", joinKeeps(r.Kept))
	}
	tried, err := tryRestored(cmd.Context(), cfg)
	database, passphrase := "", " --passphrase-file FILE"
	if cfg.database != "" {
		database = " --database URL"
	}
	if tried || err != nil {
		passphrase = ""
	}
	if tried && err == nil {
		fmt.Fprintf(out, "\nThe issuers' keys open.\n")
	}
	fmt.Fprintf(out, "\nNext, with the server that the backup is of stopped for good:\n")
	fmt.Fprintf(out, "  fleetca serve --data %s%s%s\n", filepath.Clean(cfg.data), database, passphrase)
	fmt.Fprintf(out, "  fleetca user token --role admin --data %s%s\n", filepath.Clean(cfg.data), database)
	if err != nil {
		return fmt.Errorf("restored, but the keys do not open here: %w", err)
	}
	return nil
}
