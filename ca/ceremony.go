package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A Ceremony is what a root's key is used for, on a machine that has no network:
// one YAML file, reviewed beforehand, in; certificates, a CRL and a signed
// transcript out. Files are named relative to the plan's folder.
type Ceremony struct {
	Name      string           `yaml:"name"`   // for people
	People    []string         `yaml:"people"` // who are there
	Root      CeremonyRoot     `yaml:"root"`
	Issuers   []CeremonyIssuer `yaml:"issuers"`   // that the root signs
	CrossSign *CeremonyCross   `yaml:"crossSign"` // with another root; none when missing
}

// A CeremonyCA is what a certificate is to say; see CAPlan.
type CeremonyCA struct {
	ID           string `yaml:"id"`
	CommonName   string `yaml:"commonName"`
	Organization string `yaml:"organization"`
	Years        int    `yaml:"years"`
	Product      string `yaml:"product"`
	Site         string `yaml:"site"`
	Domain       string `yaml:"domain"`
}

func (c CeremonyCA) plan(p Purpose) CAPlan {
	return CAPlan{ID: c.ID, Purpose: p, CommonName: c.CommonName, Organization: c.Organization, Years: c.Years, Product: c.Product, Site: c.Site, Domain: c.Domain}
}

// A CeremonyRoot is the root that signs: made in the ceremony, or, with a
// Certificate, one that exists.
type CeremonyRoot struct {
	CeremonyCA  `yaml:",inline"`
	Certificate string       `yaml:"certificate"` // PEM file of a root that exists
	Key         string       `yaml:"key"`         // a file, or a KMS URI: written for a new root, or inside that token
	Algorithm   KeyAlgorithm `yaml:"algorithm"`   // of a new root's key; P-256 when empty
	CRLNumber   int64        `yaml:"crlNumber"`   // of the CRL that is signed; of a root that exists above its last
}

// A CeremonyIssuer is an issuer that the root signs, for a request that fleetca
// issuer csr made.
type CeremonyIssuer struct {
	CeremonyCA `yaml:",inline"`
	Purpose    Purpose `yaml:"purpose"`
	CSR        string  `yaml:"csr"` // PEM file
}

// A CeremonyCross is another root. It is signed by the ceremony's; with its Key
// it signs that in turn.
type CeremonyCross struct {
	ID          string `yaml:"id"`
	Certificate string `yaml:"certificate"` // PEM file
	Key         string `yaml:"key"`         // a file, or a KMS URI
}

// ReadCeremony reads a plan, and refuses keys that it does not know.
func ReadCeremony(text []byte) (*Ceremony, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	c := &Ceremony{}
	if err := d.Decode(c); err != nil {
		return nil, Errorf(KindMalformed, "plan", "see fleetca root ceremony --help for an example", "cannot be read: %s", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if err := d.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, Errorf(KindMalformed, "plan", "keep one document a file", "holds something after the plan")
	}
	return c, c.check()
}

// check refuses a plan that cannot be carried out, before anything is made.
func (c *Ceremony) check() error {
	switch {
	case c.Name == "" || len(c.People) < 2:
		return Errorf(KindMalformed, "people", "give the ceremony a name, and name two people or more", "a ceremony has a name and witnesses")
	case c.Root.Key == "":
		return Errorf(KindMalformed, "root.key", "name the file to write, or a KMS URI", "is missing")
	case c.Root.Certificate != "" && (c.Root.CommonName+c.Root.Organization != "" || c.Root.Years != 0 || c.Root.Algorithm != ""):
		return Errorf(KindMalformed, "root", "leave commonName, organization, years and algorithm out", "a root that exists says for itself what it is")
	case c.Root.Certificate != "" && c.Root.CRLNumber < 1:
		return Errorf(KindMalformed, "root.crlNumber", "give one above that of its last CRL", "is missing")
	}
	if c.Root.Certificate == "" {
		if err := c.Root.plan(PurposeRoot).Check(); err != nil {
			return within("root", err)
		}
	}
	ids := []string{c.Root.ID}
	if c.CrossSign != nil {
		ids = append(ids, c.CrossSign.ID)
		if c.CrossSign.Certificate == "" {
			return Errorf(KindMalformed, "crossSign.certificate", "name the other root's PEM file", "is missing")
		}
	}
	for _, i := range c.Issuers {
		if err := i.plan(i.Purpose).Check(); err != nil {
			return within("issuers", err)
		}
		if i.Purpose == PurposeRoot || i.CSR == "" {
			return Errorf(KindMalformed, "issuers", "give a purpose of device, broker or intermediate, and the file of its request (csr)", "issuer %s is a root, or has no request", i.ID)
		}
		ids = append(ids, i.ID)
	}
	slices.Sort(ids)
	if len(slices.Compact(slices.Clone(ids))) != len(ids) || slices.ContainsFunc(ids, func(id string) bool { return !issuerIDs.MatchString(id) }) {
		return Errorf(KindMalformed, "id", "give each root and issuer an id of its own", "the ids %s are not each its own", strings.Join(ids, ", "))
	}
	return nil
}

// within says in which part of a plan a field is.
func within(part string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		inner := *e
		inner.Field = part + "." + e.Field
		return &inner
	}
	return err
}

