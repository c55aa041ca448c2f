package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Bounds of a look at what an issuer publishes.
const (
	fetchTimeout = 10 * time.Second
	maxFetched   = 128 << 20 // a CRL of two million entries
)

// A Fetch is one URL that an issuer's certificates name, fetched as a client
// would, and what was found there (I16).
type Fetch struct {
	Kind   string `json:"kind"` // crl, ocsp, issuer
	URL    string `json:"url"`
	OK     bool   `json:"ok"`
	Result string `json:"result"` // what was verified, or what is wrong; for people
}

// FetchPublished fetches every URL that new certificates of an issuer name: the
// CRL of each shard, the issuer's certificate, and an OCSP answer; and those that
// the issuer's own certificate names, which its parent (itself for a root)
// publishes. It verifies what comes: signatures, times, and that it is the
// issuer's. The answer has every URL in it, those that failed too.
func FetchPublished(ctx context.Context, client *http.Client, i *Issuer, parent *x509.Certificate, now time.Time) []Fetch {
	f := fetcher{client: client, now: now}
	if len(i.StatusURLs) > 0 {
		for shard := range i.ShardsEver() {
			f.look(ctx, "crl", i.CDP(shard), func(ctx context.Context, url string) (string, error) {
				return f.crl(ctx, url, i.Certificate, nil)
			})
		}
		f.look(ctx, "issuer", i.CertificateURL(), func(ctx context.Context, url string) (string, error) {
			return f.certificate(ctx, url, i.Certificate)
		})
		if !i.Purpose.keptApart() {
			f.look(ctx, "ocsp", i.OCSPURL(), func(ctx context.Context, url string) (string, error) {
				return f.ocsp(ctx, url, i.Certificate, NewSerialNumber(), ocsp.Unknown)
			})
		}
	}
	own := i.Certificate
	for _, url := range own.CRLDistributionPoints {
		f.look(ctx, "crl", url, func(ctx context.Context, url string) (string, error) { return f.crl(ctx, url, parent, own) })
	}
	for _, url := range own.IssuingCertificateURL {
		f.look(ctx, "issuer", url, func(ctx context.Context, url string) (string, error) { return f.certificate(ctx, url, parent) })
	}
	for _, url := range own.OCSPServer {
		f.look(ctx, "ocsp", url, func(ctx context.Context, url string) (string, error) {
			return f.ocsp(ctx, url, parent, SerialNumberOf(own.SerialNumber), ocsp.Good)
		})
	}
	return f.found
}

// A fetcher looks at one URL after the other.
type fetcher struct {
	client *http.Client
	now    time.Time
	found  []Fetch
}

func (f *fetcher) look(ctx context.Context, kind, url string, verify func(context.Context, string) (string, error)) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	result, err := verify(ctx, url)
	if err != nil {
		result = err.Error()
	}
	f.found = append(f.found, Fetch{Kind: kind, URL: url, OK: err == nil, Result: result})
}

// do returns the body of a 200.
func (f *fetcher) do(r *http.Request) ([]byte, error) {
	answer, err := f.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", answer.Status)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxFetched+1))
	if err == nil && len(body) > maxFetched {
		err = fmt.Errorf("the answer is longer than %d octets", maxFetched)
	}
	return body, err
}

func (f *fetcher) get(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return f.do(r)
}

// crl fetches a CRL (RFC 5280, 4.2.1.13) that issuer must have signed, and that
// must not list a certificate, where one is given.
func (f *fetcher) crl(ctx context.Context, url string, issuer, listed *x509.Certificate) (string, error) {
	body, err := f.get(ctx, url)
	if err != nil {
		return "", err
	}
	list, err := x509.ParseRevocationList(body)
	if err != nil {
		return "", fmt.Errorf("it is no CRL in DER: %w", err)
	}
	if err := list.CheckSignatureFrom(issuer); err != nil {
		return "", fmt.Errorf("the CRL is not signed by the issuer: %w", err)
	}
	if f.now.Before(list.ThisUpdate) || !f.now.Before(list.NextUpdate) {
		return "", fmt.Errorf("the CRL is of %s, and lapsed at %s", list.ThisUpdate.Format(time.RFC3339), list.NextUpdate.Format(time.RFC3339))
	}
	crl := &CRL{DER: body}
	points, err := crl.DistributionPoints()
	if err != nil {
		return "", err
	}
	if len(points) > 0 && !points[url] {
		return "", fmt.Errorf("the CRL's distribution point does not list %s: OpenSSL would refuse every certificate", url)
	}
	if listed != nil && slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(listed.SerialNumber) == 0 }) {
		return "", errors.New("the issuer's own certificate is revoked on it")
	}
	return fmt.Sprintf("CRL %v, %d entries, valid until %s", list.Number, len(list.RevokedCertificateEntries), list.NextUpdate.Format(time.RFC3339)), nil
}

