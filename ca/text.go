package ca

import (
	"crypto/x509"
	"fmt"

	"github.com/smallstep/certinfo"
)

// Text returns a certificate in words, as openssl x509 -text prints it. What
// stands in its names is outside text: whoever shows it escapes it.
func Text(cert *x509.Certificate) (string, error) {
	text, err := certinfo.CertificateText(cert)
	if err != nil {
		return "", fmt.Errorf("describe certificate %s: %w", SerialNumberOf(cert.SerialNumber), err)
	}
	return text, nil
}
