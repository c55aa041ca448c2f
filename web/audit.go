package web

import (
	"encoding/hex"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func auditRoutes() []route {
	return []route{
		{Method: get, Pattern: "/audit", Permission: enroll.MayAudit, handle: getAudit},
		{Method: get, Pattern: "/audit/export", Permission: enroll.MayAudit, handle: getAuditExport},
		{Method: get, Pattern: "/audit/{id}", Permission: enroll.MayAudit, handle: getEvent},
	}
}

// An auditPage is a part of the audit trail.
type auditPage struct {
	Filter url.Values // as it was asked for
	Events []*enroll.Event
	Next   string // URL of the next page; empty at the end
	CSV    string // URLs of the whole as a file
	JSON   string
	Error  *refusal
}

// auditFilters are the fields that the trail is looked through by.
var auditFilters = []string{"actor", "action", "subject", "from", "to"}

// eventFilter reads the fields of the filter. An action that ends in a dot or a
// star is the beginning of one.
func eventFilter(v *visit) (enroll.EventFilter, error) {
	f := enroll.EventFilter{Actor: v.query("actor"), Action: v.query("action"), Subject: v.query("subject")}
	if prefix, ok := strings.CutSuffix(f.Action, "*"); ok || strings.HasSuffix(f.Action, ".") {
		f.Action, f.ActionPrefix = "", prefix
	}
	for name, to := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		text := v.query(name)
		if text == "" {
			continue
		}
		at, err := readTime(text)
		if err != nil {
			return f, ca.Errorf(ca.KindMalformed, name, "write a day or a time in UTC, such as 2026-11-28 or 2026-11-28T14:05", "%.40q is no time", text)
		}
		*to = at
	}
	return f, nil
}

// readTime reads a day or a time in UTC.
func readTime(text string) (at time.Time, err error) {
	for _, layout := range []string{"2006-01-02", "2006-01-02T15:04", "2006-01-02T15:04:05", time.RFC3339} {
		if at, err = time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return at, err
}

func getAudit(v *visit) (answer, error) {
	p := auditPage{Filter: url.Values{}}
	for _, name := range auditFilters {
		if text := v.query(name); text != "" {
			p.Filter.Set(name, text)
		}
	}
	f, err := eventFilter(v)
	var next string
	if err == nil {
		p.Events, next, err = v.site.service.Events(v.ctx(), f, v.page(100))
	}
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) {
			p.Error = r
			return page{name: "audit", title: "Audit", data: p}, nil
		})
	}
	p.Next = nextPage(v, next)
	export := func(format enroll.Format) string {
		q := url.Values{"format": {string(format)}}
		for name := range p.Filter {
			q.Set(name, p.Filter.Get(name))
		}
		return "/audit/export?" + q.Encode()
	}
	p.CSV, p.JSON = export(enroll.FormatCSV), export(enroll.FormatJSON)
	return page{name: "audit", title: "Audit", data: p}, nil
}

// nextPage returns the URL of the page after this one of a listing; empty at
// the end.
func nextPage(v *visit, cursor string) string {
	if cursor == "" {
		return ""
	}
	q := v.r.URL.Query()
	q.Set("cursor", cursor)
	return v.r.URL.Path + "?" + q.Encode()
}

// mediaTypes are those of exports.
var mediaTypes = map[enroll.Format]string{enroll.FormatCSV: "text/csv; charset=utf-8", enroll.FormatJSON: "application/json"}

// exportFormat reads which file is asked for.
func exportFormat(v *visit) (enroll.Format, error) {
	format := enroll.Format(v.query("format"))
	if mediaTypes[format] == "" {
		return "", ca.Errorf(ca.KindMalformed, "format", "csv or json", "%.20q is no format", string(format))
	}
	return format, nil
}

func getAuditExport(v *visit) (answer, error) {
	f, err := eventFilter(v)
	if err != nil {
		return nil, err
	}
	format, err := exportFormat(v)
	if err != nil {
		return nil, err
	}
	return stream{name: "audit." + string(format), mediaType: mediaTypes[format], copy: func(w io.Writer) error {
		return v.site.service.ExportEvents(v.ctx(), f, w, format)
	}}, nil
}

// An eventPage is one audit event.
type eventPage struct {
	Event     *enroll.Event
	Page      string // about the subject; empty for none
	Canonical string // bytes that the leaf hash is of
	LeafHash  string // RFC 6962, 2.1
}

func getEvent(v *visit) (answer, error) {
	e, err := v.site.service.Event(v.ctx(), v.param("id"))
	if err != nil {
		return nil, err
	}
	canonical := e.Canonical()
	hash := enroll.LeafHash(canonical)
	return page{name: "event", title: "Event", data: eventPage{
		Event: e, Page: v.pageOf(e.Subject), Canonical: string(canonical), LeafHash: hex.EncodeToString(hash[:])}}, nil
}
