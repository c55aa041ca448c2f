package store

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Limits of a page.
const (
	defaultPage = 100
	maxPage     = 500
)

// A listing is one kind of list, read by keyset: the next page begins after
// the last item of this one, whatever was inserted or removed meanwhile.
type listing[T any] struct {
	name    string // of the list; a cursor of another list is refused
	query   string // SELECT ... FROM ..., without WHERE
	byTime  string // column that sorts first; empty when id sorts alone
	id      string // column that makes the order unique
	newest  bool   // highest first
	scan    func(scanner) (T, error)
	keyOf   func(T) key
	filters []filter
}

// A key is where an item stands in its listing.
type key struct {
	Time int64
	ID   string
}

// A filter is a condition with one argument, written with ? for it, or none.
type filter struct {
	condition string
	arg       any
}

// equals narrows a listing to a column's value; an empty value does not.
func (l *listing[T]) equals(column, value string) {
	if value != "" {
		l.filters = append(l.filters, filter{column + " = ?", value})
	}
}

// page reads one page and returns the cursor of the next, empty at the end.
func (l *listing[T]) page(ctx context.Context, q querier, p enroll.Page) ([]T, string, error) {
	if p.Limit <= 0 {
		p.Limit = defaultPage
	}
	p.Limit = min(p.Limit, maxPage)
	var where []string
	var args []any
	add := func(condition string, values ...any) {
		for _, v := range values {
			args = append(args, v)
			condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(args)), 1)
		}
		where = append(where, condition)
	}
	for _, f := range l.filters {
		if strings.Contains(f.condition, "?") {
			add(f.condition, f.arg)
		} else {
			add(f.condition)
		}
	}
	after, direction := ">", ""
	if l.newest {
		after, direction = "<", " DESC"
	}
	if p.Cursor != "" {
		k, err := l.decode(p.Cursor)
		if err != nil {
			return nil, "", err
		}
		if l.byTime == "" {
			add(l.id+" "+after+" ?", k.ID)
		} else {
			add("("+l.byTime+", "+l.id+") "+after+" (?, ?)", k.Time, k.ID)
		}
	}
	text := l.query
	if len(where) > 0 {
		text += " WHERE " + strings.Join(where, " AND ")
	}
	order := l.id + direction
	if l.byTime != "" {
		order = l.byTime + direction + ", " + order
	}
	text += fmt.Sprintf(" ORDER BY %s LIMIT %d", order, p.Limit+1)
	items, err := collect(ctx, q, l.scan, text, args...)
	if err != nil {
		return nil, "", fmt.Errorf("list %s: %w", l.name, err)
	}
	if len(items) <= p.Limit {
		return items, "", nil
	}
	items = items[:p.Limit]
	return items, l.encode(l.keyOf(items[len(items)-1])), nil
}

// encode returns a cursor for what comes after k.
func (l *listing[T]) encode(k key) string {
	b, err := json.Marshal([]any{l.name, k.Time, k.ID})
	if err != nil {
		panic(fmt.Sprintf("marshal cursor: %v", err)) // a number and two strings
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decode reads a cursor of this listing.
func (l *listing[T]) decode(cursor string) (key, error) {
	var k key
	var name string
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		parts := []any{&name, &k.Time, &k.ID}
		if err = json.Unmarshal(b, &parts); err == nil && (len(parts) != 3 || name != l.name) {
			err = fmt.Errorf("a cursor of %q", name)
		}
	}
	if err != nil {
		return key{}, &ca.Error{Kind: ca.KindMalformed, Field: "cursor", Message: "this is not a cursor of this list",
			Hint: "give nextCursor as it was answered, or none", Err: err}
	}
	return k, nil
}
