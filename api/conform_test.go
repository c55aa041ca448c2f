package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/fleetca/fleetca/api"
	"github.com/fleetca/fleetca/enroll/leaktest"
)

// A conformance holds every exchange of the tests against the OpenAPI
// document: what was answered in every case, and what was asked where the
// service took it. Answers may hold nothing but what the document names.
type conformance struct {
	paths map[string]any

	mu       sync.Mutex
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema // by URL
	seen     map[string]bool               // "operationId status"
	wrong    map[string]bool
}

// URLs of the document: as it is, for requests, and without room for more, for
// answers.
const (
	requestsURL = "https://fleetca.test/requests.json"
	answersURL  = "https://fleetca.test/answers.json"
)

func newConformance() (*conformance, error) {
	c := &conformance{compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}, seen: map[string]bool{}, wrong: map[string]bool{}}
	c.compiler.AssertFormat()
	for _, at := range []string{requestsURL, answersURL} {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(api.OpenAPI()))
		if err != nil {
			return nil, err
		}
		c.paths = doc.(map[string]any)["paths"].(map[string]any)
		if at == answersURL {
			tighten(doc)
		}
		if err := c.compiler.AddResource(at, doc); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// tighten refuses properties that are not in the document, and times that are
// not in UTC.
func tighten(v any) {
	switch v := v.(type) {
	case map[string]any:
		if v["type"] == "object" && v["properties"] != nil && v["additionalProperties"] == nil {
			v["additionalProperties"] = false
		}
		if v["format"] == "date-time" {
			v["pattern"] = "Z$"
		}
		for _, inner := range v {
			tighten(inner)
		}
	case []any:
		for _, inner := range v {
			tighten(inner)
		}
	}
}

// watch returns the handler with every exchange checked. What is sent and read
// passes at once: batches go both ways at the same time.
func (c *conformance) watch(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pattern, params := c.find(r)
		if pattern == "" {
			h.ServeHTTP(w, r)
			return
		}
		asked, answer := &bytes.Buffer{}, &answered{ResponseWriter: w}
		r.Body = &teeBody{ReadCloser: r.Body, into: asked}
		h.ServeHTTP(answer, r)
		leaktest.Write(r.Method + " " + r.URL.String()) // URLs, and errors, are not to show a secret
		if answer.status >= http.StatusBadRequest {
			leaktest.Write(answer.body.String())
		}
		if r.Method == http.MethodGet || r.Method == http.MethodPost {
			c.check(r, pattern, params, asked.Bytes(), answer)
		}
	})
}

type teeBody struct {
	io.ReadCloser
	into *bytes.Buffer
}

func (b *teeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.into.Write(p[:n])
	return n, err
}

type answered struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (w *answered) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *answered) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.body.Write(b)
	return w.ResponseWriter.Write(b)
}

func (w *answered) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// find returns the document's path that a request is for, with its parameters;
// "" for none.
func (c *conformance) find(r *http.Request) (pattern string, params map[string]string) {
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api/v1")
	if !ok {
		return "", nil
	}
	given := strings.Split(rest, "/")
	for _, pattern := range slices.Sorted(maps.Keys(c.paths)) {
		parts := strings.Split(pattern, "/")
		params, same := map[string]string{}, len(parts) == len(given) && c.paths[pattern].(map[string]any)[strings.ToLower(r.Method)] != nil
		for i := 0; same && i < len(parts); i++ {
			if name, isParam := strings.CutPrefix(parts[i], "{"); isParam {
				params[strings.TrimSuffix(name, "}")], _ = url.PathUnescape(given[i])
			} else {
				same = parts[i] == given[i]
			}
		}
		if same {
			return pattern, params
		}
	}
	return "", nil
}

// check holds one exchange against its operation.
func (c *conformance) check(r *http.Request, pattern string, params map[string]string, asked []byte, answer *answered) {
	if answer.status == 0 {
		answer.status = http.StatusOK // what net/http sends for an empty answer
	}
	method, status := strings.ToLower(r.Method), strconv.Itoa(answer.status)
	op := c.paths[pattern].(map[string]any)[method].(map[string]any)
	at := pointer("paths", pattern, method)
	call := op["operationId"].(string) + " " + status
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[call] = true
	if err := c.checkAnswer(op, at, status, answer); err != nil {
		c.wrong[fmt.Sprintf("answer of %s: %v\n%s", call, err, shortened(answer.body.Bytes()))] = true
	}
	if answer.status >= 400 {
		return
	}
	if err := errors.Join(c.checkParameters(op, at, r, params), c.checkBody(op, at, r, asked, answer)); err != nil {
		c.wrong[fmt.Sprintf("request of %s: %v\n%s %s", call, err, r.URL, shortened(asked))] = true
	}
}

