//go:build cgo && !nopkcs11

package ca

import _ "go.step.sm/crypto/kms/pkcs11" // keys in a PKCS #11 token

// pkcs11Built says whether PKCS #11 modules can be loaded, which takes cgo.
const pkcs11Built = true
