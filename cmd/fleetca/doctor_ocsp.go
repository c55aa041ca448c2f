package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"

	"golang.org/x/crypto/ocsp"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// ocsp asks the responder about the newest certificate of every issuer, and
// about one that was never issued, as a device would.
func (d *doctor) ocsp(ctx context.Context) (string, error) {
	if d.store == nil {
		return "", errNeedsStore
	}
	asked := 0
	for _, i := range d.issuers {
		if i.OCSPURL() == "" || i.KeyURI == "" {
			continue
		}
		newest, _, err := d.store.Certificates(ctx, enroll.CertificateFilter{Issuer: i.ID}, enroll.Page{Limit: 1})
		if err != nil {
			return "", err
		}
		for _, cert := range newest {
			if err := askOCSP(ctx, i, cert.SerialNumber, wantedStatus(cert)); err != nil {
				return "", hinted(err, "see that the server runs, and its log for OCSP")
			}
		}
		if err := askOCSP(ctx, i, ca.NewSerialNumber(), ocsp.Unknown); err != nil {
			return "", hinted(err, "see that the server runs, and its log for OCSP")
		}
		asked++
	}
	return fmt.Sprintf("right about certificates of %d issuers", asked), nil
}

// wantedStatus returns what OCSP must say of a certificate.
func wantedStatus(cert *ca.Certificate) int {
	if cert.Status == ca.StatusGood {
		return ocsp.Good
	}
	return ocsp.Revoked
}

var ocspStatusNames = map[int]string{ocsp.Good: "good", ocsp.Revoked: "revoked", ocsp.Unknown: "unknown"}

// maxOCSP bounds an OCSP answer, in bytes.
const maxOCSP = 64 << 10

// askOCSP asks about one serial number, and verifies the answer.
func askOCSP(ctx context.Context, issuer ca.Issuer, serial ca.SerialNumber, want int) error {
	request, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial.Int()}, issuer.Certificate, nil)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, issuer.OCSPURL(), bytes.NewReader(request))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	der, err := io.ReadAll(io.LimitReader(resp.Body, maxOCSP))
	if err != nil {
		return fmt.Errorf("%s: %w", issuer.OCSPURL(), err)
	}
	answer, err := ocsp.ParseResponse(der, issuer.Certificate)
	switch {
	case err != nil:
		return fmt.Errorf("%s does not answer for issuer %s: %w", issuer.OCSPURL(), issuer.ID, err)
	case answer.SerialNumber.Cmp(serial.Int()) != 0:
		return fmt.Errorf("%s answers about another certificate", issuer.OCSPURL())
	case answer.Status != want:
		return fmt.Errorf("%s says that certificate %s is %s, and it is %s", issuer.OCSPURL(), serial, ocspStatusNames[answer.Status], ocspStatusNames[want])
	}
	return nil
}
