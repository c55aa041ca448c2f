package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Files of a ceremony's folder, beside the certificates.
const (
	inputs         = "inputs" // folder with copies of what it went by
	transcriptFile = "transcript.json"
	signatureFile  = "transcript.sig" // of the transcript's bytes, by the root's key: openssl dgst -sha256 -verify
	transcriptRoot = "transcript-root.pem"
)

// A Transcript says what was done in a root ceremony. The root's key signs it.
type Transcript struct {
	Name      string         `json:"name"`
	People    []string       `json:"people"`
	Program   string         `json:"program"` // version of this program
	StartedAt time.Time      `json:"startedAt"`
	EndedAt   time.Time      `json:"endedAt"`
	Key       string         `json:"key"`     // where the root's key is: a file, or a KMS URI
	Inputs    []CeremonyFile `json:"inputs"`  // copies of what the ceremony went by, the plan first
	Outputs   []CeremonyFile `json:"outputs"` // the root's certificate first
}

// A CeremonyFile is a file of a ceremony.
type CeremonyFile struct {
	File         string    `json:"file"`
	SHA256       string    `json:"sha256"` // of the file
	Kind         string    `json:"kind,omitempty"`
	Subject      string    `json:"subject,omitempty"`
	SerialNumber string    `json:"serialNumber,omitempty"` // of a CRL its number
	Fingerprint  string    `json:"fingerprint,omitempty"`  // SHA-256 of a certificate
	NotBefore    time.Time `json:"notBefore,omitzero"`
	NotAfter     time.Time `json:"notAfter,omitzero"`
	SignedBy     string    `json:"signedBy,omitempty"`
	Permits      []string  `json:"permits,omitempty"` // name constraints
}

// sign returns the transcript's bytes and their signature.
func (t *Transcript) sign(key crypto.Signer) (text, signature []byte, err error) {
	if text, err = json.MarshalIndent(t, "", "  "); err != nil {
		return nil, nil, err
	}
	text = append(text, '\n')
	sum := sha256.Sum256(text)
	if signature, err = key.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return nil, nil, fmt.Errorf("sign the transcript: %w", err)
	}
	return text, signature, nil
}

// VerifyCeremony verifies a ceremony's folder, without network and without any
// key: the root's signature on the transcript; the hash of each file that it
// names, and that there are no others; each certificate against the plan, its
// request and its signer; the CRL. fingerprint is of the root, in hex, as it was
// written down elsewhere, and plan the reviewed text; either may be empty, and
// proves nothing then.
func VerifyCeremony(dir, fingerprint string, plan []byte) (*Transcript, error) {
	v := &ceremonyCheck{dir: dir}
	if err := v.readTranscript(fingerprint); err != nil {
		return nil, err
	}
	if err := v.checkFiles(plan); err != nil {
		return nil, err
	}
	return &v.transcript, v.checkCertificates()
}

// A ceremonyCheck looks at one folder.
type ceremonyCheck struct {
	dir        string
	root       *x509.Certificate
	transcript Transcript
	files      map[string][]byte
}

func (v *ceremonyCheck) readTranscript(fingerprint string) error {
	rootText, err := os.ReadFile(filepath.Join(v.dir, transcriptRoot))
	if err != nil {
		return err
	}
	if v.root, err = onlyCertificate(transcriptRoot, rootText); err != nil {
		return err
	}
	if err := v.root.CheckSignatureFrom(v.root); err != nil {
		return fmt.Errorf("the root does not sign itself: %w", err)
	}
	if got := FingerprintOf(v.root); fingerprint != "" && got != fingerprint {
		return fmt.Errorf("the root's SHA-256 is %s, not %s", got, fingerprint)
	}
	text, err := os.ReadFile(filepath.Join(v.dir, transcriptFile))
	if err != nil {
		return err
	}
	signature, err := os.ReadFile(filepath.Join(v.dir, signatureFile))
	if err != nil {
		return err
	}
	algorithm := x509.ECDSAWithSHA256
	if v.root.PublicKeyAlgorithm == x509.RSA {
		algorithm = x509.SHA256WithRSA
	}
	if err := v.root.CheckSignature(algorithm, text, signature); err != nil {
		return fmt.Errorf("the transcript is not signed by the root: %w", err)
	}
	return json.Unmarshal(text, &v.transcript)
}

// checkFiles holds the folder's files against the transcript.
func (v *ceremonyCheck) checkFiles(plan []byte) error {
	v.files = map[string][]byte{}
	for _, f := range slices.Concat(v.transcript.Inputs, v.transcript.Outputs) {
		if !filepath.IsLocal(filepath.FromSlash(f.File)) {
			return fmt.Errorf("the transcript names %q, which is elsewhere", f.File)
		}
		data, err := os.ReadFile(filepath.Join(v.dir, filepath.FromSlash(f.File)))
		if err != nil {
			return err
		}
		if hexSHA256(data) != f.SHA256 {
			return fmt.Errorf("%s is not what the transcript says it was", f.File)
		}
		v.files[f.File] = data
	}
	if plan != nil && !bytes.Equal(plan, v.files[inputs+"/plan.yaml"]) {
		return errors.New("the ceremony went by another plan than this one")
	}
	return filepath.WalkDir(v.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(v.dir, path)
		if name = filepath.ToSlash(name); err == nil && v.files[name] == nil && !slices.Contains([]string{transcriptFile, signatureFile, transcriptRoot}, name) {
			err = fmt.Errorf("%s is not in the transcript", name)
		}
		return err
	})
}

