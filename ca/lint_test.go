package ca_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"github.com/fleetca/fleetca/ca"
)

// accepted are findings of zlint that stay, with the reason. All are rules for
// the public web (CA/Browser Forum, browsers); none is an RFC's.
var accepted = map[string]string{
	"e_ca_country_name_missing":                                     "a fleet's authority is not of a country",
	"e_sub_ca_certificate_policies_missing":                         "there is no policy document to name",
	"e_sub_cert_certificate_policies_missing":                       "there is no policy document to name",
	"e_sub_cert_cert_policy_empty":                                  "there is no policy document to name",
	"e_sub_ca_crl_distribution_points_missing":                      "made before a status URL is known; brokers are handed the root's CRL",
	"w_sub_ca_aia_missing":                                          "made before a status URL is known; chains are sent whole",
	"w_sub_ca_aia_does_not_contain_issuing_ca_url":                  "made before a status URL is known; chains are sent whole",
	"n_ca_digital_signature_not_set":                                "a CA signs certificates and CRLs alone",
	"w_root_ca_basic_constraints_path_len_constraint_field_present": "one level of issuers is all there shall be",
	"w_ct_sct_policy_count_unsatisfied":                             "a fleet's names do not belong in public logs",
	"e_dnsname_not_valid_tld":                                       "a fleet's hosts have private names",
	"w_sub_cert_aia_contains_internal_names":                        "a fleet's status server has a private name",
	"e_ext_san_contains_reserved_ip":                                "a broker's address is a private one",
	"e_algorithm_identifier_improper_encoding":                      "browsers take no Ed25519 keys; RFC 8410 does, and so do brokers",
	"w_subject_common_name_included":                                "old MQTT clients read it",
}

// found notes a finding, unless it is accepted, and fails when fewer than least
// lints had something to look at.
func found(t testing.TB, what string, results *zlint.ResultSet, least int, seen map[string]bool) {
	t.Helper()
	passed := 0
	for name, r := range results.Results {
		if r.Status == lint.Pass {
			passed++
		}
		if r.Status < lint.Notice {
			continue
		}
		seen[name] = true
		if accepted[name] == "" {
			t.Errorf("%s: %s: %s %s", what, name, r.Status, r.Details)
		}
	}
	if passed < least {
		t.Errorf("%s: zlint passed %d things, fewer than %d", what, passed, least)
	}
}

// issuedOfEach is how many certificates of each profile are looked at: 1,000 in
// the full run.
func issuedOfEach() int {
	if os.Getenv("FLEETCA_TEST_ALL") == "1" {
		return 1000
	}
	return 8
}

// lintKeys returns keys of the kinds that devices and brokers come with.
func lintKeys(t *testing.T) []crypto.Signer {
	t.Helper()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return []crypto.Signer{newKey(t), edwards, curveKey(t, elliptic.P384()), rsaKey}
}

