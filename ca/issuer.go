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
	// CRLShards is how many CRLs the issuer's new certificates are spread over
	// (0 is 1); CRLShardsEver the most there ever were, which all are published:
	// a certificate stays with the shard that it was issued for.
	CRLShards, CRLShardsEver int
}

// MaxCRLShards is the most CRLs that one issuer may have.
const MaxCRLShards = 1024

// Shards returns how many CRLs new certificates are spread over.
func (i *Issuer) Shards() int { return max(1, i.CRLShards) }

// ShardsEver returns how many CRLs are published.
func (i *Issuer) ShardsEver() int { return max(1, i.CRLShards, i.CRLShardsEver) }

// CRLScopes returns what each of the issuer's CRLs speaks for.
func (i *Issuer) CRLScopes() []CRLScope {
	scopes := make([]CRLScope, i.ShardsEver())
	for n := range scopes {
		scopes[n] = CRLScope{i.ID, n}
	}
	return scopes
}

// CDPs returns the CRL distribution point URLs that certificates of this
// issuer carry: shard by shard, oldest first.
func (i *Issuer) CDPs() []string {
	urls := []string{}
	for shard := range i.ShardsEver() {
		urls = append(urls, i.ShardCDPs(shard)...)
	}
	return urls
}

// ShardCDPs returns the CRL distribution point URLs that certificates of one
// shard carry, oldest first.
func (i *Issuer) ShardCDPs(shard int) []string {
	urls := make([]string, len(i.StatusURLs))
	for n, base := range i.StatusURLs {
		urls[n] = base + "/crl/" + CRLScope{i.ID, shard}.String() + ".crl"
	}
	return urls
}

// CDP returns the distribution point for new certificates of a shard, or "".
func (i *Issuer) CDP(shard int) string {
	if len(i.StatusURLs) == 0 {
		return ""
	}
	return i.ShardCDPs(shard)[len(i.StatusURLs)-1]
}

// OCSPURL returns the OCSP responder's URL for new certificates (RFC 5280,
// 4.2.2.1), or "".
func (i *Issuer) OCSPURL() string {
	if len(i.StatusURLs) == 0 {
		return ""
	}
	return i.StatusURLs[len(i.StatusURLs)-1] + "/ocsp"
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
