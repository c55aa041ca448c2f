package enroll

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fleetca/fleetca/ca"
)

// A DeviceFilter narrows a listing of devices; empty fields do not. All that
// are given must hold. ParseQuery reads one from text, Query writes it.
type DeviceFilter struct {
	Status     DeviceStatus
	Group      string
	WorkOrder  string
	Serial     string            // first digits of the serial number of one of its certificates, lower-case hex
	Attributes map[string]string // name and value, exactly
	Prefix     string            // first characters of the id
	Match      string            // id, group or an attribute's value matches this, with * for any text; case of ASCII letters apart

	// Of the last good certificate to expire, in whole hours. Under and Over
	// leave out what has expired already.
	ExpiresUnder time.Duration // in less than this
	ExpiresOver  time.Duration // in more than this
	Expired      bool          // it has
}

// Bounds of a query.
const (
	maxQuery           = 4096 // octets
	maxQueryAttributes = 8
	maxExpiry          = 100 * 365 * 24 * time.Hour
)

var (
	serialPrefix = regexp.MustCompile(`^[0-9a-f]{1,40}$`)
	expiryTerm   = regexp.MustCompile(`^([1-9][0-9]{0,5})([hdwy])$`)
)

// expiryUnits are the units of durations in queries, the longest first.
var expiryUnits = []struct {
	letter string
	length time.Duration
}{{"y", 365 * 24 * time.Hour}, {"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour}}

// ParseQuery reads what a person types to find devices: terms between spaces,
// all of which must hold, each at most once but for attributes.
//
//	status:active        registered, active, held, revoked or retired
//	group:hall-2         the group
//	order:WO-7           the work order
//	serial:ab12          a certificate's serial number begins so
//	expires<30d          the last good certificate expires within 30 days (h, d, w, y)
//	expires>7d           and not within 7
//	expires:expired      it has expired
//	attr.site:"Hall 2"   an attribute, exactly
//	pump-00              the id begins so
//	*pump*               id, group or an attribute's value holds this
//
// What holds spaces or one of : < > " \ is quoted, with \ before " and \. An
// error is of ca.KindMalformed, and names the term and what is allowed.
func ParseQuery(text string) (DeviceFilter, error) {
	var f DeviceFilter
	if len(text) > maxQuery {
		return f, badQuery("shorten it", "is %d octets long, more than %d", len(text), maxQuery)
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && !unicode.IsSpace(r) }) {
		return f, badQuery("leave control characters out", "holds control characters, or is not UTF-8")
	}
	terms, err := splitQuery(text)
	if err != nil {
		return f, err
	}
	for _, t := range terms {
		if err := f.add(t); err != nil {
			return DeviceFilter{}, err
		}
	}
	if f.Expired && (f.ExpiresUnder > 0 || f.ExpiresOver > 0) {
		return DeviceFilter{}, badQuery("give one of them", "expires:expired stands beside another term about expiry")
	}
	return f, nil
}

func badQuery(hint, format string, args ...any) error {
	return ca.Errorf(ca.KindMalformed, "q", hint, format, args...)
}

// A queryTerm is one term: name, operator and value, or (no operator) text.
type queryTerm struct {
	name, value string
	operator    rune   // : < > or 0
	text        string // as it was written, for errors
}

// splitQuery cuts a query into its terms.
func splitQuery(text string) ([]queryTerm, error) {
	var terms []queryTerm
	for {
		text = strings.TrimLeftFunc(text, unicode.IsSpace)
		if text == "" {
			return terms, nil
		}
		t, rest, err := cutTerm(text)
		if err != nil {
			return nil, err
		}
		terms, text = append(terms, t), rest
	}
}

// cutTerm reads the first term of a text that begins with one.
func cutTerm(text string) (t queryTerm, rest string, err error) {
	var part strings.Builder
	quoted, escaped := false, false
	end := len(text)
	for i, r := range text {
		switch {
		case escaped:
			part.WriteRune(r)
			escaped = false
			continue
		case quoted && r == '\\':
			escaped = true
			continue
		case r == '"':
			quoted = !quoted
			continue
		case quoted:
		case unicode.IsSpace(r):
			end = i
		case t.operator == 0 && strings.ContainsRune(":<>", r):
			t.name, t.operator = part.String(), r
			part.Reset()
			continue
		}
		if end < len(text) {
			break
		}
		part.WriteRune(r)
	}
	t.value, t.text = part.String(), text[:end]
	if quoted || escaped {
		return t, "", badQuery(`write the closing "`, "%.80q has no closing quote", t.text)
	}
	return t, text[end:], nil
}

// queryTerms reads the value of each term that has a name; the operator is
// part of its key.
var queryTerms = map[string]func(f *DeviceFilter, value string) error{
	"status:": func(f *DeviceFilter, value string) error {
		if !slices.Contains(DeviceStatuses(), DeviceStatus(value)) {
			return fmt.Errorf("status is one of %s", joined(DeviceStatuses()))
		}
		return once(&f.Status, DeviceStatus(value))
	},
	"group:": func(f *DeviceFilter, value string) error { return onceID(&f.Group, value) },
	"order:": func(f *DeviceFilter, value string) error { return onceID(&f.WorkOrder, value) },
	"serial:": func(f *DeviceFilter, value string) error {
		value = strings.ToLower(strings.ReplaceAll(value, ":", "")) // as openssl writes it
		if !serialPrefix.MatchString(value) {
			return fmt.Errorf("give the first hexadecimal digits of a serial number")
		}
		return once(&f.Serial, value)
	},
	"expires<": func(f *DeviceFilter, value string) error { return onceExpiry(&f.ExpiresUnder, value) },
	"expires>": func(f *DeviceFilter, value string) error { return onceExpiry(&f.ExpiresOver, value) },
	"expires:": func(f *DeviceFilter, value string) error {
		if value != "expired" {
			return fmt.Errorf("write expires:expired, expires<30d or expires>7d")
		}
		return once(&f.Expired, true)
	},
}

const allowedTerms = "terms are status: group: order: serial: expires< expires> expires:expired attr.NAME: and text; quote text that holds : < or >"

// add takes a term into the filter.
func (f *DeviceFilter) add(t queryTerm) error {
	var err error
	name, isAttribute := strings.CutPrefix(t.name, "attr.")
	switch read := queryTerms[t.name+string(t.operator)]; {
	case t.operator == 0:
		err = f.addText(t.value)
	case read != nil:
		err = read(f, t.value)
	case isAttribute && t.operator == ':':
		err = f.addAttribute(name, t.value)
	default:
		return badQuery(allowedTerms, "%.80q is no term that is known", t.text)
	}
	if err != nil {
		return badQuery(err.Error(), "%.80q cannot be used", t.text)
	}
	return nil
}

// addText takes text without a name: a pattern, or the beginning of an id.
func (f *DeviceFilter) addText(text string) error {
	if strings.Contains(text, "*") {
		if strings.Trim(text, "*") == "" || len(text) > 128 {
			return fmt.Errorf("give 1 to 127 octets beside the *")
		}
		return once(&f.Match, text)
	}
	if !idPattern.MatchString(text) {
		return fmt.Errorf("ids hold A-Z a-z 0-9 . _ - alone, at most 64; with * it is looked for everywhere")
	}
	return once(&f.Prefix, text)
}

func (f *DeviceFilter) addAttribute(name, value string) error {
	if err := checkAttributes(map[string]string{name: value}); err != nil {
		return fmt.Errorf("write attr.NAME:VALUE, with quotes around what holds spaces")
	}
	if _, twice := f.Attributes[name]; twice {
		return errTwice
	}
	if len(f.Attributes) == maxQueryAttributes {
		return fmt.Errorf("give at most %d attributes", maxQueryAttributes)
	}
	if f.Attributes == nil {
		f.Attributes = map[string]string{}
	}
	f.Attributes[name] = value
	return nil
}

var errTwice = fmt.Errorf("such a term stands there already: give one")

// once sets a field that is not set yet.
func once[T comparable](field *T, value T) error {
	var none T
	if *field != none {
		return errTwice
	}
	*field = value
	return nil
}

func onceID(field *string, value string) error {
	if checkID("", value) != nil {
		return fmt.Errorf("give 1 to 64 of A-Z a-z 0-9 . _ -")
	}
	return once(field, value)
}

func onceExpiry(field *time.Duration, value string) error {
	allowed := errors.New("write a number and h, d, w or y, such as 30d; at most 100y")
	m := expiryTerm.FindStringSubmatch(value)
	if m == nil {
		return allowed
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return allowed
	}
	for _, u := range expiryUnits {
		if u.letter == m[2] && time.Duration(n) <= maxExpiry/u.length {
			return once(field, time.Duration(n)*u.length)
		}
	}
	return allowed
}

// Query writes the filter as ParseQuery reads it. The empty filter is empty
// text.
func (f DeviceFilter) Query() string {
	var terms []string
	add := func(name, value string) {
		if value != "" {
			terms = append(terms, name+quoteTerm(value))
		}
	}
	add("status:", string(f.Status))
	add("group:", f.Group)
	add("order:", f.WorkOrder)
	add("serial:", f.Serial)
	add("expires<", expiryText(f.ExpiresUnder))
	add("expires>", expiryText(f.ExpiresOver))
	if f.Expired {
		add("expires:", "expired")
	}
	for _, name := range slices.Sorted(maps.Keys(f.Attributes)) {
		terms = append(terms, "attr."+quoteTerm(name)+":"+quoteTerm(f.Attributes[name]))
	}
	add("", f.Prefix)
	add("", f.Match)
	return strings.Join(terms, " ")
}

// expiryText writes a duration in the longest unit that divides it.
func expiryText(d time.Duration) string {
	for _, u := range expiryUnits {
		if d > 0 && d%u.length == 0 {
			return strconv.FormatInt(int64(d/u.length), 10) + u.letter
		}
	}
	return ""
}

// quoteTerm quotes what cannot stand in a query as it is.
func quoteTerm(text string) string {
	if text != "" && !strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`:<>"\`, r) }) {
		return text
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// Holds reports whether a device has the filter's attributes and matches its
// pattern: what an index cannot tell exactly.
func (f DeviceFilter) Holds(d *Device) bool {
	for name, value := range f.Attributes {
		if got, ok := d.Attributes[name]; !ok || got != value {
			return false
		}
	}
	if f.Match == "" {
		return true
	}
	pattern := f.Pattern()
	if globMatches(pattern, lowerASCII(d.ID)) || d.Group != "" && globMatches(pattern, lowerASCII(d.Group)) {
		return true
	}
	for _, value := range d.Attributes {
		if globMatches(pattern, lowerASCII(value)) {
			return true
		}
	}
	return false
}

// Pattern returns Match in lower case, as far as it counts: ASCII letters.
func (f DeviceFilter) Pattern() string { return lowerASCII(f.Match) }

// globMatches reports whether a whole text matches a pattern in which * stands
// for any text.
func globMatches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	first, last := parts[0], parts[len(parts)-1]
	if len(parts) == 1 {
		return pattern == text
	}
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return true
}

// lowerASCII lowers the case of ASCII letters alone, as databases do.
func lowerASCII(text string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, text)
}

// joined writes values for a person.
func joined[T ~string](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = string(v)
	}
	return strings.Join(texts, ", ")
}
