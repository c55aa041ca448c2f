package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
)

// issuerImport is what issuer import works with.
type issuerImport struct {
	issuerFlags
	cert          string   // file with the certificate
	key           string   // a file, or a KMS URI; the key that issuer csr made when empty
	keyPassphrase string   // file with its passphrase
	crl           string   // file with its newest CRL
	cross         []string // files with cross-certificates of a root
}

func newIssuerImportCommand() *cobra.Command {
	f := &issuerImport{}
	cmd := &cobra.Command{
		Use:   "import ID --purpose PURPOSE --cert FILE --data DIR",
		Short: "Add a root, an intermediate or an issuer that was signed elsewhere",
		Long: `Add a CA certificate that was signed elsewhere: the answer to fleetca issuer csr, an
issuer whose key you have, or (--purpose root, intermediate) one that stands above.
Add what stands above first. Keys of roots and intermediates stay where they are;
their newest CRL is needed (--crl), and their next ones come with
fleetca root import-crl.

An issuer's key in a file is encrypted anew, into the folder. What an issuer
signed before is not known here: OCSP says unknown of it, and its revocations
are not on the CRLs that follow. One that has revoked certificates is refused.`,
		Args: cobra.ExactArgs(1),
		RunE: f.adding(func(ctx context.Context, l *localIssuers, args []string) (*ca.Issuer, error) {
			return f.add(ctx, l, args[0])
		}),
	}
	set := cmd.Flags()
	f.issuerFlags.add(set)
	f.addScope(set)
	set.Lookup("purpose").Usage += ", or root, or intermediate (a CA between a root and issuers)"
	set.StringVar(&f.cert, "cert", "", "PEM or DER file with its certificate")
	set.StringVar(&f.key, "key", "", "its key: a PEM file, or a KMS URI (default: the file that issuer csr made)")
	set.StringVar(&f.keyPassphrase, "key-passphrase-file", "", "file with the passphrase of --key (default: the same as the other keys')")
	set.StringSliceVar(&f.cross, "cross", nil, "files with cross-certificates of a root and one that is here; may be repeated")
	set.StringVar(&f.crl, "crl", "", "PEM or DER file with its newest CRL; needed for roots and intermediates")
	return cmd
}

// add adds what was signed elsewhere.
func (f *issuerImport) add(ctx context.Context, l *localIssuers, id string) (*ca.Issuer, error) {
	if f.cert == "" {
		return nil, usageError(errors.New("--cert is missing"), "name the file with its certificate")
	}
	certs, err := readCertificates(f.cert)
	if err == nil && len(certs) == 0 {
		err = fmt.Errorf("%s holds no certificate", f.cert)
	}
	if err != nil {
		return nil, usageError(fmt.Errorf("--cert: %w", err), "give a PEM or DER file, its own certificate first")
	}
	cert := certs[0]
	f.plan.CommonName = id // what it says is in the certificate
	if err := f.complete(id, l); err != nil {
		return nil, err
	}
	parent, err := l.signerOf(id, cert)
	if err != nil {
		return nil, err
	}
	i := f.plan.Issuer(cert, parent, "")
	if err := i.CheckConstraint(); err != nil {
		return nil, usageErrorOf(err)
	}
	if i.Purpose == ca.PurposeRoot || i.Purpose == ca.PurposeIntermediate {
		return f.addAbove(ctx, l, i)
	}
	return f.addSigning(ctx, l, i)
}

// signerOf returns the id of the issuer that signed a certificate: its own for a
// root.
func (l *localIssuers) signerOf(id string, cert *x509.Certificate) (string, error) {
	if cert.CheckSignatureFrom(cert) == nil {
		return id, nil
	}
	for _, i := range l.all {
		if cert.CheckSignatureFrom(i.Certificate) == nil {
			return i.ID, nil
		}
	}
	return "", usageError(fmt.Errorf("no issuer here signed the certificate; it names %s", cert.Issuer), "import that one first, from the root down")
}

// addAbove adds a root or an intermediate.
func (f *issuerImport) addAbove(ctx context.Context, l *localIssuers, i ca.Issuer) (*ca.Issuer, error) {
	if f.key != "" {
		return nil, usageError(errors.New("--key makes no sense for a "+string(i.Purpose)), "its key stays where it is")
	}
	if (i.Purpose == ca.PurposeRoot) != (i.Parent == i.ID) {
		return nil, usageError(fmt.Errorf("the certificate is not that of purpose %s", i.Purpose), "a root signs itself, an intermediate does not")
	}
	if f.crl == "" {
		return nil, usageError(errors.New("--crl is missing"), "brokers admit nobody below a CA whose CRL they have not: give its newest")
	}
	crl, err := readCRLOf(i, f.crl)
	if err != nil {
		return nil, err
	}
	cross, err := f.crossOf(l, i)
	if err != nil {
		return nil, err
	}
	return &i, l.add(ctx, "issuer.import", i, crl, cross...)
}

// crossOf reads the cross-certificates of a root and others that are here.
func (f *issuerImport) crossOf(l *localIssuers, i ca.Issuer) ([]ca.CrossCertificate, error) {
	var all []ca.CrossCertificate
	for _, file := range f.cross {
		certs, err := readCertificates(file)
		if err == nil && len(certs) != 1 {
			err = fmt.Errorf("%s holds %d certificates, not one", file, len(certs))
		}
		if err != nil {
			return nil, usageError(fmt.Errorf("--cross: %w", err), "give files that fleetca root ceremony wrote")
		}
		found := false
		for _, o := range l.all {
			for _, x := range []ca.CrossCertificate{{Root: i.ID, By: o.ID, Certificate: certs[0]}, {Root: o.ID, By: i.ID, Certificate: certs[0]}} {
				root, by := i.Certificate, o.Certificate
				if x.Root == o.ID {
					root, by = by, root
				}
				if o.Purpose == ca.PurposeRoot && x.Of(root, by) {
					all, found = append(all, x), true
				}
			}
		}
		if !found {
			return nil, usageError(fmt.Errorf("--cross %s is not of this root and another that is here", file), "import the other root first")
		}
	}
	return all, nil
}

// addSigning adds an issuer with its key, which is taken last.
func (f *issuerImport) addSigning(ctx context.Context, l *localIssuers, i ca.Issuer) (_ *ca.Issuer, err error) {
	if err := l.checkChain(i); err != nil {
		return nil, err
	}
	number := time.Now().Unix() // above what it may have given before
	if f.crl != "" {
		crl, err := readCRLOf(i, f.crl)
		if err != nil {
			return nil, err
		}
		if crl.Entries > 0 {
			return nil, hinted(fmt.Errorf("--crl lists %d certificates, which the CRLs from here would leave out", crl.Entries),
				"let the issuer run out where it is, and make a new one here")
		}
		number = max(number, crl.Number+1)
	}
	key, err := f.takeKey(ctx, l.dir, i)
	if err != nil {
		return nil, err
	}
	defer func() { err = key.keep(err) }()
	i.KeyURI = key.uri
	crl, err := ca.FirstCRL(ctx, i, key, number, time.Now())
	if err != nil {
		return nil, err
	}
	return &i, l.add(ctx, "issuer.import", i, crl)
}

func readCRLOf(i ca.Issuer, path string) (*ca.CRL, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError(fmt.Errorf("--crl: %w", err), "name a file with the CRL")
	}
	crl, err := ca.ReadCRL(i, text)
	return crl, usageErrorOf(err)
}
