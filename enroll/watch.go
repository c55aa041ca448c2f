package enroll

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// How changes are watched. Every change of state has its audit event, so the
// newest events of a subject tell whether it changed, on any replica and any
// database. One goroutine looks, while somebody watches.
const (
	watchEvery     = 300 * time.Millisecond
	watchAllEvery  = 2 * time.Second // looked at even when no event seems new: clocks of replicas differ
	watchTimeout   = 5 * time.Second
	maxWatches     = 500 // in this process
	maxTopics      = 16  // of one
	maxTopic       = 256 // octets
	topicAll       = "*"
	watchBusyAfter = 10 * time.Second
)

// watches are what is watched in this process. It is safe for concurrent use.
type watches struct {
	mu      sync.Mutex
	all     map[*watch]bool
	looking bool          // the goroutine runs
	wake    chan struct{} // holds one token when there is a new watch
}

// A watch is one caller's.
type watch struct {
	topics  []string
	seen    map[string]string // newest events by topic; none before the first look
	changed chan struct{}     // holds one token
}

// Watch returns a channel that holds one token whenever one of the topics
// changed since the last was taken, on any replica, within about a second. A
// topic is the subject of audit events, such as revocation:ID, rotation:ID,
// broker:ID, bulk:ID, work-order:ID or device:ID; "*" is every event. The first
// token comes at once, so that nothing is missed between reading and watching;
// changes may be told of more than once. The channel is closed when ctx ends.
// ca.KindMalformed for no topic or more than 16, KindRateLimited (a *Later)
// while this process watches too much already.
func (s *Service) Watch(ctx context.Context, topics ...string) (<-chan struct{}, error) {
	if len(topics) == 0 || len(topics) > maxTopics {
		return nil, ca.Errorf(ca.KindMalformed, "topics", "watch 1 to 16 topics", "are %d", len(topics))
	}
	for _, topic := range topics { // all are asked for together: one that a database refuses would blind everybody
		if err := checkText("topics", topic, maxTopic); err != nil {
			return nil, err
		}
	}
	w := &watch{topics: slices.Clone(topics), seen: map[string]string{}, changed: make(chan struct{}, 1)}
	s.watched.mu.Lock()
	defer s.watched.mu.Unlock()
	if len(s.watched.all) >= maxWatches {
		return nil, &Later{After: watchBusyAfter, Err: ca.Errorf(KindRateLimited, "", "close pages that nobody looks at", "too many pages are live")}
	}
	if s.watched.all == nil {
		s.watched.all, s.watched.wake = map[*watch]bool{}, make(chan struct{}, 1)
	}
	s.watched.all[w] = true
	if !s.watched.looking {
		s.watched.looking = true
		go s.look()
	}
	select {
	case s.watched.wake <- struct{}{}:
	default:
	}
	context.AfterFunc(ctx, func() { s.watched.end(w) })
	return w.changed, nil
}

// end ends a watch.
func (w *watches) end(one *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, one)
	close(one.changed)
	select {
	case w.wake <- struct{}{}: // the last one ends the goroutine
	default:
	}
}

// look looks for changes until nobody watches.
func (s *Service) look() {
	var newest string
	var lookedAt time.Time
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		topics, fresh, ok := s.watched.topics()
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), watchTimeout)
		all, err := s.store.NewestEvents(ctx, []string{topicAll})
		if err == nil && (fresh || all[topicAll] != newest || time.Since(lookedAt) > watchAllEvery) {
			var found map[string]string
			if found, err = s.store.NewestEvents(ctx, topics); err == nil {
				newest, lookedAt = all[topicAll], time.Now()
				s.watched.tell(found)
			}
		}
		cancel()
		if err != nil {
			s.log.Warn("look for changes", "err", err)
		}
		select {
		case <-ticker.C:
		case <-s.watched.wake:
		}
	}
}

// topics returns what is watched, and whether some of it was not looked at
// yet. It is not ok when nothing is watched: the goroutine has ended then.
func (w *watches) topics() (topics []string, fresh, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.all) == 0 {
		w.looking = false
		return nil, false, false
	}
	set := map[string]bool{}
	for one := range w.all {
		for _, topic := range one.topics {
			if !set[topic] {
				set[topic] = true
				topics = append(topics, topic)
			}
			_, seen := one.seen[topic]
			fresh = fresh || !seen
		}
	}
	return topics, fresh, true
}

// tell puts a token into the channel of every watch that what was found is new
// to.
func (w *watches) tell(found map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		changed := false
		for _, topic := range one.topics {
			now, looked := found[topic]
			before, seen := one.seen[topic]
			if looked && (!seen || before != now) {
				one.seen[topic], changed = now, true
			}
		}
		if changed {
			select {
			case one.changed <- struct{}{}:
			default:
			}
		}
	}
}
