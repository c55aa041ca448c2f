package web

import (
	"net/url"
	"strings"

	"github.com/fleetca/fleetca/enroll"
)

func nowRoutes() []route {
	return []route{{Method: get, Pattern: "/", Permission: enroll.MayLook, live: true, handle: getNow}}
}

// A nowPage is what needs a person.
type nowPage struct {
	Items   []nowItem
	More    bool // there are others
	Figures *enroll.Figures
	// The statuses in the order they are shown in.
	Devices []enroll.DeviceStatus
	Brokers []enroll.BrokerStatus
}

// A nowItem is one row, with its one button.
type nowItem struct {
	enroll.Attention
	Kind, Name string // of the subject
	Page       string // about the subject; empty for none
	Button     button
}

// A button leads on. The zero button is none: the visitor may not.
type button struct {
	Label string
	URL   string
	Post  bool // it does what it says; otherwise it opens a page
}

// pagesOf says at what page the subjects of each kind are, and who may see it.
var pagesOf = map[string]struct {
	path       string
	permission enroll.Permission
}{
	"broker": {"/brokers/", enroll.MayLook}, "device": {"/devices/", enroll.MayLook}, "certificate": {"/certificates/", enroll.MayLook},
	"revocation": {"/revocations/", enroll.MayLook}, "bulk": {"/bulk/", enroll.MayLook}, "issuer": {"/authority", enroll.MayLook}, "profile": {"/authority/profiles/", enroll.MayLook},
	"rotation": {"/rotations/", enroll.MaySeeRotations}, "work-order": {"/work-orders/", enroll.MaySeeOrders}, "manufacturer": {"/authority/manufacturers/", enroll.MayLook},
	"user": {"/access", enroll.MayAdminister}, "token": {"/access/tokens", enroll.MayAdminister},
}

// pageOf returns the page about KIND:ID; empty for none that the visitor may
// see.
func (v *visit) pageOf(subject string) string {
	kind, id, _ := strings.Cut(subject, ":")
	page, known := pagesOf[kind]
	switch {
	case !known || !v.may(page.permission):
		return ""
	case strings.HasSuffix(page.path, "/"):
		return page.path + url.PathEscape(id)
	}
	return page.path
}

// buttons says what each action of an attention is.
var buttons = map[enroll.AttentionAction]struct {
	label      string
	permission enroll.Permission
	path       func(page string, a enroll.Attention) string
	post       bool
}{
	enroll.ActionVerify:         {"Verify now", enroll.MayVerify, func(page string, _ enroll.Attention) string { return page + "/verifications" }, true},
	enroll.ActionRotate:         {"Rotate…", enroll.MayRunBrokers, func(page string, _ enroll.Attention) string { return page + "/rotate" }, false},
	enroll.ActionOpenRevocation: {"See the steps", enroll.MayLook, func(page string, _ enroll.Attention) string { return page }, false},
	enroll.ActionRaiseQuota:     {"Raise or close…", enroll.MayRegister, func(page string, _ enroll.Attention) string { return page }, false},
	enroll.ActionOpenIssuer:     {"Look at it", enroll.MayLook, func(string, enroll.Attention) string { return "/authority" }, false},
	enroll.ActionOpenMaker:      {"Look at it", enroll.MayLook, func(page string, _ enroll.Attention) string { return page }, false},
	enroll.ActionSignRootCRL:    {"How to", enroll.MayLook, func(string, enroll.Attention) string { return "/authority#root-crl" }, false},
	enroll.ActionListDevices:    {"List them", enroll.MayLook, func(_ string, a enroll.Attention) string { return "/devices?q=" + url.QueryEscape(a.Query) }, false},
}

func getNow(v *visit) (answer, error) {
	found, err := v.site.service.Attention(v.ctx())
	if err != nil {
		return nil, err
	}
	figures, err := v.site.service.Figures(v.ctx())
	if err != nil {
		return nil, err
	}
	p := nowPage{
		More: found.More, Figures: figures,
		Devices: []enroll.DeviceStatus{enroll.DeviceActive, enroll.DeviceRegistered, enroll.DeviceHeld, enroll.DeviceRevoked, enroll.DeviceRetired},
		Brokers: []enroll.BrokerStatus{enroll.BrokerVerified, enroll.BrokerFailing, enroll.BrokerRegistered},
	}
	for _, a := range found.Items {
		item := nowItem{Attention: a, Page: v.pageOf(a.Subject)}
		item.Kind, item.Name, _ = strings.Cut(a.Subject, ":")
		if b, known := buttons[a.Action]; known && v.may(b.permission) {
			item.Button = button{Label: b.label, URL: b.path(item.Page, a), Post: b.post}
		}
		p.Items = append(p.Items, item)
	}
	return page{name: "now", title: "Now", data: p}, nil
}
