//go:build !cloudkms

package ca

// cloudKMSBuilt says whether key stores of cloud providers, and TPMs, are
// there: they would make the program twice as large, and slower to start.
const cloudKMSBuilt = false
