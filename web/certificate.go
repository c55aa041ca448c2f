package web

import (
	"errors"
	"strings"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// certificateRoutes are a certificate, its files, and its revocation alone.
func certificateRoutes() []route {
	return []route{
		{Method: get, Pattern: "/certificates/{serial}", Permission: enroll.MayLook, live: true, handle: getCertificate},
		{Method: get, Pattern: "/certificates/{serial}/revoke", Permission: enroll.MayRevoke, handle: getCertificateRevoke},
		{Method: post, Pattern: "/certificates/{serial}/revoke", Permission: enroll.MayRevoke, handle: postCertificateRevoke},
		{Method: get, Pattern: "/certificates/{serial}/{file}", Permission: enroll.MayLook, handle: getCertificateFile},
	}
}

// A certificatePage is one certificate.
type certificatePage struct {
	*ca.Certificate
	State      ca.Status // as of now
	HolderURL  string    // empty when the holder has no page
	ProfileURL string    // empty for what is no profile any more
	Revocable  bool
	Chain      []chainLink
	Text       string // as openssl prints it
}

func getCertificate(v *visit) (answer, error) {
	cert, err := v.site.service.Certificate(v.ctx(), v.param("serial"))
	if err != nil {
		return nil, err
	}
	p := certificatePage{Certificate: cert, State: cert.StatusAt(v.site.now()), HolderURL: v.pageOf(cert.Holder.String()),
		Revocable: revocable(cert)}
	if cert.Profile != ca.ResponderProfile { // which nobody may ask for
		p.ProfileURL = profileURL(cert.Profile)
	}
	if p.Chain, err = v.chainOf(cert); err != nil {
		return nil, err
	}
	if p.Text, err = textOf(cert); err != nil {
		return nil, err
	}
	return page{name: "certificate", title: "Certificate " + shorten(cert.SerialNumber), data: p}, nil
}

// revocable reports whether a certificate can be revoked: nothing leads out of
// revoked (I10).
func revocable(cert *ca.Certificate) bool { return cert.Status != ca.StatusRevoked }

func textOf(cert *ca.Certificate) (string, error) {
	parsed, err := cert.X509()
	if err != nil {
		return "", err
	}
	return ca.Text(parsed)
}

// certificateFiles are the files of a certificate, by name.
var certificateFiles = map[string]struct {
	mediaType string
	body      func(v *visit, cert *ca.Certificate) ([]byte, error)
}{
	"certificate.pem": {"application/x-pem-file", func(_ *visit, cert *ca.Certificate) ([]byte, error) { return []byte(cert.PEM()), nil }},
	"certificate.der": {"application/pkix-cert", func(_ *visit, cert *ca.Certificate) ([]byte, error) { return cert.DER, nil }}, // RFC 5280, 4.2.2.1
	"chain.pem":       {"application/pem-certificate-chain", (*visit).chainPEM},                                                 // RFC 8555, 9.1
}

// chainPEM returns the certificate and its issuers up to the root, which
// whoever trusts the chain has.
func (v *visit) chainPEM(cert *ca.Certificate) ([]byte, error) {
	issuers, err := v.site.service.Issuers(v.ctx())
	if err != nil {
		return nil, err
	}
	text := cert.PEM()
	for id, n := cert.IssuerID, 0; n < len(issuers); n++ {
		for _, i := range issuers {
			if i.ID == id && i.Purpose != ca.PurposeRoot {
				text += i.PEM
				id = i.Parent
				break
			}
		}
	}
	return []byte(text), nil
}

func getCertificateFile(v *visit) (answer, error) {
	name := v.param("file")
	f, ok := certificateFiles[name]
	if !ok {
		return notFound(v)
	}
	cert, err := v.site.service.Certificate(v.ctx(), v.param("serial"))
	if err != nil {
		return nil, err
	}
	body, err := f.body(v, cert)
	if err != nil {
		return nil, err
	}
	return download{name: shortSerial(cert.SerialNumber) + "-" + name, mediaType: f.mediaType, body: body}, nil
}

// shortSerial returns the first digits of a serial number, for file names.
func shortSerial(n ca.SerialNumber) string { return string(n[:min(len(n), 12)]) }

// A certificateRevokePage revokes one certificate; its holder stays.
type certificateRevokePage struct {
	*ca.Certificate
	HolderURL string
	Revocable bool
	Reasons   []reasonChoice
	Request   enroll.RevokeRequest
	Command   command
	Error     *refusal
}

func getCertificateRevoke(v *visit) (answer, error) {
	return certificateRevokeAnswer(v, enroll.RevokeRequest{Reason: string(ca.ReasonSuperseded)}, nil)
}

func certificateRevokeAnswer(v *visit, request enroll.RevokeRequest, r *refusal) (answer, error) {
	cert, err := v.site.service.Certificate(v.ctx(), v.param("serial"))
	if err != nil {
		return nil, err
	}
	return page{name: "certificate-revoke", title: "Revoke certificate " + shorten(cert.SerialNumber), data: certificateRevokePage{
		Certificate: cert, HolderURL: v.pageOf(cert.Holder.String()), Revocable: revocable(cert), Reasons: reasonChoices, Request: request, Error: r,
		Command: v.site.command(certificateURL(cert.SerialNumber, "revocation"), request, "cert", "revoke", string(cert.SerialNumber), "--reason", request.Reason),
	}}, nil
}

func postCertificateRevoke(v *visit) (answer, error) {
	request := enroll.RevokeRequest{Reason: v.form("reason"), Comment: strings.TrimSpace(v.form("comment"))}
	cert, err := v.site.service.RevokeCertificate(v.ctx(), v.call(), v.param("serial"), request)
	if again, ok := errors.AsType[*enroll.Replay](err); ok {
		cert, err = replayed[ca.Certificate](again)
	}
	if err != nil {
		return v.refused(err, func(r *refusal) (answer, error) { return certificateRevokeAnswer(v, request, r) })
	}
	return redirect{certificateURL(cert.SerialNumber) + "?note=certificate-revoked"}, nil
}
