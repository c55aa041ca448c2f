package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of the queue of changes.
const (
	maxBatch  = 256  // changes that one transaction takes
	maxQueued = 8192 // changes that may wait; more are refused at once (I28)
	maxTries  = 4    // of a transaction that lost a race to another
)

// A pending is one function that waits for its transaction. It may be run more
// than once, so it sets results anew each time.
type pending struct {
	ctx   context.Context
	do    func(ctx context.Context, q tx) error
	plain *issuance   // a plain first enrollment, that do records; nil for anything else
	taken atomic.Bool // by the committer, which will commit it, or by its cancelled waiter
	err   error       // of do, until the outcome is known
	done  chan error
}

// A committer runs queued changes in as few transactions as it can: it flushes
// at once when idle, and takes all that arrived meanwhile with the next one.
type committer struct {
	store *Store

	mu      sync.Mutex
	waiting []*pending
	closed  bool

	bound   time.Duration // of a batch; none when zero
	alone   bool          // what cannot go together goes one by one, each in its own transaction
	wake    chan struct{} // holds one token while something may wait
	turn    chan struct{} // holds one token while a transaction runs
	slow    chan struct{} // holds one for each more that runs beside a slow one
	stopped sync.WaitGroup
}

// patience is how long a transaction may take before the next runs beside it,
// where the database can do that. Two at once make smaller groups: for those
// that are quick that costs more than it gains.
const patience = 20 * time.Millisecond

// writeBound is how long PostgreSQL may take over a batch: a connection may fall
// silent, and nothing else would end the wait for it. SQLite needs none: it
// waits for another process's lock for busyTimeoutMs, and for nothing else.
const writeBound = 10 * time.Second

func newCommitter(s *Store) *committer {
	c := &committer{store: s, wake: make(chan struct{}, 1), turn: make(chan struct{}, 1), slow: make(chan struct{}, s.db.writers()-1)}
	if _, ok := s.db.(*postgresEngine); ok {
		c.bound, c.alone = writeBound, true
	}
	for range s.db.writers() {
		c.stopped.Go(c.run)
	}
	return c
}

// write runs do in a durable transaction, together with others.
func (s *Store) write(ctx context.Context, do func(ctx context.Context, q tx) error) error {
	return s.writes.submit(ctx, &pending{do: do})[0]
}

// submit queues changes in their order and returns the error of each once its
// outcome is known. One that still waits when ctx ends is dropped; one that
// was taken is waited for, which takes no longer than the bound of a batch: who
// left then would not know what became of it (I21).
func (c *committer) submit(ctx context.Context, changes ...*pending) []error {
	errs := make([]error, len(changes))
	for _, w := range changes {
		w.ctx, w.done = ctx, make(chan error, 1)
	}
	alone, err := c.enqueue(changes)
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	if alone {
		c.flushAlone(changes)
	}
	for i, w := range changes {
		select {
		case errs[i] = <-w.done:
			continue
		case <-ctx.Done():
		}
		if w.taken.CompareAndSwap(false, true) {
			errs[i] = ctx.Err()
		} else {
			errs[i] = <-w.done
		}
	}
	return errs
}

// flushAlone flushes in the caller's turn, and ends it even when a change panics.
func (c *committer) flushAlone(changes []*pending) {
	defer func() {
		<-c.turn
		c.stopped.Done()
	}()
	c.flush(changes)
}

// enqueue adds changes to the queue, all or none. Where nothing is under way
// they are not queued: it is the caller's turn, and alone.
func (c *committer) enqueue(changes []*pending) (alone bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return false, unavailable(nil, "", "the store is closed")
	case len(c.waiting)+len(changes) > maxQueued:
		return false, unavailable(nil, "try again in a moment", "too many changes wait for the database")
	case len(c.waiting) == 0 && 0 < len(changes) && len(changes) <= maxBatch && changes[0].ctx.Err() == nil:
		select {
		case c.turn <- struct{}{}:
			c.stopped.Add(1)
			for _, w := range changes {
				w.taken.Store(true)
			}
			return true, nil
		default:
		}
	}
	c.waiting = append(c.waiting, changes...)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return false, nil
}

// close lets what is queued finish and refuses the rest.
func (c *committer) close() {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	c.mu.Unlock()
	if !again {
		close(c.wake)
	}
	c.stopped.Wait()
}

func (c *committer) run() {
	for range c.wake {
		for more := true; more; {
			turn := c.await()
			batch := c.take()
			if more = len(batch) > 0; more {
				c.flush(batch)
			}
			<-turn
		}
	}
}

// await returns with a token in the channel that it returns.
func (c *committer) await() chan struct{} {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case c.turn <- struct{}{}:
		return c.turn
	case <-late.C:
	}
	select {
	case c.turn <- struct{}{}:
		return c.turn
	case c.slow <- struct{}{}:
		return c.slow
	}
}

// take removes the next batch from the queue, without what was cancelled.
func (c *committer) take() []*pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	var batch []*pending
	n := 0
	for ; n < len(c.waiting) && len(batch) < maxBatch; n++ {
		if w := c.waiting[n]; w.ctx.Err() == nil && w.taken.CompareAndSwap(false, true) {
			batch = append(batch, w)
		} else if w.taken.CompareAndSwap(false, true) {
			w.done <- w.ctx.Err()
		}
	}
	c.waiting = c.waiting[n:]
	if len(c.waiting) == 0 {
		c.waiting = nil
	}
	return batch
}

