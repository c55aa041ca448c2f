package api

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// Media types of OCSP over HTTP (RFC 6960, appendix A and C).
const (
	ocspRequestType  = "application/ocsp-request"
	ocspResponseType = "application/ocsp-response"
)

// ocspPath is where OCSP is answered: the URL in certificates is it, and what
// GET asks follows in base64 (RFC 6960, A.1).
const ocspPath = "/ocsp"

// getOCSP answers GET /ocsp/BASE64. It stands before the router and its log:
// answers are many, and small. Slashes of the base64 are taken as they come,
// two in a row too, plain or as %2F.
func (a *API) getOCSP(w http.ResponseWriter, r *http.Request) {
	text := strings.TrimPrefix(r.URL.EscapedPath(), ocspPath+"/")
	der, ok := decodeOCSP(text)
	if !ok {
		der = nil // which is malformed
	}
	a.answerOCSP(w, r, der, true)
}

// decodeOCSP decodes a request in the path: base64, with or without padding,
// percent-encoded or not.
func decodeOCSP(text string) ([]byte, bool) {
	if len(text) > 2*ca.MaxOCSPRequestSize {
		return nil, false
	}
	if strings.Contains(text, "%") {
		plain, err := url.PathUnescape(text)
		if err != nil {
			return nil, false
		}
		text = plain
	}
	der, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	return der, err == nil
}

// postOCSP answers POST /ocsp.
func (a *API) postOCSP(w http.ResponseWriter, r *http.Request) {
	der, err := io.ReadAll(io.LimitReader(r.Body, ca.MaxOCSPRequestSize+1))
	if err != nil {
		der = nil
	}
	a.answerOCSP(w, r, der, false)
}

// answerOCSP answers a request. Every answer is 200: what is wrong stands in
// it (RFC 6960, A.2).
func (a *API) answerOCSP(w http.ResponseWriter, r *http.Request, der []byte, cacheable bool) {
	answer, err := a.service.OCSP(r.Context(), der)
	if err != nil {
		a.log.WarnContext(r.Context(), "OCSP", "answer", answer.Status, "error", err, "client", r.RemoteAddr)
	}
	a.metrics.ocsp[answer.Status].Inc()
	h := w.Header()
	h["Content-Type"] = ocspResponseHeader
	h["X-Content-Type-Options"] = noSniffHeader
	h["Content-Length"] = []string{strconv.Itoa(len(answer.DER))}
	if cacheable && answer.Cacheable {
		if a.cacheOCSP(h, r, answer) {
			delete(h, "Content-Length")
			delete(h, "Content-Type")
			w.WriteHeader(http.StatusNotModified)
			return
		}
	} else {
		h["Cache-Control"] = noStoreHeader
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write(answer.DER) // the client left
	}
}

// Header values that every answer has.
var (
	ocspResponseHeader = []string{ocspResponseType}
	noSniffHeader      = []string{"nosniff"}
	noStoreHeader      = []string{"no-store"}
)

// cacheOCSP says how long an answer may be kept (RFC 5019, 6.2; RFC 9111, 4.2),
// and reports whether the client has it. For max-age a revocation goes unseen
// in a cache, so that it is short; Expires is for caches that do not know it.
func (a *API) cacheOCSP(h http.Header, r *http.Request, answer *ca.OCSPAnswer) bool {
	now := a.now()
	left := max(0, min(statusMaxAge, answer.NextUpdate.Sub(now)))
	h["Cache-Control"] = []string{fmt.Sprintf("max-age=%d, public, no-transform, must-revalidate", int64(left/time.Second))}
	h["Expires"] = []string{now.Add(left).UTC().Format(http.TimeFormat)}
	h["Last-Modified"] = []string{answer.ThisUpdate.UTC().Format(http.TimeFormat)}
	h["Etag"] = []string{answer.ETag}
	return matchesETag(r.Header.Get("If-None-Match"), answer.ETag)
}

// matchesETag reports whether an If-None-Match lists an entity tag (RFC 9110, 13.1.2).
func matchesETag(list, etag string) bool {
	for list != "" {
		var one string
		one, list, _ = strings.Cut(list, ",")
		if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == etag || one == "*" {
			return true
		}
	}
	return false
}

// withOCSP answers OCSP, as far as shed lets it, before anything else looks at a
// request.
func (a *API) withOCSP(shed func(http.Handler) http.Handler, next http.Handler) http.Handler {
	get := shed(http.HandlerFunc(a.getOCSP))
	post := newArrivals().first(a, ca.MaxOCSPRequestSize+1)(shed(http.HandlerFunc(a.postOCSP)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		under := strings.HasPrefix(path, ocspPath+"/")
		switch {
		case (r.Method == http.MethodGet || r.Method == http.MethodHead) && under && len(path) > len(ocspPath)+1:
			get.ServeHTTP(w, r)
		case r.Method == http.MethodPost && (path == ocspPath || path == ocspPath+"/"):
			post.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// getOCSPUsage says what is asked for at the bare URL.
func (a *API) getOCSPUsage(w http.ResponseWriter, r *http.Request) {
	a.writeError(w, r, ca.Errorf(ca.KindMalformed, "", "POST an OCSPRequest as "+ocspRequestType+", or GET "+ocspPath+"/ with its base64", "this is an OCSP responder"))
}
