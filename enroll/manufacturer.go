package enroll

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A ManufacturerState says whether a manufacturer's certificates enroll devices.
type ManufacturerState string

// The states of a manufacturer.
const (
	ManufacturerActive   ManufacturerState = "active"
	ManufacturerDisabled ManufacturerState = "disabled"
)

// A Manufacturer is a certification authority of somebody else. Devices are
// born with its certificates (IDevID, IEEE 802.1AR), and enroll with them, each
// as its manifest says, for a certificate of this authority (LDevID).
type Manufacturer struct {
	ID        string            `json:"id"`
	State     ManufacturerState `json:"state"`
	Reenroll  bool              `json:"reenroll"` // a device may enroll again: what it held is revoked as superseded
	Subject   string            `json:"subject"`
	SHA256    string            `json:"sha256"` // of its certificate
	NotAfter  time.Time         `json:"notAfter"`
	PEM       string            `json:"pem"`
	Devices   int64             `json:"devices"`  // in its manifest
	Enrolled  int64             `json:"enrolled"` // of those, how many have enrolled
	CreatedAt time.Time         `json:"createdAt"`

	Certificate *x509.Certificate `json:"-"`
}

// Describe fills in what the manufacturer's certificate says.
func (m *Manufacturer) Describe() *Manufacturer {
	c := m.Certificate
	m.Subject, m.SHA256, m.NotAfter, m.PEM = c.Subject.String(), ca.FingerprintOf(c), c.NotAfter, ca.EncodeChain(c)
	return m
}

// NewManufacturer is what a manufacturer is added with.
type NewManufacturer struct {
	ID          string `json:"id"`
	Certificate string `json:"certificate"` // PEM, of the authority that signs its devices' certificates, or one above it
	Reenroll    bool   `json:"reenroll,omitempty"`
}

// A ManufacturerUpdate changes a manufacturer; what is left out stays.
type ManufacturerUpdate struct {
	Reenroll *bool              `json:"reenroll,omitempty"`
	State    *ManufacturerState `json:"state,omitempty"`
}

