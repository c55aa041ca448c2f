package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store"
)

// issuerFlags say which issuer is made or imported, on the server's machine.
type issuerFlags struct {
	localFlags
	plan           ca.CAPlan
	purpose        string
	parent         string // id; the active root when empty
	passphraseFile string // of the folder's keys
	keyKMS         string // URI of a key store to make the key inside; a file when empty
	root           rootKeyFlags
}

// rootKeyFlags name the key of a CA that is kept apart.
type rootKeyFlags struct{ key, passphraseFile string }

func (f *rootKeyFlags) add(set *pflag.FlagSet) {
	set.StringVar(&f.key, "root-key", "", "the parent's key: a PEM file, or a KMS URI (default: the token that init made it in)")
	set.StringVar(&f.passphraseFile, "root-passphrase-file", "", "file with the passphrase of --root-key (default: the same as the other keys')")
}

// open opens the key of a certificate that is kept apart.
func (f rootKeyFlags) open(ctx context.Context, d dataDir, passphraseFile string, public crypto.PublicKey) (crypto.Signer, error) {
	uri, err := (rootCRLConfig{data: string(d), key: f.key}).keyURI()
	if err != nil {
		return nil, err
	}
	if f.passphraseFile != "" {
		passphraseFile = f.passphraseFile
	}
	ring, err := d.keyring([]ca.Issuer{{KeyURI: uri}}, passphraseFile)
	if err != nil {
		return nil, err
	}
	return ring.Open(ctx, uri, public)
}

func (f *issuerFlags) add(set *pflag.FlagSet) {
	f.localFlags.add(set)
	set.StringVar(&f.passphraseFile, "passphrase-file", "", "file with the passphrase of the folder's keys (or FLEETCA_PASSPHRASE; default DIR/passphrase)")
	set.StringVar(&f.purpose, "purpose", "", "device (devices and canaries), or broker (brokers, servers and agents)")
}

// addPlan adds the flags of what its certificate is to say.
func (f *issuerFlags) addPlan(set *pflag.FlagSet) {
	set.StringVar(&f.plan.CommonName, "common-name", "", "CN of its subject (default: made of the id)")
	set.StringVar(&f.plan.Organization, "organization", "", "O of its subject (default: the active root's)")
}

// addScope adds the flags of what it signs for.
func (f *issuerFlags) addScope(set *pflag.FlagSet) {
	set.StringVar(&f.plan.Product, "product", "", "the product that it signs for alone (default: any)")
	set.StringVar(&f.plan.Site, "site", "", "the site that it signs for alone (default: any)")
	set.StringVar(&f.plan.Domain, "domain", "", "the fleet's DNS domain: its certificate permits names below it alone, and devices are named <device>.<product>.<site>.<domain>")
}

// A localIssuers is the database's issuers, before one is added.
type localIssuers struct {
	dir   dataDir
	store *store.Store
	all   []ca.Issuer
}

// issuers opens the database.
func (f *localFlags) issuers(ctx context.Context) (*localIssuers, error) {
	if f.data == "" {
		return nil, usageError(errors.New("--data is missing"), "name the folder that fleetca init made")
	}
	l := &localIssuers{dir: dataDir(f.data)}
	if !l.dir.initialised() {
		return nil, usageError(fmt.Errorf("%s holds no authority", f.data), "make one: fleetca init --data "+f.data)
	}
	var err error
	if l.store, err = store.Open(ctx, store.Config{URL: l.dir.databaseURL(f.database)}); err != nil {
		return nil, err
	}
	if err = isMigrated(ctx, l.store); err == nil {
		l.all, err = l.store.Issuers(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, l.store.Close())
	}
	return l, nil
}

// adding is what a command does that adds an issuer, and shows it.
func (f *localFlags) adding(add func(ctx context.Context, l *localIssuers, args []string) (*ca.Issuer, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		l, err := f.issuers(cmd.Context())
		if err != nil {
			return err
		}
		defer l.store.Close()
		i, err := add(cmd.Context(), l, args)
		if err != nil {
			return err
		}
		return printNewIssuer(cmd, *i)
	}
}

