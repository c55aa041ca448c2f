package api

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/fleetca/fleetca/ca"
)

// operation describes one call.
func (c *catalog) operation(rt *Route) schema {
	op := schema{
		"operationId": rt.Name, "summary": strings.TrimSuffix(rt.Doc, "."), "description": rt.Doc + " " + rt.Rule.credentials(),
		"tags": []string{rt.tag()}, "security": rt.Rule.security(), "responses": c.responses(rt),
	}
	if p := rt.parameters(); len(p) > 0 {
		op["parameters"] = p
	}
	if body := c.requestBody(rt); body != nil {
		op["requestBody"] = body
	}
	return op
}

var pathParameter = regexp.MustCompile(`\{(\w+)\}`)

// pathParameters returns the names of the parameters in the route's pattern.
func (rt *Route) pathParameters() []string {
	var names []string
	for _, m := range pathParameter.FindAllStringSubmatch(rt.Pattern, -1) {
		names = append(names, m[1])
	}
	return names
}

// repeatable reports whether the call reads an Idempotency-Key: every POST
// does, but a batch, whose items have their own.
func (rt *Route) repeatable() bool { return rt.Method == http.MethodPost && !rt.Stream }

func (rt *Route) parameters() []schema {
	var all []schema
	for _, name := range rt.pathParameters() {
		s := schema{"type": "string", "pattern": idPattern, "examples": []string{"pump-0001"}}
		if name == "serial" {
			s = schema{"type": "string", "description": "colons, upper case and a leading zero octet are accepted", "pattern": "^[0-9A-Fa-f:]+$", "examples": []string{exampleSerial}}
		}
		all = append(all, schema{"name": name, "in": "path", "required": true, "schema": s})
	}
	for _, f := range rt.Filters {
		s := schema{"type": "string"}
		if f.Enum != nil {
			s["enum"] = f.Enum
		}
		all = append(all, schema{"name": f.Name, "in": "query", "description": f.Doc, "schema": s})
	}
	if rt.Paged {
		for _, p := range pageParameters {
			all = append(all, schema{"$ref": "#/components/parameters/" + p.Name})
		}
	}
	if rt.repeatable() {
		all = append(all, schema{"$ref": "#/components/parameters/" + keyHeader})
	}
	return all
}

// requestBody describes the body; nil when the call takes none. A call that
// takes an object without fields may get one.
func (c *catalog) requestBody(rt *Route) schema {
	switch {
	case rt.Method != http.MethodPost:
		return nil
	case rt.Request == nil:
		empty := schema{"type": "object", "additionalProperties": false}
		return schema{"required": false, "content": schema{"application/json": schema{"schema": empty}}}
	}
	media := schema{"schema": c.of(rt.Request), "example": examples[rt.Request]}
	if rt.Stream {
		return schema{
			"required": true, "description": "A JSON object a line; the schema is a line's. Lines may be sent as answers come.",
			"content": schema{"application/x-ndjson": media, "application/ndjson": media},
		}
	}
	return schema{"required": !rt.NoBody, "content": schema{"application/json": media}}
}

// responses describes every answer there is, by status.
func (c *catalog) responses(rt *Route) schema {
	all := schema{strconv.Itoa(rt.Status): c.success(rt)}
	if rt.Creates && rt.Status != http.StatusOK {
		replay := c.success(rt)
		replay["description"] = "Done before: the first answer again."
		replay["headers"] = headersOf("X-Request-Id", "Idempotent-Replayed")
		all["200"] = replay
	}
	if rt.File {
		all["304"] = schema{"description": "Not changed since the answer with the ETag in If-None-Match.", "headers": headersOf("X-Request-Id", "ETag", "Cache-Control")}
	}
	byStatus := map[int][]ca.Kind{}
	for _, kind := range rt.problems() {
		byStatus[kinds[kind].status] = append(byStatus[kinds[kind].status], kind)
	}
	for status, kinds := range byStatus {
		all[strconv.Itoa(status)] = problemResponse(status, kinds)
	}
	return all
}

// success describes the answer to a call that was done.
func (c *catalog) success(rt *Route) schema {
	answer := schema{"description": statusTitle[rt.Status]}
	names := []string{"X-Request-Id"}
	if rt.repeatable() && rt.Status == http.StatusOK {
		names = append(names, "Idempotent-Replayed")
	}
	if rt.File {
		names = append(names, "ETag", "Cache-Control")
	}
	h := headersOf(names...)
	if rt.At != "" {
		location := "^" + basePath + pathParameter.ReplaceAllString(rt.At, "[^/]+") + "$"
		h["Location"] = header("Where it is: "+basePath+rt.At+".", schema{"type": "string", "pattern": location})
	}
	answer["headers"] = h

	media := "application/json"
	s := c.of(rt.Answer)
	switch {
	case rt.Paged:
		s = c.page(rt.Answer)
	case rt.Stream:
		media = "application/x-ndjson"
		answer["description"] = "A JSON object a line, in the order in which items are done; the schema is a line's."
	case rt.File:
		s["description"] = "an OpenAPI 3.1 document"
	}
	content := schema{media: schema{"schema": s}}
	if rt.Chain {
		content[chainType] = schema{"schema": schema{"type": "string", "description": "the certificate, then its issuers, without the root"}}
	}
	answer["content"] = content
	return answer
}

// problemResponse describes the errors of one status.
func problemResponse(status int, all []ca.Kind) schema {
	types, lines := make([]string, len(all)), make([]string, len(all))
	for i, kind := range all {
		types[i], lines[i] = problemPrefix+string(kind), problemTitle(kind)
	}
	names := []string{"X-Request-Id"}
	switch status {
	case http.StatusUnauthorized:
		names = append(names, "WWW-Authenticate")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		names = append(names, "Retry-After")
	}
	s := reference("Problem")
	s["properties"] = schema{"type": schema{"enum": types}, "status": schema{"const": status}}
	example := Problem{Type: types[0], Title: kinds[all[0]].title, Status: status, Detail: kinds[all[0]].detail, RequestID: "PQ5XEXAMPLE"}
	return schema{
		"description": http.StatusText(status) + ":\n" + strings.Join(lines, "\n"),
		"headers":     headersOf(names...),
		"content":     schema{"application/problem+json": schema{"schema": s, "example": example}},
	}
}

// headersOf refers to headers by their names.
func headersOf(names ...string) schema {
	h := schema{}
	for name := range maps.Keys(headers) {
		if slices.Contains(names, name) {
			h[name] = schema{"$ref": "#/components/headers/" + name}
		}
	}
	return h
}
