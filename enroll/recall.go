package enroll

import (
	"context"
	"strings"
	"sync"
	"time"
)

// A recall keeps what was read last of each key, for a call whose transaction
// looks whether that is so still (Claim.Caller, Claim.Profile). Nothing else may
// be decided by it: a call that ends with anything but a new certificate goes
// again, by what is read then. It is safe for concurrent use; the zero value is
// ready. What is returned is everybody's, and must not be changed.
type recall[K comparable, V any] struct {
	mu   sync.RWMutex
	kept map[K]V
}

// maxRecalled bounds how much of a kind is kept.
const maxRecalled = 1024

// get returns what was read last.
func (r *recall[K, V]) get(key K) (value V, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	value, ok = r.kept[key]
	return value, ok
}

// keep notes what was read.
func (r *recall[K, V]) keep(key K, value V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept == nil || len(r.kept) >= maxRecalled {
		r.kept = map[K]V{}
	}
	r.kept[key] = value
}

// Recall returns the principal of an API token as it was read last, for a call
// whose transaction looks whether the token holds still: EnrollDevice. It
// returns nil where the token was not read yet, or where something was refused a
// moment ago, so that more refusals are to be expected: Authenticate reads it.
func (s *Service) Recall(bearer string) *Principal {
	if !strings.HasPrefix(bearer, apiTokenPrefix) || s.caution.is(time.Now()) {
		return nil
	}
	hash := hashSecret(bearer)
	known, ok := s.known.tokens.get(string(hash))
	if !ok {
		return nil
	}
	p, err := s.principalOf(known, bearer)
	if err != nil {
		return nil
	}
	p.recalled = hash
	return p
}

// authenticatedNow returns the principal as Authenticate does now.
func (s *Service) authenticatedNow(ctx context.Context, p Principal) (*Principal, error) {
	if p.recalled == nil {
		return &p, nil
	}
	token, err := s.apiToken(ctx, p.recalled)
	if err != nil {
		return nil, err
	}
	if err := s.holds(token); err != nil {
		return nil, err
	}
	p.Token, p.recalled = new(*token), nil
	return &p, nil
}

// recalling runs a call by what is recalled, and again by what is read when
// that ends with anything but a new certificate. A first answer that is given
// again was read, so that it stands unless its caller was recalled.
func (s *Service) recalling(ctx context.Context, c Call, do func(c Call, recall bool) (*Enrollment, error)) (*Enrollment, error) {
	recall := !s.caution.is(time.Now())
	if recall || c.Principal.recalled != nil {
		e, err := do(c, recall)
		if err == nil && (!e.Replayed || c.Principal.recalled == nil) || isKind(err, KindUnavailable) || ctx.Err() != nil {
			return e, err
		}
	}
	p, err := s.authenticatedNow(ctx, c.Principal)
	if err != nil {
		return nil, err
	}
	c.Principal = *p
	c.Principal.device = nil
	return do(c, false)
}

// namedProfile returns the version of a profile for devices that is in force: as
// it was read last, or as it is being read.
func (s *Service) namedProfile(ctx context.Context, name string, recall bool) *askedProfile {
	if stored, ok := s.known.profiles.get(name); recall && ok {
		if profile, err := forDevices(s.inForce(name, stored)); err == nil {
			return &askedProfile{name: name, read: readAlready(profile), recalled: recalledVersion(name, stored)}
		}
	}
	return &askedProfile{name: name, read: s.beginDeviceProfile(ctx, name)}
}

// recalledVersion is what the transaction has to look at.
func recalledVersion(name string, stored *StoredProfile) *ProfileClaim {
	if stored == nil {
		return &ProfileClaim{Name: name}
	}
	return &ProfileClaim{Name: name, Version: stored.Version}
}
