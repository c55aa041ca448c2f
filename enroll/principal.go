package enroll

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A Principal is who makes a call.
type Principal struct {
	Name        string          // the audit trail's actor: token:ID, enrollment-token:ID, device:ID, server
	Role        Role            // empty for those without API token
	Certificate *ca.Certificate // the client certificate it came with, if any
	Seal        []byte          // key material of the credential, for sealing kept answers; never stored
}

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

// MintAPIToken makes an API token; the secret is returned this once.
func (s *Service) MintAPIToken(ctx context.Context, actor, name string, role Role, lifetime time.Duration) (secret string, t *APIToken, err error) {
	if !slices.Contains(Roles(), role) {
		return "", nil, ca.Errorf(ca.KindMalformed, "role", "one of admin, operator, factory, security, auditor", "%.40q is not a role", role)
	}
	now := s.now()
	secret, hash := newSecret(apiTokenPrefix)
	t = &APIToken{ID: newID(), Name: name, Role: role, Hash: hash, CreatedAt: now, ExpiresAt: now.Add(lifetime)}
	change := Change{Event: newEvent(now, actor, "token.create", "token:"+t.ID, map[string]any{"name": name, "role": role, "expiresAt": t.ExpiresAt})}
	if err := s.store.CreateAPIToken(ctx, *t, change); err != nil {
		return "", nil, err
	}
	return secret, t, nil
}

// Authenticate returns the principal of an API token.
func (s *Service) Authenticate(ctx context.Context, bearer string) (*Principal, error) {
	refused := ca.Errorf(KindUnauthenticated, "Authorization", "mint a token on the server: fleetca user token --role ROLE --data DIR", "the API token is not known, expired or disabled")
	if !strings.HasPrefix(bearer, apiTokenPrefix) {
		return nil, refused
	}
	// Found by the hash of 256 random bits: timing tells nothing about the secret.
	t, err := s.store.APITokenByHash(ctx, hashSecret(bearer))
	if isKind(err, ca.KindNotFound) {
		return nil, refused
	}
	if err != nil {
		return nil, err
	}
	if t.Disabled || !s.now().Before(t.ExpiresAt) {
		return nil, refused
	}
	seal := sha256.Sum256([]byte("fleetca seal " + bearer))
	return &Principal{Name: "token:" + t.ID, Role: t.Role, Seal: seal[:]}, nil
}

// AuthenticateCertificate returns the principal of a client certificate that
// the TLS handshake proved possession of: one of this authority, recorded, not
// held or revoked. One past its notAfter is let through: whether it may still
// do something, such as renew, is the call's to decide.
func (s *Service) AuthenticateCertificate(ctx context.Context, peer []*x509.Certificate) (*Principal, error) {
	const hint = "present the device's current certificate and key"
	if len(peer) == 0 {
		return nil, ca.Errorf(KindUnauthenticated, "", hint, "no client certificate was presented")
	}
	cert, err := s.store.Certificate(ctx, ca.SerialNumberOf(peer[0].SerialNumber))
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
