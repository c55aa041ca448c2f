package enroll

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers"
)

// churnAllowance is how many times the churn of churnTime may go on during
// install, probe and soak, which take about that much longer.
const churnAllowance = 5

// rareAllowance is the share of sessions that may end at any time, one in so
// many: in a large fleet somebody leaves in every second, seen in churnTime or
// not. A broker that drops sessions drops more than that.
const rareAllowance = 200

// A sessionCount is the live sessions of a broker before a rotation.
type sessionCount struct {
	ids   []string
	churn int // sessions that ended by themselves in churnTime
}

// mayEnd returns how many of them may end during a rotation.
func (c sessionCount) mayEnd() int { return churnAllowance*c.churn + len(c.ids)/rareAllowance }

// sessionCounts are the counts of rotations under way in this process, by
// rotation. They are not stored: after a restart they measure nothing.
type sessionCounts struct {
	mu  sync.Mutex
	all map[string]sessionCount
}

func (c *sessionCounts) of(rotation string) (sessionCount, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.all[rotation]
	return n, ok
}

func (c *sessionCounts) keep(rotation string, n sessionCount) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]sessionCount{}
	}
	c.all[rotation] = n
}

func (c *sessionCounts) forget(rotation string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, rotation)
}

// liveSessions counts the connections that are there to stay: those that were
// listed at the beginning and at the end of churnTime. A device that was just
// leaving is no drop of ours.
func (t *rotating) liveSessions(ctx context.Context) (sessionCount, error) {
	first, err := deviceSessions(ctx, t.driver)
	if err != nil {
		return sessionCount{}, err
	}
	if err := pause(ctx, churnTime); err != nil {
		return sessionCount{}, err
	}
	second, err := deviceSessions(ctx, t.driver)
	if err != nil {
		return sessionCount{}, err
	}
	stayed := setOf(first)
	live := slices.DeleteFunc(second, func(id string) bool { return !stayed[id] })
	return sessionCount{ids: live, churn: len(first) - len(live)}, nil
}

// deviceSessions returns the ids of a broker's live connections, without the
// canaries'.
func deviceSessions(ctx context.Context, driver brokers.Driver) ([]string, error) {
	all, err := driver.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, session := range all {
		if session.Identity != CanaryID {
			ids = append(ids, session.ID)
		}
	}
	return ids, nil
}

// gone returns how many of the sessions before are not among those after.
func gone(before, after []string) int {
	there, n := setOf(after), 0
	for _, id := range before {
		if !there[id] {
			n++
		}
	}
	return n
}

func setOf(ids []string) map[string]bool {
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
