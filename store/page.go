package store

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
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

// scanBound is how many rows one page of a search looks at, where an index
// leads to more rows than are shown.
const scanBound = 5_000

// A listing is one kind of list, read by keyset: the next page begins after
// the last item of this one, whatever was inserted or removed meanwhile.
//
// Its filters are what an index finds in the list's order. What no index tells
// is in rest, and is looked at row by row: in scanBound rows a page at most, of
// which the page shows what fits, with a cursor to go on from even when that is
// nothing.
//
// Of several bounds of a column SQLite begins, or ends, at the one that stands
// first in the statement, and reads past what the others leave out. So the
// nearest is to stand first: the cursor's, and what was asked for before what
// every row of a partial index has.
type listing[T any] struct {
	name    string // of the list; a cursor of another list is refused
	query   string // SELECT ... FROM ..., without WHERE
	byTime  string // column that sorts first; empty when id sorts alone
	id      string // column that makes the order unique
	newest  bool   // highest first
	scan    func(scanner) (T, error)
	keyOf   func(T) key
	filters []filter
	rest    []filter
	// outer reads from the rows of query, which are (%s) AS scanned, where
	// there is a rest; SELECT * FROM (%s) AS scanned when empty.
	outer string
	bound int // of the rows that a page looks at; scanBound when 0
}

// A key is where an item stands in its listing.
type key struct {
	Time int64
	ID   string
}

// A filter is a condition with arguments, written with ? for each.
type filter struct {
	condition string
	args      []any
}

// where returns a condition with its arguments.
func where(condition string, args ...any) filter { return filter{condition, args} }

// equals narrows a listing to a column's value; an empty value does not.
func (l *listing[T]) equals(column, value string) {
	if value != "" {
		l.filters = append(l.filters, where(column+" = ?", value))
	}
}

// A statement is SQL under construction, with its arguments.
type statement struct {
	strings.Builder
	args []any
}

// add writes filters after WHERE or AND.
func (s *statement) add(filters []filter) {
	for i, f := range filters {
		s.WriteString([]string{" WHERE ", " AND "}[min(i, 1)])
		condition := f.condition
		for _, v := range f.args {
			s.args = append(s.args, v)
			condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(s.args)), 1)
		}
		s.WriteString(condition)
	}
}

// order returns the columns of the listing's order, for ORDER BY.
func (l *listing[T]) order() string {
	direction := ""
	if l.newest {
		direction = " DESC"
	}
	if l.byTime == "" {
		return l.id + direction
	}
	return l.byTime + direction + ", " + l.id + direction
}

// page reads one page and returns the cursor of the next, empty at the end.
func (l *listing[T]) page(ctx context.Context, q querier, p enroll.Page) ([]T, string, error) {
	if p.Limit <= 0 {
		p.Limit = defaultPage
	}
	p.Limit = min(p.Limit, maxPage)
	inner, err := l.from(p.Cursor)
	if err != nil {
		return nil, "", err
	}
	text := inner
	if len(l.rest) > 0 {
		text = &statement{args: inner.args}
		outer := l.outer
		if outer == "" {
			outer = "SELECT * FROM (%s) AS scanned"
		}
		fmt.Fprintf(text, outer, fmt.Sprintf("%s ORDER BY %s LIMIT %d", inner, l.order(), l.rows()))
		text.add(l.rest)
	}
	fmt.Fprintf(text, " ORDER BY %s LIMIT %d", l.order(), p.Limit+1)
	items, err := collect(ctx, q, l.scan, text.String(), text.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list %s: %w", l.name, err)
	}
	if len(items) > p.Limit {
		items = items[:p.Limit]
		return items, l.encode(l.keyOf(items[len(items)-1])), nil
	}
	if len(l.rest) == 0 {
		return items, "", nil
	}
	next, err := l.scanned(ctx, q, p.Cursor)
	return items, next, err
}

// rows returns how many rows a page looks at.
func (l *listing[T]) rows() int {
	if l.bound > 0 {
		return l.bound
	}
	return scanBound
}

// from returns the query of what comes after a cursor, without its order.
func (l *listing[T]) from(cursor string) (*statement, error) {
	filters := l.filters
	if cursor != "" {
		k, err := l.decode(cursor)
		if err != nil {
			return nil, err
		}
		after := " > "
		if l.newest {
			after = " < "
		}
		position := where(l.id+after+"?", k.ID)
		if l.byTime != "" {
			position = where("("+l.byTime+", "+l.id+")"+after+"(?, ?)", k.Time, k.ID)
		}
		filters = append([]filter{position}, filters...)
	}
	s := &statement{}
	s.WriteString(l.query)
	s.add(filters)
	return s, nil
}

// scanned returns the cursor of the last row that a page looked at, or "" when
// there are no more.
func (l *listing[T]) scanned(ctx context.Context, q querier, cursor string) (string, error) {
	text, err := l.from(cursor)
	if err != nil {
		return "", err
	}
	at := "0"
	if l.byTime != "" {
		at = l.byTime
	}
	_, table, _ := strings.Cut(text.String(), " FROM ")
	last, err := one(ctx, q, func(row scanner) (k key, err error) {
		err = row.Scan(&k.Time, &k.ID)
		return k, err
	}, fmt.Sprintf("SELECT %s, %s FROM %s ORDER BY %s LIMIT 1 OFFSET %d", at, l.id, table, l.order(), l.rows()-1), text.args...)
	switch {
	case errors.Is(err, errNoRows):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("list %s: %w", l.name, err)
	}
	return l.encode(last), nil
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