// Certificates of every built-in profile, and of one with all that a profile can
// say, with keys of every kind and names long and short: zlint and our own audit
// find nothing.
func TestZlintFindsNothingUnexpected(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	seen := map[string]bool{}
	audit, keys := ca.NewAudit(f.issuersOf()), lintKeys(t)
	look := func(what string, der []byte) {
		c, err := zx509.ParseCertificate(der)
		f.must(err)
		found(t, what, zlint.LintCertificate(c), 40, seen)
	}
	full := f.profile(ca.ProfileForm{Name: "full", Version: 1, Validity: "365d", Jitter: "18d", RenewBefore: "90d", URIs: []string{"spiffe://fleet.example/{{ .Product }}/{{ .ID }}"},
		DNSNames: []string{"{{ .ID | lower }}.{{ .Product }}.fleet.example"}, Domains: []string{"fleet.example"},
		Subject: ca.SubjectTemplate{Organization: "Pump Works", OrganizationalUnit: "{{ .Product }}", Country: "DE", Province: "Bavaria", Locality: "Munich", SerialNumber: "SN-{{ .ID }}"}})
	for _, p := range append(ca.Profiles(), *full) {
		for n := range issuedOfEach() {
			var o ca.Order
			if p.Name == full.Name {
				o = f.under(&p, fmt.Sprintf("pump-%d", n))
				o.Facts.Product = "pump"
			} else {
				o = f.order(p.Name)
			}
			key := keys[n%len(keys)]
			o.PublicKey, o.KeySHA256 = key.Public(), keySHA256(t, key.Public())
			if len(o.DNSNames) > 0 {
				o.CommonName = fmt.Sprintf("mqtt-%d.%s.test", n, strings.Repeat("x", n%60+1))
				o.DNSNames = []string{o.CommonName, fmt.Sprintf("n%d.test", n)}
				o.IPs = []net.IP{net.IPv4(192, 0, 2, byte(n))}
			} else if p.Name != full.Name && p.Name != ca.ResponderProfile {
				o.CommonName = fmt.Sprintf("d-%0*d", n%60+1, n)
				o.Holder.ID = o.CommonName
			}
			cert := f.issue(o)
			look("profile "+p.Name, cert.DER)
			if broken := audit.Certificate(cert, &p); len(broken) != 0 {
				t.Fatalf("profile %s: %+v", p.Name, broken)
			}
			if t.Failed() {
				break // the next thousand say the same
			}
		}
	}
	for _, i := range made().Issuers {
		look("CA "+i.ID, i.Certificate.Raw)
	}
	long := f.order("broker")
	long.CommonName = "a-host-name-that-is-longer-than-the-64-octets-of-a-common-name.mqtt.test"
	long.DNSNames = []string{long.CommonName}
	look("an empty subject", f.issue(long).DER)
	for name := range accepted {
		switch l := lint.GlobalRegistry().CertificateLints().ByName(name); {
		case l == nil:
			t.Errorf("%s is accepted, and no lint", name)
		case strings.HasPrefix(string(l.Source), "RFC"):
			t.Errorf("%s is accepted, and a rule of %s", name, l.Source)
		}
		if !seen[name] {
			t.Errorf("%s is accepted, and zlint does not find it", name)
		}
	}
	serial := f.issue(f.order("device")).SerialNumber
	f.ledger.setStatus(serial, ca.ReasonKeyCompromise, f.clock.now())
	for what, der := range map[string][]byte{"first CRL": made().CRLs[1].DER, "CRL": f.publish("device", true).DER} {
		crl, err := zx509.ParseRevocationList(der)
		f.must(err)
		found(t, what, zlint.LintRevocationList(crl), 1, seen)
	}
}

var update = flag.Bool("update", false, "write what the tests compare with")

// LINTS.md is what the audit and this test look for, and what they leave out.
func TestLintsAreDocumented(t *testing.T) {
	var doc strings.Builder
	doc.WriteString(`# What certificates are held against

Made by ` + "`go test ./ca -run LintsAreDocumented -update`" + `.

## The audit's rules

` + "`fleetca audit certificates`" + ` reads what was issued, page by page, and holds each certificate against its ledger, its issuer, the
version of its profile, and these. Those marked so are held against every certificate before it is released, too: a
certificate that breaks one is a bug, and is not released.

| rule | says so | before release |
|---|---|---|
`)
	for _, r := range ca.AuditRules() {
		fmt.Fprintf(&doc, "| `%s` | %s | %s |\n", r.Name, r.Source, map[bool]string{true: "yes"}[r.Release])
	}
	doc.WriteString(`
## zlint

A test issues certificates of every built-in profile, and of one with all that a profile can say, with keys of every kind:
a thousand of each in the full run, some in the bare one. zlint v3.6.1 finds nothing in them, nor in the issuers and CRLs,
but what does not apply to a private authority. None of these is a rule of RFC 5280: each is the CA/Browser Forum's or a
browser's, for the public web.

| lint | why it stays |
|---|---|
`)
	for _, name := range slices.Sorted(maps.Keys(accepted)) {
		fmt.Fprintf(&doc, "| `%s` | %s |\n", name, accepted[name])
	}
	doc.WriteString(`
zlint is linked into tests alone: with it the program would take 4 ms longer to start, which is more than a run of
` + "`fleetca verify`" + ` takes once it has (5.9 against 9.7 ms, medians of 40 starts of ` + "`fleetca version`" + `).
`)
	if *update {
		if err := os.WriteFile("LINTS.md", []byte(doc.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("LINTS.md")
	if err != nil || string(text) != doc.String() {
		t.Errorf("LINTS.md is not what the code says (%v): go test ./ca -run LintsAreDocumented -update", err)
	}
}