// named returns an issuer by its id; the active root when that is empty.
func (l *localIssuers) named(id string) (*ca.Issuer, error) {
	at := slices.IndexFunc(l.all, func(i ca.Issuer) bool {
		return i.ID == id || id == "" && i.Purpose == ca.PurposeRoot && i.State == ca.IssuerActive
	})
	switch {
	case at < 0 && id == "":
		return nil, usageError(errors.New("no root is active"), "fleetca issuer list shows the roots; fleetca issuer activate ID makes one active")
	case at < 0:
		return nil, usageError(fmt.Errorf("there is no issuer %q", id), "fleetca issuer list shows them")
	}
	return &l.all[at], nil
}

func (l *localIssuers) has(id string) bool {
	return slices.ContainsFunc(l.all, func(i ca.Issuer) bool { return i.ID == id })
}

// checkFree refuses the id of an issuer that is there.
func (l *localIssuers) checkFree(id string) error {
	if l.has(id) {
		return usageError(fmt.Errorf("there is an issuer %q already", id), "choose another id")
	}
	return nil
}

// checkChain refuses a new issuer whose chain does not verify.
func (l *localIssuers) checkChain(i ca.Issuer) error {
	return ca.CheckChains(append(slices.Clone(l.all), i))
}

// add stores a new issuer, once its chain was verified. A server takes it over
// within seconds.
func (l *localIssuers) add(ctx context.Context, action string, i ca.Issuer, crl *ca.CRL, cross ...ca.CrossCertificate) error {
	if err := l.checkChain(i); err != nil {
		return err
	}
	err := l.store.AddIssuers(ctx, []ca.Issuer{i}, []*ca.CRL{crl}, cross, enroll.Change{Event: enroll.IssuerEvent(time.Now(), localUser(), action, i)})
	if err != nil && !errors.Is(err, ca.IsKind(enroll.KindConflict)) {
		return &unknownOutcome{err}
	}
	return err
}

// complete fills in what was not given, and checks the rest, before a key is made.
func (f *issuerFlags) complete(id string, l *localIssuers) error {
	root, err := l.named("")
	if err != nil {
		return err
	}
	f.plan.ID, f.plan.Purpose = id, ca.Purpose(f.purpose)
	if f.purpose == "" {
		return usageError(errors.New("--purpose is missing"), "device or broker")
	}
	if f.plan.CommonName == "" {
		f.plan.CommonName = "Issuing CA " + id
	}
	if o := root.Certificate.Subject.Organization; f.plan.Organization == "" && len(o) > 0 {
		f.plan.Organization = o[0]
	}
	if err := f.plan.Check(); err != nil {
		return usageErrorOf(err)
	}
	return l.checkFree(id)
}

func newIssuerCreateCommand() *cobra.Command {
	f := &issuerFlags{}
	cmd := &cobra.Command{
		Use:   "create ID --purpose PURPOSE --data DIR --root-key FILE",
		Short: "Make an issuer, signed by a root, on the server's machine",
		Long: `Make an issuer: its key in the folder (or in a token), its certificate signed by the
active root, and its first CRL. Bring the root's key for as long as it takes. A
server that runs takes the issuer over within seconds and publishes its CRL; it
signs nothing before: fleetca issuer activate ID

Of several active issuers of a purpose the one signs that is for the product and
the site of the work order or of the broker; else the one for the product, for
the site, for all.`,
		Args: cobra.ExactArgs(1),
		RunE: f.adding(func(ctx context.Context, l *localIssuers, args []string) (*ca.Issuer, error) {
			return f.create(ctx, l, args[0])
		}),
	}
	f.add(cmd.Flags())
	f.addPlan(cmd.Flags())
	f.addScope(cmd.Flags())
	f.root.add(cmd.Flags())
	cmd.Flags().StringVar(&f.parent, "parent", "", "id of the root or intermediate that signs it (default: the active root)")
	cmd.Flags().IntVar(&f.plan.Years, "years", ca.IssuerYears, "years that its certificate is valid; never past its parent's")
	cmd.Flags().StringVar(&f.keyKMS, "key-kms", "", "URI of a PKCS #11 token to make its key inside, in place of a file")
	return cmd
}

