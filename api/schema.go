package api

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// A schema is a JSON Schema of draft 2020-12, as OpenAPI 3.1 takes it, or
// another object of the document.
type schema map[string]any

// A word is what the source says of a type: its comments, and the constants
// there are of it. Reflection has neither.
type word struct {
	Doc    string            `json:"doc,omitempty"`
	Fields map[string]string `json:"fields,omitempty"` // by the Go field's name
	Values []string          `json:"values,omitempty"` // in the source's order
	Notes  map[string]string `json:"notes,omitempty"`  // by value
}

// wordsJSON holds the words by "package.Type". A test makes it from the source
// (-update), and fails when it is not what the source says.
//
//go:embed words.json
var wordsJSON []byte

// A catalog makes schemas of Go types. Structs and enumerations become
// components, which others refer to.
type catalog struct {
	words      map[string]word
	components schema
	requests   map[reflect.Type]bool // take no unknown fields
	sources    map[string]bool       // the words that were looked up
}

func newCatalog() *catalog {
	c := &catalog{components: schema{}, requests: map[reflect.Type]bool{}, sources: map[string]bool{}}
	if err := json.Unmarshal(wordsJSON, &c.words); err != nil {
		panic(fmt.Sprintf("words.json: %v", err)) // embedded, and tested
	}
	return c
}

// of returns the schema of a type's JSON.
func (c *catalog) of(t reflect.Type) schema {
	switch {
	case t.Kind() == reflect.Pointer:
		return c.of(t.Elem())
	case t == timeType:
		return schema{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return schema{"type": "object"}
	}
	switch t.Kind() {
	case reflect.Struct:
		return c.component(t, c.object)
	case reflect.String:
		if t.PkgPath() != "" {
			return c.component(t, c.text)
		}
		return schema{"type": "string"}
	case reflect.Bool:
		return schema{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return schema{"type": "integer", "format": "int64"}
	case reflect.Float64:
		return schema{"type": "number", "format": "double"}
	case reflect.Slice:
		return schema{"type": "array", "items": c.of(t.Elem())}
	case reflect.Map:
		return schema{"type": "object", "additionalProperties": c.of(t.Elem())}
	}
	panic(fmt.Sprintf("%v has no schema", t)) // TestDocument makes every one
}

// component keeps a named type's schema, and returns a reference to it.
func (c *catalog) component(t reflect.Type, make func(name string, t reflect.Type) schema) schema {
	name := componentName(t)
	if _, known := c.components[name]; !known {
		c.components[name] = nil // it may hold itself
		c.components[name] = make(name, t)
	}
	return reference(name)
}

func reference(name string) schema { return schema{"$ref": "#/components/schemas/" + name} }

// componentName returns what a type is called in the document. Those of a
// verification's report say so: a rotation has steps too.
func componentName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[enroll.IssuerView]():
		return "Issuer"
	case t == reflect.TypeFor[ca.ProfileForm]():
		return "Profile"
	case t == reflect.TypeFor[ProfileAnswer]():
		return "LintedProfile"
	case t == reflect.TypeFor[ca.Status]():
		return "CertificateStatus"
	case t.PkgPath() == reflect.TypeFor[mqtts.Report]().PkgPath() && !strings.HasPrefix(t.Name(), "Report"):
		return "Report" + t.Name()
	}
	return t.Name()
}

// wordOf returns what the source says of a type.
func (c *catalog) wordOf(t reflect.Type) word {
	source := path.Base(t.PkgPath()) + "." + t.Name()
	c.sources[source] = true
	return c.words[source]
}

// text makes the schema of a named string: an enumeration, if it has constants.
func (c *catalog) text(name string, t reflect.Type) schema {
	w := c.wordOf(t)
	doc := w.Doc
	for _, value := range w.Values {
		if note := w.Notes[value]; note != "" {
			doc += fmt.Sprintf("\n- `%s`: %s", value, note)
		}
	}
	s := schema{"type": "string", "description": doc}
	if len(w.Values) > 0 {
		s["enum"] = w.Values
	}
	return withFact(s, name)
}

// object makes the schema of a struct. A field without omitempty is required.
func (c *catalog) object(name string, t reflect.Type) schema {
	properties, required := schema{}, []string{}
	form := t
	if f, ok := forms[t]; ok {
		form = f
	}
	c.fields(form, name, func(property string, s schema, always bool) {
		properties[property] = s
		if always && !optional[name+"."+property] {
			required = append(required, property)
		}
	})
	slices.Sort(required)
	s := schema{"type": "object", "description": c.wordOf(t).Doc, "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	if c.requests[t] {
		s["additionalProperties"] = false
	}
	return withFact(s, name)
}

// fields hands every JSON field of a struct on, those of embedded structs among
// them; those of an embedded pointer may be missing.
func (c *catalog) fields(t reflect.Type, name string, yield func(property string, s schema, always bool)) {
	w := c.wordOf(t)
	for i := range t.NumField() {
		f := t.Field(i)
		property, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && property == "" {
			inner, pointer := f.Type, f.Type.Kind() == reflect.Pointer
			if pointer {
				inner = inner.Elem()
			}
			c.fields(inner, name, func(property string, s schema, always bool) {
				if _, hidden := directly(t, property); !hidden {
					yield(property, s, always && !pointer)
				}
			})
			continue
		}
		if !f.IsExported() || property == "-" || property == "" {
			continue
		}
		omitted := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		s := c.of(f.Type)
		if nullable[name+"."+property] {
			s = schema{"anyOf": []schema{s, {"type": "null"}}}
		}
		if doc := w.Fields[f.Name]; doc != "" {
			s["description"] = doc
		}
		yield(property, withFact(s, name+"."+property), !omitted)
	}
}

// directly finds a field of the struct itself by its JSON name.
func directly(t reflect.Type, property string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); !f.Anonymous && name == property {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// page makes the schema of a page of a listing.
func (c *catalog) page(item reflect.Type) schema {
	for item.Kind() == reflect.Pointer {
		item = item.Elem()
	}
	name := componentName(item) + "List"
	c.components[name] = schema{
		"type": "object", "description": "A page of a listing.", "required": []string{"items"},
		"properties": schema{
			"items":      schema{"type": "array", "maxItems": maxLimit, "items": c.of(item)},
			"nextCursor": schema{"type": "string", "description": "for the parameter cursor of the next call; missing at the end", "examples": []string{"eyJpZCI6InB1bXAtMDAwMSJ9"}},
		},
	}
	return reference(name)
}

// withFact adds what facts knows of a place: of that very one, or else of
// every property of the name. What the source says of a property is said of it
// alone, and stays before what is said of all.
func withFact(s schema, place string) schema {
	_, property, ok := strings.Cut(place, ".")
	fact, known := facts[place]
	doc := s["description"]
	if !known && ok {
		fact = facts["*."+property]
	}
	if fact[replaces] != nil {
		clear(s)
	}
	maps.Copy(s, fact)
	if doc != nil && !known {
		s["description"] = doc
	}
	delete(s, replaces)
	return s
}