func (c *conformance) checkAnswer(op map[string]any, at, status string, answer *answered) error {
	response, ok := op["responses"].(map[string]any)[status].(map[string]any)
	if !ok {
		return errors.New("the document has no such status")
	}
	at += pointer("responses", status)
	h := answer.Header()
	documented, _ := response["headers"].(map[string]any)
	for _, name := range []string{"Location", "Retry-After", "WWW-Authenticate", "ETag", "X-Request-Id", "Idempotent-Replayed"} {
		// Of a replay it says that it is one; it may say where the first one is.
		if want, given := documented[name] != nil, h.Get(name) != ""; want != given && (name != "Idempotent-Replayed" || given) && (name != "Location" || h.Get("Idempotent-Replayed") == "") {
			return fmt.Errorf("header %s: in the document %v, in the answer %v", name, want, given)
		}
	}
	if location := h.Get("Location"); location != "" && documented["Location"] != nil {
		if err := c.validate(answersURL, at+pointer("headers", "Location", "schema"), location); err != nil {
			return err
		}
	}
	content, _ := response["content"].(map[string]any)
	media, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	if content[media] == nil {
		if len(content) == 0 && answer.body.Len() == 0 {
			return nil
		}
		return fmt.Errorf("the document has no %q", media)
	}
	return c.validateBody(answersURL, at+pointer("content", media, "schema"), media, answer.body.Bytes())
}

// checkParameters holds parameters that the service took against the document.
func (c *conformance) checkParameters(op map[string]any, at string, r *http.Request, path map[string]string) error {
	given := map[string]any{}
	for name, value := range path {
		given["path "+name] = value
	}
	for name, values := range r.URL.Query() {
		given["query "+name] = values[0]
		if n, err := strconv.Atoi(values[0]); err == nil && name == "limit" {
			given["query "+name] = n
		}
	}
	if key := r.Header.Get("Idempotency-Key"); key != "" {
		given["header Idempotency-Key"] = key
	}
	parameters, _ := op["parameters"].([]any)
	for i, p := range parameters {
		p, where := p.(map[string]any), at+pointer("parameters", strconv.Itoa(i))
		name := fmt.Sprint(p["in"], " ", p["name"])
		if ref, ok := p["$ref"].(string); ok {
			where = strings.TrimPrefix(ref, "#")
			name = "query " + ref[strings.LastIndex(ref, "/")+1:]
			if strings.HasSuffix(ref, "/Idempotency-Key") {
				name = "header Idempotency-Key"
			}
		}
		if value, ok := given[name]; ok {
			if err := c.validate(requestsURL, where+pointer("schema"), value); err != nil {
				return err
			}
			delete(given, name)
		}
	}
	if len(given) > 0 {
		return fmt.Errorf("the document has no parameters %v", given)
	}
	return nil
}

// checkBody holds a body that the service took against the document; of a
// batch, the lines that it took.
func (c *conformance) checkBody(op map[string]any, at string, r *http.Request, asked []byte, answer *answered) error {
	body, _ := op["requestBody"].(map[string]any)
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	at += pointer("requestBody", "content", media, "schema")
	switch {
	case len(asked) == 0:
		if body["required"] == true {
			return errors.New("the document requires a body")
		}
		return nil
	case body == nil || body["content"].(map[string]any)[media] == nil:
		return fmt.Errorf("the document takes no %q", media)
	case media == "application/json":
		return c.validateBody(requestsURL, at, media, asked)
	}
	lines := slices.DeleteFunc(bytes.Split(asked, []byte("\n")), func(l []byte) bool { return len(bytes.TrimSpace(l)) == 0 })
	for result := range bytes.Lines(answer.body.Bytes()) {
		var r struct{ Index, Status int }
		if err := json.Unmarshal(result, &r); err != nil {
			return err
		}
		if r.Status < 400 {
			if err := c.validateBody(requestsURL, at, "application/json", lines[r.Index]); err != nil {
				return fmt.Errorf("line %d: %w", r.Index, err)
			}
		}
	}
	return nil
}

// validateBody validates JSON, lines of it, or text.
func (c *conformance) validateBody(doc, at, media string, body []byte) error {
	switch {
	case media == "application/x-ndjson":
		for line := range bytes.Lines(body) {
			if err := c.validateBody(doc, at, "application/json", line); err != nil {
				return err
			}
		}
		return nil
	case !strings.HasSuffix(media, "json"):
		return c.validate(doc, at, string(body))
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return c.validate(doc, at, v)
}

// validate holds a value against the schema at a place of the document.
func (c *conformance) validate(doc, at string, v any) error {
	at = doc + "#" + at
	s := c.schemas[at]
	if s == nil {
		var err error
		if s, err = c.compiler.Compile(at); err != nil {
			return err
		}
		c.schemas[at] = s
	}
	return s.Validate(v)
}

// pointer returns a JSON pointer as a part of a URL's fragment.
func pointer(parts ...string) string {
	var b strings.Builder
	for _, part := range parts {
		b.WriteString("/" + url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(part)))
	}
	return b.String()
}

func shortened(body []byte) string {
	const most = 400
	if len(body) > most {
		return string(body[:most]) + "..."
	}
	return string(body)
}

// verdict returns what did not conform, and, when everything was run, which
// calls were never answered with success.
func (c *conformance) verdict(everything bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, text := range slices.Sorted(maps.Keys(c.wrong)) {
		errs = append(errs, errors.New(text))
	}
	for _, rt := range api.Routes() {
		if success := fmt.Sprint(rt.Name, " ", rt.Status); everything && !c.seen[success] {
			errs = append(errs, fmt.Errorf("%s was never seen in a test", success))
		}
	}
	return errors.Join(errs...)
}
