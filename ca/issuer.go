package ca

import (
	"crypto/x509"
	"slices"
)

// A Purpose says which profiles an issuer signs.
type Purpose string

// The purposes. The root signs issuers alone, and its key is not on the server.
const (
	PurposeRoot   Purpose = "root"
	PurposeDevice Purpose = "device" // devices and the canaries that stand in for them
	PurposeBroker Purpose = "broker" // brokers, servers and agents
)

// An IssuerState says whether an issuer signs.
type IssuerState string

// The states of an issuer.
const (
	IssuerActive  IssuerState = "active"  // signs certificates and CRLs
	IssuerRetired IssuerState = "retired" // signs CRLs alone
)

// An Issuer is one certification authority certificate, as the store keeps it.
type Issuer struct {
	ID          string
	Purpose     Purpose
	State       IssuerState
	Certificate *x509.Certificate
	Parent      string // ID of the issuer that signed it; its own for a root
	KeyURI      string // go.step.sm/crypto/kms URI; empty when the key is kept apart (root)
	// StatusURLs are the base URLs that CRLs of this issuer were ever
	// published under, oldest first. The last goes into new certificates;
	// every one goes into the CRL's IDP (RFC 5280, 5.2.5), so that old
	// certificates still verify after a move.
	StatusURLs []string
}

// CDPs returns the CRL distribution point URLs that certificates of this
// issuer carry, oldest first.
func (i *Issuer) CDPs() []string {
	urls := make([]string, len(i.StatusURLs))
	for n, base := range i.StatusURLs {
		urls[n] = base + "/crl/" + i.ID + ".crl"
	}
	return urls
}

// CDP returns the distribution point for new certificates, or "".
func (i *Issuer) CDP() string {
	if len(i.StatusURLs) == 0 {
		return ""
	}
	return i.CDPs()[len(i.StatusURLs)-1]
}

// CertificateURL returns the caIssuers URL for new certificates (RFC 5280,
// 4.2.2.1), or "".
func (i *Issuer) CertificateURL() string {
	if len(i.StatusURLs) == 0 {
		return ""
	}
	return i.StatusURLs[len(i.StatusURLs)-1] + "/issuers/" + i.ID + ".cer"
}

// WithStatusURL returns the issuer with base as its current status URL, and
// whether that changed anything.
func (i Issuer) WithStatusURL(base string) (Issuer, bool) {
	if n := len(i.StatusURLs); n > 0 && i.StatusURLs[n-1] == base {
		return i, false
	}
	urls := slices.DeleteFunc(slices.Clone(i.StatusURLs), func(u string) bool { return u == base })
	i.StatusURLs = append(urls, base)
	return i, true
}
