package client

import (
	"context"
	"crypto/rand"
	"iter"
	"net/http"
	"net/url"
	"strconv"
)

// An Option changes one call.
type Option func(*options)

type options struct{ key string }

// IdempotencyKey makes the call repeatable under this key: 1 to 255 printable
// ASCII characters. Without it, the call has a random one.
func IdempotencyKey(key string) Option { return func(o *options) { o.key = key } }

func keyOf(opts []Option) string {
	o := options{key: rand.Text()}
	for _, set := range opts {
		set(&o)
	}
	return o.key
}

// none is the body of calls without fields.
var none = struct{}{}

// fetch makes a GET.
func fetch[T any](ctx context.Context, c *Client, path string) (*T, error) {
	out := new(T)
	if _, err := c.call(ctx, http.MethodGet, path, nil, out, nil); err != nil {
		return nil, err
	}
	return out, nil
}

// send makes a POST.
func send[T any](ctx context.Context, c *Client, path string, in any, opts []Option) (*T, error) {
	out := new(T)
	if _, err := c.call(ctx, http.MethodPost, path, in, out, opts); err != nil {
		return nil, err
	}
	return out, nil
}

// pageSize is the most that the server gives at once.
const pageSize = 500

// list walks a listing page by page. An error is the last pair.
func list[T any](ctx context.Context, c *Client, path string, filter url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		query := url.Values{"limit": {strconv.Itoa(pageSize)}}
		for name, values := range filter {
			if values[0] != "" {
				query[name] = values
			}
		}
		for {
			page, err := fetch[struct {
				Items      []T    `json:"items"`
				NextCursor string `json:"nextCursor"`
			}](ctx, c, path+"?"+query.Encode())
			if err != nil {
				var zero T
				yield(zero, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.NextCursor == "" {
				return
			}
			query.Set("cursor", page.NextCursor)
		}
	}
}

// at joins path segments, escaped.
func at(segments ...string) string {
	path := ""
	for _, s := range segments {
		path += "/" + url.PathEscape(s)
	}
	return path
}

// values makes a filter of names and values, in turn.
func values[T ~string](name string, value T, more ...string) url.Values {
	v := url.Values{name: {string(value)}}
	for i := 0; i+1 < len(more); i += 2 {
		v.Set(more[i], more[i+1])
	}
	return v
}
