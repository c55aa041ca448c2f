package web

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// deviceRoutes are one device, and what can be done with it.
func deviceRoutes() []route {
	return []route{
		{Method: get, Pattern: "/devices/{id}", Permission: enroll.MayLook, live: true, handle: getDevice},
		{Method: post, Pattern: "/devices/{id}/hold", Permission: enroll.MayHold, handle: postHold},
		{Method: post, Pattern: "/devices/{id}/release", Permission: enroll.MayHold, handle: postRelease},
		{Method: post, Pattern: "/devices/{id}/renewal-link", Permission: enroll.MayRekey, handle: postRenewalLink},
	}
}

// Bounds of what a device's page shows at once.
const (
	eventsShown      = 25
	revocationsShown = 5
)

// A devicePage is one device: what it is, what it holds, what happened to it and
// what can be done.
type devicePage struct {
	*enroll.Device
	Certificates []heldCertificate // newest first
	Chain        []chainLink       // of the newest certificate; none without
	Text         string            // of the newest certificate
	Revocations  []*enroll.Revocation
	Events       []shownEvent
	Older        string // URL of older events; empty at the end
	Newest       string // URL of the newest events; empty there
	Actions      []deviceAction
	Error        *refusal
	Form         string // action that was refused
	stamp        string // changes with the device
}

// Subject names the device as its events do.
func (p devicePage) Subject() string { return "device:" + p.ID }

// Stamp changes whenever something happens to the device: a form that was made
// before is another form.
func (p devicePage) Stamp() string { return p.stamp }

// A heldCertificate is a certificate of a device, as of now.
type heldCertificate struct {
	*ca.Certificate
	State ca.Status
	URL   string
}

// A deviceAction is something that can be done with a device.
type deviceAction struct {
	Name       string // also of the path below the device's
	Label      string
	Meaning    string
	Permission enroll.Permission
	From       []enroll.DeviceStatus // that a device must have
	Ask        bool                  // on a page of its own
	Danger     bool                  // cannot be taken back
	command    func(s *Site, id string) command

	Path    string
	Command command
}

// deviceActions are what can be done with a device.
var deviceActions = []deviceAction{
	{Name: "renewal-link", Label: "Renewal link", Meaning: "A one-time token with which the device enrolls again under a new key, when its old one is lost.",
		Permission: enroll.MayRekey, From: []enroll.DeviceStatus{enroll.DeviceActive}, command: renewalLinkCommand},
	{Name: "hold", Label: "Put on hold", Meaning: "Every broker refuses it and its sessions are closed, until it is released.",
		Permission: enroll.MayHold, From: []enroll.DeviceStatus{enroll.DeviceActive}, command: holdCommand},
	{Name: "release", Label: "Release", Meaning: "Its certificates are good again.",
		Permission: enroll.MayHold, From: []enroll.DeviceStatus{enroll.DeviceHeld}, command: releaseCommand},
	{Name: "retire", Label: "Retire…", Meaning: "Out of use for good: what it still holds is revoked, and nothing is held against it.",
		Permission: enroll.MayRetire, From: []enroll.DeviceStatus{enroll.DeviceRegistered, enroll.DeviceActive, enroll.DeviceHeld}, Ask: true, Danger: true, command: retireCommand},
	{Name: "revoke", Label: "Revoke…", Meaning: "For good, with every certificate it holds, and proven at every broker.",
		Permission: enroll.MayRevoke, From: []enroll.DeviceStatus{enroll.DeviceRegistered, enroll.DeviceActive, enroll.DeviceHeld}, Ask: true, Danger: true, command: revokeCommand},
}

func renewalLinkCommand(s *Site, id string) command {
	return s.command(deviceURL(id, "renewal-links"), struct{}{}, "device", "renewal-link", id)
}

func holdCommand(s *Site, id string) command {
	return s.command(deviceURL(id, "hold"), nil, "device", "hold", id)
}

func releaseCommand(s *Site, id string) command {
	return s.command(deviceURL(id, "release"), nil, "device", "release", id)
}

func retireCommand(s *Site, id string) command {
	return s.command(deviceURL(id, "retirement"), enroll.RetireRequest{Comment: "scrapped"}, "device", "retire", id, "--comment", "scrapped")
}

func revokeCommand(s *Site, id string) command {
	reason := string(ca.ReasonKeyCompromise)
	return s.command(deviceURL(id, "revocation"), enroll.RevokeRequest{Reason: reason}, "device", "revoke", id, "--reason", reason, "--wait")
}

func getDevice(v *visit) (answer, error) { return deviceAnswer(v, "", nil) }

