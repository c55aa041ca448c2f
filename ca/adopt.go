package ca

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Adopt takes over issuers as the store holds them now: new ones, whose keys are
// opened and whose chains are verified first (I3), and what changed of those that
// are known: state, status URLs, what they are for. How many CRLs they have is
// SetCRLShards' to say. It returns the IDs of new ones, in their order.
//
// An issuer whose chain does not verify is left out, and is an Error of KindKey;
// the others are taken all the same. One whose key cannot be used is taken, and
// is in Unusable.
func (a *Authority) Adopt(ctx context.Context, stored []Issuer) (added []string, err error) {
	a.adopting.Lock()
	defer a.adopting.Unlock()
	a.mu.RLock()
	all := maps.Clone(a.issuers)
	a.mu.RUnlock()
	unusable := map[string]error{}
	for _, i := range stored {
		if all[i.ID] != nil {
			continue
		}
		s := &signer{Issuer: i, keySHA256: hexSHA256(i.Certificate.RawSubjectPublicKeyInfo)}
		if i.KeyURI != "" {
			var err error
			if s.cas, err = a.cfg.Keys.openSigner(ctx, i); err != nil {
				unusable[i.ID] = fmt.Errorf("issuer %s: %w", i.ID, err)
			}
		}
		all[i.ID] = s
		added = append(added, i.ID)
	}
	var errs []error
	added = slices.DeleteFunc(added, func(id string) bool {
		err := all.checkChain(all[id])
		if err != nil {
			errs = append(errs, Errorf(KindKey, "", "restore the issuer's row from a backup", "issuer %s: its chain does not verify: %w", id, err))
		}
		return err != nil
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range stored {
		if s := a.issuers[i.ID]; s != nil {
			a.issuers[i.ID] = s.with(i)
		}
	}
	for _, id := range added {
		a.issuers[id] = all[id]
		if err := unusable[id]; err != nil {
			a.unusable[id] = err
		}
	}
	return added, errors.Join(errs...)
}

// with returns the signer with what the store says of its issuer; itself when
// that is nothing new.
func (s *signer) with(i Issuer) *signer {
	if s.State == i.State && s.Product == i.Product && s.Site == i.Site && s.Domain == i.Domain && slices.Equal(s.StatusURLs, i.StatusURLs) {
		return s
	}
	next := *s
	next.State, next.Product, next.Site, next.Domain, next.StatusURLs = i.State, i.Product, i.Site, i.Domain, i.StatusURLs
	return &next
}

// ownsKey reports whether a key, by its SHA-256 in hex, is one of the issuers'.
func (a *Authority) ownsKey(sha256 string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, s := range a.issuers {
		if s.keySHA256 == sha256 {
			return true
		}
	}
	return false
}