// flush runs a batch in one transaction and tells every waiter its outcome, all
// of it within the bound.
func (c *committer) flush(batch []*pending) {
	ctx := context.Background() // what was taken is committed, whoever still waits
	if c.bound > 0 {
		limited, cancel := context.WithTimeout(ctx, c.bound)
		defer cancel()
		ctx = limited
	}
	err := c.transact(ctx, batch)
	begin, commit, late := (*beginError)(nil), (*commitError)(nil), (*lateError)(nil)
	switch {
	case err == nil:
		for _, w := range batch {
			w.done <- w.err
		}
	case errors.As(err, &begin), errors.As(err, &late), len(batch) == 1:
		for _, w := range batch {
			w.done <- err
		}
	case errors.As(err, &commit):
		for _, w := range batch {
			if w.err == nil {
				w.err = err
			}
			w.done <- w.err
		}
	default: // nothing was committed
		for _, w := range batch {
			w.done <- c.transact(ctx, []*pending{w})
		}
	}
}

// transact runs a batch, again when the database says that it lost a race.
// First the changes go together, as cheaply as they can, because nearly always
// all are granted; when one is refused that is undone, and each goes under a
// savepoint of its own, so that it fails alone. A single change needs none: its
// error is the transaction's.
//
// Where other processes write, too, several changes get one try, together. One
// after the other in one transaction they would hold rows of the first while
// they wait for rows of the next, and another process's the other way round.
func (c *committer) transact(ctx context.Context, batch []*pending) error {
	plain, rest := c.plain(batch)
	together := len(batch) > 1 || len(plain) == 1
	var err error
	for tries := 0; tries < maxTries; {
		if together && len(rest) == 0 && len(plain) == 1 {
			err = c.store.db.(*postgresEngine).recordTogether(ctx, plain[0], micros(c.store.now()))
		} else {
			err = c.store.db.update(ctx, func(q tx) error {
				switch {
				case together:
					return c.runTogether(ctx, q, plain, rest)
				case len(batch) == 1:
					batch[0].err = nil
					return batch[0].do(ctx, q)
				}
				for _, w := range batch {
					if err := c.runUnderSavepoint(ctx, q, w); err != nil {
						return err
					}
				}
				return nil
			})
		}
		switch refused := errors.Is(err, errNotTogether); {
		case err == nil, !refused && c.store.db.fault(err) != faultRetry, c.alone && len(batch) > 1:
			return late(ctx, err)
		case refused:
			together = false
		default:
			tries++
		}
	}
	return late(ctx, err)
}

// late returns the error of a transaction whose time may have been up. Where
// COMMIT may have been sent its outcome is unknown, and that is all there is to
// say.
func late(ctx context.Context, err error) error {
	if _, unknown := errors.AsType[*commitError](err); err == nil || ctx.Err() == nil || unknown {
		return err
	}
	return &lateError{err}
}

// plain splits a batch into those that PostgreSQL records by one statement, first
// enrollments and renewals, and the rest.
func (c *committer) plain(batch []*pending) (plain [][]*issuance, rest []*pending) {
	_, can := c.store.db.(*postgresEngine)
	var first, renewals []*issuance
	for _, w := range batch {
		w.err = nil
		switch {
		case !can || w.plain == nil:
			rest = append(rest, w)
		case isRenewal(w.plain.claim):
			renewals = append(renewals, w.plain)
		default:
			first = append(first, w.plain)
		}
	}
	for _, some := range [][]*issuance{first, renewals} {
		if len(some) > 0 {
			plain = append(plain, some)
		}
	}
	return plain, rest
}

// runTogether runs changes without savepoints: errNotTogether when one is
// refused.
func (c *committer) runTogether(ctx context.Context, q tx, plain [][]*issuance, rest []*pending) error {
	for _, w := range rest {
		if err := w.do(ctx, q); err != nil {
			if c.store.db.fault(err) == faultRetry {
				return err
			}
			return fmt.Errorf("%w: %w", errNotTogether, err)
		}
	}
	for _, some := range plain {
		if err := recordTogether(ctx, q.(*postgresTx).tx, some, micros(c.store.now())); err != nil {
			return err
		}
	}
	return nil
}

// runUnderSavepoint runs one change of several and keeps its error with it.
// Its own error is one that breaks the whole transaction.
func (c *committer) runUnderSavepoint(ctx context.Context, q tx, w *pending) error {
	if _, err := q.exec(ctx, "SAVEPOINT one_change"); err != nil {
		return fmt.Errorf("set savepoint: %w", err)
	}
	w.err = w.do(ctx, q)
	if w.err != nil {
		if c.store.db.fault(w.err) == faultRetry {
			return w.err
		}
		if _, err := q.exec(ctx, "ROLLBACK TO SAVEPOINT one_change"); err != nil {
			return fmt.Errorf("roll back to savepoint: %w", errors.Join(w.err, err))
		}
	}
	if _, err := q.exec(ctx, "RELEASE SAVEPOINT one_change"); err != nil {
		return fmt.Errorf("release savepoint: %w", err)
	}
	return nil
}