// CeremonyConfig says with what a ceremony is held.
type CeremonyConfig struct {
	Plan       []byte // the text that c was read from
	Dir        string // its folder
	Out        string // folder to make
	Passphrase []byte // of the root's key file
	Other      []byte // of the other root's; Passphrase when empty
	PIN        string // of tokens
	Program    string // version, for the transcript
	Now        func() time.Time
}

// A ceremony is one that is held.
type ceremony struct {
	*Ceremony
	CeremonyConfig
	root       *x509.Certificate
	key        crypto.Signer
	made       string // the key file that was made; removed when the ceremony fails
	transcript Transcript
	files      map[string][]byte // to write, by name
	issuers    []Issuer
}

// Hold carries the plan out. It makes the folder Out, whole or not at all. A key
// that it made is removed again when something fails.
func (c *Ceremony) Hold(ctx context.Context, cfg CeremonyConfig) (t *Transcript, err error) {
	if _, err := os.Lstat(cfg.Out); err == nil {
		return nil, &os.PathError{Op: "make", Path: cfg.Out, Err: os.ErrExist}
	}
	h := &ceremony{Ceremony: c, CeremonyConfig: cfg, files: map[string][]byte{}}
	defer func() {
		if err != nil && h.made != "" {
			err = errors.Join(err, os.Remove(h.made))
		}
	}()
	h.transcript = Transcript{Name: c.Name, People: c.People, Program: cfg.Program, StartedAt: cfg.Now().UTC().Truncate(time.Second)}
	h.input("plan.yaml", cfg.Plan)
	for _, step := range []struct {
		what string
		take func(context.Context) error
	}{
		{"the root", h.takeRoot}, {"the issuers", h.signIssuers}, {"the CRL", h.signCRL}, {"cross-signing", h.crossSign},
	} {
		if err := step.take(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	if err := CheckChains(h.issuers); err != nil {
		return nil, err
	}
	h.transcript.EndedAt = cfg.Now().UTC().Truncate(time.Second)
	return &h.transcript, h.write()
}

func (h *ceremony) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(h.Dir, name)
}

// takeRoot makes the root, or opens the one that exists.
func (h *ceremony) takeRoot(ctx context.Context) error {
	kms := strings.Contains(h.Root.Key, ":")
	var err error
	switch {
	case h.Root.Certificate != "":
		if h.root, err = h.certificate(h.Root.Certificate); err != nil {
			return err
		}
		h.key, err = h.open(ctx, h.Root.Key, h.Passphrase, h.root)
	case kms:
		if h.key, h.transcript.Key, err = (Keyring{PIN: h.PIN}).Make(ctx, h.Root.Key, "fleetca-"+h.Root.ID, h.Root.Algorithm); err == nil {
			h.root, err = SignRoot(h.Root.plan(PurposeRoot), h.key, h.Now())
		}
	default:
		path := h.path(h.Root.Key)
		if h.key, err = CreateKeyFile(ctx, path, h.Passphrase, h.Root.Algorithm); err == nil {
			h.made = path
			h.root, err = SignRoot(h.Root.plan(PurposeRoot), h.key, h.Now())
		}
	}
	if err != nil {
		return err
	}
	if h.transcript.Key == "" {
		h.transcript.Key = h.Root.Key
	}
	if err := testKey(h.key, h.root.PublicKey); err != nil {
		return err
	}
	h.issuers = append(h.issuers, Issuer{ID: h.Root.ID, Purpose: PurposeRoot, Certificate: h.root, Parent: h.Root.ID})
	h.output(h.Root.ID+".pem", "root", h.root)
	return nil
}

// signIssuers signs every request of the plan.
func (h *ceremony) signIssuers(context.Context) error {
	for _, i := range h.Issuers {
		text, err := os.ReadFile(h.path(i.CSR))
		if err != nil {
			return err
		}
		request, err := ParseRequest(i.CSR, text)
		if err != nil {
			return err
		}
		h.input(i.ID+".csr.pem", text)
		cert, err := SignIssuer(i.plan(i.Purpose), request.PublicKey, h.root, h.key, h.Now())
		if err != nil {
			return within("issuer "+i.ID, err)
		}
		h.issuers = append(h.issuers, i.plan(i.Purpose).Issuer(cert, h.Root.ID, ""))
		h.output(i.ID+".pem", string(i.Purpose)+" issuer", cert)
	}
	return nil
}

// signCRL signs the root's CRL. It is empty: what a root that exists revoked is
// on the CRLs that fleetca root crl signs, with the ledger at hand.
func (h *ceremony) signCRL(ctx context.Context) error {
	crl, err := FirstCRL(ctx, h.issuers[0], h.key, max(1, h.Root.CRLNumber), h.Now())
	if err != nil {
		return err
	}
	h.files[h.Root.ID+".crl.pem"] = crl.PEM()
	h.transcript.Outputs = append(h.transcript.Outputs, CeremonyFile{
		File: h.Root.ID + ".crl.pem", SHA256: hexSHA256(crl.PEM()), Kind: "CRL", Subject: h.root.Subject.String(), SerialNumber: fmt.Sprint(crl.Number),
		NotBefore: crl.ThisUpdate, NotAfter: crl.NextUpdate, SignedBy: h.Root.ID,
	})
	return nil
}

func (h *ceremony) crossSign(ctx context.Context) error {
	if h.CrossSign == nil {
		return nil
	}
	other, err := h.certificate(h.CrossSign.Certificate)
	if err != nil {
		return err
	}
	h.input(h.CrossSign.ID+".pem", []byte(EncodeChain(other)))
	old, err := CrossSign(other, h.root, h.key, h.Now())
	if err != nil {
		return err
	}
	h.output(h.CrossSign.ID+"-by-"+h.Root.ID+".pem", "cross-certificate", old)
	if h.CrossSign.Key == "" {
		return nil
	}
	passphrase := h.Other
	if len(passphrase) == 0 {
		passphrase = h.Passphrase
	}
	key, err := h.open(ctx, h.CrossSign.Key, passphrase, other)
	if err != nil {
		return err
	}
	next, err := CrossSign(h.root, other, key, h.Now())
	if err != nil {
		return err
	}
	h.output(h.Root.ID+"-by-"+h.CrossSign.ID+".pem", "cross-certificate", next)
	return nil
}

// open opens a key that is named by its file, or by a URI.
func (h *ceremony) open(ctx context.Context, key string, passphrase []byte, cert *x509.Certificate) (crypto.Signer, error) {
	if !strings.Contains(key, ":") {
		path, err := filepath.Abs(h.path(key))
		if err != nil {
			return nil, err
		}
		key = "softkms:path=" + path
	}
	return Keyring{Passphrase: passphrase, PIN: h.PIN}.Open(ctx, key, cert.PublicKey)
}

func (h *ceremony) certificate(name string) (*x509.Certificate, error) {
	text, err := os.ReadFile(h.path(name))
	if err != nil {
		return nil, err
	}
	return onlyCertificate(name, text)
}

// onlyCertificate reads a PEM file with one certificate.
func onlyCertificate(name string, text []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, Errorf(KindMalformed, "certificate", "give a PEM file with one certificate", "%s is none", name)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, Errorf(KindMalformed, "certificate", "give a PEM file with one certificate", "%s: %w", name, err)
	}
	return c, nil
}

