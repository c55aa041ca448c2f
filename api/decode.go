package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/fleetca/fleetca/ca"
)

// curlMediaType is what curl -d says of every body. No form is read anywhere,
// and credentials are headers or certificates, so that taking it for what the
// call takes opens nothing.
const curlMediaType = "application/x-www-form-urlencoded"

// checkMediaType refuses a body that says it is of another media type. One
// that says nothing is taken for what it should be.
func checkMediaType(r *http.Request, accepted ...string) error {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return ca.Errorf(KindMediaType, "Content-Encoding", "send the body as it is", "%.64q is not accepted", enc)
	}
	given := r.Header.Get("Content-Type")
	if given == "" || given == curlMediaType {
		return nil // what it holds is looked at all the same
	}
	media, params, err := mime.ParseMediaType(given)
	charset, hasCharset := params["charset"]
	if err != nil || !slices.Contains(accepted, media) || hasCharset && !strings.EqualFold(charset, "utf-8") {
		return ca.Errorf(KindMediaType, "Content-Type", "send "+accepted[0]+" in UTF-8", "%.64q is not accepted", given)
	}
	return nil
}

// readBody reads a JSON body of at most limit bytes. It is nil for no body.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := readAll(http.MaxBytesReader(w, r.Body, limit), r.ContentLength)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, err
	case err != nil:
		return nil, ca.Errorf(ca.KindMalformed, "", "send it again", "the body ended early: %w", err)
	case len(body) == 0:
		return nil, nil
	}
	return body, checkMediaType(r, "application/json")
}

// decodeJSON reads one JSON object strictly into what into points to. The
// errors are of ca.KindMalformed and name the field.
//
// Beyond what encoding/json does, names must match exactly (it would take
// "DEVICEID" for "deviceId"), may stand once, and must be known; and text must
// be UTF-8. Its second version does all that; what that refuses is walked
// through, to say where it is wrong.
func decodeJSON(body []byte, into any) error {
	if !utf8.Valid(body) {
		return ca.Errorf(ca.KindMalformed, "", "send UTF-8", "the body is not UTF-8")
	}
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 {
		return ca.Errorf(ca.KindMalformed, "", "send a JSON object", "the body is empty")
	} else if trimmed[0] != '{' {
		return ca.Errorf(ca.KindMalformed, "", "send a JSON object", "the body is not a JSON object")
	}
	if jsonv2.Unmarshal(body, into, jsonv2.RejectUnknownMembers(true)) == nil {
		return nil
	}
	reflect.ValueOf(into).Elem().SetZero() // of what was read before the fault
	if !json.Valid(body) {
		return syntaxError(body)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := checkFields(dec, reflect.TypeOf(into).Elem(), ""); err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return ca.Errorf(ca.KindMalformed, "", "", "the body cannot be read: %w", err)
	}
	return nil
}

func syntaxError(body []byte) error {
	var syntax *json.SyntaxError
	err := json.Unmarshal(body, new(any))
	if errors.As(err, &syntax) {
		return ca.Errorf(ca.KindMalformed, "", "send one JSON object and nothing after it",
			"the body is not JSON at byte %d: %s", syntax.Offset, syntax.Error())
	}
	return ca.Errorf(ca.KindMalformed, "", "send one JSON object and nothing after it", "the body is not JSON")
}

var timeType = reflect.TypeFor[time.Time]()

// checkFields reads the next value, walking beside the type that it is for:
// names and types, at every depth, so that the error can say where.
func checkFields(dec *json.Decoder, t reflect.Type, path string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	token, err := dec.Token()
	if err != nil {
		return fmt.Errorf("read a JSON token: %w", err) // json.Valid said otherwise
	}
	if !fits(token, t) {
		name, example := typeName(t)
		return ca.Errorf(ca.KindMalformed, path, "write it as "+example, "is %s where %s belongs", tokenName(token), name)
	}
	switch token {
	case json.Delim('{'):
		err = checkObject(dec, t, path)
	case json.Delim('['):
		for n := 0; err == nil && dec.More(); n++ {
			err = checkFields(dec, t.Elem(), fmt.Sprintf("%s[%d]", path, n))
		}
	default:
		if text, ok := token.(string); ok && t == timeType {
			return checkTime(text, path)
		}
		return nil
	}
	if err == nil {
		_, err = dec.Token() // the closing bracket
	}
	return err
}

