package ca

import (
	"crypto/x509"
	"testing"
)

// A chain's text is as long as was made room for, and is made anew when the
// issuers change.
func TestChainText(t *testing.T) {
	t.Parallel()
	for n := range 200 {
		der := make([]byte, n)
		if got := (&Certificate{DER: der}).PEM(); len(got) != pemSize(der) {
			t.Fatalf("%d bytes: %d, not %d", n, len(got), pemSize(der))
		}
	}
	one, other := &x509.Certificate{Raw: []byte("one")}, &x509.Certificate{Raw: []byte("other")}
	a := &Authority{}
	for _, chain := range [][]*x509.Certificate{{one}, {one, other}, {other}, nil, {one}} {
		if got := a.textOf("id", chain); got != EncodeChain(chain...) {
			t.Errorf("%d certificates: %q", len(chain), got)
		}
	}
}
