package enroll

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"log/slog"
	"slices"
	"strings"

	"github.com/fleetca/fleetca/ca"
)

// A Principal is who makes a call.
type Principal struct {
	Name        string          // the audit trail's actor: user:NAME, token:ID, enrollment-token:ID, device:ID, idevid:DEVICE, server
	Role        Role            // empty for those without API token
	Token       *APIToken       // the API token, without its secret; nil for those without
	Session     *Session        // the dashboard's session; nil for those without
	Certificate *ca.Certificate // the client certificate it came with, if any
	IDevID      *IDevID         // the manufacturer's certificate it came with, if any
	Seal        []byte          // key material of the credential, for sealing kept answers; never stored

	device   *Device // of Certificate, for its renewal; nil where it was not read
	recalled []byte  // SHA-256 of the API token where Recall gave what was read before; nil otherwise
}

// String returns the name, and nothing of the credential.
func (p Principal) String() string { return p.Name }

// GoString is String.
func (p Principal) GoString() string { return p.Name }

// LogValue is String.
func (p Principal) LogValue() slog.Value { return slog.StringValue(p.Name) }

// A Call is what every call that changes something carries.
type Call struct {
	Principal      Principal
	IdempotencyKey string // empty for none
}

// Prefixes of bearer secrets, so that a leaked one is recognized.
const (
	apiTokenPrefix        = "fca_"
	enrollmentTokenPrefix = "fce_"
)

// newSecret returns a bearer secret with 256 random bits, and its SHA-256.
func newSecret(prefix string) (secret string, hash []byte) {
	var b [32]byte
	rand.Read(b[:])
	secret = prefix + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, hashSecret(secret)
}

func hashSecret(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// Authenticate returns the principal of an API token.
func (s *Service) Authenticate(ctx context.Context, bearer string) (*Principal, error) {
	if !strings.HasPrefix(bearer, apiTokenPrefix) {
		return nil, badToken()
	}
	token, err := s.apiToken(ctx, hashSecret(bearer))
	if err != nil {
		return nil, err
	}
	return s.principalOf(token, bearer)
}

func badToken() error {
	return ca.Errorf(KindUnauthenticated, "Authorization", "log in again (fleetca login), or ask an admin for a token", "the API token is not known, expired or disabled")
}

// apiToken reads an API token. It is found by the hash of 256 random bits: timing
// tells nothing about the secret.
func (s *Service) apiToken(ctx context.Context, hash []byte) (*APIToken, error) {
	token, err := s.tokens.get(ctx, string(hash), func(ctx context.Context) (*APIToken, error) { return s.store.APITokenByHash(ctx, hash) })
	if isKind(err, ca.KindNotFound) {
		return nil, badToken()
	}
	if err == nil {
		s.known.tokens.keep(string(hash), token)
	}
	return token, err
}

// holds refuses a token that is disabled or expired.
func (s *Service) holds(t *APIToken) error {
	if t.Disabled || !s.now().Before(t.ExpiresAt) {
		return badToken()
	}
	return nil
}

// principalOf returns the principal of a token that holds.
func (s *Service) principalOf(token *APIToken, bearer string) (*Principal, error) {
	if err := s.holds(token); err != nil {
		return nil, err
	}
	t := new(*token)
	s.uses.note(t, s.now())
	p := &Principal{Name: t.String(), Role: t.Role, Token: t}
	if t.Owner != "" {
		p.Name = "user:" + t.Owner
	}
	seal := sha256.Sum256([]byte("fleetca seal " + bearer))
	p.Seal = seal[:]
	return p, nil
}

// AuthenticateCertificate returns the principal of a client certificate that
// the TLS handshake proved possession of: one of this authority, recorded, not
// held or revoked. One past its notAfter is let through: whether it may still
// do something, such as renew, is the call's to decide.
func (s *Service) AuthenticateCertificate(ctx context.Context, peer []*x509.Certificate) (*Principal, error) {
	return authenticate(peer, func(serial ca.SerialNumber) (*ca.Certificate, error) { return s.store.Certificate(ctx, serial) })
}

// AuthenticateToRenew is AuthenticateCertificate for RenewDevice, which needs the
// device too: both are one read.
func (s *Service) AuthenticateToRenew(ctx context.Context, peer []*x509.Certificate) (*Principal, error) {
	var device *Device
	p, err := authenticate(peer, func(serial ca.SerialNumber) (*ca.Certificate, error) {
		d, err := s.store.DeviceToRenew(ctx, serial)
		switch {
		case isKind(err, ca.KindNotFound): // not a device's
		case err != nil:
			return nil, err
		default:
			if n := slices.IndexFunc(d.Certificates, func(c *ca.Certificate) bool { return c.SerialNumber == serial }); n >= 0 {
				device = d
				return d.Certificates[n], nil
			}
		}
		return s.store.Certificate(ctx, serial)
	})
	if err != nil {
		return nil, err
	}
	p.device = device
	return p, nil
}

func authenticate(peer []*x509.Certificate, read func(ca.SerialNumber) (*ca.Certificate, error)) (*Principal, error) {
	const hint = "present the device's current certificate and key"
	if len(peer) == 0 {
		return nil, ca.Errorf(KindUnauthenticated, "", hint, "no client certificate was presented")
	}
	cert, err := read(ca.SerialNumberOf(peer[0].SerialNumber))
	if isKind(err, ca.KindNotFound) || err == nil && !slices.Equal(cert.DER, peer[0].Raw) {
		return nil, ca.Errorf(KindUnauthenticated, "", hint, "the client certificate was not issued here")
	}
	if err != nil {
		return nil, err
	}
	switch cert.Status {
	case ca.StatusRevoked:
		return nil, ca.Errorf(KindDeviceRevoked, "", "use a certificate that is not revoked, or enroll the device under another id", "the client certificate is revoked")
	case ca.StatusHeld:
		return nil, ca.Errorf(KindDeviceHeld, "", "release the device first", "the client certificate is on hold")
	}
	return &Principal{Name: cert.Holder.String(), Certificate: cert}, nil
}
