package api

import "github.com/fleetca/fleetca/enroll"

func (a *API) listManufacturers(x *exchange) ([]*enroll.Manufacturer, string, error) {
	return a.service.Manufacturers(x.ctx(), x.page)
}

func (a *API) postManufacturer(x *exchange, in enroll.NewManufacturer) (*enroll.Manufacturer, error) {
	m, err := a.service.AddManufacturer(x.ctx(), x.call(), in)
	if err != nil {
		return nil, err
	}
	x.location = "/manufacturers/" + m.ID
	return m, nil
}

func (a *API) getManufacturer(x *exchange) (*enroll.Manufacturer, error) {
	return a.service.Manufacturer(x.ctx(), x.param("id"))
}

func (a *API) postManufacturerUpdate(x *exchange, in enroll.ManufacturerUpdate) (*enroll.Manufacturer, error) {
	return a.service.UpdateManufacturer(x.ctx(), x.call(), x.param("id"), in)
}

func (a *API) postManufacturerDisabling(x *exchange, _ nothing) (*enroll.Manufacturer, error) {
	return a.service.DisableManufacturer(x.ctx(), x.call(), x.param("id"))
}

func (a *API) listManifest(x *exchange) ([]*enroll.ManifestEntry, string, error) {
	return a.service.Manifest(x.ctx(), x.param("id"), x.page)
}

func (a *API) postManifest(x *exchange, in enroll.ManifestRequest) (*enroll.ManifestResult, error) {
	return a.service.AddManifest(x.ctx(), x.call(), x.param("id"), in)
}

func (a *API) postManifestRemoval(x *exchange, in enroll.ManifestRemoval) (*enroll.Manufacturer, error) {
	return a.service.RemoveManifest(x.ctx(), x.call(), x.param("id"), in)
}
