package web

import (
	"net/url"

	"github.com/fleetca/fleetca/enroll"
)

// manufacturerRoutes are an authority of others, and its manifest.
func manufacturerRoutes() []route {
	return []route{
		{Method: get, Pattern: "/authority/manufacturers/{id}", Permission: enroll.MayLook, live: true, handle: getManufacturer},
		{Method: post, Pattern: "/authority/manufacturers/{id}/manifest", Permission: enroll.MayRegister, handle: postManifest},
		{Method: post, Pattern: "/authority/manufacturers/{id}/removal", Permission: enroll.MayRegister, handle: postManifestRemoval},
		{Method: post, Pattern: "/authority/manufacturers/{id}/disabling", Permission: enroll.MayRevoke, handle: postMakerDisabling},
		{Method: post, Pattern: "/authority/manufacturers/{id}/enabling", Permission: enroll.MayAdminister, handle: postMakerEnabling},
	}
}

// A manufacturerPage is a manufacturer with what its manifest says.
type manufacturerPage struct {
	makerRow
	URL      string
	Manifest []*enroll.ManifestEntry // by device
	Next     string
	CSV      string // as typed
	Example  string
	Commands []equivalent
	Error    *refusal
}

func manufacturerURL(id string) string { return "/authority/manufacturers/" + url.PathEscape(id) }

func getManufacturer(v *visit) (answer, error) { return manufacturerAnswer(v, "", nil) }

func manufacturerAnswer(v *visit, csv string, r *refusal) (answer, error) {
	m, err := v.site.service.Manufacturer(v.ctx(), v.param("id"))
	if err != nil {
		return nil, err
	}
	manifest, next, err := v.site.service.Manifest(v.ctx(), m.ID, v.page(50))
	if err != nil {
		return nil, err
	}
	p := manufacturerPage{
		makerRow: v.makerRow(m), URL: manufacturerURL(m.ID), Manifest: manifest, CSV: csv, Error: r,
		Example: "subjectSerial,deviceId,workOrder\nPID:A7 SN:0001,pump-1,WO-1\n",
	}
	if next != "" {
		p.Next = listURL(p.URL, "cursor", next)
	}
	if v.may(enroll.MayRegister) {
		p.Commands = []equivalent{{"Add lines", v.site.command("/manufacturers/"+m.ID+"/manifest", enroll.ManifestRequest{CSV: p.Example}, "manufacturer", "manifest", m.ID, "--csv", "manifest.csv")}}
	}
	return page{name: "manufacturer", title: "Manufacturer " + m.ID, data: p}, nil
}

// changeMaker answers a form that changed a manufacturer or its manifest.
func changeMaker(v *visit, note, csv string, err error) (answer, error) {
	if err = doneBefore(err); err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return manufacturerAnswer(v, csv, r) })
	}
	return redirect{manufacturerURL(v.param("id")) + "?note=" + note}, nil
}

func postManifest(v *visit) (answer, error) {
	csv := v.form("csv")
	_, err := v.site.service.AddManifest(v.ctx(), v.call(), v.param("id"), enroll.ManifestRequest{CSV: csv})
	return changeMaker(v, "manifest-added", csv, err)
}

func postManifestRemoval(v *visit) (answer, error) {
	_, err := v.site.service.RemoveManifest(v.ctx(), v.call(), v.param("id"), enroll.ManifestRemoval{DeviceIDs: []string{v.form("device")}})
	return changeMaker(v, "manifest-removed", "", err)
}

func postMakerDisabling(v *visit) (answer, error) {
	_, err := v.site.service.DisableManufacturer(v.ctx(), v.call(), v.param("id"))
	return changeMaker(v, "manufacturer-disabled", "", err)
}

func postMakerEnabling(v *visit) (answer, error) {
	_, err := v.site.service.UpdateManufacturer(v.ctx(), v.call(), v.param("id"), enroll.ManufacturerUpdate{State: new(enroll.ManufacturerActive)})
	return changeMaker(v, "manufacturer-enabled", "", err)
}
