package api

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll"
)

func TestQuery(t *testing.T) {
	route := &Route{Filters: deviceFilters, endpoint: endpoint{Paged: true}}
	for _, c := range []struct {
		query, field string
		limit        int
	}{
		{"", "", 100},
		{"limit=1", "", 1},
		{"limit=500&cursor=abc&status=active&group=g&workOrder=w", "", 500},
		{"limit=501", "limit", 0},
		{"limit=0", "limit", 0},
		{"limit=-1", "limit", 0},
		{"limit=ten", "limit", 0},
		{"limit=", "limit", 0},
		{"limit=1&limit=2", "limit", 0},
		{"stauts=active", "stauts", 0},
		{"status=Active", "status", 0},
		{"token=secret", "token", 0},
	} {
		x := &exchange{r: httptest.NewRequest("GET", "/?"+c.query, nil), route: route}
		err := x.readQuery()
		if c.field != "" {
			if got := fieldOf(t, err); got != c.field {
				t.Errorf("%s: field %q, want %q", c.query, got, c.field)
			}
			continue
		}
		if err != nil || x.page.Limit != c.limit || x.page.Cursor != x.query.Get("cursor") {
			t.Errorf("%s: page %+v, %v", c.query, x.page, err)
		}
	}
	x := &exchange{r: httptest.NewRequest("GET", "/?limit=1", nil), route: &Route{}}
	if got := fieldOf(t, x.readQuery()); got != "limit" {
		t.Errorf("a call that is no listing: field %q", got)
	}
	x = &exchange{r: httptest.NewRequest("GET", "/?a=%zz", nil), route: route}
	fieldOf(t, x.readQuery())
}

func TestPageOf(t *testing.T) {
	all := []string{"a", "b", "c", "d", "e"}
	var got []string
	page := enroll.Page{Limit: 2}
	for n := 0; ; n++ {
		items, next, err := pageOf(all, page, func(s string) string { return s })
		if err != nil || n > 3 {
			t.Fatal(n, err)
		}
		got = append(got, items...)
		if next == "" {
			break
		}
		page.Cursor = next
	}
	if !slices.Equal(got, all) {
		t.Errorf("got %v", got)
	}
	_, _, err := pageOf(all, enroll.Page{Limit: 2, Cursor: "z"}, func(s string) string { return s })
	if fieldOf(t, err) != "cursor" {
		t.Error(err)
	}
}

func TestIdempotencyKey(t *testing.T) {
	for _, c := range []struct {
		values []string
		ok     bool
	}{
		{nil, true}, {[]string{"a"}, true}, {[]string{strings.Repeat("k", 255)}, true}, {[]string{"with blank ~"}, true},
		{[]string{""}, false}, {[]string{strings.Repeat("k", 256)}, false}, {[]string{"tab\t"}, false},
		{[]string{"schlüssel"}, false}, {[]string{"a", "a"}, false},
	} {
		key, err := idempotencyKey(http.Header{"Idempotency-Key": c.values})
		if c.ok != (err == nil) {
			t.Errorf("%q: %v", c.values, err)
		}
		if !c.ok && fieldOf(t, err) != "Idempotency-Key" {
			t.Errorf("%q: %v", c.values, err)
		}
		if c.ok && len(c.values) > 0 && key != c.values[0] {
			t.Errorf("%q gave %q", c.values, key)
		}
	}
}

func TestPrefersChain(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                                  false,
		"*/*":                               false,
		"application/pem-certificate-chain": true,
		"application/json, application/pem-certificate-chain":                     false,
		"application/json;q=0.5, application/pem-certificate-chain":               true,
		"application/pem-certificate-chain;q=0":                                   false,
		"text/html, Application/PEM-Certificate-Chain;q=0.1, ;;;, application/x;": true,
	} {
		if got := prefersChain(http.Header{"Accept": {accept}}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}
