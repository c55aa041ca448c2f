package api

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// OpenAPI returns the OpenAPI 3.1 document of the REST interface as JSON. It
// is made of the table of calls and of the types that they take and give.
func OpenAPI() []byte { return encodeJSON(newCatalog().describe(Routes())) }

// getOpenAPI answers the document, which never changes while the program runs.
func (a *API) getOpenAPI(x *exchange) error {
	return a.serveStatus(x.w, x.r, statusFile{mediaType: "application/json", body: a.document()})
}

// aboutAPI stands at the head of the document.
const aboutAPI = `fleetca issues, rotates and revokes the certificates of devices and MQTT brokers, and proves at the real broker that they work, or that they no longer do.

Times are RFC 3339 in UTC, certificates and certification requests PEM. Unknown fields and query parameters are errors. Every GET answers HEAD too.

Errors are problem documents (RFC 9457): tell them apart by ` + "`type`" + `. More types, fields of answers and calls may be added; what is here stays.

A request that creates something can be repeated under its Idempotency-Key: the answer is the first one's, with status 200 and Idempotent-Replayed.`

// describe makes the document of a table of calls.
func (c *catalog) describe(routes []Route) schema {
	for i := range routes {
		if t := routes[i].Request; t != nil {
			c.requests[t] = true
		}
	}
	paths, tags, tagged := schema{}, []schema{}, map[string]bool{}
	for i := range routes {
		rt := &routes[i]
		item, ok := paths[rt.Pattern].(schema)
		if !ok {
			item = schema{}
			paths[rt.Pattern] = item
		}
		item[strings.ToLower(rt.Method)] = c.operation(rt)
		if tag := rt.tag(); !tagged[tag] {
			tagged[tag] = true
			tags = append(tags, schema{"name": tag, "description": tagDocs[tag]})
		}
	}
	c.of(reflect.TypeFor[Problem]())
	return schema{
		"openapi": "3.1.0",
		"info": schema{
			"title": "fleetca", "version": "1", "description": aboutAPI,
			"license": schema{"name": "Apache 2.0", "identifier": "Apache-2.0"},
		},
		"servers": []schema{{"url": basePath, "description": "the listener that this document came from"}},
		"tags":    tags,
		"paths":   paths,
		"components": schema{
			"schemas": c.components, "securitySchemes": securitySchemes, "headers": headers, "parameters": parameters,
		},
	}
}

// tagDocs are the groups of calls, by the first part of their pattern.
var tagDocs = map[string]string{
	"service":      "The interface itself.",
	"enrollments":  "First certificates of devices.",
	"renewals":     "Next certificates of devices.",
	"devices":      "The inventory of devices: registered, active, held, revoked.",
	"revocations":  "Revocations, from the decision to the proof at the brokers.",
	"brokers":      "MQTT brokers, their certificates and what was seen of them.",
	"rotations":    "Changes of brokers' certificates under live sessions.",
	"work-orders":  "What is to be built, and the tokens that enroll it.",
	"certificates": "The ledger of everything issued.",
	"issuers":      "The authority's own certificates.",
	"profiles":     "What certificates look like.",
	"crls":         "Certificate revocation lists (RFC 5280, section 5).",
	"trust-bundle": "The roots to trust.",
	"events":       "The audit trail.",
}

// tag returns the group that a call is in.
func (rt *Route) tag() string {
	first, _, _ := strings.Cut(strings.TrimPrefix(rt.Pattern, "/"), "/")
	if _, ok := tagDocs[first]; !ok {
		return "service"
	}
	return first
}

var securitySchemes = schema{
	"apiToken": schema{
		"type": "http", "scheme": "bearer", "bearerFormat": "fca_...",
		"description": "An API token with one role: admin, operator, factory, security or auditor. An admin may do whatever a role may.",
	},
	"clientCertificate": schema{
		"type":        "mutualTLS",
		"description": "A certificate on the machine listener: one issued here, neither held nor revoked, whose scope is what it identifies, device or agent; or with the scope idevid one of a registered manufacturer.",
	},
}

// security returns who may make a call, one alternative each. An enrollment
// token is a field of the body: OpenAPI has no scheme for it, and the empty
// alternative stands for it.
func (u Rule) security() []schema {
	alternatives := []schema{}
	if u.Public {
		return alternatives
	}
	for _, role := range enroll.Roles() {
		if u.permits(&enroll.Principal{Role: role}, "") {
			alternatives = append(alternatives, schema{"apiToken": []string{string(role)}})
		}
	}
	for _, kind := range u.Holders {
		alternatives = append(alternatives, schema{"clientCertificate": []string{string(kind)}})
	}
	if u.IDevID {
		alternatives = append(alternatives, schema{"clientCertificate": []string{"idevid"}})
	}
	if u.EnrollmentToken {
		alternatives = append(alternatives, schema{})
	}
	return alternatives
}

// credentials says the same in words.
func (u Rule) credentials() string {
	if u.Public {
		return "Open to everybody."
	}
	var who []string
	for _, role := range enroll.Roles() {
		if u.permits(&enroll.Principal{Role: role}, "") {
			who = append(who, string(role))
		}
	}
	for _, kind := range u.Holders {
		own := ""
		if u.Own {
			own = " that its path names"
		}
		who = append(who, fmt.Sprintf("the client certificate of a %s%s (machine listener)", kind, own))
	}
	if u.IDevID {
		who = append(who, "the client certificate of a manufacturer's device (machine listener)")
	}
	if u.EnrollmentToken {
		who = append(who, "an enrollment token in the body")
	}
	return "Open to: " + strings.Join(who, ", ") + "."
}

// headers of answers.
var headers = schema{
	"X-Request-Id":        header("Id of the request, in the server's log too: the client's own where that is a plain word.", schema{"type": "string", "pattern": requestIDPattern.String(), "examples": []string{"PQ5XEXAMPLE"}}),
	"Retry-After":         header("Seconds after which to try again.", schema{"type": "integer", "minimum": 1}),
	"WWW-Authenticate":    header("RFC 6750, section 3.", schema{"type": "string"}),
	"Idempotent-Replayed": header("The answer was given before; nothing was done this time.", schema{"type": "string", "const": "true"}),
	"ETag":                header("Of the answer, for If-None-Match.", schema{"type": "string"}),
	"Cache-Control":       header("How long the answer may be kept.", schema{"type": "string"}),
}

func header(description string, s schema) schema {
	return schema{"description": description, "schema": s}
}

// parameters that several calls take.
var parameters = schema{
	keyHeader: schema{
		"name": keyHeader, "in": "header",
		"description": "A UUID, or anything of 1 to 255 printable ASCII characters. Under the same key the same request is done once; another one is a conflict.",
		"schema":      schema{"type": "string", "minLength": 1, "maxLength": maxKey, "pattern": keyPattern, "examples": []string{exampleID}},
	},
	"limit": schema{
		"name": "limit", "in": "query", "description": "at most so many items",
		"schema": schema{"type": "integer", "minimum": 1, "maximum": maxLimit, "default": defaultLimit},
	},
	"cursor": schema{
		"name": "cursor", "in": "query", "description": "nextCursor of the page before",
		"schema": schema{"type": "string"},
	},
}

// problemTitle returns the title of a kind, for descriptions.
func problemTitle(kind ca.Kind) string {
	return fmt.Sprintf("- `%s`: %s", kind, kinds[kind].title)
}

// statusTitle is the description of a success.
var statusTitle = map[int]string{
	http.StatusOK:       "Success.",
	http.StatusCreated:  "Created.",
	http.StatusAccepted: "Recorded; what follows from it goes on.",
}
