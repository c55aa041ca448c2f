package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
	"github.com/fleetca/fleetca/store"
)

// A finding is what one check of doctor found.
type finding struct {
	Check  string       `json:"check"`
	Result mqtts.Result `json:"result"` // pass, warn, fail or skipped
	Detail string       `json:"detail"`
	Fix    string       `json:"fix,omitempty"`
}

// A warning is a check's result that needs a look, and stops nothing yet.
type warning struct{ error }

func (w warning) Unwrap() error { return w.error }

// A doctor looks at an installation from its own machine.
type doctor struct {
	dir            dataDir
	database       string
	passphraseFile string
	store          *store.Store // nil until it was opened
	issuers        []ca.Issuer
	findings       []finding
}

func newDoctorCommand() *cobra.Command {
	var d doctor
	var data string
	var json bool
	cmd := &cobra.Command{
		Use:   "doctor --data DIR",
		Short: "Look for what is wrong, and say what mends it",
		Long: `Look at an installation from its own machine: folder, clock, disk, database, keys,
expiry, CRLs, whether the URLs in certificates answer, OCSP too, whether the servers
that drive brokers run, and whether every broker shows a certificate that devices will
take. The server may run meanwhile, and should. Exit code 1 when something fails.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if data == "" {
				return usageError(errors.New("--data is missing"), "name the folder that fleetca init made")
			}
			d.dir = dataDir(data)
			d.examine(cmd.Context())
			if json {
				if err := printJSON(cmd.OutOrStdout(), d.findings); err != nil {
					return err
				}
			} else if err := d.print(cmd.OutOrStdout()); err != nil {
				return err
			}
			for _, f := range d.findings {
				if f.Result == mqtts.ResultFail {
					return hinted(errors.New("something is wrong"), "see the lines that begin with fix")
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", "", "folder that fleetca init made")
	f.StringVar(&d.database, "database", "", "database URL (default SQLite at DIR/fleetca.db)")
	f.StringVar(&d.passphraseFile, "passphrase-file", "", "file with the passphrase of the keys (or FLEETCA_PASSPHRASE; default DIR/passphrase)")
	f.BoolVar(&json, "json", false, "print JSON")
	return cmd
}

// examine takes every check, in the order in which they lean on each other.
func (d *doctor) examine(ctx context.Context) {
	for _, c := range []struct {
		name string
		look func(context.Context) (string, error)
	}{
		{"folder", d.folder}, {"disk", d.disk}, {"database", d.openStore}, {"clock", d.clock},
		{"keys", d.keys}, {"root key", d.rootKey}, {"expiry", d.expiry}, {"CRLs", d.crls},
		{"status URLs", d.statusURLs}, {"OCSP", d.ocsp}, {"drivers", d.drivers}, {"brokers", d.brokers},
	} {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		detail, err := c.look(ctx)
		cancel()
		f := finding{Check: c.name, Result: mqtts.ResultPass, Detail: detail}
		if err != nil {
			f.Result, f.Detail, f.Fix = mqtts.ResultFail, err.Error(), hintOf(err)
			if _, warn := errors.AsType[warning](err); warn {
				f.Result = mqtts.ResultWarn
			}
			if errors.Is(err, errNeedsStore) {
				f.Result = mqtts.ResultSkipped
			}
		}
		d.findings = append(d.findings, f)
	}
	if d.store != nil {
		d.store.Close()
	}
}

// errNeedsStore is the error of checks that need a database which did not open.
var errNeedsStore = errors.New("needs the database")

func (d *doctor) print(w io.Writer) error {
	err := printList(w, asTable, func(yield func(finding, error) bool) {
		for _, f := range d.findings {
			if !yield(f, nil) {
				return
			}
		}
	}, []column[finding]{
		{"CHECK", func(f finding) string { return f.Check }},
		{"RESULT", func(f finding) string { return string(f.Result) }},
		{"DETAIL", func(f finding) string { return f.Detail }},
	})
	for _, f := range d.findings {
		if f.Fix != "" {
			fmt.Fprintf(w, "fix %s: %s\n", f.Check, printable(f.Fix))
		}
	}
	return err
}

func (d *doctor) folder(context.Context) (string, error) {
	info, err := os.Stat(string(d.dir))
	switch {
	case err != nil:
		return "", hinted(err, "give the folder that fleetca init made")
	case !d.dir.initialised():
		return "", hinted(fmt.Errorf("%s holds no authority", d.dir), "make one: fleetca init --data "+string(d.dir))
	case info.Mode().Perm()&0o077 != 0:
		return "", hinted(fmt.Errorf("%s is open to others (mode %v)", d.dir, info.Mode().Perm()), "chmod 700 "+string(d.dir))
	}
	return string(d.dir), nil
}

// leastFree is how much of a disk must be free, in bytes.
const leastFree = 1 << 30

func (d *doctor) disk(context.Context) (string, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(string(d.dir), &fs); err != nil {
		return "", err
	}
	free := int64(fs.Bavail) * fs.Bsize
	detail := fmt.Sprintf("%d MiB free", free>>20)
	if free < leastFree {
		return "", hinted(errors.New(detail), "make room: when the disk is full nothing is issued any more")
	}
	return detail, nil
}

func (d *doctor) openStore(ctx context.Context) (string, error) {
	if d.database == "" {
		if _, err := os.Stat(d.dir.database()); err != nil { // opening it would make it
			return "", hinted(err, "give --database, or restore a backup")
		}
	}
	st, err := store.Open(ctx, store.Config{URL: d.dir.databaseURL(d.database)})
	if err != nil {
		return "", err
	}
	version, err := st.SchemaVersion(ctx)
	if err == nil {
		err = st.Ping(ctx)
	}
	if err == nil {
		d.issuers, err = st.Issuers(ctx)
	}
	if err != nil {
		return "", errors.Join(err, st.Close())
	}
	d.store = st
	return fmt.Sprintf("schema version %d, takes writes", version), nil
}

func (d *doctor) clock(ctx context.Context) (string, error) {
	if d.store == nil {
		return "", errNeedsStore
	}
	last, err := d.store.LastEventAt(ctx)
	if err != nil {
		return "", err
	}
	if back := time.Until(last); back > time.Second {
		return "", hinted(fmt.Errorf("%v behind the newest record", back.Round(time.Second)), "set the clock (chrony, systemd-timesyncd): nothing is signed until it is right")
	}
	return "not behind the newest record, of " + day(last), nil
}

func (d *doctor) keys(ctx context.Context) (string, error) {
	if d.store == nil {
		return "", errNeedsStore
	}
	ring, err := d.dir.keyring(d.issuers, d.passphraseFile)
	if err != nil {
		return "", err
	}
	opened := 0
	var errs []error
	for _, i := range d.issuers {
		if i.KeyURI == "" {
			continue
		}
		if _, err := ring.Open(ctx, i.KeyURI, i.Certificate.PublicKey); err != nil {
			errs = append(errs, fmt.Errorf("issuer %s: %w", i.ID, err))
			continue
		}
		opened++
	}
	if len(errs) > 0 {
		return "", errors.Join(errs...)
	}
	return fmt.Sprintf("%d keys open and sign", opened), nil
}

func (d *doctor) rootKey(context.Context) (string, error) {
	if _, err := os.Stat(d.dir.rootKey()); err == nil {
		return "", warning{hinted(fmt.Errorf("the root's key is on this machine: %s", d.dir.rootKey()), "move it to another place: the server never needs it")}
	}
	if text, err := os.ReadFile(d.dir.rootKeyURI()); err == nil {
		return "in its token: " + strings.TrimSpace(string(text)), nil
	}
	return "not on this machine", nil
}

func (d *doctor) expiry(context.Context) (string, error) {
	if d.store == nil {
		return "", errNeedsStore
	}
	var first *x509.Certificate
	for _, i := range d.issuers {
		c := i.Certificate
		life, left := c.NotAfter.Sub(c.NotBefore), time.Until(c.NotAfter)
		switch {
		case left <= 0:
			return "", hinted(fmt.Errorf("%s expired on %s", c.Subject, day(c.NotAfter)), "its certificates verify no more: make a successor")
		case left < life/3:
			return "", warning{hinted(fmt.Errorf("%s expires on %s", c.Subject, day(c.NotAfter)), "a third of its life is left: plan its successor")}
		}
		if first == nil || c.NotAfter.Before(first.NotAfter) {
			first = c
		}
	}
	if first == nil {
		return "", hinted(errors.New("there is no issuer"), "run fleetca init")
	}
	return fmt.Sprintf("%s is the first to expire, on %s", first.Subject, day(first.NotAfter)), nil
}

func (d *doctor) crls(ctx context.Context) (string, error) {
	if d.store == nil {
		return "", errNeedsStore
	}
	crls, err := d.store.NewestCRLs(ctx)
	if err != nil {
		return "", err
	}
	for _, i := range d.issuers {
		for _, scope := range i.CRLScopes() {
			if !slices.ContainsFunc(crls, func(c *ca.CRL) bool { return c.Scope() == scope }) {
				return "", hinted(fmt.Errorf("issuer %s has no CRL", scope), "start the server: it publishes CRLs by itself")
			}
		}
	}
	for _, crl := range crls {
		period, left := crl.NextUpdate.Sub(crl.ThisUpdate), time.Until(crl.NextUpdate)
		switch {
		case left <= 0:
			return "", hinted(fmt.Errorf("the CRL of issuer %s lapsed on %s: brokers refuse every device", crl.Scope(), day(crl.NextUpdate)), "start the server: it publishes CRLs by itself")
		case left < period/2:
			return "", warning{hinted(fmt.Errorf("CRL %d of issuer %s lapses on %s", crl.Number, crl.Scope(), day(crl.NextUpdate)), "see that the server runs, and its log for publish-crl")}
		}
	}
	return fmt.Sprintf("%d current", len(crls)), nil
}

// statusURLs fetches what certificates name, as a broker or device would.
func (d *doctor) statusURLs(ctx context.Context) (string, error) {
	if d.store == nil {
		return "", errNeedsStore
	}
	fetched := 0
	for _, i := range d.issuers {
		for _, url := range i.CDPs() {
			err := fetchCRL(ctx, url, i.Certificate)
			if err != nil && strings.HasPrefix(url, i.StatusURLs[len(i.StatusURLs)-1]+"/") {
				return "", hinted(err, "see that the server runs, and that its public-host and status-addr are what others reach")
			}
			if err != nil {
				return "", warning{hinted(err, "older certificates name it: let it lead to the status listener, or wait until they have expired")}
			}
			fetched++
		}
	}
	return fmt.Sprintf("%d CRL URLs answer", fetched), nil
}

// maxCRL bounds a CRL that is fetched, in bytes.
const maxCRL = 256 << 20

// fetchCRL fetches a CRL and verifies it.
func fetchCRL(ctx context.Context, url string, issuer *x509.Certificate) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	der, err := io.ReadAll(io.LimitReader(resp.Body, maxCRL))
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err == nil {
		err = crl.CheckSignatureFrom(issuer)
	}
	if err != nil {
		return fmt.Errorf("%s is not the issuer's CRL: %w", url, err)
	}
	return nil
}

// drivers looks for servers that are down and have brokers to drive.
func (d *doctor) drivers(ctx context.Context) (string, error) {
	if d.store == nil {
		return "", errNeedsStore
	}
	all, err := d.store.BrokerDrivers(ctx)
	if err != nil {
		return "", err
	}
	var down []string
	for _, driver := range all {
		if driver.Live = driver.LiveAt(time.Now()); !driver.Live {
			down = append(down, fmt.Sprintf("broker %s waits for %s", driver.Broker, driverText(&driver)))
		}
	}
	if len(down) > 0 {
		return "", warning{hinted(errors.New(strings.Join(down, "; ")), "start that server, or let another drive the broker: rotations and proofs of revocations wait")}
	}
	if len(all) == 0 && !d.store.Shared() {
		return "the one server on SQLite drives what it was started with", nil
	}
	return fmt.Sprintf("%d brokers are driven by servers that run", len(all)), nil
}

// brokers looks at every broker up to its certificate. What it does with a
// client's certificate is for verify to say.
func (d *doctor) brokers(ctx context.Context) (string, error) {
	if d.store == nil {
		return "", errNeedsStore
	}
	all, _, err := d.store.Brokers(ctx, enroll.Page{Limit: 500})
	if err != nil {
		return "", err
	}
	roots, err := readCertificates(d.dir.trustBundle())
	if err != nil {
		return "", err
	}
	for _, b := range all {
		report := mqtts.Verify(ctx, mqtts.Target{URL: b.URL, Roots: roots, SkipPublish: true})
		if st := report.Step(mqtts.StepVerify); st.Result == mqtts.ResultFail || st.Result == mqtts.ResultSkipped {
			failed := report.Failed()
			if failed == nil {
				failed = st
			}
			fix := "fleetca broker verify " + b.ID + " says more"
			if len(report.Diagnosis) > 0 {
				fix = report.Diagnosis[0].Fix
			}
			return "", hinted(fmt.Errorf("broker %s fails at %s: %s", b.ID, failed.Name, failed.Detail), fix)
		}
	}
	return fmt.Sprintf("%d brokers show a certificate that devices take", len(all)), nil
}