func (f *issuerFlags) create(ctx context.Context, l *localIssuers, id string) (_ *ca.Issuer, err error) {
	if err := f.complete(id, l); err != nil {
		return nil, err
	}
	if f.plan.Purpose != ca.PurposeDevice && f.plan.Purpose != ca.PurposeBroker {
		return nil, usageError(fmt.Errorf("--purpose %s is not made here", f.purpose), "device or broker; a root comes from fleetca root ceremony")
	}
	parent, err := l.named(f.parent)
	if err != nil {
		return nil, err
	}
	rootKey, err := f.root.open(ctx, l.dir, f.passphraseFile, parent.Certificate.PublicKey)
	if err != nil {
		return nil, err
	}
	key, err := f.makeKey(ctx, l.dir, id)
	if err != nil {
		return nil, err
	}
	defer func() { err = key.keep(err) }()
	cert, err := ca.SignIssuer(f.plan, key.Public(), parent.Certificate, rootKey, time.Now())
	if err != nil {
		return nil, err
	}
	i := f.plan.Issuer(cert, parent.ID, key.uri)
	crl, err := ca.FirstCRL(ctx, i, key, 1, time.Now())
	if err != nil {
		return nil, err
	}
	return &i, l.add(ctx, "issuer.create", i, crl)
}

func newIssuerCSRCommand() *cobra.Command {
	f := &issuerFlags{}
	var out string
	cmd := &cobra.Command{
		Use:   "csr ID --purpose PURPOSE --data DIR --out FILE",
		Short: "Make an issuer's key, and a request that another root signs",
		Long: `Make an issuer's key in the folder (or in a token) and write a certification
request (PKCS #10). Have it signed by a root of your own, as a CA of path length 0
with keyCertSign and cRLSign; then: fleetca issuer import ID`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usageError(errors.New("--out is missing"), "name the file to write, such as issuer.csr.pem")
			}
			if _, err := os.Lstat(out); err == nil { // before a key is made
				return inTheWay(&fs.PathError{Op: "write", Path: out, Err: fs.ErrExist}, "choose another --out")
			}
			l, err := f.issuers(cmd.Context())
			if err != nil {
				return err
			}
			defer l.store.Close()
			if err := f.complete(args[0], l); err != nil {
				return err
			}
			key, err := f.makeKey(cmd.Context(), l.dir, args[0])
			if err != nil {
				return err
			}
			if err := key.keep(f.request(key, out)); err != nil {
				return err
			}
			return printFacts(cmd.OutOrStdout(), "request", out, "key", key.uri)
		},
	}
	f.add(cmd.Flags())
	f.addPlan(cmd.Flags())
	cmd.Flags().StringVar(&f.keyKMS, "key-kms", "", "URI of a PKCS #11 token to make its key inside, in place of a file")
	cmd.Flags().StringVar(&out, "out", "", "file to write")
	return cmd
}

// request writes the certification request of a new key.
func (f *issuerFlags) request(key newKey, out string) error {
	subject := pkix.Name{CommonName: f.plan.CommonName}
	if f.plan.Organization != "" {
		subject.Organization = []string{f.plan.Organization}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return inTheWay(ca.WriteNewFile(out, text, 0o644), "choose another --out")
}

// printNewIssuer says what was added, and what is next.
func printNewIssuer(cmd *cobra.Command, i ca.Issuer) error {
	facts := []string{"issuer", i.ID, "purpose", string(i.Purpose), "state", string(i.State), "subject", i.Certificate.Subject.String(),
		"SHA-256", ca.FingerprintOf(i.Certificate), "expires", day(i.Certificate.NotAfter)}
	if c := ca.NameConstraint(i.Product, i.Site, i.Domain); c != "" {
		facts = append(facts, "names below", c)
	}
	if err := printFacts(cmd.OutOrStdout(), facts...); err != nil {
		return err
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "\nNext, once a server runs:\n  fleetca issuer activate %s\n", i.ID)
	return err
}
