package api

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Sizes of a page.
const (
	defaultLimit = 100
	maxLimit     = 500
)

// A Parameter is a query parameter of a route.
type Parameter struct {
	Name string
	Doc  string
	Enum []string // the values there are; nil for any
}

// A List is a page of a listing.
type List[T any] struct {
	Items      []T    `json:"items"`                // never null
	NextCursor string `json:"nextCursor,omitempty"` // for ?cursor=; empty at the end
}

// pageParameters are what every listing takes beside its filters.
var pageParameters = []Parameter{
	{Name: "limit", Doc: "at most so many items, 1 to 500; 100 without"},
	{Name: "cursor", Doc: "nextCursor of the page before"},
}

// readQuery checks the query against the route's parameters. Each may stand
// once; what the route does not know is an error, so that a filter with a
// typing error does not list everything.
func (x *exchange) readQuery() error {
	query, err := url.ParseQuery(x.r.URL.RawQuery)
	if err != nil {
		return ca.Errorf(ca.KindMalformed, "", "escape it as in RFC 3986", "the query cannot be read")
	}
	known := x.route.Parameters()
	for name, values := range query {
		i := slices.IndexFunc(known, func(p Parameter) bool { return p.Name == name })
		switch {
		case i < 0:
			return unknownParameter(shorten(name), known)
		case len(values) > 1:
			return ca.Errorf(ca.KindMalformed, name, "give it once", "is given %d times", len(values))
		case known[i].Enum != nil && !slices.Contains(known[i].Enum, values[0]):
			return ca.Errorf(ca.KindMalformed, name, "one of "+strings.Join(known[i].Enum, ", "), "%.64q is not a value of it", values[0])
		}
	}
	x.query = query
	if !x.route.Paged {
		return nil
	}
	x.page = enroll.Page{Limit: defaultLimit, Cursor: query.Get("cursor")}
	if query.Has("limit") {
		x.page.Limit, err = strconv.Atoi(query.Get("limit"))
		if err != nil || x.page.Limit < 1 || x.page.Limit > maxLimit {
			return ca.Errorf(ca.KindMalformed, "limit", "give 1 to 500", "%.64q is not a limit", query.Get("limit"))
		}
	}
	return nil
}

func unknownParameter(name string, known []Parameter) error {
	hint := "this call takes no query parameters"
	if len(known) > 0 {
		names := make([]string, len(known))
		for i, p := range known {
			names[i] = p.Name
		}
		hint = "the parameters are " + strings.Join(names, ", ")
	}
	return ca.Errorf(ca.KindMalformed, name, hint, "is not a query parameter of this call")
}

// pageOf cuts a page out of a listing that the service gives whole. The cursor
// is the id of the page's last item.
func pageOf[T any](all []T, p enroll.Page, id func(T) string) ([]T, string, error) {
	start := 0
	if p.Cursor != "" {
		start = 1 + slices.IndexFunc(all, func(v T) bool { return id(v) == p.Cursor })
		if start == 0 {
			return nil, "", ca.Errorf(ca.KindMalformed, "cursor", "start again without it", "is not one that this listing gave")
		}
	}
	end := min(start+p.Limit, len(all))
	if end == len(all) {
		return all[start:], "", nil
	}
	return all[start:end], id(all[end-1]), nil
}

// values returns an enumeration's values as text.
func values[T ~string](all ...T) []string {
	text := make([]string, len(all))
	for i, v := range all {
		text[i] = string(v)
	}
	return text
}
