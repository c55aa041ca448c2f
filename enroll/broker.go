package enroll

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/fleetca/fleetca/ca"
)

// maxBrokerNames bounds the names of one broker's certificate.
const maxBrokerNames = 100

// NewBroker is what a broker is registered with.
type NewBroker struct {
	ID    string   `json:"id,omitempty"` // the URL's host when empty
	URL   string   `json:"url"`          // mqtts://host[:8883], as devices dial it
	Names []string `json:"names"`        // of its certificate; the URL's host when empty
	Kind  string   `json:"kind"`         // mosquitto, rabbitmq, nats, embedded, ...
	// Product and Site choose the issuer of its certificates; the general one
	// when empty.
	Product string `json:"product,omitempty"`
	Site    string `json:"site,omitempty"`
}

// CreateBroker registers a broker. KindConflict when the id exists.
func (s *Service) CreateBroker(ctx context.Context, c Call, n NewBroker) (*Broker, error) {
	b, err := newBroker(n)
	if err != nil {
		return nil, err
	}
	b.CreatedAt = s.now()
	defer s.toDial.forget()
	err = s.repeatable(ctx, c, "broker.register", n, b, func(i *Idempotency) error {
		return s.store.CreateBroker(ctx, *b, Change{Idempotency: i,
			Event: newEvent(b.CreatedAt, c.Principal.Name, "broker.register", "broker:"+b.ID, n)})
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// newBroker checks what a broker is registered with.
func newBroker(n NewBroker) (*Broker, error) {
	host, address, err := splitBrokerURL(n.URL)
	if err != nil {
		return nil, err
	}
	b := &Broker{ID: n.ID, URL: "mqtts://" + address, Names: n.Names, Kind: n.Kind, Product: n.Product, Site: n.Site, Status: BrokerRegistered}
	if b.ID == "" {
		b.ID = strings.ReplaceAll(host, ":", "-")
	}
	if b.Kind == "" {
		b.Kind = "generic"
	}
	if len(b.Names) == 0 {
		b.Names = []string{host}
	}
	if err := checkID("id", b.ID); err != nil {
		return nil, err
	}
	if err := checkID("kind", b.Kind); err != nil {
		return nil, err
	}
	if err := checkText("product", b.Product, maxProduct); b.Product != "" && err != nil {
		return nil, err
	}
	if err := checkSite(b.Site); err != nil {
		return nil, err
	}
	if len(b.Names) > maxBrokerNames {
		return nil, ca.Errorf(ca.KindMalformed, "names", "leave some out", "are %d, more than %d", len(b.Names), maxBrokerNames)
	}
	if b.Names, err = canonicalNames(b.Names); err != nil {
		return nil, err
	}
	if !slices.Contains(b.Names, host) {
		return nil, ca.Errorf(ca.KindNameNotAllowed, "names", "add it", "do not hold %s, the host that devices dial", host)
	}
	return b, nil
}

// canonicalNames returns names as certificates spell them, each once: an IP
// address that is written in another way would never be found in one.
func canonicalNames(names []string) ([]string, error) {
	var all []string
	for _, name := range names {
		if err := checkServerName("names", name); err != nil {
			return nil, err
		}
		if name = canonicalName(name); !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all, nil
}

func canonicalName(name string) string {
	if ip := net.ParseIP(name); ip != nil {
		return ip.String()
	}
	return name
}

// splitBrokerURL returns the host, and host:port, of mqtts://host[:port].
func splitBrokerURL(text string) (host, address string, err error) {
	const hint = "write mqtts://HOST:8883"
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return "", "", ca.Errorf(ca.KindMalformed, "url", hint, "%.200q is not a URL with a host", text)
	case u.Scheme != "mqtts":
		return "", "", ca.Errorf(ca.KindMalformed, "url", hint, "the scheme %.20q is not mqtts", u.Scheme)
	case u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "", "", ca.Errorf(ca.KindMalformed, "url", hint, "holds more than a host and a port")
	}
	host, port := canonicalName(strings.ToLower(u.Hostname())), u.Port()
	if err := checkServerName("url", host); err != nil {
		return "", "", err
	}
	if port == "" {
		port = "8883"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", ca.Errorf(ca.KindMalformed, "url", hint, "%.20q is not a port", port)
	}
	return host, net.JoinHostPort(host, port), nil
}

// serverName returns the name that devices expect in the broker's certificate.
func (b *Broker) serverName() string {
	u, err := url.Parse(b.URL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// MoveBroker makes a broker known under another URL, with its certificate's
// names and kind as given. One that is known so already is left alone.
func (s *Service) MoveBroker(ctx context.Context, actor string, n NewBroker) error {
	b, err := newBroker(n)
	if err != nil {
		return err
	}
	known, err := s.store.Broker(ctx, b.ID)
	if err != nil {
		return err
	}
	if known.URL == b.URL && known.Kind == b.Kind && known.Product == b.Product && known.Site == b.Site && slices.Equal(known.Names, b.Names) {
		return nil
	}
	defer s.toDial.forget()
	return s.store.UpdateBroker(ctx, *b, Change{Event: newEvent(s.now(), actor, "broker.move", "broker:"+b.ID, n)})
}

// A BrokerUpdate says what is to change of a broker; nil fields stay.
type BrokerUpdate struct {
	URL   *string  `json:"url,omitempty"`   // mqtts://host[:8883], as devices dial it
	Names []string `json:"names,omitempty"` // of its next certificate, the URL's host among them
	// Product and Site choose the issuer of its next certificate; empty for the
	// general one.
	Product *string `json:"product,omitempty"`
	Site    *string `json:"site,omitempty"`
}

// UpdateBroker changes where a broker is dialed, or the names of its next
// certificate: the one that it has stays as it is until it is rotated.
func (s *Service) UpdateBroker(ctx context.Context, c Call, id string, u BrokerUpdate) (*Broker, error) {
	known, err := s.store.Broker(ctx, id)
	if err != nil {
		return nil, err
	}
	n := NewBroker{ID: known.ID, URL: known.URL, Names: known.Names, Kind: known.Kind, Product: known.Product, Site: known.Site}
	if u.URL != nil {
		n.URL = *u.URL
	}
	if u.Names != nil {
		n.Names = u.Names
	}
	if u.Product != nil {
		n.Product = *u.Product
	}
	if u.Site != nil {
		n.Site = *u.Site
	}
	if err := s.MoveBroker(ctx, c.Principal.Name, n); err != nil {
		return nil, err
	}
	return s.Broker(ctx, id)
}

// Broker returns a broker, with its newest certificate and verification, and the
// server that drives it.
func (s *Service) Broker(ctx context.Context, id string) (*Broker, error) {
	b, err := s.store.Broker(ctx, id)
	if err != nil {
		return nil, err
	}
	return b, s.showDrivers(ctx, b)
}

// Brokers lists brokers.
func (s *Service) Brokers(ctx context.Context, p Page) ([]*Broker, string, error) {
	all, next, err := s.store.Brokers(ctx, p)
	if err != nil {
		return nil, "", err
	}
	return all, next, s.showDrivers(ctx, all...)
}

// IssueBroker issues a broker's certificate, for a request whose names are
// among the broker's.
func (s *Service) IssueBroker(ctx context.Context, c Call, id, csr string) (*Enrollment, error) {
	b, err := s.store.Broker(ctx, id)
	if err != nil {
		return nil, err
	}
	request, err := ca.ParseRequest("csr", []byte(csr))
	if err != nil {
		return nil, err
	}
	cert, err := s.issueBroker(ctx, c, b, request)
	if again, ok := errors.AsType[*Replay](err); ok {
		return s.replayedEnrollment(ctx, again)
	}
	if err != nil {
		return nil, err
	}
	return s.enrollment(ctx, cert, nil, false)
}

// issueBroker issues for a parsed request; *Replay when that was done before.
func (s *Service) issueBroker(ctx context.Context, c Call, b *Broker, request *ca.Request) (*ca.Certificate, error) {
	if err := checkBrokerNames(request, b); err != nil {
		return nil, err
	}
	if b.Certificate != nil { // the first one switches nothing
		if err := s.mayIssueFor(ctx, b); err != nil {
			return nil, err
		}
	}
	claim := Claim{}
	if c.IdempotencyKey != "" {
		sum := sha256.Sum256(append([]byte(b.ID+"\x00"), request.InfoSHA256...))
		claim.Idempotency = &Idempotency{Scope: c.Principal.Name + " broker.issue", Key: c.IdempotencyKey, RequestHash: sum[:]}
	}
	if err := s.replayed(ctx, claim.Idempotency); err != nil {
		return nil, err
	}
	if err := s.checkBlocked(ctx, request.KeySHA256); err != nil {
		return nil, err
	}
	read := s.beginProfile(ctx, brokerProfile)
	holder := ca.Holder{Kind: ca.HolderBroker, ID: b.ID}
	if err := s.store.CheckClaim(ctx, &claim, holder, request.KeySHA256); err != nil {
		return nil, err
	}
	profile, err := read(ctx)
	if err != nil {
		return nil, err
	}
	order := ca.Order{
		Profile: profile.Name, Version: profile, Holder: holder, CommonName: b.Names[0], Facts: ca.NameFacts{ID: b.ID}, PublicKey: request.PublicKey, KeySHA256: request.KeySHA256,
		Product: b.Product, Site: b.Site,
		Claim: func(cert ca.Certificate) any {
			claim.Event = s.issueEvent(c.Principal.Name, "broker.issue", "broker:"+b.ID, cert, issued{})
			return &claim
		},
	}
	order.DNSNames, order.IPs = splitNames(b.Names)
	return s.ca.Issue(ctx, order)
}

// mayIssueFor refuses to switch a broker to another root than its newest
// certificate's while devices would be left behind.
func (s *Service) mayIssueFor(ctx context.Context, b *Broker) error {
	profile, err := s.beginProfile(ctx, brokerProfile)(ctx)
	if err != nil {
		return err
	}
	next, err := s.ca.SignerFor(profile, b.Product, b.Site)
	if err != nil {
		return err
	}
	if b.Certificate != nil && s.ca.RootOf(b.Certificate.IssuerID) == s.ca.RootOf(next) {
		return nil
	}
	return s.mayTake(ctx, next, StepSwitch)
}

// splitNames returns the DNS names and the IP addresses among names.
func splitNames(names []string) (dns []string, ips []net.IP) {
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, name)
		}
	}
	return dns, ips
}

// checkBrokerNames refuses a request for names that are not the broker's (I9).
func checkBrokerNames(r *ca.Request, b *Broker) error {
	asked := slices.Clone(r.DNSNames)
	for _, ip := range r.IPs {
		asked = append(asked, ip.String())
	}
	if r.CommonName != "" {
		asked = append(asked, r.CommonName)
	}
	for _, name := range asked {
		if !slices.Contains(b.Names, name) && name != b.ID {
			return ca.Errorf(ca.KindNameNotAllowed, "csr", "register the broker with this name, or leave it out of the request", "asks for %.80q, which is not among the names of broker %s", name, b.ID)
		}
	}
	if r.OtherNames {
		return ca.Errorf(ca.KindNameNotAllowed, "csr", "leave them out", "asks for e-mail or URI names")
	}
	return nil
}
