package api

import (
	"errors"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func (a *API) listDevices(x *exchange) ([]*enroll.Device, string, error) {
	f, err := enroll.ParseQuery(x.query.Get("q"))
	if err != nil {
		return nil, "", err
	}
	for _, p := range []struct {
		name  string
		field *string
	}{{"status", (*string)(&f.Status)}, {"group", &f.Group}, {"workOrder", &f.WorkOrder}} {
		value := x.query.Get(p.name)
		if value != "" && *p.field != "" && *p.field != value {
			return nil, "", ca.Errorf(ca.KindMalformed, p.name, "give it once", "stands in q, too")
		}
		if value != "" {
			*p.field = value
		}
	}
	return a.service.Devices(x.ctx(), f, x.page)
}

func (a *API) postDevice(x *exchange, in enroll.NewDevice) (*enroll.Device, error) {
	d, err := a.service.CreateDevice(x.ctx(), x.call(), in)
	if err != nil {
		return nil, err
	}
	x.location = "/devices/" + d.ID
	return d, nil
}

func (a *API) getDevice(x *exchange) (*enroll.Device, error) {
	return a.service.Device(x.ctx(), x.param("id"))
}

func (a *API) postHold(x *exchange, _ nothing) (*enroll.Device, error) {
	d, err := a.service.HoldDevice(x.ctx(), x.call(), x.param("id"))
	return a.toggled(x, d, err)
}

func (a *API) postRelease(x *exchange, _ nothing) (*enroll.Device, error) {
	d, err := a.service.ReleaseDevice(x.ctx(), x.call(), x.param("id"))
	return a.toggled(x, d, err)
}

// toggled answers a repeated hold or release with the device as it is now.
func (a *API) toggled(x *exchange, d *enroll.Device, err error) (*enroll.Device, error) {
	if _, ok := errors.AsType[*enroll.Replay](err); ok {
		x.replayed = true
		return a.service.Device(x.ctx(), x.param("id"))
	}
	return d, err
}

func (a *API) postRevocation(x *exchange, in enroll.RevokeRequest) (*enroll.Revocation, error) {
	r, err := a.service.RevokeDevice(x.ctx(), x.call(), x.param("id"), in)
	a.metrics.revoked("device", err)
	if err != nil {
		return nil, err
	}
	x.location = "/revocations/" + r.ID
	return r, nil
}

func (a *API) listRevocations(x *exchange) ([]*enroll.Revocation, string, error) {
	return a.service.Revocations(x.ctx(), x.query.Get("device"), x.page)
}

func (a *API) getRevocation(x *exchange) (*enroll.Revocation, error) {
	return a.service.Revocation(x.ctx(), x.param("id"))
}