// input notes a file that the ceremony went by, and keeps a copy.
func (h *ceremony) input(name string, text []byte) {
	h.files[inputs+"/"+name] = text
	h.transcript.Inputs = append(h.transcript.Inputs, CeremonyFile{File: inputs + "/" + name, SHA256: hexSHA256(text)})
}

// output notes a certificate that the ceremony gives.
func (h *ceremony) output(name, kind string, c *x509.Certificate) {
	text := []byte(EncodeChain(c))
	h.files[name] = text
	f := CeremonyFile{
		File: name, SHA256: hexSHA256(text), Kind: kind, Subject: c.Subject.String(), SerialNumber: string(SerialNumberOf(c.SerialNumber)),
		Fingerprint: FingerprintOf(c), NotBefore: c.NotBefore, NotAfter: c.NotAfter, SignedBy: h.Root.ID, Permits: c.PermittedDNSDomains,
	}
	if c.CheckSignatureFrom(h.root) != nil {
		f.SignedBy = h.CrossSign.ID
	}
	h.transcript.Outputs = append(h.transcript.Outputs, f)
}

// write writes everything to a folder beside Out, with the signed transcript, and
// gives it that name.
func (h *ceremony) write() error {
	text, signature, err := h.transcript.sign(h.key)
	if err != nil {
		return err
	}
	h.files[transcriptFile], h.files[signatureFile] = text, signature
	h.files[transcriptRoot] = []byte(EncodeChain(h.root))
	part := h.Out + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(part, inputs), 0o755); err != nil {
		return err
	}
	for name, data := range h.files {
		if err := WriteNewFile(filepath.Join(part, filepath.FromSlash(name)), data, 0o644); err != nil {
			return errors.Join(err, os.RemoveAll(part))
		}
	}
	if err := os.Rename(part, h.Out); err != nil {
		return errors.Join(err, os.RemoveAll(part))
	}
	if err := SyncDir(filepath.Dir(h.Out)); err != nil {
		return errors.Join(err, os.RemoveAll(h.Out))
	}
	return nil
}
