package api

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// chainType is the media type of a certificate chain alone (RFC 8555, 9.1).
const chainType = "application/pem-certificate-chain"

// answer writes what a handler returned.
func (a *API) answer(x *exchange, v any) error {
	mediaType, body := "application/json", []byte(nil)
	if x.route.Chain && prefersChain(x.r.Header) {
		chain, err := a.chain(x, v)
		if err != nil {
			return err
		}
		mediaType, body = chainType, []byte(chain)
	} else {
		body = encodeJSON(v)
	}
	h := x.w.Header()
	if x.route.Chain {
		h.Add("Vary", "Accept")
	}
	if x.location != "" {
		h.Set("Location", basePath+x.location)
	}
	status := x.route.Status
	if x.replayed {
		status = http.StatusOK
		h.Set("Idempotent-Replayed", "true")
	}
	write(x.w, status, mediaType, body)
	return nil
}

// replay answers a repeated creation with its first answer. Other errors it
// returns.
func (a *API) replay(x *exchange, err error) error {
	var replay *enroll.Replay
	if !errors.As(err, &replay) || len(replay.Answer) == 0 {
		return err
	}
	x.w.Header().Set("Idempotent-Replayed", "true")
	write(x.w, http.StatusOK, "application/json", append(slices.Clone(replay.Answer), '\n'))
	return nil
}

// chain returns the certificate chain that an answer holds, leaf first.
func (a *API) chain(x *exchange, v any) (string, error) {
	switch v := v.(type) {
	case *enroll.Enrollment:
		return v.Chain, nil
	case *ca.Certificate:
		issuer, err := a.service.IssuerCertificate(x.ctx(), v.IssuerID)
		if err != nil {
			return "", err
		}
		return v.PEM() + ca.EncodeChain(issuer), nil
	}
	return "", fmt.Errorf("route %s has a chain, and answers a %T", x.r.URL.Path, v)
}

// prefersChain reports whether Accept ranks the chain above JSON (RFC 9110,
// 12.5.1). JSON is the default.
func prefersChain(h http.Header) bool {
	chain, json := 0.0, 0.0
	for _, line := range h.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			media, params, err := mime.ParseMediaType(part)
			if err != nil {
				continue
			}
			q := 1.0
			if text, ok := params["q"]; ok {
				if q, err = strconv.ParseFloat(text, 64); err != nil {
					continue
				}
			}
			switch media {
			case chainType:
				chain = max(chain, q)
			case "application/json":
				json = max(json, q)
			}
		}
	}
	return chain > json
}