// AddManufacturer registers a manufacturer. Nothing enrolls with its
// certificates until a manifest names them. KindConflict when the id or the
// certificate is there.
func (s *Service) AddManufacturer(ctx context.Context, c Call, n NewManufacturer) (*Manufacturer, error) {
	if err := checkID("id", n.ID); err != nil {
		return nil, err
	}
	cert, err := s.foreignAuthority(n.Certificate)
	if err != nil {
		return nil, err
	}
	m := (&Manufacturer{ID: n.ID, State: ManufacturerActive, Reenroll: n.Reenroll, CreatedAt: s.now(), Certificate: cert}).Describe()
	err = s.repeatable(ctx, c, "manufacturer.add", n, m, func(i *Idempotency) error {
		detail := map[string]any{"subject": m.Subject, "sha256": m.SHA256, "notAfter": m.NotAfter, "reenroll": m.Reenroll}
		return s.store.CreateManufacturer(ctx, *m, Change{Idempotency: i,
			Event: newEvent(m.CreatedAt, c.Principal.Name, "manufacturer.add", "manufacturer:"+m.ID, detail)})
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// foreignAuthority reads the certificate of an authority that is not ours.
func (s *Service) foreignAuthority(text string) (*x509.Certificate, error) {
	const field = "certificate"
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, ca.Errorf(ca.KindMalformed, field, "send the one certificate that the devices' certificates lead to, with its BEGIN and END lines", "is not one certificate as PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, ca.Errorf(ca.KindMalformed, field, "look at it with openssl x509 -text", "is not a certificate (RFC 5280): %w", err)
	}
	const hint = "send the certificate of the manufacturer's authority, not of a device"
	if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, ca.Errorf(ca.KindMalformed, field, hint, "%s signs no certificates: it is no CA, or lacks keyCertSign", cert.Subject)
	}
	if err := checkForeignKey(cert.PublicKey); err != nil {
		return nil, ca.Errorf(ca.KindWeakKey, field, "ask the manufacturer for its newer authority", "the key of %s is too weak: %s", cert.Subject, err)
	}
	if bytes.Equal(cert.RawSubject, cert.RawIssuer) {
		if err := cert.CheckSignatureFrom(cert); err != nil {
			return nil, ca.Errorf(ca.KindMalformed, field, "get it again, or a newer one", "its signature does not hold: %w", err)
		}
	}
	if now := s.cfg.Now(); now.After(cert.NotAfter) || now.Before(cert.NotBefore) {
		return nil, ca.Errorf(ca.KindMalformed, field, "ask the manufacturer for its present one", "%s is valid from %s to %s", cert.Subject,
			cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339))
	}
	if slices.ContainsFunc(s.ca.Issuers(), func(own ca.Issuer) bool {
		return bytes.Equal(own.Certificate.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo)
	}) {
		return nil, ca.Errorf(ca.KindMalformed, field, hint, "it is this authority's own: its devices renew, they do not enroll with it")
	}
	return cert, nil
}

// checkForeignKey refuses a key that others can find: RSA below 2048 bits,
// elliptic curves below P-256, and kinds that crypto/x509 does not verify.
func checkForeignKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 {
			return nil
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize >= 256 {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	}
	return errors.New("it takes RSA of 2048 bits, P-256, Ed25519 or more")
}

// Manufacturer returns a manufacturer.
func (s *Service) Manufacturer(ctx context.Context, id string) (*Manufacturer, error) {
	return s.store.Manufacturer(ctx, id)
}

// Manufacturers lists manufacturers by id.
func (s *Service) Manufacturers(ctx context.Context, p Page) ([]*Manufacturer, string, error) {
	return s.store.Manufacturers(ctx, p)
}

// UpdateManufacturer changes whether a manufacturer's devices may enroll at all,
// and whether more than once. With what it is already nothing changes.
func (s *Service) UpdateManufacturer(ctx context.Context, c Call, id string, u ManufacturerUpdate) (*Manufacturer, error) {
	if u.Reenroll == nil && u.State == nil {
		return nil, ca.Errorf(ca.KindMalformed, "", "give reenroll, state or both", "there is nothing to change")
	}
	if u.State != nil && *u.State != ManufacturerActive && *u.State != ManufacturerDisabled {
		return nil, ca.Errorf(ca.KindMalformed, "state", "active or disabled", "%.40q is no state of a manufacturer", string(*u.State))
	}
	return s.setManufacturer(ctx, c, id, "manufacturer.update", u)
}

// DisableManufacturer keeps a manufacturer's certificates from enrolling
// devices, from now on. Devices that are enrolled stay.
func (s *Service) DisableManufacturer(ctx context.Context, c Call, id string) (*Manufacturer, error) {
	return s.setManufacturer(ctx, c, id, "manufacturer.disable", ManufacturerUpdate{State: new(ManufacturerDisabled)})
}

func (s *Service) setManufacturer(ctx context.Context, c Call, id, action string, u ManufacturerUpdate) (*Manufacturer, error) {
	before, err := s.store.Manufacturer(ctx, id)
	if err != nil {
		return nil, err
	}
	after := *before
	if u.Reenroll != nil {
		after.Reenroll = *u.Reenroll
	}
	if u.State != nil {
		after.State = *u.State
	}
	if after == *before {
		return before, nil
	}
	detail := map[string]any{"state": after.State, "reenroll": after.Reenroll}
	err = s.store.SetManufacturer(ctx, *before, after, Change{Event: newEvent(s.now(), c.Principal.Name, action, "manufacturer:"+id, detail)})
	if err != nil {
		return nil, err
	}
	return s.store.Manufacturer(ctx, id)
}

// attentionToMakers tells of active manufacturers whose authority ends: when it
// has, none of its certificates enrolls a device any more.
func (s *Service) attentionToMakers(ctx context.Context, now time.Time) ([]Attention, error) {
	makers, _, err := s.store.Manufacturers(ctx, Page{Limit: maxLooks})
	var all []Attention
	for _, m := range makers {
		if m.State != ManufacturerActive {
			continue
		}
		if a := lastThird(m.Certificate.NotBefore, m.NotAfter, now, "the authority of manufacturer "+m.ID); a != nil {
			a.Kind, a.Subject, a.Action = AttentionMaker, "manufacturer:"+m.ID, ActionOpenMaker
			all = append(all, *a)
		}
	}
	return all, err
}
