package ca

import (
	"crypto/x509"
	"slices"
	"strings"
)

// A Purpose says which profiles an issuer signs.
type Purpose string

// The purposes. The root signs issuers alone, and its key is not on the server.
const (
	PurposeRoot   Purpose = "root"
	PurposeDevice Purpose = "device" // devices and the canaries that stand in for them
	PurposeBroker Purpose = "broker" // brokers, servers and agents
	// PurposeIntermediate is of an issuer between a root and those that sign: its
	// key is not on the server.
	PurposeIntermediate Purpose = "intermediate"
)

// keptApart reports whether the keys of a purpose are not on the server, and
// its CRLs are signed elsewhere.
func (p Purpose) keptApart() bool { return p == PurposeRoot || p == PurposeIntermediate }

// An IssuerState says how far an issuer is on its way, and so whether it signs
// (I16): created, published, active, retired. Signing of CRLs begins with the
// first and ends with none.
type IssuerState string

// The states of an issuer.
const (
	IssuerCreated   IssuerState = "created"   // its CRL has not been seen by brokers yet
	IssuerPublished IssuerState = "published" // its CRL is out, a root is in the trust bundle
	IssuerActive    IssuerState = "active"    // signs certificates, too; a root, new issuers
	IssuerRetired   IssuerState = "retired"   // signs CRLs alone
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
	// Product and Site limit what an issuer signs for; empty is any. The most
	// specific active issuer of a purpose signs.
	Product, Site string
	// Domain is the fleet's domain of an issuer whose certificate permits names
	// below it alone (see NameConstraint); empty for one without constraints.
	Domain string
}

// NameConstraint returns the DNS name below which all names are that an issuer
// for a product and a site may certify (RFC 5280, 4.2.1.10), as long as they
// are named <device>.<product>.<site>.<domain>; empty without a domain.
func NameConstraint(product, site, domain string) string {
	switch {
	case domain == "" || site == "":
		return domain // any site, so the product says nothing of how a name ends
	case product == "":
		return site + "." + domain
	}
	return product + "." + site + "." + domain
}

// rank says how specifically an issuer is for a product and a site: 0 when it
// is for all, negative when it is not for these.
func (i *Issuer) rank(product, site string) int {
	n := 0
	if i.Product != "" {
		n += 2
	}
	if i.Site != "" {
		n++
	}
	if i.Product != "" && i.Product != product || i.Site != "" && i.Site != site {
		return -1
	}
	return n
}

// memberName returns the DNS name under the issuer's domain of a holder that is
// no host: <holder>.<product>.<site>.<domain>, without what is not given.
func (i *Issuer) memberName(holder, product, site string) string {
	labels := []string{holder}
	for _, label := range []string{product, site, i.Domain} {
		if label != "" {
			labels = append(labels, label)
		}
	}
	return strings.Join(labels, ".")
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
