package ca_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
)

// needOpenSSL skips without openssl, or fails under FLEETCA_TEST_ALL=1.
func needOpenSSL(t *testing.T) {
	t.Helper()
	need(t, "openssl", "openssl")
}

// need skips without a program, or fails under FLEETCA_TEST_ALL=1.
func need(t *testing.T, program, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("FLEETCA_TEST_ALL") == "1" {
		t.Fatalf("%s is missing: install the package %s", program, pkg)
	}
	t.Skipf("%s is missing: install the package %s to run this test", program, pkg)
}

// openssl runs it, and returns what it printed.
func openssl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOpenSSLAgreesOnGoodAndRevoked: also after the status URL moved, when
// certificates in the field name the old one.
func TestOpenSSLAgreesOnGoodAndRevoked(t *testing.T) {
	t.Parallel()
	needOpenSSL(t)
	f := newFixture(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	old := f.issue(f.order("device"))
	f.ca.SetStatusURLs("device", []string{"http://status.test", "http://moved.test:8080"})
	moved, revoked := f.issue(f.order("device")), f.issue(f.order("device"))
	f.ledger.setStatus(revoked.SerialNumber, ca.ReasonKeyCompromise, f.clock.now())

	writeFile(t, path("root.pem"), ca.EncodeChain(f.root))
	writeFile(t, path("chain.pem"), ca.EncodeChain(f.ca.Chain("device")...))
	for name, cert := range map[string]*ca.Certificate{"old": old, "moved": moved, "revoked": revoked} {
		writeFile(t, path(name+".pem"), cert.PEM())
	}
	rootCRL := made().CRLs[0]
	verify := func(crl *ca.CRL, leaf string) (string, error) {
		t.Helper()
		writeFile(t, path("crls.pem"), string(crl.PEM())+string(rootCRL.PEM()))
		return openssl(t, "verify", "-x509_strict", "-purpose", "sslclient", "-crl_check_all", "-attime", strconv.FormatInt(f.clock.now().Unix(), 10),
			"-CAfile", path("root.pem"), "-untrusted", path("chain.pem"), "-CRLfile", path("crls.pem"), path(leaf+".pem"))
	}
	crl := f.publish("device", true)
	for leaf, want := range map[string]string{"old": "OK", "moved": "OK", "revoked": "certificate revoked"} {
		out, err := verify(crl, leaf)
		if !strings.Contains(out, want) || (err == nil) != (want == "OK") {
			t.Errorf("%s: want %q, openssl says %s", leaf, want, out)
		}
	}
	f.ca.SetStatusURLs("device", []string{"http://moved.test:8080"}) // what must not happen
	if out, err := verify(f.publish("device", true), "old"); err == nil || !strings.Contains(out, "CRL scope") {
		t.Errorf("control: an IDP without the certificate's CDP passes: %s", out)
	}
}

func TestOpenSSLReadsCRLsAsTheyAreMeant(t *testing.T) {
	t.Parallel()
	needOpenSSL(t)
	f := newFixture(t)
	f.ca.SetStatusURLs("device", []string{"http://status.test", "http://moved.test:8080"})
	serials := map[ca.Reason]ca.SerialNumber{}
	for _, reason := range []ca.Reason{ca.ReasonKeyCompromise, ca.ReasonCertificateHold, ca.ReasonUnspecified} {
		serials[reason] = f.issue(f.order("device")).SerialNumber
		f.ledger.setStatus(serials[reason], reason, f.clock.now())
	}
	f.publish("device", true)
	crl := f.publish("device", true)
	file := filepath.Join(t.TempDir(), "crl.der")
	writeFile(t, file, string(crl.DER))
	out, err := openssl(t, "crl", "-inform", "DER", "-in", file, "-noout", "-text")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		`Version 2`, `X509v3 CRL Number: \n\s+3\n`, `X509v3 Issuing Distribution Point: critical\n`,
		`URI:http://status\.test/crl/device\.crl\s+URI:http://moved\.test:8080/crl/device\.crl`, `X509v3 Authority Key Identifier`,
		"(?i)Serial Number: " + string(serials[ca.ReasonKeyCompromise]) + `\n.*Revocation Date:.*\n\s+CRL entry extensions:\n\s+X509v3 CRL Reason Code: \n\s+Key Compromise`,
		"(?i)Serial Number: " + string(serials[ca.ReasonCertificateHold]) + `\n.*Revocation Date:.*\n\s+CRL entry extensions:\n\s+X509v3 CRL Reason Code: \n\s+Certificate Hold`,
		"(?i)Serial Number: " + string(serials[ca.ReasonUnspecified]) + `\n.*Revocation Date:[^\n]*\n\s+(Serial Number|Signature Algorithm)`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("openssl crl -text does not match %s:\n%s", want, out)
		}
	}
}

// TestOpenSSLMakesRequestsThatAreAccepted makes them on the spot; those that
// testdata/csr holds were made by it, too.
func TestOpenSSLMakesRequestsThatAreAccepted(t *testing.T) {
	t.Parallel()
	needOpenSSL(t)
	f := newFixture(t)
	for name, options := range map[string][]string{
		"P-256":   {"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"P-384":   {"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"Ed25519": {"-newkey", "ed25519"},
		"RSA":     {"-newkey", "rsa:2048"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, form := range [][]string{{"-outform", "PEM"}, {"-outform", "DER"}, {"-outform", "PEM", "-text"}} {
				args := append([]string{"req", "-new", "-nodes", "-subj", "/CN=device-1", "-keyout", filepath.Join(dir, "key.pem"), "-out", filepath.Join(dir, "request")}, options...)
				if out, err := openssl(t, append(args, form...)...); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				text, err := os.ReadFile(filepath.Join(dir, "request"))
				must(t, err)
				r, err := ca.ParseRequest("csr", text)
				if err != nil {
					t.Fatalf("%v: %v\n%s", form, err, text)
				}
				o := f.order("device")
				o.PublicKey, o.KeySHA256 = r.PublicKey, r.KeySHA256
				if _, err := f.ca.Issue(t.Context(), o); err != nil {
					t.Fatalf("%v: %v", form, err)
				}
			}
		})
	}
}

// TestOpenSSLOpensKeyFiles: nobody needs us to get at their keys.
func TestOpenSSLOpensKeyFiles(t *testing.T) {
	t.Parallel()
	needOpenSSL(t)
	h := made()
	for file, c := range map[string]ca.Issuer{"root.pem": h.Issuers[0], "keys/device-issuer.pem": h.Issuers[1]} {
		out, err := openssl(t, "pkey", "-in", filepath.Join(h.dir, file), "-passin", "pass:"+string(passphrase), "-pubout")
		if err != nil {
			t.Fatalf("%s: %v: %s", file, err, out)
		}
		cert := filepath.Join(t.TempDir(), "issuer.pem")
		writeFile(t, cert, ca.EncodeChain(c.Certificate))
		if want, err := openssl(t, "x509", "-in", cert, "-noout", "-pubkey"); err != nil || want != out {
			t.Errorf("%s: holds %s, its certificate %s", file, out, want)
		}
	}
}