// certificate fetches an issuer's certificate in DER (RFC 5280, 4.2.2.1).
func (f *fetcher) certificate(ctx context.Context, url string, want *x509.Certificate) (string, error) {
	body, err := f.get(ctx, url)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(body, want.Raw) {
		return "", errors.New("it is not the issuer's certificate in DER")
	}
	return "SHA-256 " + FingerprintOf(want), nil
}

// ocsp asks about a serial number of an issuer's (RFC 6960, appendix A).
func (f *fetcher) ocsp(ctx context.Context, url string, issuer *x509.Certificate, serial SerialNumber, want int) (string, error) {
	request, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial.Int()}, issuer, nil)
	if err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(request))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/ocsp-request")
	body, err := f.do(r)
	if err != nil {
		return "", err
	}
	answer, err := ocsp.ParseResponse(body, issuer) // verifies the signature, of the issuer or its delegate
	switch {
	case err != nil:
		return "", fmt.Errorf("no OCSP answer that verifies: %w", err)
	case answer.Certificate != nil && !slices.Contains(answer.Certificate.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return "", errors.New("the answer is signed by a certificate that is not for it")
	case answer.SerialNumber.Cmp(serial.Int()) != 0 || f.now.Before(answer.ThisUpdate) || !answer.NextUpdate.IsZero() && !f.now.Before(answer.NextUpdate):
		return "", errors.New("the answer is about something else, or not current")
	case answer.Status != want:
		return "", fmt.Errorf("the answer about %s is %s, not %s", serial, ocspWords[answer.Status], ocspWords[want])
	}
	return fmt.Sprintf("says %s of serial number %s", ocspWords[want], serial), nil
}

var ocspWords = map[int]string{ocsp.Good: "good", ocsp.Revoked: "revoked", ocsp.Unknown: "unknown"}

// SelfTest signs something with an issuer's key, and verifies it (I16). It is an
// Error of KindKey when that fails, and nil for one whose key is kept apart.
func (a *Authority) SelfTest(id string) error {
	a.mu.RLock()
	s, unusable := a.issuers[id], a.unusable[id]
	a.mu.RUnlock()
	switch {
	case unusable != nil:
		return unusable
	case s == nil || s.Purpose.keptApart():
		return nil
	case s.cas == nil:
		return Errorf(KindKey, "", "put the key into the data folder of a server, and ask that one", "the key of issuer %s is not here", id)
	}
	if err := testKey(s.cas.Signer, s.Certificate.PublicKey); err != nil {
		return Errorf(KindKey, "", "look at the key store", "issuer %s: %w", id, err)
	}
	return nil
}

// ReadCRL reads a CRL that was signed elsewhere, PEM or DER, for an issuer whose
// key is kept apart.
func ReadCRL(i Issuer, text []byte) (*CRL, error) {
	const hint = "give the issuer's own CRL, version 2 with a number, PEM or DER"
	der := text
	if block, _ := pem.Decode(text); block != nil && block.Type == crlBlock {
		der = block.Bytes
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, Errorf(KindMalformed, "crl", hint, "is no CRL: %w", err)
	}
	if err := list.CheckSignatureFrom(i.Certificate); err != nil {
		return nil, Errorf(KindMalformed, "crl", hint, "is not signed by %s: %w", i.Certificate.Subject, err)
	}
	if list.Number == nil || !list.Number.IsInt64() || list.NextUpdate.IsZero() {
		return nil, Errorf(KindMalformed, "crl", hint, "has no number of at most 63 bits, or no nextUpdate")
	}
	crl := &CRL{
		IssuerID: i.ID, Number: list.Number.Int64(), ThisUpdate: list.ThisUpdate.UTC(), NextUpdate: list.NextUpdate.UTC(),
		Entries: len(list.RevokedCertificateEntries), Scheduled: true, DER: der,
	}
	if _, err := crl.parts(); err != nil {
		return nil, Errorf(KindMalformed, "crl", hint, "cannot be read here: %w", err)
	}
	return crl, nil
}