// deviceAnswer is a device's page, with what was wrong with a form on it.
func deviceAnswer(v *visit, form string, r *refusal) (answer, error) {
	d, err := v.site.service.Device(v.ctx(), v.param("id"))
	if err != nil {
		return nil, err
	}
	p := devicePage{Device: d, Form: form, Error: r, Actions: v.deviceActions(d)}
	if err := v.showCertificates(&p); err != nil {
		return nil, err
	}
	if p.Revocations, _, err = v.site.service.Revocations(v.ctx(), d.ID, enroll.Page{Limit: revocationsShown}); err != nil {
		return nil, err
	}
	if v.may(enroll.MaySeeReports) {
		if err := v.showTimeline(&p); err != nil {
			return nil, err
		}
	}
	return page{name: "device", title: d.ID, data: p}, nil
}

// deviceActions returns what the visitor may do with a device now.
func (v *visit) deviceActions(d *enroll.Device) []deviceAction {
	var all []deviceAction
	for _, a := range deviceActions {
		if !v.may(a.Permission) || !slices.Contains(a.From, d.Status) {
			continue
		}
		a.Path, a.Command = deviceURL(d.ID, a.Name), a.command(v.site, d.ID)
		all = append(all, a)
	}
	return all
}

func (v *visit) showCertificates(p *devicePage) (err error) {
	now := v.site.now()
	for _, c := range p.Device.Certificates {
		p.Certificates = append(p.Certificates, heldCertificate{c, c.StatusAt(now), certificateURL(c.SerialNumber)})
	}
	if len(p.Certificates) == 0 {
		return nil
	}
	newest := p.Certificates[0].Certificate
	if p.Chain, err = v.chainOf(newest); err != nil {
		return err
	}
	p.Text, err = textOf(newest)
	return err
}

// showTimeline reads the events. The newest one of all stamps the forms,
// whatever part of the timeline is shown: who may act may see it.
func (v *visit) showTimeline(p *devicePage) error {
	cursor := v.query("events")
	events, next, err := v.site.service.DeviceTimeline(v.ctx(), p.ID, enroll.Page{Limit: eventsShown, Cursor: cursor})
	if err != nil {
		return err
	}
	for _, e := range events {
		p.Events = append(p.Events, v.showEvent(e))
	}
	if next != "" {
		p.Older = listURL(deviceURL(p.ID), "events", next) + "#timeline"
	}
	newest := events
	if cursor != "" {
		p.Newest = deviceURL(p.ID) + "#timeline"
		if newest, _, err = v.site.service.DeviceTimeline(v.ctx(), p.ID, enroll.Page{Limit: 1}); err != nil {
			return err
		}
	}
	p.stamp = string(p.Status)
	if len(newest) > 0 {
		p.stamp += " " + newest[0].ID
	}
	return nil
}

func postHold(v *visit) (answer, error) {
	_, err := v.site.service.HoldDevice(v.ctx(), v.call(), v.param("id"))
	return toggled(v, err, "hold")
}

func postRelease(v *visit) (answer, error) {
	_, err := v.site.service.ReleaseDevice(v.ctx(), v.call(), v.param("id"))
	return toggled(v, err, "release")
}

// toggled goes back to the device after a hold or a release.
func toggled(v *visit, err error, form string) (answer, error) {
	if _, again := errors.AsType[*enroll.Replay](err); err != nil && !again {
		return v.refused(err, func(r *refusal) (answer, error) { return deviceAnswer(v, form, r) })
	}
	return redirect{deviceURL(v.param("id")) + "?note=" + form}, nil
}

// enrollmentsPath ends the URL of a renewal link; before it stands the server's.
const enrollmentsPath = "/api/v1/enrollments"

// A renewalLinkPage shows a renewal link, this once.
type renewalLinkPage struct {
	*enroll.RenewalLink
	QR     qrCode
	Enroll string // the command on the device
}

func postRenewalLink(v *visit) (answer, error) {
	id := v.param("id")
	link, err := v.site.service.CreateRenewalLink(v.ctx(), v.call(), id, enroll.NewRenewalLink{ExpiresIn: v.form("expires")})
	if again, ok := errors.AsType[*enroll.Replay](err); ok {
		link, err = replayed[enroll.RenewalLink](again)
	}
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return deviceAnswer(v, "renewal-link", r) })
	}
	text, err := json.Marshal(map[string]string{"url": link.URL, "deviceId": link.Device, "token": link.Token.Token})
	if err != nil {
		return nil, err
	}
	qr, err := newQRCode(string(text))
	if err != nil {
		return nil, err
	}
	return page{name: "renewal-link", title: "Renewal link for " + id, data: renewalLinkPage{RenewalLink: link, QR: qr,
		Enroll: strings.Join([]string{"fleetca", "device", "enroll", shellWord(id), "--enrollment-token-file", "token", "--out", shellWord("./" + id),
			"--server", shellWord(strings.TrimSuffix(link.URL, enrollmentsPath)), "--ca", "trust-bundle.pem"}, " ")}}, nil
}
