package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/fleetca/fleetca/ca"
)

// A hierarchy is where issuers stand, and which roots the newest trust bundle has.
type hierarchy struct {
	issuers    []place // in the order they were created in
	generation int64
	trusted    []string
}

// A place is where an issuer stands.
type place struct {
	id, parent string
	purpose    ca.Purpose
	state      ca.IssuerState
}

// lockHierarchy reads the hierarchy, and makes others who would change it wait
// until the transaction ends.
func lockHierarchy(ctx context.Context, q tx) (*hierarchy, error) {
	if _, err := q.exec(ctx, `UPDATE authority SET created_at = created_at WHERE id = 1`); err != nil {
		return nil, fmt.Errorf("lock the hierarchy: %w", err)
	}
	h := &hierarchy{}
	var err error
	if h.issuers, err = collect(ctx, q, func(row scanner) (p place, err error) {
		err = row.Scan(&p.id, &p.parent, &p.purpose, &p.state)
		return p, err
	}, `SELECT id, parent, purpose, state FROM issuers ORDER BY ordinal`); err != nil {
		return nil, fmt.Errorf("read the hierarchy: %w", err)
	}
	newest, err := collect(ctx, q, scanTrust, selectTrust+` ORDER BY generation DESC LIMIT 1`)
	if err != nil {
		return nil, fmt.Errorf("read the newest trust bundle: %w", err)
	}
	for _, g := range newest {
		h.generation, h.trusted = g.Generation, g.Roots
	}
	return h, nil
}

// find returns where an issuer stands; nil for none.
func (h *hierarchy) find(id string) *place {
	if i := slices.IndexFunc(h.issuers, func(p place) bool { return p.id == id }); i >= 0 {
		return &h.issuers[i]
	}
	return nil
}

// rootOf returns the root that an issuer stands below; itself for a root.
func (h *hierarchy) rootOf(p place) string {
	for range h.issuers {
		above := h.find(p.parent)
		if above == nil || above.id == p.id {
			break
		}
		p = *above
	}
	return p.id
}

// checkDropped refuses a trust bundle without a root that is active, or has an
// active issuer below it.
func (h *hierarchy) checkDropped(roots []string) error {
	for _, p := range h.issuers {
		root := h.rootOf(p)
		switch {
		case p.state != ca.IssuerActive || slices.Contains(roots, root) || !slices.Contains(h.trusted, root):
		case p.id == root:
			return conflict("issuer", "activate the root that takes its place first", "root %s is the active one", root)
		default:
			return conflict("issuer", "retire it first: fleetca issuer retire "+p.id, "issuer %s signs below root %s", p.id, root)
		}
	}
	return nil
}

// checkTrusted refuses an issuer whose root was dropped from the trust bundle, or
// is not in it yet.
func (h *hierarchy) checkTrusted(p place) error {
	if root := h.rootOf(p); !slices.Contains(h.trusted, root) {
		return conflict("issuer", "make a successor below a root that is in it", "root %s of issuer %s is not in the trust bundle", root, p.id)
	}
	return nil
}
