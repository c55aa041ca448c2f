package api

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"

	"github.com/fleetca/fleetca/ca"
)

// basePath stands before every route's pattern.
const basePath = "/api/v1"

// Limits of bodies, in bytes.
const (
	bodyLimit = 64 << 10
	itemLimit = 64 << 10  // one line of a batch; the batch itself has none
	formLimit = 256 << 10 // a form of the dashboard
)

// A Route is one call of the REST API: everything that serving it, testing it
// and describing it needs to know.
type Route struct {
	Name    string // in the OpenAPI document and in what is generated from it: never changed
	Method  string
	Pattern string // below /api/v1, in chi's syntax
	Rule    Rule
	Doc     string // what it does, one sentence
	Status  int    // of its success; 200 when zero in the table
	Creates bool   // a repetition under the same Idempotency-Key answers as the first
	Chain   bool   // can answer the certificate chain alone
	Renews  bool   // renews the certificate that it comes with, so that its device is read with it
	Recalls bool   // takes an API token as it was read last: the transaction looks whether it holds still
	NoBody  bool   // the body may be left out, because every field may
	Filters []Parameter
	At      string    // pattern of what it creates, for Location; empty for none
	Kinds   []ca.Kind // errors of its own, beside those that its other fields imply; see problems

	endpoint
}

// An endpoint is a route's handler with the types that it takes and gives.
type endpoint struct {
	Request reflect.Type // nil for none
	Answer  reflect.Type // of one item, when Paged
	Paged   bool         // answers a List, takes limit and cursor
	Stream  bool         // takes and answers lines of JSON (NDJSON)
	File    bool         // answers something cacheable, with its ETag

	handle func(a *API, x *exchange) (any, error)
}

// Parameters returns the query parameters that the route takes.
func (rt *Route) Parameters() []Parameter {
	if !rt.Paged {
		return rt.Filters
	}
	return append(slices.Clone(rt.Filters), pageParameters...)
}

// gives makes an endpoint of a handler that reads no body.
func gives[Out any](h func(*API, *exchange) (Out, error)) endpoint {
	return endpoint{
		Answer: reflect.TypeFor[Out](),
		handle: func(a *API, x *exchange) (any, error) { return h(a, x) },
	}
}

// nothing is the request type of calls that take no fields.
type nothing struct{}

// takes makes an endpoint of a handler that reads a JSON object.
func takes[In, Out any](h func(*API, *exchange, In) (Out, error)) endpoint {
	e := endpoint{Request: reflect.TypeFor[In](), Answer: reflect.TypeFor[Out]()}
	if e.Request == reflect.TypeFor[nothing]() {
		e.Request = nil
	}
	e.handle = func(a *API, x *exchange) (any, error) {
		var in In
		body, err := readBody(x.w, x.r, bodyLimit)
		if err != nil {
			return nil, err
		}
		if body != nil || !x.route.NoBody {
			if err := decodeJSON(body, &in); err != nil {
				return nil, err
			}
		}
		return h(a, x, in)
	}
	return e
}

// lists makes an endpoint of a handler that reads one page.
func lists[T any](h func(*API, *exchange) ([]T, string, error)) endpoint {
	return endpoint{
		Answer: reflect.TypeFor[T](), Paged: true,
		handle: func(a *API, x *exchange) (any, error) {
			items, next, err := h(a, x)
			if err != nil {
				return nil, err
			}
			if items == nil {
				items = []T{}
			}
			return List[T]{Items: items, NextCursor: next}, nil
		},
	}
}

// streams makes an endpoint of a handler that reads and writes lines of JSON.
func streams[In, Out any](h func(*API, *exchange) error) endpoint {
	return endpoint{
		Request: reflect.TypeFor[In](), Answer: reflect.TypeFor[Out](), Stream: true,
		handle: func(a *API, x *exchange) (any, error) { return nil, h(a, x) },
	}
}

// serves makes an endpoint of a handler that answers one JSON file by itself.
func serves(h func(*API, *exchange) error) endpoint {
	return endpoint{
		Answer: reflect.TypeFor[json.RawMessage](), File: true,
		handle: func(a *API, x *exchange) (any, error) { return nil, h(a, x) },
	}
}

// Routes returns the table of calls.
func Routes() []Route {
	table := slices.Clone(routes())
	for i := range table {
		if table[i].Status == 0 {
			table[i].Status = http.StatusOK
		}
	}
	return table
}
