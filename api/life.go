package api

import "github.com/fleetca/fleetca/enroll"

func (a *API) postRetirement(x *exchange, in enroll.RetireRequest) (*enroll.Revocation, error) {
	r, err := a.service.RetireDevice(x.ctx(), x.call(), x.param("id"), in)
	a.metrics.revoked("device", err)
	if err != nil {
		return nil, err
	}
	x.location = "/revocations/" + r.ID
	return r, nil
}

func (a *API) postRenewalLink(x *exchange, in enroll.NewRenewalLink) (*enroll.RenewalLink, error) {
	return a.service.CreateRenewalLink(x.ctx(), x.call(), x.param("id"), in)
}

func (a *API) getRevocationPlan(x *exchange) (*enroll.RevocationPlan, error) {
	return a.service.RevocationPlan(x.ctx(), x.param("id"))
}

func (a *API) listDeviceEvents(x *exchange) ([]*enroll.Event, string, error) {
	return a.service.DeviceTimeline(x.ctx(), x.param("id"), x.page)
}

func (a *API) postBulkPlan(x *exchange, in enroll.Bulk) (*enroll.BulkPlan, error) {
	return a.service.PlanBulk(x.ctx(), in)
}

func (a *API) postBulk(x *exchange, in enroll.Bulk) (*enroll.BulkResult, error) {
	r, err := a.service.RunBulk(x.ctx(), x.call(), in)
	if err != nil {
		return nil, err
	}
	x.location = "/bulk-changes/" + r.ID
	return r, nil
}

func (a *API) listBulks(x *exchange) ([]*enroll.BulkResult, string, error) {
	return a.service.BulkResults(x.ctx(), x.page)
}

func (a *API) getBulk(x *exchange) (*enroll.BulkResult, error) {
	return a.service.BulkResult(x.ctx(), x.param("id"))
}

func (a *API) getAttention(x *exchange) (*enroll.Attentions, error) {
	return a.service.Attention(x.ctx())
}

func (a *API) getFigures(x *exchange) (*enroll.Figures, error) { return a.service.Figures(x.ctx()) }

func (a *API) getForecast(x *exchange) (*enroll.Forecast, error) { return a.service.Forecast(x.ctx()) }
