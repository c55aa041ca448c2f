package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"slices"
)

// The kinds of keys that are certified beside those that are made here (I8).
const (
	KeyEd25519 KeyAlgorithm = "Ed25519"
	KeyRSA2048 KeyAlgorithm = "RSA-2048"
)

// CertifiedKeys returns every kind of key that is certified (I8).
func CertifiedKeys() []KeyAlgorithm {
	return []KeyAlgorithm{KeyP256, KeyP384, KeyEd25519, KeyRSA2048, KeyRSA3072, KeyRSA4096}
}

// KeyAlgorithmOf returns the kind of a public key; of one outside the policy
// something that is none of CertifiedKeys.
func KeyAlgorithmOf(key crypto.PublicKey) KeyAlgorithm {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return KeyAlgorithm(k.Curve.Params().Name)
	case *rsa.PublicKey:
		return KeyAlgorithm(fmt.Sprintf("RSA-%d", k.N.BitLen()))
	case ed25519.PublicKey:
		return KeyEd25519
	}
	return KeyAlgorithm(fmt.Sprintf("%T", key))
}

// checkKey holds a key against what the profile certifies, beyond the policy.
func (p *Profile) checkKey(key crypto.PublicKey) error {
	if len(p.Keys) == 0 || slices.Contains(p.Keys, KeyAlgorithmOf(key)) {
		return nil
	}
	return Errorf(KindWeakKey, "csr", "make a key of kind "+listed(p.Keys), "profile %s certifies no key of kind %s", p.Name, KeyAlgorithmOf(key))
}
