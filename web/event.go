package web

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fleetca/fleetca/enroll"
)

// A shownEvent is an event of a timeline as a person sees it.
type shownEvent struct {
	*enroll.Event
	Page  string // about its subject; empty for none
	Facts string // its detail, in one line
}

func (v *visit) showEvent(e *enroll.Event) shownEvent {
	return shownEvent{Event: e, Page: v.pageOf(e.Subject), Facts: factsOf(e.Detail)}
}

// factShown is how many characters of a fact stand in a line.
const factShown = 28

// factsOf returns the fields of a JSON object in one line, by name; what is
// empty is left out.
func factsOf(detail json.RawMessage) string {
	var fields map[string]any
	if err := json.Unmarshal(detail, &fields); err != nil {
		return cut(string(detail), factShown) // never of ours: events hold objects
	}
	var facts []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		text, ok := fields[name].(string)
		if !ok {
			b, err := json.Marshal(fields[name])
			if err != nil {
				panic(fmt.Sprintf("field of an event: %v", err)) // it was JSON a moment ago
			}
			text = string(b)
		}
		if text != "" && text != "null" {
			facts = append(facts, name+" "+cut(text, factShown))
		}
	}
	return strings.Join(facts, " · ")
}
