package store

import (
	"encoding/json"
	"fmt"
	"time"
)

// micros returns t as the database keeps it: UTC microseconds since 1970, 0
// for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// fromMicros is the inverse of micros.
func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// bit returns b as the database keeps it.
func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// jsonOf returns v as JSON text. v is one of our own types.
func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", v, err))
	}
	return string(b)
}

// listText returns a list as JSON text, [] for an empty one.
func listText[T any](list []T) string {
	if len(list) == 0 {
		return "[]"
	}
	return jsonOf(list)
}

// atTime scans a column of microseconds into a time.
type atTime struct{ t *time.Time }

// Scan implements sql.Scanner.
func (a atTime) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a time is %T, not an integer", v)
	}
	*a.t = fromMicros(n)
	return nil
}

// atSome scans a column of microseconds into a time that may be missing.
type atSome struct{ t **time.Time }

// Scan implements sql.Scanner.
func (a atSome) Scan(v any) error {
	var t time.Time
	if err := (atTime{&t}).Scan(v); err != nil {
		return err
	}
	*a.t = nil
	if !t.IsZero() {
		*a.t = &t
	}
	return nil
}

// asBool scans a column of 0 or 1.
type asBool struct{ b *bool }

// Scan implements sql.Scanner.
func (a asBool) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a flag is %T, not an integer", v)
	}
	*a.b = n != 0
	return nil
}

// asInt scans a column into an int.
type asInt struct{ n *int }

// Scan implements sql.Scanner.
func (a asInt) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a number is %T, not an integer", v)
	}
	*a.n = int(n)
	return nil
}

// fromJSON scans a column of JSON text; empty text leaves the value alone.
type fromJSON struct{ v any }

// Scan implements sql.Scanner.
func (f fromJSON) Scan(v any) error {
	var text []byte
	switch v := v.(type) {
	case string:
		text = []byte(v)
	case []byte:
		text = v
	default:
		return fmt.Errorf("JSON is %T, not text", v)
	}
	if len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, f.v)
}
