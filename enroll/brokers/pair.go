package brokers

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A Pair is a certificate with its chain and the key that belongs to it, as
// read from one generation.
type Pair struct {
	tls.Certificate        // Leaf is set
	Folder          string // absolute path of the generation
}

// Names of the files in a generation.
const (
	CertificateFile = "certificate.pem" // leaf first, then its issuers; mode 0644
	KeyFile         = "key.pem"         // PKCS #8; mode 0600, or 0640 after [Generations.ShareKeys]
)

// loadPair reads a generation and checks that key and certificate match.
func loadPair(folder string) (*Pair, error) {
	chain, err := os.ReadFile(filepath.Join(folder, CertificateFile))
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(folder, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("read generation %s: %w", folder, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, fmt.Errorf("read generation %s: %w", folder, err)
		}
	}
	return &Pair{Certificate: pair, Folder: folder}, nil
}

// is reports whether the pair was made from this chain. The issuers above the
// leaf may differ: they are replaced with the leaf only.
func (p *Pair) is(chain []*x509.Certificate) bool {
	return bytes.Equal(p.Certificate.Certificate[0], chain[0].Raw)
}

// parseChain parses a chain, leaf first, and checks that a broker can present
// it now: each certificate is valid at this time and signed by the next, and
// the leaf is for servers. The trust anchor may be absent; nothing here says
// that anybody trusts it.
func parseChain(chain [][]byte, now time.Time) ([]*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("the chain is empty")
	}
	certificates := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %d of the chain: %w", i+1, err)
		}
		if now.After(certificate.NotAfter) {
			return nil, fmt.Errorf("certificate %d of the chain, %q, expired at %s", i+1, certificate.Subject, stamp(certificate.NotAfter))
		}
		if now.Add(time.Minute).Before(certificate.NotBefore) {
			return nil, fmt.Errorf("certificate %d of the chain, %q, is not valid before %s", i+1, certificate.Subject, stamp(certificate.NotBefore))
		}
		certificates[i] = certificate
	}
	for i, certificate := range certificates[:len(certificates)-1] {
		if err := certificate.CheckSignatureFrom(certificates[i+1]); err != nil {
			return nil, fmt.Errorf("the chain does not link: %q is not issued by %q: %w", certificate.Subject, certificates[i+1].Subject, err)
		}
	}
	leaf := certificates[0]
	if leaf.IsCA {
		return nil, fmt.Errorf("the first certificate, %q, is that of a CA: put the leaf first", leaf.Subject)
	}
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return nil, fmt.Errorf("the leaf %q is not for servers: its extended key usage lacks serverAuth", leaf.Subject)
	}
	return certificates, nil
}

func encodeChain(chain []*x509.Certificate) []byte {
	var buf bytes.Buffer
	for _, certificate := range chain {
		buf.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
	}
	return buf.Bytes()
}

// newKey makes a P-256 key and its PKCS #8 PEM form (RFC 5958).
func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// newRequest makes a certificate request (RFC 2986) for a broker of these names.
func newRequest(key crypto.Signer, names []string) ([]byte, error) {
	template := &x509.CertificateRequest{}
	for _, name := range names {
		if address, err := netip.ParseAddr(name); err == nil && address.Zone() == "" {
			template.IPAddresses = append(template.IPAddresses, address.Unmap().AsSlice())
		} else if isDNSName(name) {
			template.DNSNames = append(template.DNSNames, name)
		} else {
			return nil, fmt.Errorf("%q is neither a DNS name nor an IP address", name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("a broker needs at least one DNS name or IP address")
	}
	common := slices.Concat(template.DNSNames, names)[0]
	if len(common) <= 64 { // ub-common-name, RFC 5280 appendix A.1
		template.Subject = pkix.Name{CommonName: common}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate request: %w", err)
	}
	return csr, nil
}

// isDNSName accepts host names as in RFC 1123 section 2.1, and a wildcard as
// the whole first label (RFC 6125 section 6.4.3).
func isDNSName(name string) bool {
	if len(name) == 0 || len(name) > 253 {
		return false
	}
	label, start := 0, 0
	if len(name) > 2 && name[:2] == "*." {
		start = 2
	}
	for i := start; i < len(name); i++ {
		c := name[i]
		switch {
		case c == '.':
			if label == 0 || name[i-1] == '-' {
				return false
			}
			label = 0
			continue
		case c == '-':
			if label == 0 {
				return false
			}
		case c == '_', c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		default:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return label > 0 && name[len(name)-1] != '-'
}

// keyID is the first 8 hexadecimal digits of the SHA-256 of a public key's
// SubjectPublicKeyInfo: enough to tell folders apart, no proof of identity.
func keyID(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:4]), nil
}
