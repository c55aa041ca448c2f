package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// identityCheck is how often the server looks whether its certificate is due.
const identityCheck = time.Minute

// An identity is the server's own certificate: issued by its authority, kept
// in a folder, renewed in place at two thirds of its life.
type identity struct {
	service *enroll.Service
	dir     string
	names   []string // DNS names and IP addresses that it must carry
	roots   func() []*x509.Certificate
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]
}

// certificate is tls.Config.GetCertificate.
func (id *identity) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return id.current.Load(), nil
}

// ensure loads the certificate that is kept, or gets another when there is
// none, it is due, another authority's, or short of a name.
func (id *identity) ensure(ctx context.Context) error {
	if id.current.Load() == nil {
		if pair, err := tls.LoadX509KeyPair(id.file("certificate.pem"), id.file("key.pem")); err == nil {
			id.current.Store(&pair)
		}
	}
	if pair := id.current.Load(); pair != nil && id.serves(pair) {
		return nil
	}
	return id.renew(ctx)
}

func (id *identity) file(name string) string { return filepath.Join(id.dir, name) }

// serves reports whether a certificate will do for now.
func (id *identity) serves(pair *tls.Certificate) bool {
	leaf := pair.Leaf
	if time.Until(leaf.NotAfter) < leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		return false
	}
	for _, name := range id.names {
		if leaf.VerifyHostname(name) != nil {
			return false
		}
	}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	for _, root := range id.roots() {
		opts.Roots.AddCert(root)
	}
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			opts.Intermediates.AddCert(c)
		}
	}
	_, err := leaf.Verify(opts)
	return err == nil
}

// renew gets a certificate for a fresh key, and keeps both.
func (id *identity) renew(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	issued, err := id.service.IssueServer(ctx, id.names, csr)
	if err != nil {
		return fmt.Errorf("issue the server's certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair([]byte(issued.Chain), keyPEM)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(id.dir, 0o700); err != nil {
		return err
	}
	// Interrupted in between, the pair does not match, and the next start gets another.
	if err := ca.ReplaceFile(id.file("key.pem"), keyPEM, 0o600); err != nil {
		return err
	}
	if err := ca.ReplaceFile(id.file("certificate.pem"), []byte(issued.Chain), 0o644); err != nil {
		return err
	}
	id.current.Store(&pair)
	id.log.Info("server certificate issued", "serial", issued.Certificate.SerialNumber, "names", id.names, "notAfter", issued.Certificate.NotAfter)
	return nil
}

// keep renews until ctx ends.
func (id *identity) keep(ctx context.Context) {
	every(ctx, identityCheck, func() {
		if err := id.ensure(ctx); err != nil {
			id.log.Error("renew the server's certificate", "err", err)
		}
	})
}

// every calls f at each interval until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f()
		}
	}
}

// encodeKey returns a private key as PKCS #8 PEM.
func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
