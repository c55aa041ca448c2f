package api

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/fleetca/fleetca/ca"
)

// document returns the OpenAPI document as a reader sees it.
func document(t *testing.T) map[string]any {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(OpenAPI()))
	if err != nil {
		t.Fatal(err)
	}
	return doc.(map[string]any)
}

// TestDocumentIsOpenAPI holds the document against the OpenAPI Initiative's
// own schema for version 3.1 (https://spec.openapis.org/oas/3.1/schema/2022-10-07,
// Apache 2.0), and every schema in it against draft 2020-12.
func TestDocumentIsOpenAPI(t *testing.T) {
	text, err := os.ReadFile("testdata/openapi-3.1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	official, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	doc := document(t)
	c := jsonschema.NewCompiler()
	for url, resource := range map[string]any{"https://spec.openapis.org/oas/3.1/schema/2022-10-07": official, "https://fleetca.test/openapi.json": doc} {
		if err := c.AddResource(url, resource); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile("https://spec.openapis.org/oas/3.1/schema/2022-10-07")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(doc); err != nil {
		t.Errorf("%#v", err)
	}
	c.AssertFormat()
	for name, component := range doc["components"].(map[string]any)["schemas"].(map[string]any) {
		if _, err := c.Compile("https://fleetca.test/openapi.json#/components/schemas/" + name); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkExamples(t, c, name, component.(map[string]any))
	}
}

// checkExamples holds the examples of a component's properties against the
// properties, and refuses a property that says nothing of itself.
func checkExamples(t *testing.T, c *jsonschema.Compiler, name string, component map[string]any) {
	t.Helper()
	if component["description"] == "" {
		t.Errorf("%s has no description", name)
	}
	properties, _ := component["properties"].(map[string]any)
	for property, p := range properties {
		place := name + "." + property
		p := p.(map[string]any)
		s, err := c.Compile("https://fleetca.test/openapi.json#/components/schemas/" + name + "/properties/" + property)
		if err != nil {
			t.Errorf("%s: %v", place, err)
			continue
		}
		examples, _ := p["examples"].([]any)
		for _, example := range examples {
			if err := s.Validate(example); err != nil {
				t.Errorf("%s: %v", place, err)
			}
		}
		plain := p["type"] == "string" && p["enum"] == nil && p["format"] != "date-time"
		if plain && len(examples) == 0 {
			t.Errorf("%s: a text without an example", place)
		}
		if component["additionalProperties"] == false && p["description"] == nil && p["$ref"] == nil && plain && p["pattern"] == nil {
			t.Errorf("%s: a field of a request without a description", place)
		}
	}
}

// TestDocumentIsWhole checks what no schema can: names that are used are
// there and the other way round, and stand once.
func TestDocumentIsWhole(t *testing.T) {
	doc := document(t)
	used := map[string]bool{}
	walk(doc, func(object map[string]any) {
		ref, ok := object["$ref"].(string)
		if !ok {
			return
		}
		used[ref] = true
		at := any(doc)
		for _, part := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
			parent, _ := at.(map[string]any)
			at = parent[part]
		}
		if at == nil {
			t.Errorf("%s leads nowhere", ref)
		}
	})
	components := doc["components"].(map[string]any)
	for kind, all := range components {
		for name := range all.(map[string]any) {
			if ref := "#/components/" + kind + "/" + name; kind != "securitySchemes" && !used[ref] {
				t.Errorf("%s is not used", ref)
			}
		}
	}
	names := map[string]bool{}
	for pattern, item := range doc["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			op := op.(map[string]any)
			call := method + " " + pattern
			if name, _ := op["operationId"].(string); name == "" || names[name] {
				t.Errorf("%s: operationId %q is missing or stands twice", call, name)
			} else {
				names[name] = true
			}
			checkPathParameters(t, call, pattern, op)
			for _, s := range op["security"].([]any) {
				for scheme := range s.(map[string]any) {
					if components["securitySchemes"].(map[string]any)[scheme] == nil {
						t.Errorf("%s: security scheme %s is nowhere", call, scheme)
					}
				}
			}
		}
	}
	for _, tag := range doc["tags"].([]any) {
		if tag := tag.(map[string]any); tag["description"] == "" || names["tag "+tag["name"].(string)] {
			t.Errorf("tag %v", tag)
		} else {
			names["tag "+tag["name"].(string)] = true
		}
	}
}