// checkCertificates holds each certificate against the plan, as if it were to be
// signed anew.
func (v *ceremonyCheck) checkCertificates() error {
	c, err := ReadCeremony(v.files[inputs+"/plan.yaml"])
	if err != nil {
		return err
	}
	root, err := v.certificate(c.Root.ID + ".pem")
	if err != nil {
		return err
	}
	if !root.Equal(v.root) {
		return errors.New("the transcript is signed by another root than the plan's")
	}
	if c.Root.Certificate == "" {
		if err := c.Root.plan(PurposeRoot).matches(root); err != nil {
			return fmt.Errorf("%s.pem: %w", c.Root.ID, err)
		}
	}
	issuers := []Issuer{{ID: c.Root.ID, Purpose: PurposeRoot, Certificate: root, Parent: c.Root.ID}}
	for _, i := range c.Issuers {
		cert, err := v.certificate(i.ID + ".pem")
		if err != nil {
			return err
		}
		request, err := ParseRequest(i.CSR, v.files[inputs+"/"+i.ID+".csr.pem"])
		if err != nil {
			return err
		}
		if request.KeySHA256 != hexSHA256(cert.RawSubjectPublicKeyInfo) {
			return fmt.Errorf("%s.pem is not for the key of its request", i.ID)
		}
		if err := i.plan(i.Purpose).matches(cert); err != nil {
			return fmt.Errorf("%s.pem: %w", i.ID, err)
		}
		issuers = append(issuers, i.plan(i.Purpose).Issuer(cert, c.Root.ID, ""))
	}
	if err := CheckChains(issuers); err != nil {
		return err
	}
	if _, err := ReadCRL(issuers[0], v.files[c.Root.ID+".crl.pem"]); err != nil {
		return err
	}
	return v.checkCross(c)
}

func (v *ceremonyCheck) checkCross(c *Ceremony) error {
	if c.CrossSign == nil {
		return nil
	}
	other, err := onlyCertificate(c.CrossSign.ID, v.files[inputs+"/"+c.CrossSign.ID+".pem"])
	if err != nil {
		return err
	}
	pairs := []struct {
		name        string
		subject, by *x509.Certificate
	}{{c.CrossSign.ID + "-by-" + c.Root.ID + ".pem", other, v.root}}
	if c.CrossSign.Key != "" {
		pairs = append(pairs, struct {
			name        string
			subject, by *x509.Certificate
		}{c.Root.ID + "-by-" + c.CrossSign.ID + ".pem", v.root, other})
	}
	for _, p := range pairs {
		cert, err := v.certificate(p.name)
		if err != nil {
			return err
		}
		if !(CrossCertificate{Certificate: cert}).Of(p.subject, p.by) {
			return fmt.Errorf("%s is not the root %s, signed by %s", p.name, p.subject.Subject, p.by.Subject)
		}
	}
	return nil
}

// certificate returns one of the outputs.
func (v *ceremonyCheck) certificate(name string) (*x509.Certificate, error) {
	return onlyCertificate(name, v.files[name])
}

// matches holds a certificate against what the plan makes. How long it is valid
// may be less, when its parent ends before.
func (p CAPlan) matches(c *x509.Certificate) error {
	want := p.template(c.NotBefore.Add(caBackdate))
	switch {
	case c.Subject.String() != want.Subject.String():
		return fmt.Errorf("its subject is %s, planned was %s", c.Subject, want.Subject)
	case !c.IsCA || c.KeyUsage != want.KeyUsage || !slices.Equal(c.ExtKeyUsage, want.ExtKeyUsage):
		return errors.New("its usages are not those of its purpose")
	case c.MaxPathLen < 0 || c.MaxPathLen > want.MaxPathLen:
		return fmt.Errorf("it allows %d CAs below it, planned were %d", c.MaxPathLen, want.MaxPathLen)
	case c.NotAfter.After(want.NotAfter):
		return fmt.Errorf("it is valid until %s, planned was %s", c.NotAfter, want.NotAfter)
	case !slices.Equal(c.PermittedDNSDomains, want.PermittedDNSDomains) || c.PermittedDNSDomainsCritical != want.PermittedDNSDomainsCritical:
		return fmt.Errorf("it permits names below %v, planned was %v", c.PermittedDNSDomains, want.PermittedDNSDomains)
	}
	return nil
}
