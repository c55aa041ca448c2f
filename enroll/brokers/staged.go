package brokers

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strconv"
)

// Request makes and stages a new key and returns a DER-encoded certificate
// request for it. The key is on stable storage before the request exists.
func (g *Generations) Request(names []string) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key, encoded, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	csr, err := newRequest(key, names)
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	found, err := g.scan(current{})
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	id, err := keyID(key.Public())
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	for len(found.staged) >= maxStaged {
		if err := g.disk.removeAll(g.path(found.staged[0].name)); err != nil {
			return nil, fmt.Errorf("request certificate: remove old key: %w", err)
		}
		found.staged = found.staged[1:]
	}
	name := stagedPrefix + strconv.Itoa(found.last+1) + "-" + id + stagedSuffix
	if err := replaceFile(g.disk, g.path(name), encoded, 0o600); err != nil {
		return nil, fmt.Errorf("request certificate: stage key: %w", err)
	}
	return csr, nil
}

// stagedKey finds the staged key with the certificate's public key, and returns
// it in PEM form; nil when there is none.
func (g *Generations) stagedKey(leaf *x509.Certificate, found *contents) (entry, []byte, error) {
	for _, staged := range found.staged {
		data, err := os.ReadFile(g.path(staged.name))
		if err != nil {
			return entry{}, nil, fmt.Errorf("read staged key: %w", err)
		}
		block, _ := pem.Decode(data)
		if block == nil {
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			continue
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			continue
		}
		public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
		if ok && public.Equal(leaf.PublicKey) {
			return staged, data, nil
		}
	}
	return entry{}, nil, nil
}

// dropStaged removes the key that was installed, and those staged before it,
// whose certificates were overtaken. It comes after the swap, because until
// then the key may be asked for again; a key that cannot be removed now goes
// with the next install.
func (g *Generations) dropStaged(found *contents, number int) {
	for _, staged := range found.staged {
		if staged.number <= number {
			_ = g.disk.removeAll(g.path(staged.name))
		}
	}
}
