package ca_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
)

// opensslFacts finds what openssl prints of a certificate: names, times, URLs,
// identifiers and the signature.
var opensslFacts = regexp.MustCompile(`(?s)Serial Number:\s*([0-9a-f:]+)\n.*Issuer: ([^\n]*)\n.*Not Before: ([^\n]*) GMT\n.*Not After : ([^\n]*) GMT\n.*Subject: ([^\n]*)\n.*` +
	`Subject Key Identifier:\s*([0-9A-F:]+)\n.*Authority Key Identifier:\s*([0-9A-F:]+)\n.*CA Issuers - (URI:[^\n]*)\n.*Full Name:\s*(URI:[^\n]*)\n.*Signature Value:\s*([0-9a-f:\s]+)`)

// TestOpenSSLPrintsTheSameText: the facts of the certificate, in openssl's
// words.
func TestOpenSSLPrintsTheSameText(t *testing.T) {
	t.Parallel()
	needOpenSSL(t)
	f := newFixture(t)
	cert := f.issue(f.order("device"))
	text, err := ca.Text(f.parse(cert))
	f.must(err)
	path := filepath.Join(t.TempDir(), "cert.pem")
	writeFile(t, path, cert.PEM())
	out, err := openssl(t, "x509", "-in", path, "-noout", "-text", "-nameopt", "RFC2253")
	f.must(err)
	facts := opensslFacts.FindStringSubmatch(out)
	if facts == nil {
		t.Fatalf("openssl prints other things:\n%s", out)
	}
	squeeze := func(s string) string {
		return strings.ToLower(strings.NewReplacer(" ", "", "\n", "", ":", "").Replace(s))
	}
	for _, fact := range facts[1:] {
		if fact == facts[2] { // its parts stand in the other order
			fact = strings.Split(fact, ",")[0]
		}
		if !strings.Contains(squeeze(text), squeeze(fact)) {
			t.Errorf("openssl prints %q, which is not in\n%s", fact, text)
		}
	}
}
