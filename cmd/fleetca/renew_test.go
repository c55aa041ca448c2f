package main

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
)

// A rekey that is interrupted between any two of its renames is finished by
// the next renewal: the folder ends with a pair that matches.
func TestFinishRenewal(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	rest := s.rest(t, "admin")
	pair := func(id string) (key []byte, chain string) {
		k, csr := newCSR(t, id)
		var e struct{ Chain string }
		rest.send(t, "POST", "/enrollments", map[string]any{"deviceId": id, "csr": csr}).into(t, 201, &e)
		key, err := encodeKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return key, e.Chain
	}
	oldKey, oldChain := pair("old")
	newKey, newChain := pair("new")
	for name, files := range map[string]map[string]string{
		"before the key's rename":   {"key.pem": string(oldKey), "chain.pem": oldChain, "next-key.pem": string(newKey), "next-chain.pem": newChain},
		"before the chain's rename": {"key.pem": string(newKey), "chain.pem": oldChain, "next-chain.pem": newChain},
		"nothing to do":             {"key.pem": string(newKey), "chain.pem": newChain},
	} {
		dir := t.TempDir()
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := finishRenewal(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got, err := tls.LoadX509KeyPair(filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem"))
		if err != nil || got.Leaf.Subject.CommonName != "new" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
