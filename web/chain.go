package web

import (
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A chainLink is one certificate on the way from the root to a leaf.
type chainLink struct {
	Kind    string // root, issuer or certificate
	Subject string
	Serial  ca.SerialNumber
	Status  string // of a leaf, or an issuer's state
	URL     string // of the leaf's page; empty for issuers
	Life    life
}

// chainOf returns the chain of a certificate, the root first. An issuer that is
// not here any more ends it.
func (v *visit) chainOf(cert *ca.Certificate) ([]chainLink, error) {
	issuers, err := v.site.service.Issuers(v.ctx())
	if err != nil {
		return nil, err
	}
	byID := map[string]enroll.IssuerView{}
	for _, i := range issuers {
		byID[i.ID] = i
	}
	now := v.site.now()
	chain := []chainLink{{Kind: "certificate", Subject: cert.Subject, Serial: cert.SerialNumber, Status: string(cert.StatusAt(now)),
		URL: certificateURL(cert.SerialNumber), Life: lifeOf(cert.NotBefore, cert.NotAfter, now)}}
	for id, known := cert.IssuerID, true; known && len(chain) <= len(issuers); {
		var i enroll.IssuerView
		if i, known = byID[id]; !known {
			break
		}
		l := chainLink{Kind: "issuer", Subject: i.Subject, Serial: i.SerialNumber, Status: string(i.State), Life: lifeOf(i.NotBefore, i.NotAfter, now)}
		if i.Purpose == ca.PurposeRoot {
			l.Kind, known = "root", false
		}
		chain = append([]chainLink{l}, chain...)
		id = i.Parent
	}
	return chain, nil
}