func checkObject(dec *json.Decoder, t reflect.Type, path string) error {
	var fields map[string]reflect.Type // nil for a map, which takes any name
	if t.Kind() == reflect.Struct {
		fields = fieldsOf(t)
	}
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return fmt.Errorf("read a JSON name: %w", err)
		}
		name, _ := token.(string)
		at := shorten(name)
		if path != "" {
			at = path + "." + at
		}
		if seen[name] {
			return ca.Errorf(ca.KindMalformed, at, "give it once", "is given twice")
		}
		seen[name] = true
		next, known := fields[name]
		if fields == nil {
			next = t.Elem()
		} else if !known {
			return unknownField(at, fields)
		}
		if err := checkFields(dec, next, at); err != nil {
			return err
		}
	}
	return nil
}

// fits reports whether a value that begins with the token can be of the type.
// null can be of any: it leaves the field as it is.
func fits(token json.Token, t reflect.Type) bool {
	switch v := token.(type) {
	case string:
		return t.Kind() == reflect.String || t == timeType
	case bool:
		return t.Kind() == reflect.Bool
	case json.Number:
		return numberFits(string(v), t)
	case json.Delim:
		if v == '[' {
			return t.Kind() == reflect.Slice || t.Kind() == reflect.Array
		}
		return t.Kind() == reflect.Map || t.Kind() == reflect.Struct && t != timeType
	}
	return true
}

func numberFits(text string, t reflect.Type) bool {
	var err error
	switch {
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64:
		_, err = strconv.ParseInt(text, 10, t.Bits())
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64:
		_, err = strconv.ParseUint(text, 10, t.Bits())
	case t.Kind() == reflect.Float32, t.Kind() == reflect.Float64:
		_, err = strconv.ParseFloat(text, t.Bits())
	default:
		return false
	}
	return err == nil
}

func unknownField(at string, fields map[string]reflect.Type) error {
	hint := "this call takes no fields"
	if len(fields) > 0 {
		hint = "the fields are " + strings.Join(slices.Sorted(maps.Keys(fields)), ", ")
	}
	return ca.Errorf(ca.KindMalformed, at, hint, "is not a field")
}

// timeExample is how a time is written (RFC 3339).
const timeExample = "2006-01-02T15:04:05Z"

func checkTime(text, path string) error {
	if _, err := time.Parse(time.RFC3339, text); err != nil {
		return ca.Errorf(ca.KindMalformed, path, "give it as "+timeExample, "%.64q is not a time of RFC 3339", text)
	}
	return nil
}

// knownFields are what fieldsOf found, by type.
var knownFields sync.Map

// fieldsOf returns a struct's JSON fields by name, those of embedded structs
// among them.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if fields, ok := knownFields.Load(t); ok {
		return fields.(map[string]reflect.Type)
	}
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || f.Anonymous && name == "" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fields[name] = f.Type
	}
	knownFields.Store(t, fields)
	return fields
}

// tokenName says what JSON a token begins.
func tokenName(token json.Token) string {
	switch v := token.(type) {
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case json.Number:
		return "the number " + shorten(string(v))
	case json.Delim:
		if v == '[' {
			return "a list"
		}
		return "an object"
	}
	return "null"
}

// typeName says what JSON is for a type, and how it is written.
func typeName(t reflect.Type) (name, example string) {
	if t == timeType {
		return "a time", `"` + timeExample + `"`
	}
	switch t.Kind() {
	case reflect.String:
		return "a string", `"text"`
	case reflect.Bool:
		return "a boolean", "true or false"
	case reflect.Slice, reflect.Array:
		return "a list", "[...]"
	case reflect.Map, reflect.Struct:
		return "an object", "{...}"
	case reflect.Float32, reflect.Float64:
		return "a number", "1.5, without quotes"
	}
	return "a whole number", "digits, without quotes"
}

// shorten bounds what is echoed of a client's name.
func shorten(name string) string {
	const most = 64
	if len(name) <= most {
		return name
	}
	return strings.ToValidUTF8(name[:most], "") + "..."
}
