package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// maxBundle bounds what is read of a server that is not trusted yet.
const maxBundle = 1 << 20

// configuredRoots returns the roots that a Config gives; nil for a
// fingerprint, which is resolved at the first call.
func configuredRoots(cfg Config) ([]*x509.Certificate, error) {
	given := 0
	for _, is := range []bool{len(cfg.CA) > 0, cfg.CAFile != "", cfg.CAFingerprint != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, ca.Errorf(ca.KindMalformed, "ca", "give the CA file (DIR/trust-bundle.pem of the server) or the root's fingerprint that fleetca init printed",
			"exactly one way to trust the server is needed, and %d are given", given)
	}
	switch {
	case cfg.CAFile != "":
		return readRoots(cfg.CAFile)
	case cfg.CAFingerprint != "":
		_, err := parseFingerprint(cfg.CAFingerprint)
		return nil, err
	}
	return cfg.CA, nil
}

func readRoots(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, ca.Errorf(ca.KindMalformed, "ca", "give a PEM file that can be read", "read the CA file: %w", err)
	}
	roots, err := parseCertificates(text)
	if err != nil || len(roots) == 0 {
		return nil, ca.Errorf(ca.KindMalformed, "ca", "give a file with PEM certificates", "%s holds no certificate that can be read", path)
	}
	return roots, nil
}

// parseCertificates reads the certificates of a PEM text, and skips other blocks.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all, nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %d: %w", len(all)+1, err)
		}
		all = append(all, cert)
	}
}

// parseFingerprint reads a SHA-256 in hex.
func parseFingerprint(text string) ([]byte, error) {
	sum, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(text), ":", ""))
	if err != nil || len(sum) != sha256.Size {
		return nil, ca.Errorf(ca.KindMalformed, "caFingerprint", "give the root's SHA-256: 64 hex digits, colons allowed", "%.100q is not a SHA-256 fingerprint", text)
	}
	return sum, nil
}

// bootstrap fetches the trust bundle from a server that is not trusted yet and
// returns the root that has the configured fingerprint. Neither token nor
// client certificate is sent, and nothing but that root is believed.
func (c *Client) bootstrap(ctx context.Context) (*x509.Certificate, error) {
	want, err := parseFingerprint(c.cfg.CAFingerprint)
	if err != nil {
		return nil, err
	}
	blind := newHTTPClient(&tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true})
	defer blind.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+basePath+"/trust-bundle", nil)
	if err != nil {
		return nil, fmt.Errorf("make the request for the trust bundle: %w", err)
	}
	resp, err := blind.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, problemOf(resp)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBundle))
	if err != nil {
		return nil, c.unreachable(err)
	}
	var bundle enroll.TrustBundle
	if err := json.Unmarshal(text, &bundle); err != nil {
		return nil, ca.Errorf(enroll.KindUnavailable, "server", "check the server's URL", "%s does not answer as a fleetca server: %w", c.base, err)
	}
	roots, err := parseCertificates([]byte(bundle.PEM))
	if err != nil {
		return nil, ca.Errorf(enroll.KindUnavailable, "server", "check the server's URL", "the trust bundle of %s: %w", c.base, err)
	}
	for _, root := range roots {
		if sum := sha256.Sum256(root.Raw); bytes.Equal(sum[:], want) && root.IsCA {
			return root, nil
		}
	}
	return nil, ca.Errorf(ca.KindMalformed, "caFingerprint",
		"compare it with what fleetca init printed; if it is right, this is not your server, and somebody may be in between",
		"no root of %s has this fingerprint", c.base)
}
