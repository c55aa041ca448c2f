package api

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// maxAddresses bounds the memory of failures.
const maxAddresses = 4096

// failures counts failed authentications by client address, so that guessing
// is slow. An address has a bucket of attempts that fills again with time;
// each failure takes one out, and while it is empty nothing of that address is
// looked at. It is safe for concurrent use.
//
// The buckets are in the store, for all replicas, and what was last known of
// each is kept here: a replica reads nothing for a client that does not fail,
// and learns with its first failure what an address did elsewhere.
type failures struct {
	burst  int
	refill time.Duration
	now    func() time.Time
	// charge takes one out of the bucket in the store, and returns when that is
	// full again (I28).
	charge func(ctx context.Context, address netip.Prefix, refill time.Duration) (full time.Time, err error)

	mu   sync.Mutex
	full map[netip.Prefix]time.Time // when the buckets of addresses that failed of late are full again
}

// wait returns how long the address has to wait; zero for not at all.
func (f *failures) wait(address netip.Prefix) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	full, known := f.full[address]
	if !known {
		return 0
	}
	return max(0, full.Sub(f.now())-time.Duration(f.burst-1)*f.refill)
}

// add counts one failure. It counts here when the store does not answer, and
// returns why that was.
func (f *failures) add(ctx context.Context, address netip.Prefix) error {
	full, err := f.charge(ctx, address, f.refill)
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	known, ok := f.full[address]
	if !ok {
		f.makeRoom(now)
	}
	if err != nil {
		full = later(known, now).Add(f.refill)
	}
	f.full[address] = later(full, known)
	return err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// makeRoom looks at a few addresses, whichever the map gives, and forgets those
// whose bucket is full again, or else one of them.
func (f *failures) makeRoom(now time.Time) {
	const few = 16
	if len(f.full) < maxAddresses {
		return
	}
	looked := 0
	for address, full := range f.full {
		if looked++; looked > few && len(f.full) < maxAddresses {
			return
		}
		if looked > few || !full.After(now) {
			delete(f.full, address)
		}
	}
}
