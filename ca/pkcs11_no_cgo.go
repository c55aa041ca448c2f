//go:build !cgo || nopkcs11

package ca

// pkcs11Built says whether PKCS #11 modules can be loaded, which takes cgo.
const pkcs11Built = false
