//go:build cloudkms

package ca

import (
	_ "go.step.sm/crypto/kms/awskms"   // keys in the AWS key management service
	_ "go.step.sm/crypto/kms/azurekms" // keys in an Azure key vault
	_ "go.step.sm/crypto/kms/cloudkms" // keys in the Google Cloud key management service
	_ "go.step.sm/crypto/kms/tpmkms"   // keys in a TPM 2.0
)

// cloudKMSBuilt says whether key stores of cloud providers, and TPMs, are there.
const cloudKMSBuilt = true
