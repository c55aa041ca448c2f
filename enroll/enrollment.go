package enroll

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// An EnrollRequest asks for a device's first certificate.
type EnrollRequest struct {
	Token      string            `json:"token,omitempty"`    // enrollment token
	DeviceID   string            `json:"deviceId,omitempty"` // may be left out where a manufacturer's manifest says it
	CSR        string            `json:"csr"`                // PEM, RFC 2986
	WorkOrder  string            `json:"workOrder,omitempty"`
	Profile    string            `json:"profile,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// String names the device, and not the token.
func (r EnrollRequest) String() string { return "enrollment of device " + r.DeviceID }

// GoString is String.
func (r EnrollRequest) GoString() string { return r.String() }

// LogValue is String.
func (r EnrollRequest) LogValue() slog.Value { return slog.StringValue(r.String()) }

// An Enrollment is what the holder of a fresh certificate needs to connect.
type Enrollment struct {
	DeviceID    string          `json:"deviceId,omitempty"`
	Certificate *ca.Certificate `json:"certificate"`
	Chain       string          `json:"chain"` // PEM: the certificate, then its issuers, without the root
	TrustBundle TrustBundle     `json:"trustBundle"`
	Broker      *Endpoint       `json:"broker,omitempty"`
	Renewal     *Renewal        `json:"renewal,omitempty"`
	Warnings    []string        `json:"warnings,omitempty"` // for people: what the certificate may surprise with
	Replayed    bool            `json:"-"`                  // given before: nothing was issued by this call
}

// Renewal says where and from when a certificate is renewed.
type Renewal struct {
	URL   string    `json:"url"`
	After time.Time `json:"after"`
}

// EnrollDevice issues a device's first certificate. The caller is an API
// token, or nobody but the enrollment token in the request, or a device that
// came with its manufacturer's certificate. A repeated request (same idempotency
// key, same one-time token or manufacturer's certificate, or a device that still
// has its key) gets the first certificate again, Replayed set, and issues nothing (I5).
func (s *Service) EnrollDevice(ctx context.Context, c Call, r EnrollRequest) (*Enrollment, error) {
	var order string
	e, err := s.recalling(ctx, c, func(c Call, recall bool) (*Enrollment, error) {
		return s.enrollDevice(ctx, c, &r, &order, recall)
	})
	if err != nil {
		s.refused.note(order, r.DeviceID, err, s.now())
	}
	return e, err
}

// enrollDevice is EnrollDevice, by what is recalled or by what is read. order is
// set once it is known, and known to exist; what a manifest says of the device is
// set in r.
func (s *Service) enrollDevice(ctx context.Context, c Call, r *EnrollRequest, order *string, recall bool) (*Enrollment, error) {
	if born := c.Principal.IDevID; born != nil {
		if err := born.asked(r); err != nil {
			return nil, err
		}
	}
	e, err := s.admit(ctx, c, *r, order, recall)
	if err != nil {
		return nil, err
	}
	cert, err := s.issueFor(ctx, e)
	if err == nil {
		return s.enrollment(ctx, cert, e.used, false)
	}
	if recall { // it goes again
		return nil, err
	}
	if first, ok := errors.AsType[*Replay](err); ok {
		return s.replayedEnrollment(ctx, first)
	}
	if isKind(err, KindDuplicateDevice) {
		if kept, lookErr := s.reworked(ctx, e); lookErr != nil || kept != nil {
			return kept, lookErr
		}
	}
	return nil, err
}

// An enrolling is an enrollment request that policy admitted.
type enrolling struct {
	deviceID string
	recalled bool // by what was read before; see Service.recalling
	request  *ca.Request
	profile  profileRead
	used     *ca.Profile  // that was issued by; nil before
	facts    ca.NameFacts // what is known of the device so far
	renewed  *Device      // a renewal's, as it was read; nil for an enrollment
	actor    string
	born     *IDevID // the manufacturer's certificate it came with, if any
	claim    Claim
	place    place
}

// A place is what chooses the issuer of a device, beside its profile: that of
// its work order.
type place struct{ product, site string }

func (o *WorkOrder) place() place { return place{o.Product, o.Site} }

// admit checks everything about a request that needs no transaction.
func (s *Service) admit(ctx context.Context, c Call, r EnrollRequest, known *string, recall bool) (*enrolling, error) {
	if err := CheckDeviceID("deviceId", r.DeviceID); err != nil {
		return nil, err
	}
	if err := checkAttributes(r.Attributes); err != nil {
		return nil, err
	}
	token, err := s.tokenOf(ctx, &c, r)
	if err != nil {
		return nil, err
	}
	order := r.WorkOrder
	if token != nil {
		*known = token.WorkOrder
		if order != "" && order != token.WorkOrder {
			return nil, ca.Errorf(KindTokenOtherOrder, "workOrder", "leave workOrder out, or use a token of that order", "the token is for another work order")
		}
		order = token.WorkOrder
	}
	renews, renewed := token != nil && token.Renews, r.DeviceID
	if renews {
		renewed = token.DeviceID // another device's is refused when the token is spent
	}
	born := c.Principal.IDevID
	if born != nil {
		*known = order
		if renews, err = s.supersedes(ctx, born); err != nil {
			return nil, err
		}
	}
	if order == "" && c.Principal.Role == RoleFactory && !renews {
		return nil, ca.Errorf(ca.KindMalformed, "workOrder", "name the work order that the device is built for", "is missing")
	}
	if err := c.Principal.mayServe(order); err != nil {
		return nil, err
	}
	profile, err := s.enrolledProfile(ctx, renews, renewed, order, r.Profile, recall)
	if err != nil {
		return nil, err
	}
	*known = order
	request, err := ca.ParseRequest("csr", []byte(r.CSR))
	if err != nil {
		return nil, err
	}
	if err := checkDeviceNames(request, r.DeviceID); err != nil {
		return nil, err
	}
	e := &enrolling{deviceID: r.DeviceID, recalled: recall, request: request, profile: profile.read, actor: c.Principal.Name, place: profile.place}
	e.facts = ca.NameFacts{ID: r.DeviceID, WorkOrder: order, Attributes: r.Attributes}
	sum, err := requestHash(r, order, profile.name, request)
	if err != nil {
		return nil, err
	}
	if c.IdempotencyKey != "" {
		e.claim.Idempotency = &Idempotency{Scope: c.Principal.Name + " device.enroll", Key: c.IdempotencyKey, RequestHash: sum}
	}
	e.claim.Order, e.claim.Profile = order, profile.recalled
	if c.Principal.Token != nil {
		e.claim.Caller = c.Principal.Token.ID
	}
	e.claim.Device = &DeviceClaim{
		ID: r.DeviceID, Attributes: r.Attributes, TrustGeneration: s.ca.TrustGeneration(),
		Stranded:   !renews && (c.Principal.Role == RoleAdmin || c.Principal.Role == RoleOperator),
		Supersedes: renews,
	}
	if born != nil {
		e.claim.IDevID = &IDevIDClaim{Manufacturer: born.Manufacturer.ID, DeviceID: r.DeviceID, AddedAt: born.Entry.AddedAt, RequestHash: sum}
		e.born = born
		if renews { // it took one of the order's quota at first
			e.claim.Order = ""
		}
	}
	if renews { // sessions that the lost key began are closed
		e.claim.Jobs = []Job{{Kind: JobDisconnect, Subject: r.DeviceID}}
	}
	if token != nil {
		e.claim.Token = &TokenClaim{ID: token.ID, DeviceID: r.DeviceID, RequestHash: sum}
	}
	return e, nil
}

// An askedProfile is the profile of an enrollment, by what admits it.
type askedProfile struct {
	name     string
	place    // of the work order
	read     profileRead
	recalled *ProfileClaim // what the transaction has to look at; nil for one that is read
}

// enrolledProfile returns the profile of an enrollment: the first, or again.
func (s *Service) enrolledProfile(ctx context.Context, renews bool, device, order, asked string, recall bool) (*askedProfile, error) {
	if renews {
		return s.renewedProfile(ctx, device, asked)
	}
	return s.profileFor(ctx, recall, order, asked)
}

// tokenOf looks up the enrollment token of a request, and makes it the caller
// when there is no other.
func (s *Service) tokenOf(ctx context.Context, c *Call, r EnrollRequest) (*EnrollmentToken, error) {
	if r.Token == "" {
		if c.Principal.Name == "" {
			return nil, ca.Errorf(KindUnauthenticated, "token", "send an enrollment token in the body, or an API token as Authorization: Bearer", "there is no credential")
		}
		return nil, nil
	}
	token, err := s.store.EnrollmentTokenByHash(ctx, hashSecret(r.Token))
	if isKind(err, ca.KindNotFound) {
		return nil, ca.Errorf(KindTokenUnknown, "token", "get one for the work order: POST /api/v1/work-orders/ID/tokens", "the enrollment token is not known")
	}
	if err != nil {
		return nil, err
	}
	if c.Principal.Name == "" {
		c.Principal.Name = "enrollment-token:" + token.ID
	}
	return token, nil
}

// A profiledOrder is a work order, and the newest stored version of its profile.
type profiledOrder struct {
	*WorkOrder
	stored *StoredProfile
}

// orderOf returns a work order with its profile, by one read that is shared.
func (s *Service) orderOf(ctx context.Context, id string) (profiledOrder, error) {
	o, err := s.orders.get(ctx, id, func(ctx context.Context) (profiledOrder, error) {
		o, stored, err := s.store.ProfiledOrder(ctx, id)
		if err == nil {
			s.known.orders.keep(id, profiledOrder{o, stored})
		}
		return profiledOrder{o, stored}, err
	})
	if isKind(err, ca.KindNotFound) {
		return o, ca.Errorf(ca.KindNotFound, "workOrder", "GET /api/v1/work-orders lists them", "there is no work order %.64q", id)
	}
	return o, err
}

// profileFor returns the profile of an enrollment: the work order's, or device.
func (s *Service) profileFor(ctx context.Context, recall bool, order, asked string) (*askedProfile, error) {
	if order == "" {
		return s.namedProfile(ctx, cmp.Or(asked, defaultProfile), recall), nil
	}
	var recalled *ProfileClaim
	o, known := s.known.orders.get(order)
	if recall && known {
		recalled = recalledVersion(o.Profile, o.stored)
	} else {
		var err error
		if o, err = s.orderOf(ctx, order); err != nil {
			return nil, err
		}
	}
	if asked != "" && asked != o.Profile {
		return nil, ca.Errorf(ca.KindProfile, "profile", "leave profile out", "work order %s is for profile %s", order, o.Profile)
	}
	profile, err := forDevices(s.inForce(o.Profile, o.stored))
	if err != nil {
		return nil, err
	}
	return &askedProfile{name: o.Profile, place: o.place(), read: readAlready(profile), recalled: recalled}, nil
}

// placeOf returns the place of a device: of the work order that it was built
// for. An order that is gone is none.
func (s *Service) placeOf(ctx context.Context, d *Device) (place, error) {
	if d.WorkOrder == "" {
		return place{}, nil
	}
	if o, ok := s.known.orders.get(d.WorkOrder); ok { // which never changes in this
		return o.place(), nil
	}
	o, err := s.orderOf(ctx, d.WorkOrder)
	if isKind(err, ca.KindNotFound) {
		return place{}, nil
	}
	if err != nil {
		return place{}, err
	}
	return o.place(), nil
}

// checkDeviceNames refuses a request for names that are not the device's (I9).
// What it may ask for, the policy gives anyway: the device id as common name.
func checkDeviceNames(r *ca.Request, id string) error {
	const hint = "make the request with subject CN = deviceId and without other names"
	if r.CommonName != "" && r.CommonName != id {
		return ca.Errorf(ca.KindNameNotAllowed, "csr", hint, "asks for the common name %.80q, not the device id", r.CommonName)
	}
	for _, name := range r.DNSNames {
		if name != id {
			return ca.Errorf(ca.KindNameNotAllowed, "csr", hint, "asks for the DNS name %.80q", name)
		}
	}
	if len(r.IPs) > 0 || r.OtherNames {
		return ca.Errorf(ca.KindNameNotAllowed, "csr", hint, "asks for IP, e-mail or URI names")
	}
	return nil
}

// requestHash returns what makes two enrollment requests the same (I5): all
// that was asked, with the CertificationRequestInfo for the request, since a
// request signed anew has another ECDSA signature.
func requestHash(r EnrollRequest, order, profile string, request *ca.Request) ([]byte, error) {
	text, err := json.Marshal(struct { // as a map of them was written: the hashes are stored
		Attributes map[string]string `json:"attributes"`
		CSR        []byte            `json:"csr"`
		DeviceID   string            `json:"deviceId"`
		Profile    string            `json:"profile"`
		WorkOrder  string            `json:"workOrder"`
	}{r.Attributes, request.InfoSHA256, r.DeviceID, profile, order})
	if err != nil {
		return nil, fmt.Errorf("hash the request: %w", err)
	}
	sum := sha256.Sum256(text)
	return sum[:], nil
}

// reworked returns the certificate of a device that enrolls again with the key
// it still has, and nil for any other.
func (s *Service) reworked(ctx context.Context, e *enrolling) (*Enrollment, error) {
	d, err := s.store.Device(ctx, e.deviceID)
	if err != nil {
		return nil, err
	}
	if d.Status == DeviceActive && sameOrder(d, e) {
		if cert := certificateWithKey(d, e.request.KeySHA256, s.cfg.Now()); cert != nil {
			return s.again(ctx, e, "device.enroll-again", cert)
		}
	}
	return nil, nil
}

// again answers with a certificate that was issued before to another request
// of the same device, and binds this one's idempotency key to it (I5).
func (s *Service) again(ctx context.Context, e *enrolling, action string, cert *ca.Certificate) (*Enrollment, error) {
	if e.claim.Idempotency != nil {
		i := *e.claim.Idempotency
		i.SerialNumber = cert.SerialNumber
		event := newEvent(s.now(), e.actor, action, "device:"+e.deviceID, map[string]any{"serialNumber": cert.SerialNumber})
		err := s.store.RecordEvent(ctx, Change{Event: event, Idempotency: &i})
		if first, ok := errors.AsType[*Replay](err); ok {
			return s.replayedEnrollment(ctx, first)
		}
		if err != nil {
			return nil, err
		}
	}
	return s.enrollment(ctx, cert, nil, true)
}

// sameOrder reports whether a device is the work order's that it enrolls for
// again, so that no credential learns of another's devices.
func sameOrder(d *Device, e *enrolling) bool {
	return e.claim.Order == "" || d.WorkOrder == e.claim.Order
}

// certificateWithKey returns the device's newest good certificate when it has
// this key.
func certificateWithKey(d *Device, keySHA256 string, now time.Time) *ca.Certificate {
	for _, cert := range d.Certificates {
		if cert.StatusAt(now) == ca.StatusGood {
			if cert.KeySHA256 == keySHA256 {
				return cert
			}
			return nil
		}
	}
	return nil
}

func (s *Service) replayedEnrollment(ctx context.Context, r *Replay) (*Enrollment, error) {
	cert, err := s.store.Certificate(ctx, r.SerialNumber)
	if err != nil {
		return nil, fmt.Errorf("the certificate issued before: %w", err)
	}
	return s.enrollment(ctx, cert, nil, true)
}

// enrollment returns the answer for a recorded certificate; profile is the
// version that it was issued under, looked up when nil.
func (s *Service) enrollment(ctx context.Context, cert *ca.Certificate, profile *ca.Profile, replayed bool) (*Enrollment, error) {
	chain := s.ca.ChainPEM
	if cert.Holder.Kind == ca.HolderBroker || cert.Holder.Kind == ca.HolderServer { // shown to devices with an older trust bundle
		chain = s.ca.ServedChainPEM
	}
	e := &Enrollment{
		Certificate: cert, Chain: cert.PEM() + chain(cert.IssuerID),
		TrustBundle: s.trustBundle(), Replayed: replayed,
	}
	if cert.Holder.Kind != ca.HolderDevice {
		return e, nil
	}
	e.DeviceID = cert.Holder.ID
	if profile == nil {
		var err error
		if profile, err = s.profileOf(ctx, cert); err != nil {
			return nil, fmt.Errorf("the profile of certificate %s: %w", cert.SerialNumber, err)
		}
	}
	// As of the issuance: a replay answers the same.
	if warning := profile.ShelfWarning(cert.NotBefore.Add(profile.Backdate), cert.NotAfter); warning != "" {
		e.Warnings = []string{warning}
	}
	e.Renewal = &Renewal{URL: s.cfg.MachineURL + "/api/v1/renewals", After: cert.RenewAfter()}
	b, err := s.toDial.get(ctx, s.now(), s.brokerToDial)
	if err != nil {
		return nil, fmt.Errorf("the broker to connect to: %w", err)
	}
	if b != nil {
		e.Broker = &Endpoint{URL: b.URL, ServerName: b.serverName(), ClientID: e.DeviceID, TopicPrefix: topicPrefix(e.DeviceID)}
	}
	return e, nil
}
