package enroll

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// issueFor signs and records.
func (s *Service) issueFor(ctx context.Context, e *enrolling) (*ca.Certificate, error) {
	holder := ca.Holder{Kind: ca.HolderDevice, ID: e.deviceID}
	plain := !e.claim.Device.Supersedes && e.claim.IDevID == nil
	if !plain || s.caution.is(time.Now()) {
		if err := s.checkClaim(ctx, e, holder); err != nil {
			return nil, err
		}
	}
	profile, err := e.profile(ctx)
	if err != nil {
		return nil, err
	}
	e.used = profile
	if profile.Templated() {
		if err := s.completeFacts(ctx, e); err != nil {
			return nil, err
		}
	}
	cert, err := s.ca.Issue(ctx, ca.Order{
		Profile: profile.Name, Version: profile, Holder: holder, CommonName: e.deviceID, Facts: e.facts,
		PublicKey: e.request.PublicKey, KeySHA256: e.request.KeySHA256,
		Product: e.place.product, Site: e.place.site,
		Claim: func(cert ca.Certificate) any {
			claim := e.claim
			action := "device.enroll"
			switch {
			case claim.Replaces != "":
				action = "device.renew"
			case claim.Device.Supersedes:
				action = "device.rekey"
			}
			more := issued{WorkOrder: claim.Order}
			if e.born != nil {
				more.Manufacturer, more.IDevIDSHA256 = e.born.Manufacturer.ID, e.born.SHA256
			}
			claim.Event = s.issueEvent(e.actor, action, "device:"+e.deviceID, cert, more)
			return &claim
		},
	})
	switch {
	case !plain || err == nil || isKind(err, KindUnavailable):
	case e.recalled: // it goes again, and is checked then
		s.caution.take(time.Now())
	default:
		if refusal := s.checkClaim(ctx, e, holder); refusal != nil { // says best what stands against it
			return nil, refusal
		}
	}
	return cert, err
}

// checkClaim asks the store whether it would grant an enrollment, and is
// cautious for a while where it would not.
func (s *Service) checkClaim(ctx context.Context, e *enrolling, holder ca.Holder) error {
	err := s.store.CheckClaim(ctx, &e.claim, holder, e.request.KeySHA256)
	if err != nil {
		s.caution.take(time.Now())
	}
	return err
}

// cautious is how long after a refused enrollment others are checked before
// they are signed. The transaction that records a certificate decides
// in any case, and nearly always grants: then the check is a query for nothing.
// Where one was refused more are to be expected, and a signature costs more.
const cautious = 10 * time.Second

// A caution tells whether one was refused lately. The zero value tells no.
type caution struct{ until atomic.Int64 } // of the Unix time in nanoseconds

func (c *caution) is(now time.Time) bool { return now.UnixNano() < c.until.Load() }

func (c *caution) take(now time.Time) { c.until.Store(now.Add(cautious).UnixNano()) }

// completeFacts adds what is known of a device already to what its profile's
// templates are filled in with.
func (s *Service) completeFacts(ctx context.Context, e *enrolling) error {
	d := e.renewed
	e.facts.Product, e.facts.Site = e.place.product, e.place.site
	if d == nil {
		known, err := s.store.Device(ctx, e.deviceID)
		switch {
		case isKind(err, ca.KindNotFound):
			return nil // it is a new one
		case err != nil:
			return err
		}
		d = known
	}
	e.facts.Group = d.Group
	if e.facts.Attributes == nil {
		e.facts.Attributes = d.Attributes
	}
	if e.facts.WorkOrder != "" {
		return nil
	}
	at, err := s.placeOf(ctx, d)
	e.facts.WorkOrder, e.facts.Product, e.facts.Site = d.WorkOrder, at.product, at.site
	return err
}

// checkBlocked refuses the key of a certificate that was revoked for
// keyCompromise (I8).
func (s *Service) checkBlocked(ctx context.Context, keySHA256 string) error {
	blocked, err := s.store.KeyBlocked(ctx, keySHA256)
	if err == nil && blocked {
		return ca.Errorf(ca.KindBlockedKey, "csr", "make a new key", "this key was revoked as compromised")
	}
	return err
}

// An issued is the detail of an issuance's audit event. The names are in the
// order of their letters, as in every other event.
type issued struct {
	IDevIDSHA256   string          `json:"idevidSha256,omitempty"`
	Issuer         string          `json:"issuer"`
	KeySHA256      string          `json:"keySha256"`
	Manufacturer   string          `json:"manufacturer,omitempty"`
	Names          []string        `json:"names"`
	NotAfter       time.Time       `json:"notAfter"`
	Profile        string          `json:"profile"`
	ProfileVersion int64           `json:"profileVersion"`
	SerialNumber   ca.SerialNumber `json:"serialNumber"`
	WorkOrder      string          `json:"workOrder,omitempty"`
}

// issueEvent is the audit event of an issuance; detail has what the certificate
// does not say.
func (s *Service) issueEvent(actor, action, subject string, cert ca.Certificate, detail issued) Event {
	detail.SerialNumber, detail.Profile, detail.ProfileVersion, detail.Issuer = cert.SerialNumber, cert.Profile, cert.ProfileVersion, cert.IssuerID
	detail.Names, detail.NotAfter, detail.KeySHA256 = cert.Names, cert.NotAfter, cert.KeySHA256
	return newEvent(s.now(), actor, action, subject, detail)
}
