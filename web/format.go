package web

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// functions are what templates can call.
func (s *Site) functions() template.FuncMap {
	return template.FuncMap{
		"asset":  func(name string) string { return s.assets[name].url },
		"time":   showTime,
		"day":    func(t time.Time) string { return t.UTC().Format("2 Jan 2006") },
		"ago":    func(t time.Time) string { return spanText(s.now().Sub(t)) + " ago" },
		"until":  func(t time.Time) string { return untilText(t.Sub(s.now())) },
		"tone":   tone,
		"short":  shorten,
		"colons": colons,
		"json":   indentJSON,
		"join":   func(list []string) string { return strings.Join(list, ", ") },
		"count": func(n int64, one, many string) string {
			return fmt.Sprintf("%s %s", grouped(n), pick(n == 1, one, many))
		},
		"grouped":  grouped,
		"int64":    func(n int) int64 { return int64(n) },
		"duration": milliseconds,
		"tokenState": func(t *enroll.APIToken) string {
			return pick(t.Disabled, "ended", pick(s.now().Before(t.ExpiresAt), "active", "expired"))
		},
		"words": words,

		"attributes":     attributesInShort,
		"names":          func(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) },
		"deviceURL":      deviceURL,
		"certificateURL": certificateURL,
		"revocationURL":  revocationURL,
		"bulkURL":        bulkURL,
		"segment":        url.PathEscape,
		"enforcement":    enforcementText,
		"cut":            func(n int, text any) string { return cut(fmt.Sprint(text), n) },
		"dict":           dict,
	}
}

// dict returns names and values as a map, for templates that take several.
func dict(pairs ...any) (map[string]any, error) {
	m := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict: %v is no name", pairs[i])
		}
		m[name] = pairs[i+1]
	}
	return m, nil
}

// showTime returns a time as UTC; the script shows the local one beside it.
func showTime(v any) template.HTML {
	var t time.Time
	switch v := v.(type) {
	case time.Time:
		t = v
	case *time.Time:
		if v != nil {
			t = *v
		}
	}
	if t.IsZero() {
		return "–"
	}
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s">%s UTC</time>`, t.Format(time.RFC3339), t.Format("2006-01-02 15:04:05"))) //nolint:gosec // made of digits
}

// units of spans, the largest first.
var units = []struct {
	length    time.Duration
	one, many string
}{
	{365 * 24 * time.Hour, "year", "years"},
	{24 * time.Hour, "day", "days"},
	{time.Hour, "hour", "hours"},
	{time.Minute, "minute", "minutes"},
	{time.Second, "second", "seconds"},
}

// spanText returns a span in its largest whole unit, or the one below while
// there are fewer than two of it.
func spanText(d time.Duration) string {
	d = d.Abs()
	for _, u := range units {
		if n := int64(d / u.length); n >= 2 || n == 1 && u.length <= time.Minute {
			return fmt.Sprintf("%d %s", n, pick(n == 1, u.one, u.many))
		}
	}
	return "a moment"
}

func untilText(d time.Duration) string {
	if d < 0 {
		return spanText(d) + " ago"
	}
	return "in " + spanText(d)
}

func pick(cond bool, yes, no string) string {
	if cond {
		return yes
	}
	return no
}

// milliseconds returns a duration for a person.
func milliseconds(ms any) string {
	switch n := ms.(type) {
	case int64:
		return millisecondsText(float64(n))
	case float64:
		return millisecondsText(n)
	}
	return ""
}

func millisecondsText(ms float64) string {
	switch {
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 10_000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}

// grouped returns a number with its thousands apart.
func grouped(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

// cut returns the first n characters of a text.
func cut(text string, n int) string {
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	return string(runes[:n-1]) + "…"
}

// shorten returns the ends of a long word, such as a serial number: many begin
// with the time, and those of one second begin alike.
func shorten(v any) string {
	text := fmt.Sprint(v)
	if len(text) <= 16 {
		return text
	}
	return text[:6] + "…" + text[len(text)-6:]
}

// colons returns hex with a colon between bytes.
func colons(b []byte) string {
	parts := make([]string, len(b))
	for i := range b {
		parts[i] = hex.EncodeToString(b[i : i+1])
	}
	return strings.Join(parts, ":")
}

func indentJSON(v any) (string, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return string(b), err
}

// tones says what states mean, for their colour and sign: every state has its
// word beside it.
var tones = map[string][]string{
	"ok":   {"admitted", "refused", "good", "active", "verified", "proven", "done", "pass", "open", "ok", "enabled", "established", "connected", "secure", "secure_channel_ready", "certificate_verified", "ready", servedSame},
	"warn": {"not admitted", "not refused", "held", "unproven", "rolled-back", "warn", "warning", "inconclusive", "stale"},
	"bad":  {"revoked", "failing", "failed", "fail", "error", "expired", "critical", "lapsed", "disabled", "unusable", servedOther, "no issuer"},
	"wait": {"running", "pending", "in_progress", "registered", "created", "published", "waiting"},
}

// tone returns the tone of a state; "off" for what says neither good nor bad.
func tone(state any) string {
	text := fmt.Sprint(state)
	for tone, states := range tones {
		if slices.Contains(states, text) {
			return tone
		}
	}
	return "off"
}
