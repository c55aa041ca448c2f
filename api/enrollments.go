package api

import (
	"errors"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func (a *API) postEnrollment(x *exchange, in enroll.EnrollRequest) (*enroll.Enrollment, error) {
	if x.principal.Name == "" && in.Token == "" {
		if err := a.admitIDevID(x); err != nil {
			return nil, err
		}
	}
	e, err := a.service.EnrollDevice(x.ctx(), x.call(), in)
	a.metrics.issued("enroll", e, err)
	if err != nil {
		a.countUnknownToken(x.r, err)
		return nil, err
	}
	return x.enrolled(e), nil
}

// admitIDevID lets in a device by its manufacturer's certificate: the one
// credential there is left.
func (a *API) admitIDevID(x *exchange) error {
	if !x.machines || x.r.TLS == nil || len(x.r.TLS.PeerCertificates) == 0 {
		return ca.Errorf(enroll.KindUnauthenticated, "token", `give the enrollment token as "token", or send "Authorization: Bearer TOKEN", or come with a manufacturer's certificate to the machine listener`,
			"an enrollment needs an enrollment token, an API token or a manufacturer's certificate")
	}
	p, err := a.service.AuthenticateIDevID(x.ctx(), x.r.TLS.PeerCertificates)
	if err != nil {
		if errors.Is(err, ca.IsKind(enroll.KindUnknownManufacturer)) || errors.Is(err, ca.IsKind(enroll.KindBadIDevID)) {
			a.countFailure(x.r)
		}
		return err
	}
	x.principal = *p
	return nil
}

// RenewalRequest is the body of a renewal.
type RenewalRequest struct {
	CSR string `json:"csr,omitempty"` // PEM; the key is kept when empty
}

func (a *API) postRenewal(x *exchange, in RenewalRequest) (*enroll.Enrollment, error) {
	e, err := a.service.RenewDevice(x.ctx(), x.call(), in.CSR)
	a.metrics.issued("renew", e, err)
	if err != nil {
		return nil, err
	}
	return x.enrolled(e), nil
}

// BrokerRequest is the body of a request for a broker's certificate.
type BrokerRequest struct {
	CSR string `json:"csr"` // PEM
}

func (a *API) postBrokerCertificate(x *exchange, in BrokerRequest) (*enroll.Enrollment, error) {
	e, err := a.service.IssueBroker(x.ctx(), x.call(), x.param("id"), in.CSR)
	a.metrics.issued("broker", e, err)
	if err != nil {
		return nil, err
	}
	return x.enrolled(e), nil
}

// enrolled notes where the new certificate is.
func (x *exchange) enrolled(e *enroll.Enrollment) *enroll.Enrollment {
	x.replayed = e.Replayed
	x.location = "/certificates/" + string(e.Certificate.SerialNumber)
	return e
}
