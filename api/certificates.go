package api

import (
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func (a *API) listCertificates(x *exchange) ([]*ca.Certificate, string, error) {
	q := x.query
	f := enroll.CertificateFilter{
		Status: ca.Status(q.Get("status")), Device: q.Get("device"), Broker: q.Get("broker"),
		Profile: q.Get("profile"), Issuer: q.Get("issuer"),
	}
	return a.service.Certificates(x.ctx(), f, x.page)
}

func (a *API) getCertificate(x *exchange) (*ca.Certificate, error) {
	return a.service.Certificate(x.ctx(), x.param("serial"))
}

func (a *API) postCertificateRevocation(x *exchange, in enroll.RevokeRequest) (*ca.Certificate, error) {
	c, err := a.service.RevokeCertificate(x.ctx(), x.call(), x.param("serial"), in)
	a.metrics.revoked("certificate", err)
	return c, err
}

func (a *API) listIssuers(x *exchange) ([]enroll.IssuerView, string, error) {
	all, err := a.service.Issuers(x.ctx())
	if err != nil {
		return nil, "", err
	}
	return pageOf(all, x.page, func(i enroll.IssuerView) string { return i.ID })
}

func (a *API) getIssuer(x *exchange) (*enroll.IssuerView, error) {
	return a.service.Issuer(x.ctx(), x.param("id"))
}

func (a *API) getIssuerPublication(x *exchange) (*enroll.Publication, error) {
	return a.service.IssuerPublication(x.ctx(), x.param("id"))
}

func (a *API) postIssuerActivation(x *exchange, _ nothing) (*enroll.Publication, error) {
	return a.service.ActivateIssuer(x.ctx(), x.call(), x.param("id"))
}

func (a *API) postIssuerRetirement(x *exchange, _ nothing) (*enroll.IssuerView, error) {
	return a.service.RetireIssuer(x.ctx(), x.call(), x.param("id"))
}

func (a *API) postCRLShards(x *exchange, in enroll.ShardsRequest) (*enroll.IssuerView, error) {
	return a.service.SetCRLShards(x.ctx(), x.call(), x.param("id"), in)
}

func (a *API) listCRLs(x *exchange) ([]*ca.CRL, string, error) {
	published, err := a.service.CRLs(x.ctx())
	if err != nil {
		return nil, "", err
	}
	all := make([]*ca.CRL, len(published))
	for i, crl := range published {
		all[i] = crl.CRL
	}
	return pageOf(all, x.page, func(c *ca.CRL) string { return c.Scope().String() })
}

func (a *API) getTrustBundle(x *exchange) (*enroll.TrustBundle, error) {
	return a.service.TrustBundle(x.ctx())
}

func (a *API) listEvents(x *exchange) ([]*enroll.Event, string, error) {
	q := x.query
	f := enroll.EventFilter{Actor: q.Get("actor"), Action: q.Get("action"), ActionPrefix: q.Get("actionPrefix"), Subject: q.Get("subject")}
	for name, field := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		if text := q.Get(name); text != "" {
			at, err := time.Parse(time.RFC3339, text)
			if err != nil {
				return nil, "", ca.Errorf(ca.KindMalformed, name, "write it as 2026-03-09T08:30:00Z", "%.40q is not a time", text)
			}
			*field = at
		}
	}
	return a.service.Events(x.ctx(), f, x.page)
}

// Index is where a client finds the listings.
type Index struct {
	Links map[string]string `json:"links"` // path by name
}

func (a *API) getIndex(*exchange) (*Index, error) {
	links := map[string]string{}
	for _, rt := range a.routes {
		name := strings.TrimPrefix(rt.Pattern, "/")
		if rt.Method == get && name != "" && !strings.Contains(name, "{") {
			links[name] = basePath + rt.Pattern
		}
	}
	return &Index{Links: links}, nil
}
