package api

import (
	"cmp"
	"strconv"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// TrustAcknowledgement says which trust bundle a device or a broker has.
type TrustAcknowledgement struct {
	Generation int64 `json:"generation"` // of the trust bundle
}

func (a *API) postDeviceTrust(x *exchange, in TrustAcknowledgement) (*enroll.Device, error) {
	id := x.param("id")
	if err := a.service.AcknowledgeTrust(x.ctx(), x.call(), ca.Holder{Kind: ca.HolderDevice, ID: id}, in.Generation); err != nil {
		return nil, err
	}
	return a.service.Device(x.ctx(), id)
}

func (a *API) postBrokerTrust(x *exchange, in TrustAcknowledgement) (*enroll.Broker, error) {
	id := x.param("id")
	if err := a.service.AcknowledgeTrust(x.ctx(), x.call(), ca.Holder{Kind: ca.HolderBroker, ID: id}, in.Generation); err != nil {
		return nil, err
	}
	return a.service.Broker(x.ctx(), id)
}

func (a *API) getReadiness(x *exchange) (*enroll.Readiness, error) {
	step := cmp.Or(enroll.RolloverStep(x.query.Get("step")), enroll.StepSwitch)
	return a.service.Readiness(x.ctx(), x.param("id"), step)
}

func (a *API) postApproval(x *exchange, in enroll.NewApproval) (*enroll.Readiness, error) {
	return a.service.ApproveRollover(x.ctx(), x.call(), x.param("id"), in)
}

func (a *API) postDrop(x *exchange, _ nothing) (*enroll.TrustBundle, error) {
	return a.service.DropRoot(x.ctx(), x.call(), x.param("id"))
}

func (a *API) listTrustBundles(x *exchange) ([]enroll.TrustGeneration, string, error) {
	all, err := a.service.TrustGenerations(x.ctx())
	if err != nil {
		return nil, "", err
	}
	return pageOf(all, x.page, func(g enroll.TrustGeneration) string { return strconv.FormatInt(g.Generation, 10) })
}

func (a *API) getOldTrustBundle(x *exchange) (*enroll.TrustBundle, error) {
	generation, err := strconv.ParseInt(x.param("generation"), 10, 64)
	if err != nil {
		return nil, ca.Errorf(ca.KindNotFound, "generation", "GET /api/v1/trust-bundles lists them", "%.40q is no generation", x.param("generation"))
	}
	return a.service.TrustBundleOf(x.ctx(), generation)
}
