package api

import (
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

func (a *API) listBrokers(x *exchange) ([]*enroll.Broker, string, error) {
	return a.service.Brokers(x.ctx(), x.page)
}

func (a *API) postBroker(x *exchange, in enroll.NewBroker) (*enroll.Broker, error) {
	b, err := a.service.CreateBroker(x.ctx(), x.call(), in)
	if err != nil {
		return nil, err
	}
	x.location = "/brokers/" + b.ID
	return b, nil
}

func (a *API) getBroker(x *exchange) (*enroll.Broker, error) {
	return a.service.Broker(x.ctx(), x.param("id"))
}

// RotationRequest is the body of a rotation.
type RotationRequest struct {
	DryRun bool `json:"dryRun,omitempty"` // only say what would be done
}

func (a *API) postRotation(x *exchange, in RotationRequest) (*enroll.Rotation, error) {
	r, err := a.service.RotateBroker(x.ctx(), x.call(), x.param("id"), in.DryRun)
	if err != nil {
		return nil, err
	}
	x.location = "/rotations/" + r.ID
	return r, nil
}

func (a *API) listRotations(x *exchange) ([]*enroll.Rotation, string, error) {
	return a.service.Rotations(x.ctx(), x.query.Get("broker"), x.page)
}

func (a *API) getRotation(x *exchange) (*enroll.Rotation, error) {
	return a.service.Rotation(x.ctx(), x.param("id"))
}

// VerificationRequest is the body of a verification.
type VerificationRequest struct {
	Negative bool `json:"negative,omitempty"` // try what must be refused, too
}

func (a *API) postVerification(x *exchange, in VerificationRequest) (*mqtts.Report, error) {
	r, err := a.service.VerifyBroker(x.ctx(), x.call(), x.param("id"), in.Negative)
	if err != nil {
		return nil, err
	}
	a.metrics.verifications.WithLabelValues(string(r.Verdict)).Inc()
	x.location = "/brokers/" + x.param("id") + "/verifications"
	return r, nil
}

func (a *API) listVerifications(x *exchange) ([]*enroll.Verification, string, error) {
	return a.service.Verifications(x.ctx(), x.param("id"), x.page)
}

func (a *API) getVerification(x *exchange) (*enroll.Verification, error) {
	return a.service.Verification(x.ctx(), x.param("id"), x.param("verification"))
}

func (a *API) postBrokerUpdate(x *exchange, in enroll.BrokerUpdate) (*enroll.Broker, error) {
	return a.service.UpdateBroker(x.ctx(), x.call(), x.param("id"), in)
}
