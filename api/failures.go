package api

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxAddresses bounds the memory of failures.
const maxAddresses = 4096

// failures counts failed authentications by client address, so that guessing
// is slow. An address has a bucket of attempts that fills again with time;
// each failure takes one out, and while it is empty nothing of that address is
// looked at. It is safe for concurrent use.
type failures struct {
	limit rate.Limit
	burst int
	now   func() time.Time

	mu      sync.Mutex
	buckets map[netip.Prefix]*rate.Limiter // of addresses that failed of late
}

func newFailures(burst int, refill time.Duration, now func() time.Time) *failures {
	return &failures{limit: rate.Every(refill), burst: burst, now: now, buckets: map[netip.Prefix]*rate.Limiter{}}
}

// wait returns how long the address has to wait; zero for not at all.
func (f *failures) wait(address netip.Prefix) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.buckets[address]
	if b == nil {
		return 0
	}
	left := b.TokensAt(f.now())
	if left >= 1 {
		return 0
	}
	return time.Duration((1 - left) / float64(f.limit) * float64(time.Second))
}

// add counts one failure.
func (f *failures) add(address netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	b := f.buckets[address]
	if b == nil {
		f.makeRoom(now)
		b = rate.NewLimiter(f.limit, f.burst)
		f.buckets[address] = b
	}
	b.AllowN(now, 1)
}

// makeRoom looks at a few addresses, whichever the map gives, and forgets those
// whose bucket is full again, or else one of them.
func (f *failures) makeRoom(now time.Time) {
	const few = 16
	if len(f.buckets) < maxAddresses {
		return
	}
	looked := 0
	for address, b := range f.buckets {
		if looked++; looked > few && len(f.buckets) < maxAddresses {
			return
		}
		if looked > few || b.TokensAt(now) >= float64(f.burst) {
			delete(f.buckets, address)
		}
	}
}
