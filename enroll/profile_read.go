package enroll

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/fleetca/fleetca/ca"
)

// The profiles that are used without being asked for.
const (
	defaultProfile = "device" // of devices
	brokerProfile  = "broker"
	serverProfile  = "server" // of this server's own listeners
)

// A profileRead is a profile that is being read: it is asked for where it is
// needed, so that the read costs no wait of its own.
type profileRead func(context.Context) (*ca.Profile, error)

// readAlready is a profileRead that has ended.
func readAlready(p *ca.Profile) profileRead {
	return func(context.Context) (*ca.Profile, error) { return p, nil }
}

// beginProfile begins to read the version of a profile that is in force.
func (s *Service) beginProfile(ctx context.Context, name string) profileRead {
	read := s.profiles.begin(ctx, name, func(ctx context.Context) (*StoredProfile, error) {
		stored, err := s.store.Profile(ctx, name)
		if err == nil {
			s.known.profiles.keep(name, stored)
		}
		return stored, err
	})
	return func(ctx context.Context) (*ca.Profile, error) {
		stored, err := read.wait(ctx)
		if err != nil {
			return nil, err
		}
		return s.inForce(name, stored)
	}
}

// beginDeviceProfile begins to read a profile that devices may be enrolled
// with.
func (s *Service) beginDeviceProfile(ctx context.Context, name string) profileRead {
	read := s.beginProfile(ctx, name)
	return func(ctx context.Context) (*ca.Profile, error) { return forDevices(read(ctx)) }
}

// forDevices refuses a profile that is for others than devices.
func forDevices(p *ca.Profile, err error) (*ca.Profile, error) {
	if err != nil {
		return nil, err
	}
	if p.Holder != ca.HolderDevice {
		return nil, ca.Errorf(ca.KindProfile, "profile", "leave it out, or give a profile for devices", "profile %s is for a %s, not for a device", p.Name, p.Holder)
	}
	return p, nil
}

// profile returns the version of a profile that is in force.
func (s *Service) profile(ctx context.Context, name string) (*ca.Profile, error) {
	return s.beginProfile(ctx, name)(ctx)
}

// inForce returns a profile by its newest stored version, or the built-in one.
func (s *Service) inForce(name string, stored *StoredProfile) (*ca.Profile, error) {
	if stored == nil {
		return ca.ProfileNamed("profile", name)
	}
	return s.compiled.profile(stored)
}

// profileOf returns the version of a profile that a certificate was issued under.
func (s *Service) profileOf(ctx context.Context, cert *ca.Certificate) (*ca.Profile, error) {
	builtIn, err := ca.ProfileNamed("profile", cert.Profile)
	if err == nil && builtIn.Version == cert.ProfileVersion {
		return builtIn, nil
	}
	stored, err := s.store.ProfileVersion(ctx, cert.Profile, cert.ProfileVersion)
	if err != nil {
		return nil, err
	}
	if stored == nil {
		return nil, ca.Errorf(ca.KindNotFound, "profile", "", "profile %s has no version %d", cert.Profile, cert.ProfileVersion)
	}
	return s.compiled.profile(stored)
}

// compiledProfiles are versions ready for use, by the very text that the store
// has of them: nothing is kept that the store does not say. It is safe for
// concurrent use.
type compiledProfiles struct {
	mu     sync.RWMutex
	byText map[string]*ca.Profile
}

// maxCompiled bounds how many are kept.
const maxCompiled = 512

// profile returns a stored version, compiled once.
func (c *compiledProfiles) profile(stored *StoredProfile) (*ca.Profile, error) {
	c.mu.RLock()
	p := c.byText[stored.Body]
	c.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	var form ca.ProfileForm
	err := json.Unmarshal([]byte(stored.Body), &form)
	if err == nil {
		p, err = form.Profile()
	}
	if err != nil {
		return nil, fmt.Errorf("version %d of profile %s, as it is stored: %w", stored.Version, stored.Name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byText == nil || len(c.byText) >= maxCompiled {
		c.byText = map[string]*ca.Profile{}
	}
	c.byText[stored.Body] = p
	return p, nil
}
