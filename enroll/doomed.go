package enroll

import (
	"sync"
	"time"
)

// doomedMargin is the life that a canary must have left to be used in an
// attempt: one that expires would be refused for that.
const doomedMargin = 5 * time.Minute

// A doomed is the canary of one revocation's proof: admitted, revoked, refused.
type doomed struct {
	*canary
	admitted map[string]bool // by which brokers, by id
	revoked  bool
}

// doomedCanaries are those of this process's unproven revocations, by
// revocation: another attempt needs no other, and none more on the CRL.
type doomedCanaries struct {
	mu  sync.Mutex
	all map[string]*doomed
}

// of returns the canary that another attempt at these brokers can go on with;
// nil when it takes a new one. A revoked one must have been seen admitted by
// each.
func (d *doomedCanaries) of(revocation string, brokers []*Broker, now time.Time) *doomed {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.all[revocation]
	if c == nil || c.cert.NotAfter.Sub(now) < doomedMargin {
		return nil
	}
	for _, b := range brokers {
		if c.revoked && !c.admitted[b.ID] {
			return nil
		}
	}
	return c
}

// take makes a canary that of a revocation.
func (d *doomedCanaries) take(revocation string, c *canary) *doomed {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all == nil {
		d.all = map[string]*doomed{}
	}
	d.all[revocation] = &doomed{canary: c, admitted: map[string]bool{}}
	return d.all[revocation]
}

// forget drops the canary of a revocation that is proven, or needs no proof.
func (d *doomedCanaries) forget(revocation string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.all, revocation)
}
