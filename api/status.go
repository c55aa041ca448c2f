package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/fleetca/fleetca/ca"
)

// statusMaxAge is how long a cache may keep a CRL: short, so that a new
// revocation is seen soon, whatever nextUpdate says.
const statusMaxAge = time.Minute

// getCRL answers /crl/ISSUER.crl (DER, RFC 5280, 4.2.1.13), /crl/ISSUER.pem,
// /crl/ISSUER/SHARD.crl and .pem, and /crl/bundle.pem, the CRLs of all issuers.
func (a *API) getCRL(w http.ResponseWriter, r *http.Request) {
	file := chi.URLParam(r, "file")
	if issuer := chi.URLParam(r, "issuer"); issuer != "" {
		file = issuer + "/" + file
	}
	var err error
	if file == "bundle.pem" {
		err = a.serveCRLBundle(w, r)
	} else if issuer, ok := strings.CutSuffix(file, ".crl"); ok {
		err = a.serveCRL(w, r, issuer, false)
	} else if issuer, ok := strings.CutSuffix(file, ".pem"); ok {
		err = a.serveCRL(w, r, issuer, true)
	} else {
		err = errNoFile
	}
	if err != nil {
		a.writeError(w, r, err)
	}
}

var errNoFile = ca.Errorf(ca.KindNotFound, "", "GET "+basePath+"/issuers names the issuers and their URLs", "there is no such file")

func (a *API) serveCRL(w http.ResponseWriter, r *http.Request, issuer string, asPEM bool) error {
	crl, err := a.service.CRL(r.Context(), issuer)
	if err != nil {
		return err
	}
	f := statusFile{mediaType: "application/pkix-crl", body: crl.DER, expires: crl.NextUpdate, etag: crl.ETag, published: crl.SavedAt}
	if asPEM {
		f.mediaType, f.body = "application/x-pem-file", crl.PEM()
	}
	return a.serveStatus(w, r, f)
}

// serveCRLBundle reads the CRLs' times before the bundle: a CRL that is
// published in between makes it younger than it says, never older.
func (a *API) serveCRLBundle(w http.ResponseWriter, r *http.Request) error {
	crls, err := a.service.CRLs(r.Context())
	if err != nil {
		return err
	}
	bundle, err := a.service.CRLBundle(r.Context())
	if err != nil {
		return err
	}
	f := statusFile{mediaType: "application/x-pem-file", body: bundle}
	for _, crl := range crls {
		if f.expires.IsZero() || crl.NextUpdate.Before(f.expires) {
			f.expires = crl.NextUpdate
		}
	}
	return a.serveStatus(w, r, f)
}

// getIssuerCertificate answers /issuers/ISSUER.cer, the caIssuers URL (RFC
// 5280, 4.2.2.1).
func (a *API) getIssuerCertificate(w http.ResponseWriter, r *http.Request) {
	err := error(errNoFile)
	if issuer, ok := strings.CutSuffix(chi.URLParam(r, "file"), ".cer"); ok {
		err = a.serveIssuerCertificate(w, r, issuer)
	}
	if err != nil {
		a.writeError(w, r, err)
	}
}

func (a *API) serveIssuerCertificate(w http.ResponseWriter, r *http.Request, issuer string) error {
	cert, err := a.service.IssuerCertificate(r.Context(), issuer)
	if err != nil {
		return err
	}
	return a.serveStatus(w, r, statusFile{mediaType: "application/pkix-cert", body: cert.Raw, modified: cert.NotBefore})
}

// getTrustBundlePEM answers /trust-bundle.pem. It came over plain HTTP: whoever
// reads it compares the root's fingerprint.
func (a *API) getTrustBundlePEM(w http.ResponseWriter, r *http.Request) {
	bundle, err := a.service.TrustBundle(r.Context())
	if err == nil {
		err = a.serveStatus(w, r, statusFile{mediaType: "application/x-pem-file", body: []byte(bundle.PEM)})
	}
	if err != nil {
		a.writeError(w, r, err)
	}
}

// A statusFile is one cacheable answer.
type statusFile struct {
	mediaType string
	body      []byte
	modified  time.Time // zero for unknown
	published time.Time // said, but not answered by: two CRLs may have one second, and the ETag tells them apart
	expires   time.Time // not served from then on; zero for never
	etag      string    // quoted; empty for one of the body
}

// serveStatus answers with f, or 304 when the client has it (RFC 9110, 13). A
// lapsed file is an outage (I12).
func (a *API) serveStatus(w http.ResponseWriter, r *http.Request, f statusFile) error {
	maxAge := statusMaxAge
	if !f.expires.IsZero() {
		left := f.expires.Sub(a.now())
		if left <= 0 {
			return ca.Errorf(KindLapsed, "", "the server publishes the next one by itself; its log says what is in the way",
				"the newest CRL lapsed at %s", f.expires.UTC().Format(time.RFC3339))
		}
		maxAge = min(maxAge, left)
	}
	if f.etag == "" {
		sum := sha256.Sum256(f.body)
		f.etag = `"` + hex.EncodeToString(sum[:16]) + `"`
	}
	h := w.Header()
	h.Set("Content-Type", f.mediaType)
	h.Set("ETag", f.etag)
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d, must-revalidate", int64(maxAge/time.Second)))
	if !f.published.IsZero() {
		h.Set("Last-Modified", f.published.UTC().Format(http.TimeFormat))
	}
	http.ServeContent(w, r, "", f.modified, bytes.NewReader(f.body))
	return nil
}
