package web

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/fleetca/fleetca/enroll"
)

// devicesRoutes are the list of devices and its files.
func devicesRoutes() []route {
	return []route{
		{Method: get, Pattern: "/devices", Permission: enroll.MayLook, handle: getDevices},
		{Method: get, Pattern: "/export/devices", Permission: enroll.MayLook, handle: getDevicesExport},
	}
}

// devicesShown is how many devices stand on a page.
const devicesShown = 50

// A devicesPage is the list of devices that a query finds. Its URL is its
// state.
type devicesPage struct {
	Query   string // as it was typed
	Devices []*enroll.Device
	First   string // URL of the first page; empty on it
	Next    string // URL of the next page; empty on the last
	CSV     string // URLs of the files
	JSON    string
	Choices []queryChoice
	Terms   []queryTerm
	Bulk    bulkForm
	Error   *refusal
}

// A queryChoice is a query that is asked often.
type queryChoice struct {
	Name, Query string
	Here        bool
}

// URL returns the list of what the query finds.
func (c queryChoice) URL() string { return devicesURL(c.Query, "") }

// A queryTerm explains a term of queries.
type queryTerm struct{ Example, Meaning string }

// URL returns the list of what the example finds.
func (t queryTerm) URL() string { return devicesURL(t.Example, "") }

// queryTerms are the terms of enroll.ParseQuery, for people.
var queryTerms = []queryTerm{
	{"status:active", "the status: registered, active, held, revoked or retired"},
	{"group:hall-2", "the group"},
	{"order:WO-7", "the work order it was built for"},
	{"serial:ab12", "a certificate's serial number begins so"},
	{"expires<30d", "the last good certificate expires within 30 days (h, d, w or y)"},
	{"expires>7d", "and not within 7 days"},
	{"expires:expired", "the last good certificate has expired"},
	{`attr.site:"Hall 2"`, "an attribute, exactly; quotes around spaces"},
	{"pump-00", "the id begins so"},
	{"*pump*", "id, group or the value of an attribute holds this"},
}

// queryChoices are the queries above the list.
var queryChoices = []queryChoice{
	{Name: "All"}, {Name: "Active", Query: "status:active"}, {Name: "Registered", Query: "status:registered"}, {Name: "Held", Query: "status:held"},
	{Name: "Revoked", Query: "status:revoked"}, {Name: "Retired", Query: "status:retired"},
	{Name: "Expiring in 30 days", Query: "expires<30d"}, {Name: "Expired", Query: "expires:expired"},
}

// devicesURL returns the list of what a query finds, from a cursor on.
func devicesURL(query, cursor string) string {
	return listURL("/devices", "q", query, "cursor", cursor)
}

func getDevices(v *visit) (answer, error) { return devicesAnswer(v, bulkForm{}, nil) }

// devicesAnswer is the list, with what was filled in below it and what was
// wrong with that.
func devicesAnswer(v *visit, bulk bulkForm, r *refusal) (answer, error) {
	query := v.query("q")
	if bulk.Action != "" {
		query = bulk.Query
	}
	p := devicesPage{Query: query, Terms: queryTerms, Bulk: bulk, Error: r}
	for _, c := range queryChoices {
		c.Here = c.Query == query
		p.Choices = append(p.Choices, c)
	}
	p.Bulk.Actions, p.Bulk.Reasons = v.bulkActions(), reasonChoices
	filter, err := enroll.ParseQuery(query)
	if err == nil {
		var next string
		p.Devices, next, err = v.site.service.Devices(v.ctx(), filter, v.page(devicesShown))
		if next != "" {
			p.Next = devicesURL(query, next)
		}
	}
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) {
			p.Error = r
			return page{name: "devices", title: "Devices", data: p}, nil
		})
	}
	if v.query("cursor") != "" {
		p.First = devicesURL(query, "")
	}
	p.CSV, p.JSON = listURL("/export/devices", "q", query, "format", "csv"), listURL("/export/devices", "q", query, "format", "json")
	return page{name: "devices", title: "Devices", data: p}, nil
}

func getDevicesExport(v *visit) (answer, error) {
	filter, err := enroll.ParseQuery(v.query("q"))
	if err != nil {
		return nil, err
	}
	format, err := exportFormat(v)
	if err != nil {
		return nil, err
	}
	return stream{name: "devices." + string(format), mediaType: mediaTypes[format], copy: func(w io.Writer) error {
		return v.site.service.ExportDevices(v.ctx(), filter, w, format)
	}}, nil
}

// attributesShown is how many attributes stand in a row.
const attributesShown = 2

// attributesInShort returns the first attributes, by name, and how many there
// are besides.
func attributesInShort(attributes map[string]string) string {
	names := slices.Sorted(maps.Keys(attributes))
	text := ""
	for i, name := range names {
		if i == attributesShown {
			return text + fmt.Sprintf(" and %d more", len(names)-i)
		}
		if i > 0 {
			text += ", "
		}
		text += cut(name, 24) + "=" + cut(attributes[name], 32)
	}
	return text
}
