package api

import "github.com/fleetca/fleetca/enroll"

func (a *API) listWorkOrders(x *exchange) ([]*enroll.WorkOrder, string, error) {
	return a.service.WorkOrders(x.ctx(), x.page)
}

func (a *API) postWorkOrder(x *exchange, in enroll.NewWorkOrder) (*enroll.WorkOrder, error) {
	o, err := a.service.CreateWorkOrder(x.ctx(), x.call(), in)
	if err != nil {
		return nil, err
	}
	x.location = "/work-orders/" + o.ID
	return o, nil
}

func (a *API) getWorkOrder(x *exchange) (*enroll.WorkOrder, error) {
	return a.service.WorkOrder(x.ctx(), x.param("id"))
}

func (a *API) postEnrollmentToken(x *exchange, in enroll.NewToken) (*enroll.EnrollmentToken, error) {
	return a.service.CreateEnrollmentToken(x.ctx(), x.call(), x.param("id"), in)
}
