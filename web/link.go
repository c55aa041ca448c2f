package web

import (
	"net/url"

	"github.com/fleetca/fleetca/ca"
)

// listURL returns a path with those of the parameters (names and values) that
// are not empty.
func listURL(path string, parameters ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(parameters); i += 2 {
		if parameters[i+1] != "" {
			q.Set(parameters[i], parameters[i+1])
		}
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// deviceURL returns a device's page, or what hangs below it.
func deviceURL(id string, below ...string) string {
	path := "/devices/" + url.PathEscape(id)
	for _, b := range below {
		path += "/" + b
	}
	return path
}

// certificateURL returns a certificate's page, or what hangs below it.
func certificateURL(serial ca.SerialNumber, below ...string) string {
	path := "/certificates/" + url.PathEscape(string(serial))
	for _, b := range below {
		path += "/" + b
	}
	return path
}

// revocationURL returns a revocation's page.
func revocationURL(id string) string { return "/revocations/" + url.PathEscape(id) }

// bulkURL returns the page of a bulk change.
func bulkURL(id string) string { return "/bulk/" + url.PathEscape(id) }
