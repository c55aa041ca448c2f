package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A Problem is a refusal by the server (RFC 9457).
type Problem struct {
	Type       string        `json:"type"` // urn:fleetca:problem:KIND
	Title      string        `json:"title"`
	Status     int           `json:"status"`
	Detail     string        `json:"detail,omitempty"`
	RequestID  string        `json:"requestId,omitempty"` // the server's log has it
	Errors     []FieldError  `json:"errors,omitempty"`
	RetryAfter time.Duration `json:"-"` // of a 429 or 503; zero for none
}

// A FieldError says what is wrong with one field and what to do about it.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Kind returns the kind of error, empty when the answer was not fleetca's.
func (p *Problem) Kind() ca.Kind {
	kind, _ := strings.CutPrefix(p.Type, "urn:fleetca:problem:")
	if kind == p.Type {
		return ""
	}
	return ca.Kind(kind)
}

// Field returns the request field at fault; empty when it is none.
func (p *Problem) Field() string {
	if len(p.Errors) == 0 {
		return ""
	}
	return p.Errors[0].Field
}

// Hint returns the next step to take; empty when the server gave none.
func (p *Problem) Hint() string {
	for _, e := range p.Errors {
		if e.Hint != "" {
			return e.Hint
		}
	}
	return ""
}

// Error says what the server refused, with the request's id where only its log
// knows more.
func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	if p.Status >= 500 && p.RequestID != "" {
		text += " (request " + p.RequestID + ")"
	}
	return text
}

// Is makes errors.Is(err, ca.IsKind(kind)) ask for a problem's kind.
func (p *Problem) Is(target error) bool {
	t, ok := target.(*ca.Error)
	return ok && t.Message == "" && t.Kind != "" && t.Kind == p.Kind()
}

// problemOf reads the problem of an answer that is no success.
func problemOf(resp *http.Response) error {
	p := &Problem{}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || json.Unmarshal(text, p) != nil || p.Kind() == "" {
		p = &Problem{
			Type: "about:blank", Title: http.StatusText(resp.StatusCode),
			Detail: fmt.Sprintf("%s answered %s, and not as a fleetca server", resp.Request.URL.Host, resp.Status),
			Errors: []FieldError{{Message: "no problem document", Hint: "check the server's URL; a proxy may have answered"}},
		}
	}
	p.Status = resp.StatusCode
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		p.RetryAfter = time.Duration(seconds) * time.Second
	}
	return p
}
