package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// maxCRLInput bounds the CRLs that are read, in bytes of DER or PEM: some 400,000
// or 300,000 entries.
const maxCRLInput = 16 << 20

// parseCRLs reads PEM or DER.
func parseCRLs(data []byte) ([]*x509.RevocationList, error) {
	var crls []*x509.RevocationList
	for _, der := range derBlocks(data, "X509 CRL") {
		crl, err := mqtts.ParseCRL(der)
		if err != nil {
			return nil, fmt.Errorf("not a CRL: %w", err)
		}
		crls = append(crls, crl)
	}
	if len(crls) == 0 {
		return nil, errors.New("no CRL in it")
	}
	return crls, nil
}

// crlFetcher returns what fetches the CRLs of a URL. They are signed: how they
// come here proves nothing, and need not.
func crlFetcher(url string) func(context.Context) ([]*x509.RevocationList, error) {
	return func(ctx context.Context) ([]*x509.RevocationList, error) {
		crls, err := fetchCRLs(ctx, url)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", url, err)
		}
		return crls, nil
	}
}

func fetchCRLs(ctx context.Context, url string) ([]*x509.RevocationList, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return errors.New("more than three redirections")
		}
		return nil
	}}
	response, err := client.Do(request)
	if err != nil {
		return nil, innermost(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answered %s", response.Status)
	}
	data, err := readAtMost(response.Body, response.ContentLength, maxCRLInput)
	if err != nil {
		return nil, err
	}
	return parseCRLs(data)
}

// innermost strips what net/http says around an error: the URL is named already.
func innermost(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err
}
