package ca_test

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
)

const ceremonyPlan = `name: Second root
people: [Ann Admin, Bob Witness]
root: {id: root-2, commonName: Root 2, years: 20, key: root-2.key.pem, algorithm: ALGORITHM}
issuers:
  - {id: pumps, purpose: device, csr: pumps.csr.pem, commonName: Pumps, years: 8, product: pump, site: hall, domain: fleet.test}
`

// hold holds a ceremony by one plan, and notes another as what it went by.
func hold(t *testing.T, root *x509.Certificate, plan, noted string) (dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "root.pem"), ca.EncodeChain(root))
	writeFile(t, filepath.Join(dir, "pumps.csr.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})))
	c, err := ca.ReadCeremony([]byte(plan))
	if err != nil {
		return dir, err
	}
	out := filepath.Join(dir, "out")
	_, err = c.Hold(t.Context(), ca.CeremonyConfig{Plan: []byte(noted), Dir: dir, Out: out, Passphrase: passphrase, Program: "test", Now: time.Now})
	return out, err
}

func TestCeremoniesOfEveryKindOfKeyVerify(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"P-384", "RSA-3072"} {
		plan := strings.ReplaceAll(ceremonyPlan, "ALGORITHM", algorithm)
		out, err := hold(t, made().Root(), plan, plan)
		if err != nil {
			t.Fatal(err)
		}
		tr, err := ca.VerifyCeremony(out, "", []byte(plan))
		if err != nil || len(tr.Outputs) != 3 || tr.Outputs[0].Kind != "root" {
			t.Fatalf("%s: %+v, %v", algorithm, tr, err)
		}
		if _, err := ca.VerifyCeremony(out, tr.Outputs[0].Fingerprint, nil); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
		// A change of one octet anywhere is seen.
		for _, name := range []string{"transcript.json", "transcript.sig", "pumps.pem", "root-2.crl.pem", "inputs/plan.yaml", "inputs/pumps.csr.pem", "transcript-root.pem"} {
			file := filepath.Join(out, name)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			changed := append([]byte{}, text...)
			changed[len(changed)/2] ^= 1
			writeFile(t, file, string(changed))
			if _, err := ca.VerifyCeremony(out, "", nil); err == nil {
				t.Errorf("%s: a change of %s is not seen", algorithm, name)
			}
			writeFile(t, file, string(text))
		}
	}
}

// Whoever has the root's key can sign any transcript: what was made is held
// against the plan all the same.
func TestACeremonyThatDidOtherThanPlannedDoesNotVerify(t *testing.T) {
	t.Parallel()
	p := newPlanned(t)
	before, after, _ := strings.Cut(ceremonyPlan, "root: {")
	_, after, _ = strings.Cut(after, "\n")
	plan := before + "root: {id: root-2, certificate: root.pem, key: '" + keepKey(p.rootKey) + "', crlNumber: 5}\n" + after
	for was, planned := range map[string][2]string{
		"permits names":     {"domain: fleet.test", "domain: other.test"},
		"subject":           {"commonName: Pumps", "commonName: Valves"},
		"valid until":       {"years: 8", "years: 7"},
		"usages":            {"purpose: device", "purpose: broker"},
		"the request":       {"csr: pumps.csr.pem", "csr: pumps.csr.pem, id: x"},
		"no such root":      {"id: root-2", "id: root-3"},
		"one issuer less":   {"product: pump, ", ""},
		"an issuer more":    {"issuers:", "issuers:\n  - {id: more, purpose: device, csr: pumps.csr.pem, commonName: More}"},
		"a cross-signature": {"issuers:", "crossSign: {id: other, certificate: other.pem}\nissuers:"},
	} {
		out, err := hold(t, p.root, plan, strings.Replace(plan, planned[0], planned[1], 1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ca.VerifyCeremony(out, "", nil); err == nil {
			t.Errorf("%s: verifies", was)
		}
	}
}

func TestCrossSigningNeedsPathLength(t *testing.T) {
	t.Parallel()
	p, next := newPlanned(t), newPlanned(t)
	cross, err := ca.CrossSign(next.root, p.root, p.rootKey, made().at)
	if err != nil {
		t.Fatal(err)
	}
	if cross.CheckSignatureFrom(p.root) != nil || cross.Subject.String() != next.root.Subject.String() || cross.NotAfter.After(p.root.NotAfter) {
		t.Errorf("%+v", cross)
	}
	// What an issuer of the new root signed verifies for who has the old root alone.
	i := next.issuer(ca.CAPlan{ID: "broker", Purpose: ca.PurposeBroker}, ca.IssuerActive)
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: made().at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	opts.Roots.AddCert(p.root)
	opts.Intermediates.AddCert(cross)
	if _, err := i.Certificate.Verify(opts); err != nil {
		t.Error(err)
	}
	narrow := caTemplate("Narrow")
	narrow.MaxPathLen = 1
	key := newKey(t)
	_, err = ca.CrossSign(next.root, sign(t, narrow, nil, key, nil), key, made().at)
	wantKind(t, err, ca.KindKey, "certificate")
	_, err = ca.CrossSign(i.Certificate, p.root, p.rootKey, made().at)
	wantKind(t, err, ca.KindKey, "certificate")
}
