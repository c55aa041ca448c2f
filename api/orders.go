package api

import (
	"errors"

	"github.com/fleetca/fleetca/enroll"
)

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

func (a *API) postWorkOrderUpdate(x *exchange, in enroll.WorkOrderUpdate) (*enroll.WorkOrder, error) {
	o, err := a.service.UpdateWorkOrder(x.ctx(), x.call(), x.param("id"), in)
	if again := (*enroll.Replay)(nil); errors.As(err, &again) { // done before: the order is as it was left
		return a.service.WorkOrder(x.ctx(), x.param("id"))
	}
	return o, err
}

func (a *API) listEnrollmentTokens(x *exchange) ([]*enroll.EnrollmentToken, string, error) {
	return a.service.EnrollmentTokens(x.ctx(), x.param("id"), x.page)
}

func (a *API) postTokenEnd(x *exchange, _ nothing) (*enroll.EnrollmentToken, error) {
	return a.service.EndEnrollmentToken(x.ctx(), x.call(), x.param("id"), x.param("token"))
}

func (a *API) getProgress(x *exchange) (*enroll.WorkOrderProgress, error) {
	return a.service.WorkOrderProgress(x.ctx(), x.param("id"))
}