func checkPathParameters(t *testing.T, call, pattern string, op map[string]any) {
	t.Helper()
	declared := 0
	parameters, _ := op["parameters"].([]any)
	for _, p := range parameters {
		if p := p.(map[string]any); p["in"] == "path" {
			declared++
			if !strings.Contains(pattern, "{"+p["name"].(string)+"}") {
				t.Errorf("%s: parameter %v is not in the path", call, p["name"])
			}
		}
	}
	if declared != strings.Count(pattern, "{") {
		t.Errorf("%s: %d path parameters are declared", call, declared)
	}
}

// walk visits every object in a JSON value.
func walk(v any, visit func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(v)
		for _, inner := range v {
			walk(inner, visit)
		}
	case []any:
		for _, inner := range v {
			walk(inner, visit)
		}
	}
}

// TestDocumentHasEveryProblem checks that each kind of error is some call's,
// but those that only background work and other listeners give.
func TestDocumentHasEveryProblem(t *testing.T) {
	elsewhere := []ca.Kind{KindMethod, KindLapsed, ca.KindRefusedCRL}
	described := map[ca.Kind]bool{}
	for _, rt := range Routes() {
		for _, kind := range rt.problems() {
			described[kind] = true
			if _, ok := kinds[kind]; !ok {
				t.Errorf("%s: kind %s has no row", rt.Name, kind)
			}
		}
	}
	for kind := range kinds {
		if described[kind] == slices.Contains(elsewhere, kind) {
			t.Errorf("%s: in the document %v", kind, described[kind])
		}
	}
}

// TestFactsAreUsed finds facts of what is not there any more.
func TestFactsAreUsed(t *testing.T) {
	c := newCatalog()
	c.describe(Routes())
	places := map[string]bool{}
	for name, s := range c.components {
		places[name] = true
		properties, _ := s.(schema)["properties"].(schema)
		for property := range properties {
			places[name+"."+property], places["*."+property] = true, true
		}
	}
	for place := range maps.Keys(facts) {
		if !places[place] {
			t.Errorf("facts knows of %s, which is not there", place)
		}
	}
	for _, table := range []map[string]bool{optional, nullable} {
		for place := range table {
			if !places[place] {
				t.Errorf("%s is a special case and not there", place)
			}
		}
	}
	for _, rt := range Routes() {
		if _, ok := examples[rt.Request]; rt.Request != nil && !ok {
			t.Errorf("%s: %v has no example", rt.Name, rt.Request)
		}
	}
}

// TestDocumentIsServed asks for it on both listeners, with and without its ETag.
func TestDocumentIsServed(t *testing.T) {
	a := bare(new(bytes.Buffer))
	for name, h := range map[string]http.Handler{"people": a.People(), "machines": a.Machines()} {
		r := httptest.NewRequest("GET", "/api/v1/openapi.json", nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		tag := w.Header().Get("ETag")
		if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" || !bytes.Equal(w.Body.Bytes(), OpenAPI()) || tag == "" {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
		if !json.Valid(w.Body.Bytes()) || !strings.HasPrefix(w.Header().Get("Cache-Control"), "public, max-age=") {
			t.Errorf("%s: %v", name, w.Header())
		}
		r.Header.Set("If-None-Match", tag)
		w = httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 304 || w.Body.Len() != 0 {
			t.Errorf("%s: %d with its own ETag", name, w.Code)
		}
		r.Method = http.MethodHead
		r.Header.Del("If-None-Match")
		w = httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("ETag") != tag {
			t.Errorf("%s: HEAD %d", name, w.Code)
		}
	}
}
